"""The stream: what happens beside what, that no more is begun than was said, what an error costs."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tomopoint.data.project import Run
from tomopoint.data.tomograms import Tomogram
from tomopoint.errors import DataError, EngineError
from tomopoint.inference import stream
from tomopoint.inference.predict import predict_tomogram
from tomopoint.inference.stream import Deal, Inbox, TomogramStream
from tomopoint.pipeline import COMPETITION_PARTICLES, Pipeline, Tiling

HANG_SECONDS = 60.0
"""What waits longer for another thread waits for ever."""

PIPELINE = Pipeline(COMPETITION_PARTICLES[:2], voxel_A=10.0, tiling=Tiling((8, 8, 8), (2, 2, 2), 0.1))
WINDOWS = 3
SHAPE = (7, 8, 20)


def runs(n: int) -> list[Run]:
    return [Run(f"TS_{index}", "test", Path("nowhere")) for index in range(n)]


def volume_of(run: Run) -> np.ndarray:
    return np.random.default_rng(int(run.name[3:])).normal(0, 1e-5, SHAPE).astype(np.float32)


class Desk:
    """Keeps what is told, in order; `before` holds what is to happen before a stage of a run goes on."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.heard = threading.Condition()
        self.before: dict[tuple[str, str], object] = {}
        self.picks: dict[str, pd.DataFrame] = {}
        self.found: dict[str, stream.Found] = {}
        self.errors: dict[str, Exception] = {}
        self.current = ""
        self.windows: list[tuple[str, int, int]] = []

    def tell(self, kind: str, run: Run) -> None:
        with self.heard:
            self.told.append((kind, run.name))
            self.heard.notify_all()
        if (act := self.before.get((kind, run.name))) is not None:
            act()

    def wait_for(self, kind: str, name: str) -> None:
        with self.heard:
            assert self.heard.wait_for(lambda: (kind, name) in self.told, HANG_SECONDS), f"never {kind} {name}"

    def read(self, run: Run) -> Tomogram:
        self.tell("read", run)
        return Tomogram(volume_of(run), 10.0, Path(run.name), ("a note",))

    def write(self, run: Run, picks: pd.DataFrame) -> None:
        self.tell("write", run)
        self.picks[run.name] = picks

    def reading(self, run: Run) -> None:
        self.tell("reading", run)

    def begun(self, run: Run) -> None:
        self.current = run.name
        self.tell("begun", run)

    def window(self, run: Run, n_done: int, n_windows: int) -> None:
        self.windows.append((run.name, n_done, n_windows))
        self.tell("window", run)

    def done(self, run: Run, found: stream.Found) -> None:
        self.found[run.name] = found
        self.tell("done", run)

    def failed(self, run: Run, error: Exception) -> None:
        self.errors[run.name] = error
        self.tell("failed", run)

    def broke(self, run: Run, error: EngineError) -> None:
        self.errors[run.name] = error
        self.tell("broke", run)

    def all(self, kind: str) -> list[str]:
        return [name for told, name in self.told if told == kind]

    def place(self, kind: str, name: str) -> int:
        """The last time that it was told."""
        return max(index for index, told in enumerate(self.told) if told == (kind, name))


