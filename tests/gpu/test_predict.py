"""`tomopoint predict` with worker processes on the GPU, as on Kaggle: what was planted is found, on what was asked."""

import json

import numpy as np
import pandas as pd
import pytest

from tomopoint.data.project import Run
from tomopoint.data.stores import write_tomogram

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
SHAPE_ZYX = (40, 50, 60)
CORNERS_ZYX = np.array([[12.0, 12, 12], [25, 35, 15], [14, 30, 45]])
N_RUNS, N_WORKERS = 4, 2
WITHIN_VOX = 1.8
"""Cells lie two voxels apart and the graph predicts no offsets: half a cell along each axis."""


@pytest.fixture
def planted(blobs, tmp_path):
    """Return a project, its graph, and where the blobs of each run lie, voxels."""
    rng, points = np.random.default_rng(0), {}
    for index in range(N_RUNS):
        run = Run(f"TS_{index}_1", "test", tmp_path / "project")
        points[run.name] = CORNERS_ZYX + rng.uniform(-2, 2, (3, 3))
        write_tomogram(run.tomogram_path(), blobs.blob_volume(SHAPE_ZYX, points[run.name], seed=index))
    model = blobs.write_blob_graph(tmp_path / "ensemble.onnx", blobs.blob_pipeline())
    return tmp_path / "project", model, points


@pytest.mark.parametrize("device", DEVICES)
def test_workers_find_what_was_planted(tomopoint, planted, tmp_path, blobs, device, needs_provider):
    wanted = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[device]
    needs_provider(wanted)
    project, model, points = planted
    out = tmp_path / "picks"
    provider = {"cpu": "cpu", "cuda": "auto"}[device]
    words = ["predict", "--data", project, "--model", model, "--out", out, "--provider", provider]
    tomopoint(*words, "--workers", N_WORKERS)
    events = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    engines = [event for event in events if event["event"] == "engine"]
    assert len(engines) == N_WORKERS
    assert {event["provider"] for event in engines} == {wanted}
    assert not [event for event in events if event["event"] in ("crashed", "failed", "engine_failed", "engine_broke")]
    table = pd.read_csv(out / "submission.csv")
    assert len(table) == N_RUNS * len(CORNERS_ZYX)
    for run, centres_zyx in points.items():
        found = table[table["experiment"] == run][["z", "y", "x"]].to_numpy() / blobs.VOXEL_A
        distances = np.linalg.norm(found[:, None] - centres_zyx[None], axis=2)
        assert distances.min(axis=0).max() < WITHIN_VOX
