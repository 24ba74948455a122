"""JSON read strictly: into dataclasses by their annotations, nothing converted, nothing of unknown name taken.

Every fault ends in a :class:`Malformed`, whatever the text holds; who reads a file turns it, by :func:`reading`, into
an error of its own that names the file.
"""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from itertools import chain, islice
from pathlib import Path
from reprlib import Repr
from typing import Any, Literal, TypeVar, cast

from tomopoint.errors import TomopointError
from tomopoint.files import require_file

Part = TypeVar("Part")

MAX_DEPTH = 32
"""Levels of lists and objects. Files of this package have up to eight, recursion ends at about a thousand."""

MAX_BYTES = 64 << 20
"""Of a file. The largest, picks of a run with hundreds of thousands of particles, have some ten megabytes."""

ADDED = {"added": True}
"""Metadata of a dataclass's field that stored files of earlier versions lack. Its default is what these versions did,
and it is written and hashed only where it is not at its default: what was stored stays valid."""

_Repr = Repr()
_Repr.maxlevel, _Repr.maxstring, _Repr.maxother, _Repr.maxdict, _Repr.maxlist = 2, 60, 60, 4, 6


class Malformed(ValueError):
    """The content is not what it should be; the message says where and what, not in which file."""


@contextmanager
def reading(source: object, error: type[TomopointError], complaint: str, fix: str) -> Iterator[None]:
    """Turn OSError and Malformed into one sentence: `source` cannot be read, or the `complaint`; then the `fix`."""
    try:
        yield
    except OSError as fault:
        raise error(f"cannot read {source} ({fault.strerror}); {fix}") from fault
    except Malformed as fault:
        raise error(f"{source} {complaint} ({fault}); {fix}") from fault


def shown(value: Any) -> str:
    """Return a value for a message: printable, on one line, cut where it is long."""
    try:
        return _Repr.repr(value)
    except ValueError:  # an integer of thousands of digits
        return "a number too long to show"


