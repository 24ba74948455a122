"""Workers that die, hang or never start, as real processes: they cost no run that another worker can do."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import replace
from multiprocessing.context import SpawnProcess

import pytest

from tomopoint.data.project import Run
from tomopoint.data.tables import empty_pick_table, read_pick_table
from tomopoint.inference import crash_policy
from tomopoint.inference.budget import Budget
from tomopoint.inference.folder import PredictionFolder
from tomopoint.inference.parts import PartOrigin, part_path
from tomopoint.inference.predict_runs import PredictOptions, WorkersLost, predict_runs
from tomopoint.inference.supervisor import Supervisor
from tomopoint.inference.worker import Job, Message, _Parent
from tomopoint.inference.worker_process import GRACE_SECONDS, BoundedProcess, Patience, WorkerProcess

CPU = PredictOptions(provider="cpu", outage_pause=0.0)

HOOK = """
import multiprocessing.process, os, signal, sys, time
from pathlib import Path

def once(name):
    try:
        os.mkdir(Path(os.environ["HOOK_FOLDER"], name))
    except FileExistsError:
        return False
    return True

def log():
    return Path(os.environ["HOOK_LOG"]).read_text()

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def watch(event, args):
    worker = multiprocessing.process.current_process().name.removeprefix("tomopoint-worker-")
    loading = event == "import" and args[0] == "onnxruntime"
    store = str(args[0]) if event == "open" and "denoised.zarr" in str(args[0]) else ""
    if worker in ("0", "1"):
        {body}

