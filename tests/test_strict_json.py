"""What the one reader of JSON takes and refuses, by the annotations of a dataclass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from tomopoint.errors import DataError
from tomopoint.strict_json import Malformed, build, parse, read, reading


@dataclass(frozen=True)
class Inner:
    size: int


@dataclass(frozen=True)
class Outer:
    method: Literal["curve", "counts"] = "curve"
    version: Literal[1] = 1
    folds: str | tuple[tuple[str, ...], ...] = "pairs"
    amount: int | float | None = None
    inner: Inner | None = None
    parts: tuple[Inner | str, ...] = ()
    by_name: Mapping[str, Inner | float] | None = None
    pair: tuple[int, float] = (0, 0.0)
    anything: Any = None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, Outer()),
        ({"method": "counts", "version": 1}, Outer(method="counts")),
        ({"folds": "all"}, Outer(folds="all")),
        ({"folds": [["a", "b"], []]}, Outer(folds=(("a", "b"), ()))),
        ({"amount": 3}, Outer(amount=3)),
        ({"amount": 2.5}, Outer(amount=2.5)),
        ({"amount": None}, Outer()),
        ({"inner": {"size": 1}}, Outer(inner=Inner(1))),
        ({"parts": ["a", {"size": 2}]}, Outer(parts=("a", Inner(2)))),
        ({"by_name": {"a": 1.5, "b": {"size": 3}}}, Outer(by_name={"a": 1.5, "b": Inner(3)})),
        ({"pair": [1, 2]}, Outer(pair=(1, 2))),
        ({"anything": [{"x": 1}]}, Outer(anything=[{"x": 1}])),
    ],
)
def test_a_value_is_taken_by_the_first_member_of_a_union_that_fits(values, expected):
    built = build(Outer, values)
    assert built == expected
    assert type(built.amount) is type(expected.amount)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"method": "best"}, "method must be one of 'curve', 'counts', got 'best'"),
        ({"method": ["curve"]}, "method must be one of 'curve', 'counts', got ['curve']"),
        ({"version": 2}, "version must be 1, got 2"),
        ({"version": True}, "version must be 1, got True"),
        ({"version": 1.0}, "version must be 1, got 1.0"),
        ({"folds": 5}, "folds must be a text or a list, got 5"),
        ({"folds": [["a", 5]]}, "folds[0][1] must be a text, got 5"),
        ({"folds": ["a"]}, "folds[0] must be a list, got 'a'"),
        ({"amount": "much"}, "amount must be a whole number or a finite number or null, got 'much'"),
        ({"amount": False}, "amount must be a whole number or a finite number or null, got False"),
        ({"amount": float("nan")}, "amount must be a whole number or a finite number or null, got nan"),
        ({"inner": 1}, "inner must be an object with fields or null, got 1"),
        ({"inner": {}}, "inner lacks size"),
        ({"inner": {"size": "x"}}, "inner.size must be a whole number, got 'x'"),
        ({"inner": {"size": 1, "more": 2}}, "unknown field inner.more; known are size"),
        ({"parts": [{"size": 2.0}]}, "parts[0].size must be a whole number, got 2.0"),
        ({"parts": [1]}, "parts[0] must be an object with fields or a text, got 1"),
        ({"by_name": {"a": "x"}}, "by_name['a'] must be an object with fields or a finite number, got 'x'"),
        ({"pair": [1, 2, 3]}, "pair must be a list of 2, got [1, 2, 3]"),
        ([], "the whole must be an object with fields, got []"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_was_allowed(values, sentence):
    with pytest.raises(Malformed) as caught:
        build(Outer, values)
    assert str(caught.value) == sentence


def test_fields_of_others_are_passed_over_at_any_depth_where_that_is_wanted():
    values = {"more": 1, "inner": {"size": 1, "more": 2}}
    assert build(Outer, values, ignore_unknown=True) == Outer(inner=Inner(1))


@pytest.mark.parametrize("text", ['{"a": ', '"\\ud800"', '{"\\ud800": 1}', "[" * 50 + "]" * 50, str(2**63), b"\xff"])
def test_a_text_that_is_no_plain_json_is_malformed(text):
    with pytest.raises(Malformed):
        parse(text)


def test_a_file_is_named_with_the_fix_whatever_is_wrong(tmp_path):
    path = tmp_path / "outer.json"

    def load():
        with reading(path, DataError, "is no outer", "write it again"):
            return build(Outer, read(path))

    with pytest.raises(DataError, match=r"cannot read .*outer\.json \(No such file or directory\); write it again"):
        load()
    path.write_text('{"amount": true}')
    with pytest.raises(DataError, match=r"outer\.json is no outer \(amount must be .*, got True\); write it again"):
        load()
    path.write_text('{"amount": 4}')
    assert load().amount == 4
