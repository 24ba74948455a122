"""Two predictions that want one folder: who is told, who goes on, and that one that was frozen replaces nothing."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tomopoint.inference.command import predict
from tomopoint.inference.folder import PredictionFolder
from tomopoint.inference.submission import join_parts
from tomopoint.locks import LOCK, LockLost, look

PATIENCE_S = 300
"""For anything that must happen on a busy machine."""

QUICK = "Pace(beat=0.2, stale=2.0, watch=2.0)"

PREDICT = f"""
import sys
import tomopoint.locks as locks
locks.PACE = locks.{QUICK}
from tomopoint.__main__ import main
if __name__ == "__main__":
    main(sys.argv[1:])
"""


@pytest.fixture
def begin(tmp_path):
    """Start the command in a session of its own, with a pace of seconds; none outlives the test."""
    script = tmp_path / "quickly.py"
    script.write_text(PREDICT)
    begun = []

    def start(project, model, out):
        words = ["predict", "--data", project.root, "--model", model, "--out", out, "--provider", "cpu"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        one = subprocess.Popen([sys.executable, script, *words], start_new_session=True, **pipes)
        begun.append(one)
        return one

    yield start
    for one in begun:
        if one.poll() is None:
            os.killpg(one.pid, signal.SIGKILL)
        one.communicate()


def wait_for(condition, what):
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError(f"{what} did not happen")


def test_the_second_is_told_and_a_frozen_one_is_replaced_and_writes_no_more(
    begin, blob_project, slow_blob_model, tmp_path
):
    project, out = blob_project(5), tmp_path / "out"
    assert predict(data=project.root, model=slow_blob_model, out=tmp_path / "alone", provider="cpu").ok
    frozen = begin(project, slow_blob_model, out)
    wait_for(lambda: list((out / "parts").glob("[!.]*.csv")), "a run done")
    told = begin(project, slow_blob_model, out)
    text, _ = told.communicate(timeout=PATIENCE_S)
    assert told.returncode == 1
    assert f"another prediction works in {out}: process {frozen.pid} on " in text

    os.killpg(frozen.pid, signal.SIGSTOP)  # with its workers, as a machine that is suspended
    n_events = len(PredictionFolder(out).events())
    seen = look(out / LOCK)
    wait_for(lambda: time.time() - seen.beat > 2.5, "a silence")
    other = begin(project, slow_blob_model, out)
    text, _ = other.communicate(timeout=PATIENCE_S)
    assert other.returncode == 0, text
    assert f"is taken over: its holder gives no sign of life (process {frozen.pid} on " in text
    results = [out / name for name in ("picks.csv", "submission.csv", "log.jsonl")]
    after = [(path.read_bytes(), path.stat().st_mtime_ns) for path in results]
    for path in results[:2]:
        assert path.read_bytes() == (tmp_path / "alone" / path.name).read_bytes()
    assert len(PredictionFolder(out).events()) > n_events

    os.killpg(frozen.pid, signal.SIGCONT)
    text, _ = frozen.communicate(timeout=PATIENCE_S)
    assert frozen.returncode == 1
    assert f"{out} was taken over by another process while this one gave no sign of life" in text
    assert "Traceback" not in text
    assert [(path.read_bytes(), path.stat().st_mtime_ns) for path in results] == after
    assert not (out / LOCK).exists()


def test_who_lost_the_folder_joins_nothing(tmp_path):
    with PredictionFolder(tmp_path).held() as folder:
        folder.log("kept")
        look(tmp_path / LOCK).file.unlink()
        with pytest.raises(LockLost):
            join_parts(folder, [], None, None)
        with pytest.raises(LockLost):
            folder.log("lost")
    assert [path.name for path in tmp_path.rglob("*")] == ["parts", "log.jsonl"]
    assert [event["event"] for event in folder.events()] == ["kept"]
