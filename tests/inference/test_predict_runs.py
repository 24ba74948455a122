"""Many runs: nothing that happens to one costs another, and a submission always comes out."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest

from tomopoint import progress
from tomopoint.data import stores
from tomopoint.data.project import Project
from tomopoint.data.tables import empty_pick_table, read_pick_table
from tomopoint.errors import EngineError, PipelineError, TomopointError
from tomopoint.files import sha256_of
from tomopoint.inference import predict_runs as predict_runs_module
from tomopoint.inference import supervisor as supervisor_module
from tomopoint.inference.budget import Budget
from tomopoint.inference.crash_policy import BLAMED_BEFORE_PUT_OFF, TRIES_AT_THE_END
from tomopoint.inference.engines.graph_metadata import read_pipeline
from tomopoint.inference.engines.load import load_engine
from tomopoint.inference.folder import RESERVE_BYTES, PredictionFolder
from tomopoint.inference.parts import PartOrigin, part_path, write_part
from tomopoint.inference.predict_runs import PredictOptions, less_overlap, predict_runs
from tomopoint.inference.submission import join_parts
from tomopoint.inference.summary import PredictionSummary, RunOutcome
from tomopoint.inference.supervisor import Supervisor
from tomopoint.inference.tiles import TilePlan
from tomopoint.pipeline import Tiling

HIT_A = 17.5
"""The blob graph has no offsets, so a pick is an anchor: up to one voxel per axis, sqrt(3) * 10.01 A, from its blob."""

ORIGIN = PartOrigin("0" * 64, "denoised")

CPU = PredictOptions(provider="cpu", outage_pause=0.0)


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


def test_bad_runs_are_reported_and_the_others_come_out(blob_project, blob_model, tmp_path):
    project = blob_project(5)
    missing, truncated, nan, flat, good = project.runs
    subprocess.run(["rm", "-r", missing.tomogram_path()], check=True)
    chunk = truncated.tomogram_path() / "0/0/0/0"
    chunk.write_bytes(chunk.read_bytes()[:100])
    from tomopoint.data.stores import write_tomogram

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
    monkeypatch.setattr(stores, "CHUNK_VOX", 20)
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


def test_a_failed_run_is_said_once_when_it_fails_and_once_at_the_end(blob_project, blob_model, tmp_path):
    project, out = blob_project(3), tmp_path / "out"
    shutil.rmtree(project.runs[1].tomogram_path() / "0")
    parent = started(project, blob_model, out)
    summary, said = parent.communicate(timeout=120)
    assert parent.returncode == 1
    reason = "it has no readable array '0'"
    assert summary.count(reason) == 1
    assert said.count(reason) == 1
    assert [line.endswith("; it is tried once more at the end") for line in said.splitlines() if reason in line] == [
        True
    ]
    assert len(events(out, "failed")) == 2


def test_progress_is_told_by_windows_and_with_the_time_left(blob_project, blob_model, tmp_path, caplog, monkeypatch):
    """One run alone: of 3x3x4 windows each is told, in the log of the prediction, too, and decoding comes after."""
    caplog.set_level("INFO", "tomopoint.progress")
    monkeypatch.setattr(progress, "SHORTEST_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(progress, "PAUSE_SHARE", 0.0)
    monkeypatch.setattr(progress, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(supervisor_module, "SECONDS_BETWEEN_WINDOWS", 0.0)
    project, out = blob_project(1, (60, 60, 76)), tmp_path / "out"
    summary = predict_runs(project.runs, blob_model, out, CPU)
    assert [(e["run"], e["n_done"], e["n_windows"]) for e in events(out, "windows")] == [
        ("TS_0_1", n, 36) for n in range(1, 37)
    ]
    said = [record.getMessage() for record in caplog.records if record.name == "tomopoint.progress"]
    pattern = r"predict: 0 of 1 runs, TS_0_1 window (\d+) of 36, \d+ (?:s|min), about \d+ (?:s|min) left"
    told = [int(re.fullmatch(pattern, text)[1]) for text in said[:-1]]  # what came in one turn is told as one
    assert told == sorted(set(told))
    assert len(told) > 1
    assert re.fullmatch(r"predict: 1 of 1 runs, \d+ s", said[-1])
    assert re.search(r"500 tomograms like these would take about \S+ \w+ on this machine\.", summary.text())
    assert summary.figures()["seconds_per_500_runs"] == pytest.approx(500 * summary.mean_run_seconds, abs=1)


def test_what_many_tomograms_take_leaves_out_the_first_of_each_worker(tmp_path):
    """Which is alone: nothing is read, decoded or written beside it."""
    assert Budget(None, 2, [9.0, 8.0, 4.0, 5.0, 6.0]).usual_cost == 5.0
    assert Budget(None, 2, [9.0, 7.0]).usual_cost == 8.0
    assert Budget(None).usual_cost == 0.0


def test_without_a_run_that_was_predicted_now_nothing_is_told_of_many(blob_project, blob_model, tmp_path):
    project, out = blob_project(1), tmp_path / "out"
    assert "500 tomograms" in predict_runs(project.runs, blob_model, out, CPU).text()
    assert "500 tomograms" not in predict_runs(project.runs, blob_model, out, CPU).text()


def test_runs_of_earlier_predictions_in_the_folder_are_told_apart(blob_project, blob_model, tmp_path):
    project, out = blob_project(3), tmp_path / "out"
    first = predict_runs(project.runs[:2], blob_model, out, CPU)
    assert first.n_others == 0
    assert re.search(r"2 of 2 runs predicted in \d+ s, 6 picks above their thresholds:", first.text())
    last = predict_runs(project.runs[2:], blob_model, out, CPU)
    assert last.n_others == 2
    said = r"1 of 1 runs predicted in \d+ s, 9 picks of these and 2 other runs that are done in this folder above"
    assert re.search(said, last.text())
    assert last.figures()["n_other_runs"] == 2


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
    with folder.held():
        folder.enter({"graph": "a"}, ORIGIN)
        folder.enter({"graph": "b"}, ORIGIN)
        write_part(folder.parts_path, "TS_1", empty_pick_table(), ORIGIN)
        with pytest.raises(TomopointError, match="another graph"):
            folder.enter({"graph": "a"}, ORIGIN)


def test_a_folder_is_held_by_one_prediction(tmp_path):
    folder = PredictionFolder(tmp_path / "out")
    refused = pytest.raises(TomopointError, match=r"another prediction works in .*choose another --out")
    with folder.held(), refused, folder.held():
        pass
    with folder.held():
        pass


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: b"",
        lambda raw: raw[: len(raw) // 2],
        lambda raw: raw.partition(b"\n")[2],
        lambda raw: raw.replace(b"ribosome", b"apo-ferritin", 1),
        lambda raw: raw.replace(raw[20:30], b"0123456789", 1),
    ],
    ids=["empty", "cut", "no first line", "changed", "another graph"],
)
def test_a_damaged_part_is_made_again(damage, blob_project, blob_model, tmp_path):
    project, out = blob_project(2), tmp_path / "out"
    predict_runs(project.runs, blob_model, out, CPU)
    part = part_path(out / "parts", "TS_0_1")
    before = part.read_bytes()
    part.write_bytes(damage(before))
    summary = predict_runs(project.runs, blob_model, out, CPU)
    assert summary.ok
    assert part.read_bytes() == before
    assert [event["run"] for event in events(out, "done")].count("TS_0_1") == 2
    assert [event["run"] for event in events(out, "done")].count("TS_1_1") == 1
    assert any("TS_0_1.csv" in event["message"] for event in events(out, "warning"))


def test_a_part_that_is_damaged_before_it_is_joined_is_said(blob_project, blob_model, tmp_path):
    project, out = blob_project(2), tmp_path / "out"
    summary = predict_runs(project.runs, blob_model, out, CPU)
    part = part_path(out / "parts", "TS_0_1")
    part.write_bytes(part.read_bytes()[:-20])
    origin = PartOrigin(sha256_of(blob_model), "denoised")
    joined = join_parts(summary.folder, sorted((out / "parts").glob("*.csv")), origin, read_pipeline(blob_model))
    assert len(joined[2]) == 1
    assert "TS_0_1.csv is damaged (its checksum differs); remove it" in joined[2][0]
    assert set(read_pick_table(out / "submission.csv")["experiment"]) == {"TS_1_1"}


def test_a_run_called_na_is_a_run_like_any_other(blob_project, blob_model, tmp_path):
    project = blob_project(1)
    runs = project.root / "test" / "static" / "ExperimentRuns"
    (runs / "TS_0_1").rename(runs / "NA")
    summary = predict_runs(Project(project.root).runs("test"), blob_model, tmp_path / "out", CPU)
    assert summary.ok
    assert set(read_pick_table(tmp_path / "out" / "submission.csv")["experiment"]) == {"NA"}


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


def children_of(pid):
    """Process numbers of the workers of a prediction."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            command = (entry / "cmdline").read_bytes()
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if entry.name.isdecimal() and parent == pid and b"spawn_main" in command:
                found.append(int(entry.name))
    return found


