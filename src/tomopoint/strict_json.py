"""JSON read strictly: into dataclasses by their annotations, nothing converted, nothing of unknown name taken.

Every fault ends in a :class:`Malformed`, whatever the text holds; who reads a file turns it into an error of its own
that names the file.
"""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from itertools import chain, islice
from pathlib import Path
from reprlib import Repr
from typing import Any, TypeVar, cast

Part = TypeVar("Part")

MAX_DEPTH = 32
"""Levels of lists and objects. Files of this package have up to eight, recursion ends at about a thousand."""
MAX_INT = 2**63 - 1

_Repr = Repr()
_Repr.maxlevel, _Repr.maxstring, _Repr.maxother, _Repr.maxdict, _Repr.maxlist = 2, 60, 60, 4, 6


class Malformed(ValueError):
    """The content is not what it should be; the message says where and what, not in which file."""


def shown(value: Any) -> str:
    """Return a value for a message: printable, on one line, cut where it is long."""
    try:
        return _Repr.repr(value)
    except ValueError:  # an integer of thousands of digits
        return "a number too long to show"


def parse(text: str | bytes) -> Any:
    """Return what a JSON text holds; Malformed where it is none, or one nested beyond reason."""
    try:
        value = json.loads(text if isinstance(text, str) else text.decode())
    except RecursionError as error:
        raise Malformed(f"nested more than {MAX_DEPTH} levels deep") from error
    except ValueError as error:  # no JSON, no UTF-8, an integer of thousands of digits
        raise Malformed(f"no JSON: {error}") from error
    check_plain(value)
    return value


def read(path: Path) -> Any:
    """Return what a JSON file holds; OSError where it cannot be read, Malformed as for :func:`parse`."""
    return parse(path.read_bytes())


def build(cls: type[Part], values: Any, where: str = "", ignore_unknown: bool = False) -> Part:
    """Build a dataclass from parsed JSON.

    Parameters
    ----------
    cls
        Its fields are numbers, texts, booleans, dataclasses, tuples or mappings of them, or ``Any``; optionally None.
    values
        As :func:`parse` returns it. A whole number may stand for a float and stays one, so that a text made from the
        result equals the one it came from; no other conversion is made, and numbers are finite.
    where
        Dotted name of the part, for messages.
    ignore_unknown
        Whether fields of other names are passed over, in files that others write too.

    Raises
    ------
    Malformed
        A field is missing, unknown or of another type.
    """
    prefix = f"{where}." if where else ""
    if not isinstance(values, dict):
        raise Malformed(f"{where or 'the whole'} must be an object with fields, got {shown(values)}")
    kind: Any = cls
    hints = _hints(kind)
    if (unknown := sorted(set(values) - set(hints))) and not ignore_unknown:
        names = ", ".join(name if name.isidentifier() and len(name) < 60 else shown(name) for name in unknown[:5])
        raise Malformed(f"unknown field {prefix}{names}; known are {', '.join(sorted(hints))}")
    if missing := sorted(_required(kind) - set(values)):
        raise Malformed(f"{where or 'it'} lacks {', '.join(missing)}")
    given = {name: values[name] for name in hints if name in values}
    converted = {name: _convert(hints[name], value, f"{prefix}{name}", ignore_unknown) for name, value in given.items()}
    return cls(**converted)


def check_plain(value: Any, max_values: int | None = None) -> None:
    """Refuse what no JSON file of this package holds, so that what comes after need not expect it.

    Parameters
    ----------
    value
        Parsed JSON or YAML.
    max_values
        Most values at one depth; in YAML a few lines may stand for billions, by names for parts.

    Raises
    ------
    Malformed
        Nested deeper than :data:`MAX_DEPTH`, too many values, names or values that are no texts and numbers, an integer
        of more than 64 bits, a text that cannot be written.
    """
    level = [value]
    for _ in range(MAX_DEPTH):
        for item in level:
            _check_one(item)
        inner = chain.from_iterable(
            item.values() if isinstance(item, dict) else item for item in level if _is_nest(item)
        )
        level = list(islice(inner, max_values and max_values + 1))
        if max_values is not None and len(level) > max_values:
            raise Malformed(f"it holds more than {max_values} values")
        if not level:
            return
    raise Malformed(f"nested more than {MAX_DEPTH} levels deep")


def _is_nest(value: Any) -> bool:
    return isinstance(value, (dict, list))


def _check_one(value: Any) -> None:
    if isinstance(value, dict):
        for name in value:
            if not isinstance(name, str) or not _is_writable(name):
                raise Malformed(f"{shown(name)} is no name")
    elif isinstance(value, str):
        if not _is_writable(value):
            raise Malformed(f"{shown(value)} cannot be written as UTF-8")
    elif isinstance(value, int):
        if abs(value) > MAX_INT:
            raise Malformed(f"{shown(value)} is too large")
    elif not (value is None or isinstance(value, (float, list))):
        raise Malformed(f"{shown(value)} is neither text nor number")


@cache
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


@cache
def _required(cls: Any) -> frozenset[str]:
    return frozenset(f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING)


_CHECKS: Mapping[type, tuple[str, typing.Callable[[Any], bool]]] = {
    bool: ("true or false", lambda value: isinstance(value, bool)),
    int: ("a whole number", lambda value: _is_number(value, int)),
    float: ("a finite number", lambda value: _is_number(value, (int, float)) and math.isfinite(value)),
    str: ("a text", lambda value: isinstance(value, str)),
}


def _convert(hint: Any, value: Any, where: str, ignore_unknown: bool) -> Any:
    """Return `value` as the annotation `hint` wants it."""
    if hint is Any:
        return value
    if hint in _CHECKS:
        wanted, is_right = _CHECKS[hint]
        if not is_right(value):
            raise Malformed(f"{where} must be {wanted}, got {shown(value)}")
        return value
    if is_dataclass(hint):
        return build(cast(type, hint), value, where, ignore_unknown)
    origin, of = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        (other,) = (one for one in of if one is not types.NoneType)
        return None if value is None else _convert(other, value, where, ignore_unknown)
    if origin is tuple:
        of = of if Ellipsis not in of else of[:1] * (len(value) if isinstance(value, list) else 0)
        if not isinstance(value, list) or len(value) != len(of):
            raise Malformed(f"{where} must be a list{f' of {len(of)}' if of else ''}, got {shown(value)}")
        pairs = enumerate(zip(of, value, strict=True))
        return tuple(_convert(one, item, f"{where}[{index}]", ignore_unknown) for index, (one, item) in pairs)
    assert origin is Mapping, f"no rule for {hint}"
    if not isinstance(value, dict):
        raise Malformed(f"{where} must be an object with fields, got {shown(value)}")
    return {name: _convert(of[1], item, f"{where}[{shown(name)}]", ignore_unknown) for name, item in value.items()}


def _is_number(value: Any, kinds: type | tuple[type, ...]) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


def _is_writable(text: str) -> bool:
    """Tell whether a text can be printed and written: JSON may hold halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