sys.addaudithook(watch)
"""


@pytest.fixture
def hooked(tmp_path, monkeypatch):
    """Make all worker processes run a line when they load onnxruntime or open a file of a store."""

    def hook(*body):
        folder = tmp_path / "site"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(HOOK.replace("{body}", "\n        ".join(body)))
        monkeypatch.setenv("PYTHONPATH", str(folder))
        monkeypatch.setenv("HOOK_FOLDER", str(folder))
        monkeypatch.setenv("HOOK_LOG", str(tmp_path / "out" / "log.jsonl"))

    return hook


def events(summary, kind):
    return [event for event in summary.folder.events() if event["event"] == kind]


@pytest.fixture(autouse=True)
def _no_long_pauses(monkeypatch):
    monkeypatch.setattr(crash_policy, "LONGEST_PAUSE_SECONDS", 0.1)


def test_a_sick_gpu_fails_no_run(hooked, blob_project, blob_model, tmp_path):
    """Worker 0 loads its engine and dies over every run; worker 1 does them all."""
    hooked(
        "if store and worker == '0': die()",
        "while store and worker == '1' and log().count('died') < 3: time.sleep(0.05)",
    )
    summary = predict_runs(blob_project(10).runs, blob_model, tmp_path / "out", replace(CPU, workers=2))
    assert summary.ok
    assert summary.n_workers == 1
    assert {event["worker"] for event in events(summary, "done")} == {1}
    assert "worker 0 died over " in summary.text()


def test_a_worker_that_dies_while_loading_stops_no_other(hooked, blob_project, blob_model, tmp_path):
    """Worker 0 never loads; worker 1 dies once over a run and is still replaced."""
    hooked(
        "if loading and worker == '0': die()",
        "while store and worker == '1' and log().count('died') < 3: time.sleep(0.05)",
        "if store and worker == '1' and once('death'): die()",
    )
    summary = predict_runs(blob_project(3).runs, blob_model, tmp_path / "out", replace(CPU, workers=2))
    assert summary.ok
    assert len(summary.lost) == 1
    assert summary.lost[0].startswith("worker 0 died without a run: exit status -9")


def test_a_run_given_back_when_the_other_worker_is_idle_is_still_done(hooked, blob_project, blob_model, tmp_path):
    """Worker 0 dies over its run after worker 1 found nothing left to do."""
    hooked(
        "if store and worker == '0':",
        "    while '\"done\"' not in log(): time.sleep(0.05)",
        "    time.sleep(1)",
        "    die()",
        "while store and worker == '1' and '\"worker\": 0' not in log(): time.sleep(0.05)",
    )
    project = blob_project(2)
    summary = predict_runs(project.runs, blob_model, tmp_path / "out", replace(CPU, workers=2))
    assert summary.ok
    assert [event["worker"] for event in events(summary, "done")] == [1, 1]
    assert len(events(summary, "died")) == 1


def test_a_load_that_fails_once_is_tried_again(hooked, blob_project, blob_model, tmp_path):
    hooked("if loading and once('failure'): raise MemoryError('just now')")
    summary = predict_runs(blob_project(1).runs, blob_model, tmp_path / "out", CPU)
    assert summary.ok
    assert summary.lost == ()
    assert [event["message"] for event in events(summary, "engine_failed")] == ["just now"]


def test_when_no_worker_works_what_is_done_is_joined_and_it_is_an_engine_error(
    hooked, blob_project, blob_model, tmp_path
):
    """The engine dies over everything from the second run on: segmentation faults, not exceptions."""
    hooked("if 'TS_0_1' not in store and store: die()", "if loading and 'died' in log(): die()")
    project, out = blob_project(2), tmp_path / "out"
    predict_runs(project.runs[:1], blob_model, out, CPU)
    with pytest.raises(WorkersLost, match=r"worker 0 died .*5 times in a row.*1 of 2 runs are done") as caught:
        predict_runs(project.runs, blob_model, out, CPU)
    summary = caught.value.summary
    assert [outcome.status for outcome in summary.outcomes] == ["done", "not processed"]
    assert set(read_pick_table(out / "submission.csv")["experiment"]) == {"TS_0_1"}


def test_an_outage_of_the_disk_is_waited_out(hooked, blob_project, blob_model, tmp_path):
    """The disk comes back after five reads have failed; no run is failed for it."""
    hooked("if store and log().count('cannot be read for now') < 5: raise OSError(5, 'Input/output error')")
    summary = predict_runs(blob_project(3).runs, blob_model, tmp_path / "out", replace(CPU, outage_pause=0.01))
    assert summary.ok
    said = [event["message"] for event in events(summary, "warning")]
    assert len([message for message in said if "cannot be read for now" in message]) >= 5
    assert events(summary, "second_pass") == []


def test_a_store_that_stays_unreadable_fails_and_the_others_come_out(hooked, blob_project, blob_model, tmp_path):
    hooked("if store and 'TS_1_1' in store: raise OSError(5, 'Input/output error')")
    summary = predict_runs(blob_project(3).runs, blob_model, tmp_path / "out", CPU)
    assert [(outcome.run, outcome.status) for outcome in summary.failed] == [("TS_1_1", "failed")]


def test_a_bad_neighbour_that_is_read_ahead_takes_no_healthy_run_with_it(hooked, blob_project, blob_model, tmp_path):
    """Half of the stores kill whoever reads them: every other run is done, and none of these is failed."""
    hooked("if any(f'TS_{n}_1' in store for n in (1, 3, 5)): die()")
    summary = predict_runs(blob_project(6).runs, blob_model, tmp_path / "out", replace(CPU, workers=2))
    assert {outcome.run for outcome in summary.failed} == {"TS_1_1", "TS_3_1", "TS_5_1"}
    assert all("workers die over it" in outcome.message for outcome in summary.failed)


def test_a_healthy_run_that_workers_were_killed_over_is_done_in_the_end(hooked, blob_project, blob_model, tmp_path):
    """Up to three kills (threads that read its chunks may use one up), all while one healthy run is in work."""
    hooked("if 'TS_1_1' in store and (once('a') or once('b') or once('c')): die()")
    summary = predict_runs(blob_project(4).runs, blob_model, tmp_path / "out", CPU)
    assert summary.ok
    assert 1 <= len(events(summary, "died")) <= 3


@pytest.mark.parametrize("place", ["store", "loading"])
def test_a_hanging_worker_is_replaced(place, hooked, blob_project, blob_model, tmp_path, monkeypatch):
    """Far before the limit; the run it hung over is done by its successor."""
    monkeypatch.setattr(Patience, "of", lambda self, worker: 5.0 if worker.dealt or not worker.is_ready else 1e9)
    hooked(f"if {place} and once('hang'): time.sleep(3600)")
    summary = predict_runs(blob_project(2).runs, blob_model, tmp_path / "out", CPU)
    assert summary.ok
    assert "silent" in events(summary, "warning")[0]["message"]
    assert events(summary, "died")[0]["message"] == "no answer"


def test_a_stopped_worker_is_replaced(hooked, blob_project, blob_model, tmp_path, monkeypatch):
    monkeypatch.setattr(Patience, "of", lambda self, worker: 5.0 if worker.dealt else 1e9)
    hooked("if store and once('stop'): os.kill(os.getpid(), signal.SIGSTOP)")
    summary = predict_runs(blob_project(2).runs, blob_model, tmp_path / "out", CPU)
    assert summary.ok
    assert events(summary, "died")[0]["message"] == "no answer"


def test_a_run_that_is_dealt_again_forgets_the_plan_of_before(blob_project, tmp_path, monkeypatch):
    """A worker died over a run whose windows overlapped less; there is time for all of it now."""
    (run,) = blob_project(1).runs
    folder = PredictionFolder(tmp_path)
    supervisor = Supervisor(
        [run], None, folder, [], Budget(None), Patience(), lambda run, share: ((0, 0, 0), share), 0.0
    )
    for share, overlap in ((0.5, (0, 0, 0)), (1.0, None)):
        monkeypatch.setattr(Budget, "affordable_share", lambda self, n_left, answer=share: answer)
        assert supervisor._choose(_At()) == (run, overlap)
    worker = _At(dealt={run.name: None})
    worker.number = 0
    details = {"notes": (), "seconds": 8.0, "n_picks": 0}
    supervisor._note(worker, Message("done", run.name, details), 0.0)
    assert supervisor.budget.costs == [8.0]
    assert supervisor.notes == {run.name: ()}


class _At:
    """Where a worker is, for the patience with it."""

    def __init__(self, is_ready=True, begun=None, dealt=()):
        self.is_ready, self.begun, self.dealt = is_ready, begun, dealt


def test_patience_comes_from_measured_seconds():
    patience = Patience(window=2.0)
    assert patience.of(_At(is_ready=False)) == 2400.0  # nothing is known of loading
    assert patience.of(_At(begun="TS_1", dealt=["TS_1"])) == 90.0  # never sooner
    assert patience.of(_At(dealt=["TS_1"])) == 600.0  # a disk may be slow, and says nothing
    assert patience.of(_At()) == float("inf")
    patience.loaded(30.0)
    patience.loaded(10.0)
    patience.predicted(10.0)
    assert patience.of(_At(is_ready=False)) == 600.0
    assert patience.of(_At(begun="TS_1", dealt=["TS_1"])) == 200.0
    assert Patience().of(_At(begun="TS_1", dealt=["TS_1"])) == 7200.0  # without a measurement


def heard(*messages):
    """A worker as its parent sees it after these messages."""
    ours, theirs = multiprocessing.Pipe()
    worker = object.__new__(WorkerProcess)
    worker.pipe, worker.is_ready, worker.is_gone = ours, True, False
    worker.heard, worker.begun, worker.reading = 0.0, [], None
    for message in messages:
        theirs.send(message)
    assert [message for message, _ in worker.messages()] == list(messages)
    return worker


def test_a_death_is_over_all_that_is_finished_computed_or_read():
    at = [Message("reading", "a"), Message("begun", "a"), Message("reading", "b"), Message("begun", "b")]
    assert heard(*at[:1]).in_work == ["a"]
    assert heard(*at[:3]).in_work == ["a", "b"]
    assert heard(*at, Message("reading", "c")).in_work == ["a", "b", "c"]
    assert heard(*at, Message("reading", "c"), Message("done", "a")).in_work == ["b", "c"]
    assert heard(*at, Message("failed", "b")).in_work == ["a"]
    assert heard(*at, Message("reading", "c"), Message("failed", "c")).in_work == ["a", "b"]


def test_an_engine_that_broke_is_blamed_on_the_run_it_names():
    """The next one had been begun before the output of the former was looked at."""
    at = [Message("begun", "a"), Message("begun", "b")]
    assert heard(*at, Message("broke", "a")).in_work == ["a"]
    assert heard(*at, Message("reading", "c"), Message("broke", "a")).in_work == ["a", "c"]


def test_a_worker_without_its_parent_writes_nothing_more(tmp_path):
    ours, theirs = multiprocessing.Pipe()
    parent = _Parent(Job(tmp_path, "cpu", None, 1, tmp_path, PartOrigin("0" * 64, "denoised")), theirs)
    run = Run("TS_1", "test", tmp_path)
    parent.write(run, empty_pick_table())
    parent.window(run, 2, 9)
    assert ours.recv() == Message("window", "TS_1", {"n_done": 2, "n_windows": 9})
    part_path(tmp_path, "TS_1").unlink()
    ours.close()
    parent.window(run, 3, 9)  # the pipe is closed, and that is for the listener to find out
    parent.is_gone.set()
    for step in (lambda: parent.window(run, 4, 9), lambda: parent.write(run, empty_pick_table())):
        with pytest.raises(SystemExit) as ended:
            step()
        assert ended.value.code == 0
    assert list(tmp_path.iterdir()) == []


def test_no_wait_for_a_process_is_without_end(monkeypatch):
    """Python itself joins all children when it exits, without a timeout."""
    waits = []
    monkeypatch.setattr(SpawnProcess, "join", lambda self, timeout=None: waits.append(timeout))
    process = BoundedProcess(target=json.dumps)
    process.join()
    process.join(0.5)
    assert waits == [GRACE_SECONDS, 0.5]


class _Unkillable:
    """A process in uninterruptible sleep: joined and killed, it is still there."""

    exitcode = None

    def __init__(self):
        self.calls = []

    def join(self, timeout=None):
        self.calls.append("join")

    def kill(self):
        self.calls.append("kill")


def test_a_worker_that_cannot_be_killed_is_left_behind(monkeypatch):
    class Pipe:
        closed = False

        def close(self):
            self.closed = True

    worker = object.__new__(WorkerProcess)
    worker._process, worker.pipe = _Unkillable(), Pipe()
    worker.end()
    assert worker._process.calls == ["join", "kill", "join"]
    assert worker.pipe.closed