def started(project, model, out, *words):
    """Start a prediction as a user would."""
    given = ["-m", "tomopoint", "predict", "--data", project.root, "--model", model, "--out", out, "--provider", "cpu"]
    words = [sys.executable, *given, *words]
    # A shell starts what runs in its background with Ctrl-C ignored, and children inherit that: not so from a terminal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)


def wait_for(condition, process):
    while process.poll() is None:
        if found := condition():
            return found
        time.sleep(0.005)
    raise AssertionError(f"it ended too soon: {process.stderr.read()}")


def test_a_killed_worker_loses_nothing(blob_project, slow_blob_model, tmp_path):
    """A worker is killed over its first run, by the signal of a kernel out of memory; another takes its place."""
    project, out = blob_project(3, (64, 64, 64)), tmp_path / "out"
    parent = started(project, slow_blob_model, out)
    wait_for(lambda: (out / "log.jsonl").exists() and events(out, "begun"), parent)
    os.kill(children_of(parent.pid)[0], signal.SIGKILL)
    _, said = parent.communicate(timeout=120)
    assert parent.returncode == 0
    assert len(events(out, "died")) == 1
    assert "resource_tracker" not in said  # which warns of the semaphores that a killed process leaves
    assert "leaked" not in said
    check_picks(project, read_pick_table(out / "submission.csv"))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_prediction_that_is_told_to_end_joins_what_is_done(number, status, blob_project, slow_blob_model, tmp_path):
    project, out = blob_project(5, (64, 64, 64)), tmp_path / "out"
    parent = started(project, slow_blob_model, out)
    wait_for(lambda: list(out.glob("parts/[!.]*.csv")), parent)
    workers = children_of(parent.pid)
    parent.send_signal(number)
    _, said = parent.communicate(timeout=120)
    assert parent.returncode == status
    assert "Traceback" not in said
    done = {path.stem for path in out.glob("parts/[!.]*.csv")}
    assert 0 < len(done) < 5
    assert set(read_pick_table(out / "submission.csv")["experiment"]) == done
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_a_full_disk_leaves_a_submission(blob_project, blob_model, tmp_path):
    """Files may not grow beyond what the submission needs: the larger picks.csv is not written, and it is said."""
    project, out = blob_project(3), tmp_path / "out"
    predict_runs(project.runs, blob_model, out, CPU)
    size = (out / "submission.csv").stat().st_size
    assert size + 30 < (out / "picks.csv").stat().st_size
    (out / "submission.csv").unlink()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, limits[1]))
    try:
        origin = PartOrigin(sha256_of(blob_model), "denoised")
        parts = sorted((out / "parts").glob("*.csv"))
        troubles = join_parts(PredictionFolder(out), parts, origin, read_pipeline(blob_model))[2]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    check_picks(project, read_pick_table(out / "submission.csv"))
    assert len(troubles) == 1
    assert "picks.csv is not written: " in troubles[0]
    assert "free disk space" in troubles[0]


