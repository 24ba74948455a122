"""Roads: steps are commands in processes of their own, done once, and a folder belongs to one set of options."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tomopoint import __version__
from tomopoint.errors import TomopointError
from tomopoint.road import Road, Step, line_of


def step(out: Path, name: str, *words: str) -> Step:
    """A step whose command prints something into a file."""
    return Step(name, (words or ("--version",),), (out / name,), figures=out / name)


def test_a_step_is_a_command_and_is_done_once(tmp_path: Path) -> None:
    road = Road("test", tmp_path, {"seed": 1})
    road.walk(step(tmp_path, "first"))
    road.walk(step(tmp_path, "second"))
    assert (tmp_path / "first").read_text() == f"tomopoint {__version__}\n"
    assert list(road.seconds) == ["first", "second"]
    assert road.changed

    again = Road("test", tmp_path, {"seed": 1})
    again.walk(step(tmp_path, "first"))
    assert not again.changed
    assert again.seconds == road.seconds


def test_what_is_missing_is_made_again_and_so_is_what_follows(tmp_path: Path) -> None:
    road = Road("test", tmp_path, {})
    names = ["first", "second", "third"]
    for name in names:
        road.walk(step(tmp_path, name))
    (tmp_path / "second").unlink()

    again = Road("test", tmp_path, {})
    again.walk(step(tmp_path, "first"))
    assert not again.changed
    again.walk(step(tmp_path, "second"))
    assert list(again.seconds) == names[:2]  # the third was made from what has changed
    again.walk(step(tmp_path, "third"))
    assert list(again.seconds) == names


def test_a_folder_of_what_was_lost_is_emptied_and_one_of_an_interrupted_step_is_not(tmp_path: Path) -> None:
    def steps(fails: bool) -> list[Step]:
        second = Step(
            "second", (("--nonsense",) if fails else ("--version",),), (tmp_path / "mark",), folder=tmp_path / "filled"
        )
        return [step(tmp_path, "first"), second]

    def walk(fails: bool = False) -> None:
        road = Road("test", tmp_path, {})
        for one in steps(fails):
            road.walk(one)

    filled = tmp_path / "filled" / "part.csv"
    filled.parent.mkdir()
    filled.touch()
    with pytest.raises(TomopointError, match="stopped at step 'second'"):
        walk(fails=True)
    with pytest.raises(TomopointError, match="stopped at step 'second'"):
        walk(fails=True)  # goes on with what it has
    assert filled.exists()

    (tmp_path / "first").unlink()
    walk()
    assert not filled.parent.exists()

    # Once only: what the step has filled anew since is its own.
    filled.parent.mkdir()
    walk()
    assert filled.parent.exists()


def test_every_attempt_at_a_step_counts(tmp_path: Path) -> None:
    good, bad = step(tmp_path, "first"), step(tmp_path, "first", "--nonsense")
    with pytest.raises(TomopointError):
        Road("test", tmp_path, {}).walk(bad)
    lost = json.loads((tmp_path / "test.json").read_text())["begun"]["first"]
    assert lost > 0
    road = Road("test", tmp_path, {})
    road.walk(good)
    assert road.seconds["first"] > lost

    # Done once more from its beginning, it has no earlier attempt.
    (tmp_path / "first").unlink()
    again = Road("test", tmp_path, {})
    with pytest.raises(TomopointError):
        again.walk(bad)
    (tmp_path / "test.json").write_text(
        json.dumps({"options": {}, "begun": {"first": 1000.0}, "seconds": {"first": 1000.0}})
    )
    fresh = Road("test", tmp_path, {})
    fresh.walk(good)
    assert fresh.seconds["first"] < 1000


def test_a_step_that_makes_nothing_is_done_every_time(tmp_path: Path) -> None:
    for _ in range(2):
        road = Road("test", tmp_path, {})
        road.walk(Step("look", (("--version",), ("--version",))))
        assert road.changed


def test_a_failing_command_ends_the_road_and_leaves_no_half_file(tmp_path: Path) -> None:
    road = Road("test", tmp_path, {})
    with pytest.raises(
        TomopointError, match=r"the test stopped at step 'score' \(status 1\), see above: .*score nothing"
    ):
        road.walk(step(tmp_path, "score", "score", "nothing.csv", "--truth", str(tmp_path)))
    assert list(tmp_path.iterdir()) == [tmp_path / "test.json"]
    assert road.seconds == {}


def test_a_folder_belongs_to_one_set_of_options(tmp_path: Path) -> None:
    Road("test", tmp_path, {"seed": 1, "many": ["x" * 100], "size": (1, 2)})
    Road("test", tmp_path, {"seed": 1, "many": ["x" * 100], "size": (1, 2)})
    with pytest.raises(TomopointError, match=r"holds a test made with other options \(seed 1, not 2, many differ\)"):
        Road("test", tmp_path, {"seed": 2, "many": ["y" * 100], "size": (1, 2)})
    (tmp_path / "test.json").write_text("{}")
    with pytest.raises(TomopointError, match="is no record of a test"):
        Road("test", tmp_path, {"seed": 1})


def test_what_was_decided_stays_decided(tmp_path: Path) -> None:
    assert Road("test", tmp_path, {}).decide("minutes", lambda: 3.5) == 3.5
    assert Road("test", tmp_path, {}).decide("minutes", lambda: 4.5) == 3.5


def test_lines_can_be_copied() -> None:
    line = line_of(("score", "my picks.csv", "--json"), Path("a b.json"))
    assert line == "python -m tomopoint score 'my picks.csv' --json > 'a b.json'"
