"""What a prediction is at, from the files that it leaves: every state of folder, log and lock, written for real."""

import json
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tomopoint.__main__ import main
from tomopoint.errors import DataError
from tomopoint.inference.events import read_events
from tomopoint.inference.folder import PredictionFolder
from tomopoint.inference.status import is_at_work, prediction_status

NOW = 1_800_000_000.0
RUNS = [f"TS_{i}" for i in range(100)]


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out/parts").mkdir(parents=True)
    return tmp_path / "out"


def log(out, *events):
    """Append events, each a time (seconds from NOW), a kind and its details."""
    with (out / "log.jsonl").open("a") as stream:
        for seconds, kind, details in events:
            stream.write(json.dumps({"time": NOW + seconds, "event": kind, **details}) + "\n")


def start(runs=RUNS, n_runs=None, limit_s=None):
    return {"n_runs": n_runs or len(runs), "runs": list(runs), "workers": 2, "graph_sha256": "ab", "limit_s": limit_s}


def finish(out, seconds, *runs, worker=0):
    for run in runs:
        (out / "parts" / f"{run}.csv").write_text("a part")
        log(out, (seconds, "done", {"run": run, "worker": worker, "n_picks": 3, "seconds": 9.0, "notes": []}))


def begin(seconds, run, worker=0):
    return (seconds, "begun", {"run": run, "worker": worker})


@pytest.fixture
def held(out):
    """Hold the folder from another process, as a prediction does."""
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from tomopoint.inference.folder import PredictionFolder\n"
        "with PredictionFolder(Path(sys.argv[1])).held():\n"
        "    print('held', flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(out)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        yield holder
        holder.kill()


@pytest.fixture
def at(monkeypatch):
    """Set the clock of a status to some seconds from NOW; locks go by the machine's."""

    def set_clock(seconds):
        clock = SimpleNamespace(time=lambda: NOW + seconds, localtime=time.localtime, strftime=time.strftime)
        monkeypatch.setattr("tomopoint.inference.status.time", clock)

    return set_clock


def test_a_prediction_at_work(out, held, at):
    """30 of 100 runs done: ten in 1000 s, then twenty in 200 s."""
    log(out, (0, "prediction", start(limit_s=7200)))
    for i in range(10):
        finish(out, 100 * (i + 1), RUNS[i])
    for i in range(20):
        finish(out, 1010 + 10 * i, RUNS[10 + i])
    failed = {"run": "TS_30", "worker": 1, "message": "every voxel is 0"}
    log(out, (1201, "failed", failed), begin(1201, "TS_31", 1), begin(1202, "TS_32", 0))
    at(1210)
    status = prediction_status(out)
    assert status.is_held is True
    assert (status.n_runs, status.n_done, len(status.left)) == (100, 30, 67)
    assert [(event.run, event.worker, event.time - NOW) for event in status.in_work] == [
        ("TS_31", 1, 1201.0),
        ("TS_32", 0, 1202.0),
    ]
    assert status.failed == {"TS_30": "every voxel is 0"}
    assert status.left[0] == "TS_33"
    assert status.recent_rate == pytest.approx(360.0)  # 19 in the 190 s since the first of the last twenty
    assert status.overall_rate == pytest.approx(30 / 1200 * 3600)
    assert status.expected_end == pytest.approx(NOW + 1200 + 69 * 10)
    assert (status.limit_end, status.n_too_late) == (NOW + 7200, 0)
    text = status.text()
    assert text.startswith(f"{out}: at work since ")
    assert "(20.2 min)" in text
    assert "30 of 100; runs per hour: 360.0 of late, 90.0 since the start; the last at " in text
    assert "running  TS_31 (worker 1, since " in text
    assert "TS_30: every voxel is 0" in text
    assert "left     67" in text
    assert ", in 0.19 h" in text
    assert "limit    2.00 h, up " in text
    assert "submission.csv is not there yet" in text
    figures = json.loads(json.dumps(status.figures()))
    assert figures["hours_left"] == pytest.approx(680 / 3600, abs=1e-3)
    assert figures["running"][0] == {"run": "TS_31", "worker": 1, "since": NOW + 1201}