def test_room_is_kept_for_the_submission(blob_project, blob_model, tmp_path):
    folder = PredictionFolder(tmp_path / "out")
    with folder.held():
        folder.enter({}, ORIGIN)
    assert folder.reserve_path.stat().st_blocks * 512 >= RESERVE_BYTES
    summary = predict_runs(blob_project(1).runs, blob_model, tmp_path / "other", CPU)
    assert summary.ok
    assert not summary.folder.reserve_path.exists()


def test_a_supervisor_that_breaks_down_joins_what_is_done(blob_project, blob_model, tmp_path, monkeypatch):
    project, out = blob_project(2), tmp_path / "out"
    predict_runs(project.runs[:1], blob_model, out, CPU)

    def broken(self, worker):
        raise AssertionError("a bug")

    monkeypatch.setattr(Supervisor, "_choose", broken)
    summary = predict_runs(project.runs, blob_model, out, CPU)
    assert [outcome.status for outcome in summary.outcomes] == ["done", "not processed"]
    assert "the supervisor broke down (AssertionError: a bug); run the same command again" in summary.text()
    assert "a bug" in events(out, "broke_down")[0]["traceback"]


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
    assert summary.failed[0].message.startswith("workers die over it (exit status -9)")
    deaths = [event["runs"] for event in events(out, "died")]
    assert deaths.count(["TS_1_1"]) == BLAMED_BEFORE_PUT_OFF + TRIES_AT_THE_END
    assert all("TS_1_1" in runs for runs in deaths)
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
    project, out = blob_project(4, (64, 64, 64)), tmp_path / "out"
    parent = started(project, slow_blob_model, out)
    wait_for(lambda: list(out.glob("parts/[!.]*.csv")), parent)
    workers = children_of(parent.pid)
    parent.kill()
    parent.communicate()
    # The orphaned worker ends by itself, without another part.
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    n_before = len(list(out.glob("parts/[!.]*.csv")))
    assert n_before < 4
    summary = predict_runs(project.runs, slow_blob_model, out, CPU)
    assert summary.ok
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
    options = replace(CPU, limit_hours=1.0, started=time.monotonic() - 3601)
    summary = predict_runs(blob_project(1).runs, blob_model, tmp_path / "out", options)
    assert [o.status for o in summary.outcomes] == ["not processed"]
    assert events(tmp_path / "out", "done") == []


