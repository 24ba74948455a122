"""Predictions whose workers are jobs of a real SLURM, where there is one (docs/cluster.md: how to start one)."""

import os
import shutil
import subprocess
import sys

import pytest

from tomopoint.inference.command import predict
from tomopoint.inference.folder import PredictionFolder

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def slurm():
    sinfo = shutil.which("sinfo")
    if sinfo is None or subprocess.run([sinfo, "-h"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no SLURM answers here")


N_RUNS = 24
LIFETIME_S = 5
"""Of a worker: a job ends before the runs are done, as at its time limit."""


def test_jobs_that_end_early_are_submitted_again(blob_project, slow_blob_model, tmp_path):
    project = blob_project(N_RUNS)
    assert predict(data=project.root, model=slow_blob_model, out=tmp_path / "alone", provider="cpu").ok
    (tmp_path / "jobqueue.yaml").write_text(
        "jobqueue:\n  slurm:\n    cores: 1\n    processes: 1\n    memory: 1GB\n    walltime: '00:10:00'\n"
        f"    interface: lo\n    log-directory: {tmp_path / 'logs'}\n"
        f"    worker-extra-args: ['--lifetime', '{LIFETIME_S}s', '--lifetime-stagger', '1s']\n"
    )
    words = ["predict", "--data", project.root, "--model", slow_blob_model, "--out", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-m", "tomopoint", *words, "--provider", "cpu", "--cluster", "slurm:2"],
        env={**os.environ, "DASK_CONFIG": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name in ("picks.csv", "submission.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    workers = {event["worker"] for event in PredictionFolder(tmp_path / "out").events() if event["event"] == "done"}
    assert len(workers) > 2  # more than were there at a time
    queue = subprocess.run(["squeue", "-h", "-n", "dask-worker"], capture_output=True, text=True, check=True)
    assert queue.stdout == ""