class Engine:
    """Scores and offsets out of the window's own values; in `before` what happens first over a run."""

    window_zyx = PIPELINE.tiling.window_zyx
    batch = 1

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.calls: Counter[str] = Counter()
        self.before: dict[str, object] = {}
        self.spoil: dict[str, object] = {}

    def infer(self, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        name = self.desk.current
        self.calls[name] += 1
        if act := self.before.get(name):
            act()
        scores = 1 / (1 + np.exp(-windows[..., ::2, ::2, ::2]))
        scores = np.concatenate([scores, 1 - scores], axis=1).astype(np.float32)
        offsets = np.repeat(windows[..., 1::2, 1::2, 1::2], 3, axis=1) % 1
        return self.spoil.get(name, lambda *outputs: outputs)(scores, offsets)

    def describe(self) -> dict[str, object]:
        return {}

    def close(self) -> None:
        pass


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def engine(desk) -> Engine:
    return Engine(desk)


def predict(desk: Desk, engine: Engine, n: int) -> None:
    inbox = Inbox()
    for run in runs(n):
        inbox.put(Deal(run))
    inbox.end()
    TomogramStream(engine, PIPELINE, desk).run(inbox)


def raising(error: BaseException):
    def act(*_: object) -> None:
        raise error

    return act


def test_picks_are_those_of_one_tomogram_alone(desk, engine):
    predict(desk, engine, 4)
    assert desk.all("done") == [run.name for run in runs(4)]
    for run in runs(4):
        alone = predict_tomogram(Tomogram(volume_of(run), 10.0, Path("a")), Engine(desk), PIPELINE)
        pd.testing.assert_frame_equal(desk.picks[run.name], alone, check_exact=True)
        assert len(alone) == desk.found[run.name].n_picks > 0
        assert desk.found[run.name].notes == ("a note",)


def test_one_is_written_and_another_read_while_a_third_is_in_the_engine(desk, engine):
    """Each waits for the others: it only ends if all three go on at the same time."""
    together = threading.Barrier(3, timeout=HANG_SECONDS)
    desk.before["write", "TS_0"] = together.wait
    desk.before["read", "TS_2"] = together.wait
    engine.before["TS_1"] = lambda: engine.calls["TS_1"] == 1 and together.wait()
    predict(desk, engine, 4)
    assert desk.all("done") == ["TS_0", "TS_1", "TS_2", "TS_3"]


def test_no_more_is_begun_than_was_said(desk, engine):
    n = 6
    predict(desk, engine, n)
    assert Counter(kind for kind, _ in desk.told) == {
        **dict.fromkeys(("reading", "read", "begun", "write", "done"), n),
        "window": n * WINDOWS,
    }
    for index in range(n - 2):
        before, now, after = (f"TS_{index + step}" for step in range(3))
        # Voxels: the next but one is not read before the engine is done with this one and takes the next.
        assert desk.place("reading", after) > desk.place("window", before)
        # Maps: a third tomogram's are not begun before the first one's are written.
        assert desk.place("begun", after) > desk.place("done", before)
        assert desk.place("begun", now) > desk.place("window", before)


@pytest.mark.parametrize("stage", ["read", "voxel size", "normalise", "engine", "merge", "decode", "write"])
def test_an_error_costs_its_own_run_only(stage, desk, engine, monkeypatch):
    bad, kind = "TS_1", DataError
    if stage == "read":
        desk.before["read", bad] = raising(DataError("a damaged chunk"))
    elif stage in ("voxel size", "normalise"):
        volume = np.ones(SHAPE, np.float32) if stage == "normalise" else volume_of(runs(1)[0])
        read, size = desk.read, 7.84 if stage == "voxel size" else 10.0
        monkeypatch.setattr(
            desk, "read", lambda run: Tomogram(volume, size, Path("bad")) if run.name == bad else read(run)
        )
    elif stage == "engine":
        engine.before[bad], kind = raising(MemoryError("no room")), MemoryError
    elif stage == "merge":
        engine.spoil[bad], kind = lambda scores, offsets: (scores[:, :1], offsets), Exception
    elif stage == "decode":
        decode, kind = stream.decode_maps, ZeroDivisionError
        decoded = []

        def once(*given):
            decoded.append(given)
            return decode(*given) if len(decoded) != 2 else 1 / 0

        monkeypatch.setattr(stream, "decode_maps", once)
    else:
        desk.before["write", bad], kind = raising(OSError(28, "No space left on device")), OSError
    predict(desk, engine, 4)
    assert desk.all("done") == ["TS_0", "TS_2", "TS_3"]
    assert desk.all("failed") == [bad]
    assert desk.all("broke") == []
    assert isinstance(desk.errors[bad], kind)


def test_when_the_engine_breaks_what_it_was_done_with_is_written_first(desk, engine):
    """It breaks over the second run while the first is still being written."""
    breaks = threading.Event()

    def fail() -> None:
        breaks.set()
        raise EngineError("the GPU is gone")

    engine.before["TS_1"] = fail
    desk.before["write", "TS_0"] = lambda: breaks.wait(HANG_SECONDS)
    with pytest.raises(EngineError, match="the GPU is gone"):
        predict(desk, engine, 4)
    assert desk.all("done") == ["TS_0"]
    assert desk.all("broke") == ["TS_1"]
    assert desk.place("broke", "TS_1") > desk.place("done", "TS_0")
    assert desk.all("begun") == ["TS_0", "TS_1"]
    assert desk.all("failed") == []


@pytest.mark.parametrize("call", range(1, WINDOWS + 1))
def test_an_output_that_is_not_finite_is_blamed_on_its_own_run(call, desk, engine):
    """Also the last one, which is looked at when the next run has been begun."""

    def spoil(scores, offsets):
        if engine.calls["TS_1"] == call:
            scores[0, 0, 0, 0, 0] = np.nan
        return scores, offsets

    engine.spoil["TS_1"] = spoil
    with pytest.raises(EngineError, match="scores that are not finite"):
        predict(desk, engine, 5)
    assert desk.all("done") == ["TS_0"]
    assert desk.all("broke") == ["TS_1"]
    assert "TS_3" not in desk.all("begun")


def test_an_engine_that_breaks_while_no_run_is_dealt_is_not_waited_for(desk, engine):
    """The reader is waiting for a deal that never comes."""
    inbox = Inbox()
    inbox.put(Deal(runs(1)[0]))
    engine.before["TS_0"] = raising(EngineError("gone"))

    def run() -> None:
        with pytest.raises(EngineError):
            TomogramStream(engine, PIPELINE, desk).run(inbox)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(HANG_SECONDS)
    assert not thread.is_alive()
    assert desk.all("broke") == ["TS_0"]


@pytest.mark.parametrize("stage", ["window", "write"])
def test_whoever_says_that_it_is_over_is_obeyed(stage, desk, engine):
    """As a worker without a parent does: nothing is written any more, nothing is told."""
    desk.before[stage, "TS_1"] = raising(SystemExit(0))
    with pytest.raises(SystemExit):
        predict(desk, engine, 5)
    assert "TS_1" not in desk.picks
    assert not {"TS_3", "TS_4"} & set(desk.all("begun"))
    assert desk.all("failed") == desk.all("broke") == []


def test_runs_that_cannot_be_read_do_not_hold_up_the_engine(desk, engine):
    """Two are passed over while the first is computed."""
    for bad in ("TS_1", "TS_2"):
        desk.before["read", bad] = raising(DataError("damaged"))
    engine.before["TS_0"] = lambda: desk.wait_for("reading", "TS_3")
    predict(desk, engine, 4)
    assert desk.all("failed") == ["TS_1", "TS_2"]
    assert desk.all("done") == ["TS_0", "TS_3"]


def test_fewer_windows_where_a_deal_says_so(desk, engine):
    inbox = Inbox()
    wide, narrow = runs(2)
    inbox.put(Deal(wide, (2, 2, 6)))
    inbox.put(Deal(narrow, (0, 0, 0)))
    inbox.end()
    TomogramStream(engine, PIPELINE, desk).run(inbox)
    assert engine.calls == {"TS_0": 7, "TS_1": WINDOWS}
    assert desk.all("done") == ["TS_0", "TS_1"]


class Clock:
    """Goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def passing(self, seconds: float):
        def act() -> None:
            self.now += seconds

        return act


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(stream, "time", clock)
    return clock


def test_the_seconds_of_a_run_that_comes_alone_are_all_of_it(desk, engine, clock):
    """3 s of reading, 3 windows of 5 s, 2 s of writing; and not the 100 s before the second was dealt."""
    for run in runs(2):
        desk.before["read", run.name], desk.before["write", run.name] = clock.passing(3), clock.passing(2)
        engine.before[run.name] = clock.passing(5)
    inbox = Inbox()
    first, second = runs(2)

    def deal() -> None:
        clock.now += 100
        inbox.put(Deal(second))
        inbox.end()

    inbox.put(Deal(first))
    desk.before["done", "TS_0"] = deal
    TomogramStream(engine, PIPELINE, desk).run(inbox)
    assert [desk.found[run.name].seconds for run in runs(2)] == [20.0, 20.0]
    assert [desk.found[run.name].read_seconds for run in runs(2)] == [3.0, 3.0]


def test_the_seconds_of_runs_that_overlap_add_up_to_the_clocks(desk, engine, clock):
    """The budget shares the time that is left by them: the engine's 15 s each, and the first one's reading."""
    desk.before["read", "TS_0"] = clock.passing(3)

    def compute(name: str, former: str | None):
        def act() -> None:
            if former is not None:
                desk.wait_for("done", former)
            clock.now += 5

        engine.before[name] = act

    for index in range(4):
        compute(f"TS_{index}", f"TS_{index - 1}" if index else None)
    predict(desk, engine, 4)
    assert [desk.found[run.name].seconds for run in runs(4)] == [18.0, 15.0, 15.0, 15.0]


def test_an_inbox_that_is_closed_gives_nothing_more():
    inbox, (first, second) = Inbox(), runs(2)
    inbox.put(Deal(first))
    inbox.put(Deal(second))
    assert next(inbox).run == first
    inbox.close()
    assert list(inbox) == []
    assert list(inbox) == []
