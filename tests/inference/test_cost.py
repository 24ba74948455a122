"""What a tomogram costs with a graph, by hand."""

import json
from pathlib import Path

import pytest

from tomopoint.export.command import plan
from tomopoint.inference.cost import GraphCost, tomogram_cost
from tomopoint.models.box import find_model
from tomopoint.pipeline import COMPETITION_PARTICLES, Pipeline, Tiling

PIPELINE = Pipeline(COMPETITION_PARTICLES, 10.0, tiling=Tiling((192, 256, 256), (64, 64, 64), 0.1))
COST = GraphCost((192, 256, 256), 10, "fp16", 51.6e12, 341e9, 88e9, 2.55e9, 0.5e9)


def test_a_tomogram_of_the_competition():
    cost = tomogram_cost(PIPELINE, COST, (184, 630, 630))
    assert cost.n_windows == 9
    assert cost.voxels_per_voxel == pytest.approx(9 * 192 * 256**2 / (184 * 630**2))
    assert cost.flop == 9 * 51.6e12
    # Two volumes of float32, and two sets of six maps of scores and three of offsets at half the resolution.
    assert cost.host_bytes == 2 * 4 * (184 * 630**2 + 9 * 92 * 315**2)
    assert cost.text() == (
        "9 windows of 192x256x256 for 184x630x630 voxels, 1.55 voxels computed per voxel, 464 TFLOP; "
        "2.5 GB of activations and 1.2 GB of tomograms and maps at once"
    )


def test_a_graph_that_does_not_say_what_it_costs():
    cost = tomogram_cost(PIPELINE, None, (100, 200, 200))
    assert (cost.n_windows, cost.flop, cost.activation_bytes) == (1, None, None)
    assert cost.text().startswith("1 window of 192x256x256 for 100x200x200 voxels, 3.15 voxels computed per voxel; ")


def test_the_command_says_it_of_a_model_of_the_box(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # nothing was tried on this machine
    small = find_model(Path("small"))
    result = plan(small, shape="184,630,630", tomograms=10, gpus=1)
    figures = json.loads(json.dumps(result.figures))
    assert figures["windows"] >= 1
    assert figures["voxels_per_voxel"] >= 1
    assert set(figures["hours"]) == {"tensorrt", "onnxruntime-cuda"}
    assert "10 such tomograms on 1 T4, estimated" in result.text
    assert "on this CPU" not in result.text