def test_a_run_that_takes_minutes_is_told_with_its_windows(out, held, at):
    """Of a run begun again, after its worker died or it failed, only the windows of this time."""
    log(out, (0, "prediction", start(RUNS[:3])), begin(1, "TS_0"), begin(1, "TS_1", 1))
    for seconds, run, n_done in ((40, "TS_0", 3), (41, "TS_1", 9), (70, "TS_0", 5)):
        log(out, (seconds, "windows", {"run": run, "worker": 0, "n_done": n_done, "n_windows": 9}))
    log(out, begin(80, "TS_1", 1))
    at(90)
    status = prediction_status(out)
    text = status.text()
    assert re.search(r"running  TS_0 \(worker 0, since \S+ \S+, 5 of 9 windows at \S+ \S+\), TS_1 \(worker 1, ", text)
    assert text.count("windows") == 1
    running = status.figures()["running"]
    assert [run.get("n_windows_done") for run in running] == [5, None]
    finish(out, 95, "TS_0")
    assert "windows" not in prediction_status(out).text()


def test_workers_of_a_cluster_are_told_with_their_machines(out, held, at):
    address = "tcp://10.0.0.7:4711"
    log(out, (0, "prediction", start(RUNS[:30])))
    log(out, *((10 + i, "begun", {"run": RUNS[i], "worker": address, "host": "node7"}) for i in range(14)))
    finish(out, 100, "TS_0", "TS_1", worker=address)
    log(out, (120, "died", {"worker": address, "runs": ["TS_2"], "message": "it is gone"}))
    at(200)
    status = prediction_status(out)
    assert (status.n_done, len(status.in_work), len(status.left)) == (2, 11, 17)
    assert status.overall_rate == pytest.approx(2 / 100 * 3600)
    assert status.figures()["running"][0] == {"run": "TS_3", "worker": address, "since": NOW + 13, "host": "node7"}
    text = status.text()
    assert f"running  TS_3 (worker {address} on node7, since " in text
    assert ", and 1 more\n" in text
    assert f"worker {address} died over TS_2: it is gone" in text


