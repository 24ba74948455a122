"""Many runs: nothing that happens to one costs another, and a submission always comes out."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import onnx
import pandas as pd
import pytest

from tomopoint.data import tomograms
from tomopoint.data.tables import read_pick_table
from tomopoint.errors import EngineError, PipelineError, TomopointError
from tomopoint.inference.budget import Budget
from tomopoint.inference.engines.load import load_engine
from tomopoint.inference.folder import PredictionFolder
from tomopoint.inference.summary import PredictionSummary, RunOutcome
from tomopoint.inference.workers import PredictOptions, predict_runs

HIT_A = 17.5
"""The blob graph has no offsets, so a pick is an anchor: up to one voxel per axis, sqrt(3) * 10.01 A, from its blob."""

CPU = PredictOptions(provider="cpu", read_pause=0.0)


def events(out, kind):
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


def check_picks(project, submission, runs=None):
    """Every blob found, nothing else."""
    for run in runs or [r.name for r in project.runs]:
        found = submission[submission["experiment"] == run][["z", "y", "x"]].to_numpy()
        true = project.points_zyx[run] * 10.0124443
        assert len(found) == len(true)
        distance = np.linalg.norm(found[:, None] - true[None], axis=2)
        assert distance.min(axis=0).max() < HIT_A


@pytest.mark.parametrize("workers", [1, 2])
def test_all_blobs_of_all_runs(blob_project, blob_model, tmp_path, workers):
    project = blob_project(3)
    summary = predict_runs(project.runs, blob_model, tmp_path / "out", replace(CPU, workers=workers))
    assert summary.ok
    submission = pd.read_csv(summary.folder.submission_path)
    assert list(submission.columns) == ["id", "experiment", "particle_type", "x", "y", "z"]
    assert submission["id"].tolist() == list(range(9))
    assert set(submission["particle_type"]) == {"ribosome"}
    check_picks(project, submission)
    assert {e["run"] for e in events(tmp_path / "out", "done")} == {r.name for r in project.runs}
    assert len(events(tmp_path / "out", "engine")) == workers
    assert list((tmp_path / "out" / "claims").iterdir()) == []


def test_bad_runs_are_reported_and_the_others_come_out(blob_project, blob_model, tmp_path):
    project = blob_project(5)
    missing, truncated, nan, flat, good = project.runs
    subprocess.run(["rm", "-r", missing.tomogram_path()], check=True)
    chunk = truncated.tomogram_path() / "0/0/0/0"
    chunk.write_bytes(chunk.read_bytes()[:100])
    from tomopoint.data.tomograms import write_tomogram

    volume = np.random.default_rng(0).normal(0, 1e-5, (20, 20, 20)).astype(np.float32)
    volume[3, 3, 3] = np.nan
    write_tomogram(nan.tomogram_path(), volume)
    write_tomogram(flat.tomogram_path(), np.full((20, 20, 20), 1e-5))
    out = tmp_path / "out"
    summary = predict_runs(project.runs, blob_model, out, CPU)
    assert not summary.ok
    messages = {o.run: o.message for o in summary.failed}
    assert set(messages) == {missing.name, truncated.name, nan.name, flat.name}
    assert "no such folder" in messages[missing.name]
    assert "damaged" in messages[truncated.name]
    assert "NaN" in messages[nan.name]
    assert "every voxel" in messages[flat.name]
    check_picks(project, read_pick_table(summary.folder.submission_path), [good.name])

    # Mended, the same command does only what is left.
    write_tomogram(nan.tomogram_path(), np.nan_to_num(volume))
    again = predict_runs(project.runs, blob_model, out, CPU)
    assert {o.run for o in again.failed} == {missing.name, truncated.name, flat.name}
    assert [e["run"] for e in events(out, "done")] == [good.name, nan.name]


def test_missing_chunks_are_said_with_the_picks(blob_project, blob_model, tmp_path, monkeypatch):
    """Of 2x3x3 chunks, one without a blob: every pick is there, and so is the note, also when nothing is left to do."""
    monkeypatch.setattr(tomograms, "CHUNK_VOX", 20)
    project = blob_project(2)
    incomplete, whole = project.runs
    (incomplete.tomogram_path() / "0/1/0/2").unlink()
    note = "incomplete: 1 of 18 chunks missing, read as 0.0"
    for _ in range(2):
        summary = predict_runs(project.runs, blob_model, tmp_path / "out", CPU)
        assert summary.ok
        assert summary.figures()["notes"] == {incomplete.name: [note]}
        assert f"look at their tomograms:\n  {note}: {incomplete.name}" in summary.text()
        check_picks(project, read_pick_table(summary.folder.submission_path))
    assert {e["run"]: e["notes"] for e in events(tmp_path / "out", "done")} == {incomplete.name: [note], whole.name: []}


def test_a_note_of_many_runs_is_one_line(tmp_path):
    outcomes = tuple(RunOutcome(f"TS_{n}", "done", notes=("stored as int16",)) for n in range(12))
    summary = PredictionSummary(outcomes, 0, {}, PredictionFolder(tmp_path), 1.0, 0.0, 0)
    assert summary.remarks == [f"stored as int16: {', '.join(f'TS_{n}' for n in range(10))} and 2 more"]


def test_a_submission_without_picks_is_valid(blob_project, blob_model, tmp_path):
    project = blob_project(1)
    subprocess.run(["rm", "-r", project.runs[0].tomogram_path()], check=True)
    summary = predict_runs(project.runs, blob_model, tmp_path / "out", CPU)
    assert summary.folder.submission_path.read_text() == "id,experiment,particle_type,x,y,z\n"


def test_another_graph_does_not_mix(blob_project, blob_model, slow_blob_model, tmp_path):
    project = blob_project(1)
    predict_runs(project.runs, blob_model, tmp_path / "out", CPU)
    with pytest.raises(TomopointError, match="picks made with another graph"):
        predict_runs(project.runs, slow_blob_model, tmp_path / "out", CPU)


def test_another_project_with_the_same_run_names_does_not_mix(blob_project, blob_model, tmp_path):
    project, out = blob_project(1), tmp_path / "out"
    predict_runs(project.runs, blob_model, out, CPU)
    copy = shutil.copytree(project.root, tmp_path / "copy")
    moved = [replace(run, root=copy) for run in project.runs]
    with pytest.raises(TomopointError, match="picks made with another data folder"):
        predict_runs(moved, blob_model, out, CPU)


def test_a_start_that_made_no_picks_binds_the_folder_to_nothing(tmp_path):
    folder = PredictionFolder(tmp_path)
    folder.open({"graph": "a"})
    folder.open({"graph": "b"})
    folder.part_path("TS_1").touch()
    with pytest.raises(TomopointError, match="another graph"):
        folder.open({"graph": "a"})


@pytest.mark.parametrize(
    ("options", "message"),
    [({"provider": "gpu"}, "use auto, tensorrt"), ({"workers": -1}, "negative"), ({"limit_hours": 0.0}, "positive")],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(TomopointError, match=message):
        PredictOptions(**options)


def test_a_log_that_cannot_be_written_costs_nothing(tmp_path, caplog):
    folder = PredictionFolder(tmp_path)
    folder.log_path.mkdir()  # even root cannot append to a folder
    folder.log("done", run="TS_1")
    assert "TS_1" in caplog.text
    assert folder.events() == []


def test_a_cut_line_of_the_log_is_left_out(tmp_path):
    folder = PredictionFolder(tmp_path)
    folder.log("done", run="TS_1")
    with folder.log_path.open("a") as stream:
        stream.write('{"event": "do')
    assert [event["run"] for event in folder.events()] == ["TS_1"]


def test_a_killed_worker_loses_nothing(blob_project, slow_blob_model, tmp_path):
    """A worker is killed over its first run, by the signal of a kernel out of memory; another takes its place."""
    project, out = blob_project(3, (64, 64, 64)), tmp_path / "out"
    script = (
        "import sys\nfrom pathlib import Path\nfrom tomopoint.data.project import Project\n"
        "from tomopoint.inference.workers import PredictOptions, predict_runs\n"
        "if __name__ == '__main__':\n"
        "    root, model, out = map(Path, sys.argv[1:])\n"
        "    options = PredictOptions(workers=2, provider='cpu')\n"
        "    sys.exit(not predict_runs(Project(root).runs('test'), model, out, options).ok)\n"
    )
    path = tmp_path / "run.py"
    path.write_text(script)
    parent = subprocess.Popen([sys.executable, path, project.root, slow_blob_model, out], stderr=subprocess.PIPE)
    claim = None
    while claim is None and parent.poll() is None:
        claim = next((out / "claims").glob("*.json"), None) if (out / "claims").is_dir() else None
        time.sleep(0.005)
    assert claim is not None
    time.sleep(0.05)
    os.kill(json.loads(claim.read_text())["pid"], signal.SIGKILL)
    assert parent.wait(timeout=120) == 0
    parent.stderr.close()
    assert [e["held"] for e in events(out, "crashed")] == [claim.stem]
    submission = read_pick_table(out / "submission.csv")
    check_picks(project, submission)


def test_a_run_that_kills_its_workers_costs_no_other(blob_project, blob_model, tmp_path, monkeypatch):
    """Reading one store ends the process; its neighbour, read ahead at the time, is not blamed."""
    project, out = blob_project(4), tmp_path / "out"
    # A real death of a real worker process: a module that Python imports at start kills it over one store.
    hook = tmp_path / "site"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "def watch(event, args):\n"
        "    if event == 'open' and 'TS_1_1' in str(args[0]) and str(args[0]).endswith('0/0/0'):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "sys.addaudithook(watch)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(hook))
    summary = predict_runs(project.runs, blob_model, out, CPU)
    assert [o.run for o in summary.failed] == ["TS_1_1"]
    assert "died" in summary.failed[0].message
    assert [e["held"] for e in events(out, "crashed")].count("TS_1_1") == 2
    assert events(out, "second_pass") == []  # what kills workers is not tried again
    check_picks(project, read_pick_table(summary.folder.submission_path), ["TS_0_1", "TS_2_1", "TS_3_1"])


def test_a_hanging_worker_does_not_hold_up_the_submission(blob_project, blob_model, tmp_path, monkeypatch):
    """A worker that stops for ever over a store is ended at the limit, and the rest is submitted."""
    project, out, reached = blob_project(2), tmp_path / "out", tmp_path / "reached"
    predict_runs([run for run in project.runs if run.name == "TS_0_1"], blob_model, out, CPU)
    hook = tmp_path / "site"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(
        "import pathlib, sys, time\n"
        "def watch(event, args):\n"
        "    if event == 'open' and 'TS_1_1' in str(args[0]) and str(args[0]).endswith('0/0/0'):\n"
        f"        pathlib.Path({str(reached)!r}).touch()\n"
        "        time.sleep(3600)\n"
        "sys.addaudithook(watch)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(hook), prepend=os.pathsep)
    for limit_s in (10, 40, 160, 640):  # a slow machine may need all of the first limits to start a worker
        summary = predict_runs(project.runs, blob_model, out, replace(CPU, limit_hours=limit_s / 3600))
        assert [(o.run, o.status) for o in summary.outcomes] == [("TS_0_1", "done"), ("TS_1_1", "not processed")]
        check_picks(project, read_pick_table(summary.folder.submission_path), ["TS_0_1"])
        if reached.exists():
            break
    assert reached.exists()


def test_a_killed_command_goes_on_where_it_stopped(blob_project, slow_blob_model, tmp_path):
    project, out = blob_project(3, (64, 64, 64)), tmp_path / "out"
    words = ["-m", "tomopoint", "predict", "--data", project.root, "--model", slow_blob_model, "--out", out]
    parent = subprocess.Popen([sys.executable, *words, "--provider", "cpu"], stderr=subprocess.DEVNULL)
    while not list(out.glob("parts/*.csv")) and parent.poll() is None:
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    worker = events(out, "done")[0]
    assert worker["run"]
    # The orphaned worker ends by itself, before it takes another run.
    deadline = time.monotonic() + 60
    while list((out / "claims").iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    n_before = len(events(out, "done"))
    assert n_before < 3
    summary = predict_runs(project.runs, slow_blob_model, out, CPU)
    assert summary.ok
    assert len(events(out, "done")) == 3
    check_picks(project, read_pick_table(summary.folder.submission_path))


def test_runs_one_by_one_add_up(blob_project, blob_model, tmp_path):
    project = blob_project(2)
    for run in project.runs:
        summary = predict_runs([run], blob_model, tmp_path / "out", CPU)
    check_picks(project, read_pick_table(summary.folder.submission_path))


def test_when_the_time_is_up_the_rest_is_reported(blob_project, blob_model, tmp_path):
    project = blob_project(2)
    summary = predict_runs(project.runs, blob_model, tmp_path / "out", replace(CPU, limit_hours=1e-9))
    assert [o.status for o in summary.outcomes] == ["not processed"] * 2
    assert summary.folder.submission_path.exists()


def test_the_clock_may_have_started_before_the_call(blob_project, blob_model, tmp_path):
    """A second call that does what a first one left has the rest of its time, not all of it."""
    options = replace(CPU, limit_hours=1.0, started=time.time() - 3601)
    summary = predict_runs(blob_project(1).runs, blob_model, tmp_path / "out", options)
    assert [o.status for o in summary.outcomes] == ["not processed"]
    assert events(tmp_path / "out", "done") == []


def test_budget_arithmetic():
    budget = Budget(limit=1000.0, n_workers=2, costs=[100.0, 140.0])
    assert budget.projected(10) == 600.0
    assert budget.allows_another(elapsed=800.0)
    assert not budget.allows_another(elapsed=850.0)  # 850 + 140 > 980
    assert budget.warning(elapsed=100.0, n_left=10) is None  # 700 of 1000
    assert "0.25 h of 0.28 h" in str(budget.warning(elapsed=300.0, n_left=10))
    assert Budget(limit=None).allows_another(1e9)


def test_the_end_is_projected_after_two_runs_of_each_worker():
    budget = Budget(limit=7200.0, n_workers=2, costs=[300.0, 100.0, 100.0])
    assert budget.projection(elapsed=300.0, n_left=60) is None
    budget.add(100.0)
    # 300 s gone, 60 runs * 150 s / 2 workers = 4500 s to come.
    assert budget.projection(elapsed=300.0, n_left=60) == (
        "60 runs are left at 150 s each: the end is projected at 1.33 h of 2.00 h"
    )
    assert budget.projection(elapsed=300.0, n_left=0) is None
    assert budget.fitting() == 94  # 7200 s less 2 %, two workers, 150 s each
    assert Budget(None, 1, [1800.0] * 2).projection(0.0, 2).endswith("projected at 1.00 h")
    assert Budget(None, 1, [1.0]).fitting() is None


def test_the_first_runs_foretell_the_end(blob_model, blob_project, tmp_path):
    predict_runs(blob_project(4).runs, blob_model, tmp_path / "out", replace(CPU, workers=1))
    (event,) = events(tmp_path / "out", "projection")
    assert event["message"].startswith("2 runs are left at ")


def test_claims_are_exclusive_and_those_of_the_dead_are_taken_over(tmp_path):
    folder = PredictionFolder(tmp_path)
    folder.open({"graph": "a"})
    assert folder.claim("TS_1_1", worker=0)
    assert not folder.claim("TS_1_1", worker=1)
    folder.open({"graph": "a"})  # this process lives, so its claim stays
    assert not folder.claim("TS_1_1", worker=1)
    claim = json.loads(folder.claim_path("TS_1_1").read_text())
    gone = subprocess.Popen(["true"])
    gone.wait()
    # A dead process; and a number that another process, the first of the machine, has by now.
    for pid in (gone.pid, 1):
        folder.claim_path("TS_1_1").write_text(json.dumps({**claim, "pid": pid}))
        folder.open({"graph": "a"})
        assert folder.claim("TS_1_1", worker=1)


def test_a_claim_that_cannot_be_written_is_no_claim(tmp_path):
    """On a full disk an empty claim would keep its run from everyone until it is stale."""
    folder = PredictionFolder(tmp_path)
    folder.open({"graph": "a"})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(OSError, match="large"):
            folder.claim("TS_1_1", worker=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert folder.claim("TS_1_1", worker=0)


def edited(model, tmp_path, change):
    content = onnx.load(model)
    change(content)
    path = tmp_path / "edited.onnx"
    onnx.save(content, path)
    return path


def test_graphs_that_cannot_be_trusted(blob_model, tmp_path):
    with pytest.raises(EngineError, match="no such graph"):
        load_engine(tmp_path / "none.onnx", "cpu")
    (tmp_path / "half.onnx").write_bytes(blob_model.read_bytes()[:2000])
    with pytest.raises(EngineError, match="damaged"):
        load_engine(tmp_path / "half.onnx", "cpu")
    bare = edited(blob_model, tmp_path, lambda m: m.ClearField("metadata_props"))
    with pytest.raises(PipelineError, match="no Pipeline"):
        load_engine(bare, "cpu")

    def drop_a_class(content):
        (entry,) = content.metadata_props
        pipeline = json.loads(entry.value)
        pipeline["particles"].pop()
        entry.value = json.dumps(pipeline)

    with pytest.raises(PipelineError, match="do not belong together"):
        load_engine(edited(blob_model, tmp_path, drop_a_class), "cpu")
    with pytest.raises(EngineError, match=r"unknown provider 'gpu'.*cuda"):
        load_engine(blob_model, "gpu")


def test_cuda_without_a_gpu_is_refused_not_replaced(blob_model):
    from tomopoint.inference.engines.gpus import find_gpus

    if find_gpus():
        pytest.skip("there is a GPU")
    with pytest.raises(EngineError, match="CUDA"):
        load_engine(blob_model, "cuda")


def test_no_engine_at_all_is_an_error(blob_project, blob_model, tmp_path):
    project = blob_project(1)
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(EngineError, match="not an ONNX file"):
        predict_runs(project.runs, tmp_path / "bad.onnx", tmp_path / "out", CPU)

    def unknown_operator(content):
        content.graph.node[0].op_type = "Convolve"

    with pytest.raises(EngineError, match=r"no worker is left: worker 0 could not load its engine.*Convolve"):
        predict_runs(project.runs, edited(blob_model, tmp_path, unknown_operator), tmp_path / "out", CPU)
