"""How a good file goes bad, as hypothesis strategies: other values, other names, other bytes, other encodings."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

NAMES = [
    *("", ".", "..", "../up", "a/b", "/etc/passwd", "\\\\host\\x", ".hidden", "a" * 251, "é" * 126, "a" * 5000),
    *(
        "NA",
        "nan",
        "null",
        "None",
        "1",
        "007",
        "true",
        " ",
        "a b",
        "a,b",
        'a"b',
        "a\nb",
        "a\rb",
        "a\tb",
        "a\0b",
        "\x1b[2J",
    ),
    *("-rf", "--help", "~", "$HOME", "%s", "{}", "#", "\ud800", "\u202e", "🦠", "CON"),
]
"""What may stand where a name belongs; some are fine, none may lead out of a folder or end a program."""

NUMBERS = [
    *(0, -1, 1, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**30, 10**400, 0.5, -0.0, 1e-320, 1e308, -1e308),
    *(float("nan"), float("inf"), float("-inf"), True, False, "1", "NaN", "1e400", "0x10", "1_000", "1,5", None),
]
"""What may stand where a number belongs."""


def deep() -> Any:
    """Return lists in lists, deeper than any file of the package."""
    value: Any = None
    for _ in range(60):
        value = [value]
    return value


SCALARS = st.sampled_from(NAMES) | st.sampled_from(NUMBERS) | st.integers() | st.floats() | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS | st.builds(deep),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)
"""Anything at all."""


def places(value: Any, above: tuple = ()) -> list[tuple]:
    """Return where everything in a parsed file lies."""
    found = [above] if above else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return found + [place for key, item in items for place in places(item, (*above, key))]


def changed(content: Any, place: tuple, value: Any) -> Any:
    """Return a copy with one value replaced."""
    content = json.loads(json.dumps(content))
    part = content
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    return content


@st.composite
def other_values(draw, content):
    """One or two values replaced, removed, doubled or added, anywhere."""
    content = json.loads(json.dumps(content))
    for _ in range(draw(st.integers(1, 2))):
        *above, last = draw(st.sampled_from(places(content) or [("nothing",)]))
        part = content
        for key in above:
            part = part[key]
        there = last in (part if isinstance(part, dict) else range(len(part)))
        way = draw(st.sampled_from(["replace", "replace", "remove", "add", "double"]))
        if way == "remove" and there:
            del part[last]
        elif way == "add" and isinstance(part, dict):
            part[draw(st.sampled_from(NAMES))] = draw(VALUES)
        elif way == "double" and there and isinstance(part[last], list):
            part[last] = part[last] * 2
        elif isinstance(part, dict) or there:
            part[last] = draw(VALUES)
    return content


@st.composite
def other_scalars(draw, content):
    """A text somewhere replaced by another name, or a number by another number."""
    found = places(content)
    leaves = []
    for place in found:
        value = content
        for key in place:
            value = value[key]
        if isinstance(value, (str, int, float)):
            leaves.append((place, value))
    place, value = draw(st.sampled_from(leaves))
    return changed(content, place, draw(st.sampled_from(NAMES if isinstance(value, str) else NUMBERS)))


@st.composite
def other_bytes(draw, raw):
    """Some bytes changed, put in or taken out, most of them early, where formats say what follows; or cut off."""
    early, anywhere = st.integers(0, min(400, len(raw))), st.integers(0, len(raw))
    raw = bytearray(raw)
    for _ in range(draw(st.integers(0, 3))):
        at = min(draw(early | anywhere), len(raw))
        raw[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3) | st.just(b"\xff" * 8))
    return bytes(raw[: draw(early | anywhere)]) if draw(st.booleans()) else bytes(raw)


def other_encodings(raw: bytes) -> st.SearchStrategy[bytes]:
    """The same text as another program might save it, or twice, or not at all."""
    text = raw.decode(errors="replace")
    half = len(raw) // 2
    return st.sampled_from(
        [
            *(text.encode(name) for name in ("utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-7")),
            *(b"", b" ", b"\n\n", b"\0", b"\0" * 1000, b"\xff\xfe", b"\x80" * 100, b"\x1f\x8b\x08\0", b"PK\x03\x04"),
            *(raw + raw, raw + b"\0", raw + b"}", b"\n" + raw, raw.replace(b"\n", b"\r\n"), raw.replace(b"\n", b"\r")),
            *(raw[:half] + b"\0" + raw[half:], raw[:half] + b"\xff" + raw[half:], raw[half:], raw[:half]),
            *(b"[" * 100_000, b'{"a":' * 100_000, b"[" * 900 + b"]" * 900, b"a: " * 50_000, b"9" * 5000, b"1e400"),
            *(b"<html>not found</html>", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        ]
    )


def try_each(strategy: st.SearchStrategy, n: int, check: Any) -> int:
    """Call `check` with up to `n` examples, the same ones in every run; return how many there were."""
    tried = 0

    @settings(max_examples=n, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def each(example):
        nonlocal tried
        tried += 1
        check(example)

    each()
    return tried