def budget_at(elapsed, limit, n_workers, costs):
    return Budget(limit, n_workers, list(costs), time.monotonic() - elapsed)


def test_budget_arithmetic():
    budget = budget_at(100.0, 1000.0, 2, [100.0, 140.0])
    assert budget.projected(10) == 600.0
    assert budget.warning(n_left=10) is None  # 700 of 1000
    assert "0.25 h of 0.28 h" in str(budget_at(300.0, 1000.0, 2, [100.0, 140.0]).warning(n_left=10))
    assert budget_at(800.0, 1000.0, 2, [100.0, 140.0]).allows_another()
    assert not budget_at(850.0, 1000.0, 2, [100.0, 140.0]).allows_another()  # 850 + 140 > 980
    assert not budget_at(800.0, 1000.0, 2, [100.0, 140.0]).allows_another(n_before=1)
    assert budget_at(981.0, 1000.0, 2, []).is_over
    assert Budget(limit=None).allows_another()
    assert not Budget(limit=None).is_over


def test_the_share_of_a_run_that_there_is_time_for():
    costs = [120.0] * 4
    assert budget_at(0.0, 10000.0, 2, costs).affordable_share(100) == 1.0
    # 980 s less 380 are left; ten runs of 120 s on two workers take as long.
    assert budget_at(380.0, 1000.0, 2, costs).affordable_share(10) == pytest.approx(1.0, abs=1e-3)
    assert budget_at(380.0, 1000.0, 2, costs).affordable_share(20) == pytest.approx(0.5, abs=1e-3)
    assert budget_at(2000.0, 1000.0, 2, costs).affordable_share(20) == 0.0
    assert budget_at(380.0, 1000.0, 2, costs[:3]).affordable_share(20) == 1.0  # too early to tell