def parse(text: str | bytes) -> Any:
    """Return what a JSON text holds; Malformed where it is none, nested beyond reason, or names a field twice."""
    try:
        value = json.loads(text if isinstance(text, str) else text.decode(), object_pairs_hook=_object)
    except RecursionError as error:
        raise Malformed(f"nested more than {MAX_DEPTH} levels deep") from error
    except Malformed:
        raise
    except ValueError as error:  # no JSON, no UTF-8, an integer of thousands of digits
        raise Malformed(f"no JSON: {error}") from error
    check_plain(value)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its fields; of two with one name, Python would silently take the last."""
    fields_by_name = dict(pairs)
    if len(fields_by_name) < len(pairs):
        names = [name for name, _ in pairs]
        raise Malformed(f"the field {shown(next(name for name in names if names.count(name) > 1))} is there twice")
    return fields_by_name


def read(path: Path) -> Any:
    """Return what a JSON file holds; OSError and Malformed as for :func:`read_bytes` and :func:`parse`."""
    return parse(read_bytes(path))


def read_bytes(path: Path) -> bytes:
    """Return the content of a small file; OSError where it cannot be read, Malformed where it is too large."""
    require_file(path)
    with path.open("rb") as stream:
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise Malformed(f"more than {MAX_BYTES >> 20} MiB")
    return content


def build(cls: type[Part], values: Any, where: str = "", ignore_unknown: bool = False, to_float: bool = False) -> Part:
    """Build a dataclass from parsed JSON.

    Parameters
    ----------
    cls
        Its fields are numbers, texts, booleans, None, ``Literal``, dataclasses, tuples or mappings of them, unions of
        these (a value is taken by the first member that fits), or ``Any``.
    values
        As :func:`parse` returns it. Numbers are finite. A whole number may stand for a float, and stays one, so that
        the text made of it is the same again, unless `to_float`; nothing else is converted.
    where
        Dotted name of the part, for messages.
    ignore_unknown
        Pass over fields of other names, in files that others write too.

    Malformed is raised where a field is missing, unknown or of another type.
    """
    prefix = f"{where}." if where else ""
    if not isinstance(values, dict):
        raise Malformed(f"{where or 'the whole'} must be an object with fields, got {shown(values)}")
    hints = _hints(cast(Any, cls))
    if (unknown := sorted(set(values) - set(hints))) and not ignore_unknown:
        names = ", ".join(name if name.isidentifier() and len(name) < 60 else shown(name) for name in unknown[:5])
        raise Malformed(f"unknown field {prefix}{names}; known are {', '.join(sorted(hints))}")
    required = {f.name for f in fields(cast(Any, cls)) if f.default is MISSING and f.default_factory is MISSING}
    if missing := sorted(required - set(values)):
        raise Malformed(f"{where or 'it'} lacks {', '.join(missing)}")
    given = {name: values[name] for name in hints if name in values}
    rules = (ignore_unknown, to_float)
    return cls(**{name: _convert(hints[name], item, f"{prefix}{name}", *rules) for name, item in given.items()})


@cache
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


_KINDS: Mapping[Any, tuple[str, Callable[[Any], bool]]] = {
    types.NoneType: ("null", lambda value: value is None),
    bool: ("true or false", lambda value: isinstance(value, bool)),
    int: ("a whole number", lambda value: type(value) is int),
    float: ("a finite number", lambda value: type(value) in (int, float) and math.isfinite(value)),
    str: ("a text", lambda value: isinstance(value, str)),
}


def _convert(hint: Any, value: Any, where: str, ignore_unknown: bool, to_float: bool) -> Any:
    """Return `value` as the annotation `hint` wants it."""
    origin, of, rules = typing.get_origin(hint), typing.get_args(hint), (ignore_unknown, to_float)
    if hint is Any or (hint in _KINDS and _KINDS[hint][1](value)):
        return float(value) if to_float and hint is float else value
    if origin is Literal and any(type(value) is type(one) and value == one for one in of):
        return value
    if is_dataclass(hint):
        return build(cast(type, hint), value, where, *rules)
    if origin in (typing.Union, types.UnionType):
        inner = []
        for one in of:
            try:
                return _convert(one, value, where, *rules)
            except Malformed as error:
                if not str(error).startswith(f"{where} must be "):
                    inner.append(error)  # of the right kind outside, wrong further in
        if inner:
            raise inner[0]
    if origin is tuple and isinstance(value, list) and (Ellipsis in of or len(of) == len(value)):
        kinds = of[:1] * len(value) if Ellipsis in of else of
        return tuple(_convert(kinds[i], item, f"{where}[{i}]", *rules) for i, item in enumerate(value))
    if origin in (Mapping, dict) and isinstance(value, dict):
        return {name: _convert(of[1], item, f"{where}[{shown(name)}]", *rules) for name, item in value.items()}
    raise Malformed(f"{where} must be {_wanted(hint)}, got {shown(value)}")


def _wanted(hint: Any) -> str:
    """Say what an annotation allows."""
    origin, of = typing.get_origin(hint), typing.get_args(hint)
    if hint in _KINDS:
        return _KINDS[hint][0]
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_wanted, of))
    if origin is Literal:
        return ("one of " if len(of) > 1 else "") + ", ".join(map(repr, of))
    if origin is tuple:
        return "a list" if Ellipsis in of else f"a list of {len(of)}"
    assert is_dataclass(hint) or origin in (Mapping, dict), f"no rule for {hint}"
    return "an object with fields"


def plain(value: Any, below: Any = None) -> Any:
    """Turn dataclasses into dicts and tuples into lists, without the fields marked :data:`ADDED` at their default.

    `below` are the options that `value` is read on top of: what is not at its default there must be said here.
    """
    if is_dataclass(value) and not isinstance(value, type):
        layers = [value] if below is None else [value, below]
        written = [
            f for f in fields(value) if f.metadata != ADDED or any(getattr(o, f.name) != f.default for o in layers)
        ]
        return {f.name: plain(getattr(value, f.name), getattr(below, f.name, None)) for f in written}
    return [plain(item) for item in value] if isinstance(value, tuple) else value


def check_plain(value: Any, max_values: int | None = None) -> None:
    """Refuse what no JSON file of this package holds, so that what comes after need not expect it.

    Parameters
    ----------
    value, max_values
        Parsed JSON or YAML, and the most values at one depth: in YAML a few lines may stand for billions.

    Raises
    ------
    Malformed
        Too deep, too many values, one that is neither text nor number, an integer of more than 64 bits, a text that
        cannot be written.
    """
    level = [value]
    for _ in range(MAX_DEPTH):
        for item in level:
            _check_one(item)
        inner = chain.from_iterable(
            item.values() if isinstance(item, dict) else item for item in level if isinstance(item, (dict, list))
        )
        level = list(islice(inner, max_values and max_values + 1))
        if max_values is not None and len(level) > max_values:
            raise Malformed(f"it holds more than {max_values} values")
        if not level:
            return
    raise Malformed(f"nested more than {MAX_DEPTH} levels deep")


def _check_one(value: Any) -> None:
    for text in value if isinstance(value, dict) else [value] if isinstance(value, str) else []:
        try:
            text.encode()  # JSON may hold halves of surrogate pairs
        except (UnicodeEncodeError, AttributeError) as error:
            raise Malformed(f"{shown(text)} is no name or text that can be written as UTF-8") from error
    if isinstance(value, int) and abs(value) >= 2**63:
        raise Malformed(f"{shown(value)} is too large")
    if not (value is None or isinstance(value, (str, int, float, list, dict))):
        raise Malformed(f"{shown(value)} is neither text nor number")
