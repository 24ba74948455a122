"""Workers that die, hang or never start, as real processes: they cost no run that another worker can do."""

from __future__ import annotations

import json
from dataclasses import replace
from multiprocessing.context import SpawnProcess

import pytest

from tomopoint.data.tables import read_pick_table
from tomopoint.inference import crew
from tomopoint.inference.worker_process import GRACE_SECONDS, BoundedProcess, WorkerProcess
from tomopoint.inference.workers import PredictOptions, WorkersLost, predict_runs

CPU = PredictOptions(provider="cpu", read_pause=0.0)

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


def test_a_sick_gpu_fails_no_run(hooked, blob_project, blob_model, tmp_path):
    """Worker 0 loads its engine and dies over every run; worker 1 does them all."""
    hooked(
        "if store and worker == '0': die()",
        "while store and worker == '1' and 'is lost' not in log(): time.sleep(0.05)",
    )
    project = blob_project(10)
    summary = predict_runs(project.runs, blob_model, tmp_path / "out", replace(CPU, workers=2))
    assert summary.ok
    assert summary.n_workers == 1
    assert {event["worker"] for event in events(summary, "done")} == {1}
    assert "worker 0 was lost: it died 3 times" in summary.text()
    assert list((tmp_path / "out" / "suspects").iterdir()) == []


def test_a_worker_that_dies_while_loading_stops_no_other(hooked, blob_project, blob_model, tmp_path):
    """Worker 0 never loads; worker 1 dies once over a run and is still replaced."""
    hooked(
        "if loading and worker == '0': die()",
        "while store and worker == '1' and 'is lost' not in log(): time.sleep(0.05)",
        "if store and worker == '1' and once('death'): die()",
    )
    project = blob_project(3)
    summary = predict_runs(project.runs, blob_model, tmp_path / "out", replace(CPU, workers=2))
    assert summary.ok
    assert len(summary.lost) == 1
    assert summary.lost[0].startswith("worker 0 was lost: it died 3 times")


def test_a_run_given_back_when_the_other_worker_has_gone_home_is_still_done(hooked, blob_project, blob_model, tmp_path):
    """Worker 0 dies over its run after worker 1 found nothing left to do and ended."""
    hooked(
        "if store and worker == '0':",
        "    while '\"done\"' not in log(): time.sleep(0.05)",
        "    time.sleep(2)",
        "    die()",
        "while store and worker == '1' and '\"worker\": 0' not in log(): time.sleep(0.05)",
    )
    project = blob_project(2)
    summary = predict_runs(project.runs, blob_model, tmp_path / "out", replace(CPU, workers=2))
    assert summary.ok
    assert [event["worker"] for event in events(summary, "done")] == [1, 1]
    assert len(events(summary, "crashed")) == 1


def test_a_load_that_fails_once_is_tried_again(hooked, blob_project, blob_model, tmp_path):
    hooked("if loading and once('failure'): raise MemoryError('just now')")
    summary = predict_runs(blob_project(1).runs, blob_model, tmp_path / "out", CPU)
    assert summary.ok
    assert summary.lost == ()
    assert [event["message"] for event in events(summary, "engine_failed")] == ["just now"]


def test_when_all_workers_are_lost_what_is_done_is_joined_and_it_is_an_engine_error(
    hooked, blob_project, blob_model, tmp_path
):
    """The engine dies over everything from the second run on: segmentation faults, not exceptions."""
    hooked("if 'TS_0_1' not in store and store: die()", "if loading and 'crashed' in log(): die()")
    project, out = blob_project(2), tmp_path / "out"
    predict_runs(project.runs[:1], blob_model, out, CPU)
    with pytest.raises(WorkersLost, match=r"worker 0 died 3 times.*1 of 2 runs are done") as caught:
        predict_runs(project.runs, blob_model, out, CPU)
    summary = caught.value.summary
    assert [outcome.status for outcome in summary.outcomes] == ["done", "not processed"]
    assert set(read_pick_table(out / "submission.csv")["experiment"]) == {"TS_0_1"}


def test_an_outage_of_the_disk_is_waited_out_and_its_runs_are_done_after_it(hooked, blob_project, blob_model, tmp_path):
    hooked("if store and 'second_pass' not in log(): raise OSError(5, 'Input/output error')")
    project = blob_project(5)
    summary = predict_runs(project.runs, blob_model, tmp_path / "out", replace(CPU, read_pause=0.01))
    assert summary.ok
    assert len(events(summary, "failed")) == 5
    assert [event["seconds"] for event in events(summary, "paused")] == [0.01, 0.02, 0.04]
    assert list((tmp_path / "out" / "failed").iterdir()) == []


def test_a_hanging_worker_is_replaced(hooked, blob_project, blob_model, tmp_path, monkeypatch):
    """Far before the limit; the run it hung over is done by its successor."""
    monkeypatch.setattr(crew, "FIRST_RUN_SECONDS", 5.0)
    hooked("if store and once('hang'): time.sleep(3600)")
    summary = predict_runs(blob_project(2).runs, blob_model, tmp_path / "out", CPU)
    assert summary.ok
    assert "silent" in events(summary, "warning")[0]["message"]
    assert events(summary, "crashed")[0]["message"] == "no answer"


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
    class Inbox:
        closed = False

        def close(self):
            self.closed = True

    worker = object.__new__(WorkerProcess)
    worker._process, worker._inbox = _Unkillable(), Inbox()
    worker.end()
    assert worker._process.calls == ["join", "kill", "join"]
    assert worker._inbox.closed