def test_times_are_local(out, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        log(out, (0, "prediction", start()))
        assert "2027-01-15 17:00:00" in prediction_status(out).text()  # NOW is 08:00 UTC
    finally:
        monkeypatch.undo()
        time.tzset()


def test_what_does_not_fit_the_limit_is_said(out, held, at):
    log(out, (0, "prediction", start(limit_s=500)))
    for i in range(20):
        finish(out, 10 * (i + 1), RUNS[i])
    at(200)
    status = prediction_status(out)
    assert status.n_too_late == 50  # 80 at 10 s each, and 300 s are left
    assert "about 50 runs will not be in the submission" in status.text()


def test_a_rate_that_stalls_does_not_end_in_the_past(out, held, at):
    log(out, (0, "prediction", start()))
    finish(out, 10, "TS_0")
    finish(out, 20, *RUNS[1:99])
    at(9999)
    assert prediction_status(out).expected_end == NOW + 9999


def test_before_the_first_run_there_is_no_rate(out, held, at):
    log(out, (0, "prediction", start(RUNS[:2])), begin(1, "TS_0"))
    at(2)
    status = prediction_status(out)
    assert (status.recent_rate, status.overall_rate, status.expected_end, status.last_done) == (None,) * 4
    assert "done     0 of 2\n" in status.text()
    assert "expected" not in status.text()


def test_a_dead_prediction(out, at):
    """Killed: it left a run that was begun."""
    log(out, (0, "prediction", start(RUNS[:4])))
    finish(out, 100, "TS_0")
    assert "1 of 4; runs per hour: 36.0 since the start" in prediction_status(out).text()
    finish(out, 200, "TS_1")
    log(out, begin(201, "TS_2"))
    at(7400)
    status = prediction_status(out)
    assert status.is_held is False
    assert status.expected_end is None
    text = status.text()
    assert "nobody works on it; what was started" in text
    assert "the same `tomopoint predict` command again goes on from here" in text
    assert "stopped  TS_2 (worker 0, since " in text
    assert "2.00 h ago" in text


def test_a_prediction_holds_its_folder(out):
    with PredictionFolder(out).held():
        assert is_at_work(out) is True
    assert is_at_work(out) is False


def test_a_killed_process_holds_nothing(out, held):
    assert is_at_work(out) is True
    held.kill()
    held.wait()
    assert is_at_work(out) is False


def test_asking_changes_nothing(out, held):
    def files():
        return sorted((str(path), path.stat().st_ino) for path in out.rglob("*"))

    before = files()
    assert is_at_work(out) is True
    assert files() == before
    held.kill()
    held.wait()
    assert is_at_work(out) is False
    assert files() == before


def test_who_is_at_work_and_where_is_told(out, held):
    log(out, (0, "prediction", start()))
    status = prediction_status(out)
    assert status.holder.startswith(f"process {held.pid} on {socket.gethostname()}, since ")
    assert status.holder in status.text().splitlines()[0]
    assert status.figures()["holder"] == status.holder


def test_a_prediction_that_ended(out, at):
    log(out, (0, "prediction", start(RUNS[:3])))
    finish(out, 100, "TS_0")
    finish(out, 200, "TS_1")
    (out / "submission.csv").touch()
    log(out, (200, "failed", {"run": "TS_2", "worker": 0, "message": "no such folder"}))
    log(out, (210, "joined", {"n_picks": 1, "n_submitted": 1, "total_seconds": 210.0}))
    at(300)
    status = prediction_status(out)
    assert status.joined == NOW + 210
    text = status.text()
    assert "after 3.5 min; 1 of 3 runs are not done: the same command again goes on with them" in text
    assert "TS_2: no such folder" in text
    assert "submission.csv is there" in text


def test_only_the_last_call_counts(out, held, at):
    """In the first one run was done and one failed; the second is asked for all four and has three to do."""
    log(out, (0, "prediction", start(RUNS[:4], limit_s=10)))
    finish(out, 100, "TS_0")
    log(out, (150, "failed", {"run": "TS_1", "worker": 0, "message": "away"}), begin(150, "TS_2"))
    log(out, (160, "warning", {"message": "of the first call"}), (170, "joined", {}))
    log(out, (1000, "prediction", start(RUNS[1:4], n_runs=4)))
    finish(out, 1100, "TS_1")
    log(out, begin(1100, "TS_3"))
    at(1150)
    status = prediction_status(out)
    assert (status.n_runs, status.n_done, status.left, status.failed) == (4, 2, ("TS_2",), {})
    assert [event.run for event in status.in_work] == ["TS_3"]
    assert status.overall_rate == pytest.approx(36.0)
    assert (status.joined, status.limit_s, status.warnings) == (None, None, ())


def test_parts_tell_what_is_done(out, held):
    """The worker writes the part, then the parent the event; a part that was removed is to be done again."""
    log(out, (0, "prediction", start(RUNS[:3])), begin(1, "TS_0"))
    (out / "parts/TS_0.csv").touch()
    (out / "parts/.TS_2.csv.77.partial").touch()
    finish(out, 5, "TS_1")
    (out / "parts/TS_1.csv").unlink()
    status = prediction_status(out)
    assert (status.n_done, status.in_work, status.left) == (1, (), ("TS_1", "TS_2"))


def test_a_run_given_back_waits_and_one_tried_again_is_at_work(out, held):
    log(out, (0, "prediction", start(RUNS[:4])), begin(1, "TS_0"), begin(1, "TS_1", 1))
    log(out, (2, "died", {"worker": 0, "runs": ["TS_0"], "message": "exit status -9"}))
    log(out, (3, "failed", {"run": "TS_1", "worker": 1, "message": "odd"}), (4, "second_pass", {"runs": ["TS_1"]}))
    assert prediction_status(out).failed == {"TS_1": "odd"}
    log(out, begin(5, "TS_1", 1))
    status = prediction_status(out)
    assert [event.run for event in status.in_work] == ["TS_1"]
    assert (status.failed, status.left) == ({}, ("TS_0", "TS_2", "TS_3"))
    assert "worker 0 died over TS_0: exit status -9" in status.text()


def test_the_last_warnings(out, held):
    log(out, (0, "prediction", start()))
    log(out, *((i, "warning", {"message": f"warning {i}"}) for i in range(9)))
    log(out, (10, "engine_failed", {"worker": 1, "message": "no memory"}))
    status = prediction_status(out)
    assert [event.message for event in status.warnings] == [*(f"warning {i}" for i in (5, 6, 7, 8)), "no memory"]
    assert status.text().endswith("worker 1: no memory")


def test_many_failures_are_counted_and_the_first_named(out, held):
    log(out, (0, "prediction", start()))
    log(out, *((1, "failed", {"run": run, "worker": 0, "message": "gone"}) for run in RUNS[:14]))
    text = prediction_status(out).text()
    assert "failed   14" in text
    assert text.count(": gone") == 10
    assert "and 4 more" in text


def test_a_line_that_is_being_written(out, held):
    log(out, (0, "prediction", start(RUNS[:2])), begin(1, "TS_0"), begin(2, "TS_1"))
    whole = (out / "log.jsonl").read_bytes()
    last = whole.rstrip().rindex(b"\n") + 1
    for cut in range(last, len(whole) - 1):
        (out / "log.jsonl").write_bytes(whole[:cut])
        assert [event.run for event in prediction_status(out).in_work] == ["TS_0"]
    (out / "log.jsonl").write_bytes(whole)
    assert len(prediction_status(out).in_work) == 2


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=30).map(lambda junk: junk.replace(b"\n", b"")), max_size=5), st.integers(0, 5))
def test_lines_of_anybody_change_nothing(out, junk, place):
    shutil.rmtree(out)
    (out / "parts").mkdir(parents=True)
    log(out, (0, "prediction", start(RUNS[:4])), begin(1, "TS_0"), begin(2, "TS_1"), (3, "warning", {"message": "w"}))
    lines = (out / "log.jsonl").read_bytes().splitlines()
    odd = [b'{"time": 1e300, "event": "done", "run": "TS_0"}', b'{"time": 5, "event": ["done"]}', b"5", b"[]"]
    (out / "log.jsonl").write_bytes(b"\n".join([*lines[:place], *odd, *junk, *lines[place:]]) + b"\n")
    status = prediction_status(out)
    assert [event.run for event in status.in_work] == ["TS_0", "TS_1"]
    assert len(status.warnings) == 1
    assert len(read_events(out / "log.jsonl")) == 4


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_every_run_is_in_one_place_only(out, data):
    """Whatever happened in whatever order, done, in work, failed and left are all runs, once."""
    shutil.rmtree(out)
    (out / "parts").mkdir(parents=True)
    runs = RUNS[:6]
    log(out, (0, "prediction", start(runs[1:], n_runs=6)))
    (out / "parts/TS_0.csv").touch()
    kinds = st.sampled_from(["begun", "done", "failed", "died"])
    for i, (kind, run) in enumerate(data.draw(st.lists(st.tuples(kinds, st.sampled_from(runs[1:])), max_size=30))):
        log(out, (i, kind, {"run": run} if kind != "died" else {"runs": [run], "message": "gone"}))
        if kind == "done":
            (out / "parts" / f"{run}.csv").touch()
    status = prediction_status(out)
    done = [run for run in runs if (out / "parts" / f"{run}.csv").exists()]
    assert status.n_done == len(done)
    assert sorted([*done, *(e.run for e in status.in_work), *status.failed, *status.left]) == runs
    assert status.text()


def test_without_a_log_it_says_what_to_do(out):
    with pytest.raises(DataError, match=r"log\.jsonl is not there: give the folder that `tomopoint predict --out`"):
        prediction_status(out)
    (out / "log.jsonl").write_text('{"time": 1, "event": "done", "run": "TS_0"}\n')
    with pytest.raises(DataError, match=r"log\.jsonl tells of no prediction: give the folder"):
        prediction_status(out)


def test_the_command_changes_nothing(out, capsys):
    log(out, (0, "prediction", start(RUNS[:2])))
    finish(out, 5, "TS_0")
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in [out, *out.rglob("*")]}
    with pytest.raises(SystemExit) as end:
        main(["status", str(out), "--json"])
    assert end.value.code == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["n_done"], figures["left"], figures["is_held"]) == (1, ["TS_1"], False)
    assert before == {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in [out, *out.rglob("*")]}
    with pytest.raises(SystemExit) as end:
        main(["status", str(Path(out) / "parts")])
    assert end.value.code == 1
    assert "tomopoint status: " in capsys.readouterr().err