def test_less_overlap_is_as_much_as_the_time_allows(blob_project, blob_model):
    project = blob_project(1, (64, 64, 64))
    pipeline = replace(read_pipeline(blob_model), tiling=Tiling((24, 24, 24), (16, 16, 16)))
    (run,) = project.runs

    def windows(overlap):
        tiling = replace(pipeline.tiling, overlap_zyx=overlap)
        return len(TilePlan.for_volume((64, 64, 64), tiling, pipeline.stride).starts_zyx)

    full, less, none = windows((16, 16, 16)), windows((12, 12, 12)), windows((0, 0, 0))
    assert none < less < full
    assert less_overlap(run, "denoised", pipeline, less / full) == ((12, 12, 12), less / full)
    assert less_overlap(run, "denoised", pipeline, 0.9 * less / full)[0] == (8, 8, 8)
    assert less_overlap(run, "denoised", pipeline, 0.0) == ((0, 0, 0), none / full)
    whole = replace(pipeline, tiling=Tiling((64, 64, 64), (16, 16, 16)))
    assert less_overlap(run, "denoised", whole, 0.1) is None  # one window is as few as there can be


def test_tomograms_much_smaller_than_the_window_are_told(blob_project, blob_model, tmp_path, caplog):
    """The graph's window is 32x32x32; one in which most is tomogram passes without a word."""
    for size, is_told in ((20, True), (28, False)):
        caplog.clear()
        predict_runs(blob_project(1, (32, size, size)).runs, blob_model, tmp_path / str(size), CPU)
        told = [record.getMessage() for record in caplog.records if "lies beyond" in record.getMessage()]
        assert bool(told) is is_told
        assert all(f"tomopoint adapt {blob_model} --shape 32,{size},{size}" in line for line in told)


def test_where_the_time_does_not_suffice_windows_overlap_less(blob_project, blob_model, tmp_path, monkeypatch):
    """The clock says from the second run on that a tenth of the time is left."""
    monkeypatch.setattr(Budget, "affordable_share", lambda self, n_left: 1.0 if len(self.costs) < 2 else 0.1)
    monkeypatch.setattr(predict_runs_module, "less_overlap", lambda *given: ((2, 2, 2), 0.5))
    project, out = blob_project(4), tmp_path / "out"
    summary = predict_runs(project.runs, blob_model, out, CPU)
    assert summary.ok
    check_picks(project, read_pick_table(summary.folder.submission_path))
    note = "windows overlapped less, for time"
    changed = [outcome.run for outcome in summary.outcomes if note in outcome.notes]
    assert 1 <= len(changed) <= 2
    assert "windows overlap less (2, 2, 2 voxels)" in events(out, "warning")[0]["message"]


def test_the_end_is_projected_after_two_runs_of_each_worker():
    assert budget_at(300.0, 7200.0, 2, [300.0, 100.0, 100.0]).projection(n_left=60) is None
    budget = budget_at(300.0, 7200.0, 2, [300.0, 100.0, 100.0, 100.0])
    # 300 s gone, 60 runs * 150 s / 2 workers = 4500 s to come.
    assert budget.projection(n_left=60) == ("60 runs are left at 150 s each: the end is projected at 1.33 h of 2.00 h")
    assert budget.projection(n_left=0) is None
    assert budget.fitting() == 94  # 7200 s less 2 %, two workers, 150 s each
    assert budget_at(0.0, None, 1, [1800.0] * 2).projection(2).endswith("projected at 1.00 h")
    assert Budget(None, 1, [1.0]).fitting() is None


def test_the_first_runs_foretell_the_end(blob_model, blob_project, tmp_path):
    predict_runs(blob_project(4).runs, blob_model, tmp_path / "out", replace(CPU, workers=1))
    (event,) = events(tmp_path / "out", "projection")
    assert event["message"].startswith("2 runs are left at ")


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
