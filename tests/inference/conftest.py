"""A real graph that finds dark blobs, and projects with blobs planted where the tests know them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tomopoint.data.project import Run
from tomopoint.data.stores import write_tomogram
from tomopoint.pipeline import COMPETITION_PARTICLES, Decoding, Normalisation, Pipeline, Tiling

VOXEL_A = 10.012444310158676
WINDOW = (32, 32, 32)
BLOB_SIGMA_VOX = 3.0
KERNEL_VOX = 16
"""Even, so that a stride-2 convolution with 7 voxels of padding is centred on the cells' anchors."""


def blob_pipeline() -> Pipeline:
    """Ribosomes are dark blobs; the other particles never occur."""
    return Pipeline(
        particles=COMPETITION_PARTICLES,
        voxel_A=VOXEL_A,
        normalisation=Normalisation(quantiles=(0.0, 1.0), clip_sd=50.0),
        tiling=Tiling(WINDOW, (16, 16, 16), 0.01),
        decoding=Decoding(floor=0.05),
    ).with_thresholds({"ribosome": 0.5})


def write_blob_graph(path: Path, pipeline: Pipeline) -> Path:
    """Write a matched filter as a graph of the contract: one stride-2 convolution and a sigmoid."""
    n_classes = len(pipeline.particles)
    axis = np.arange(KERNEL_VOX) + 0.5 - KERNEL_VOX / 2
    squared = axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2
    blob = np.exp(-squared / (2 * BLOB_SIGMA_VOX**2))
    blob -= blob.mean()
    weights = np.zeros((n_classes, 1, *[KERNEL_VOX] * 3), np.float32)
    bias = np.full(n_classes, -2000.0, np.float32)
    channel = pipeline.particle_names.index("ribosome")
    weights[channel, 0] = -blob
    bias[channel] = -1200.0  # well above the noise's response, well below a blob's
    cells = [size // pipeline.stride for size in pipeline.tiling.window_zyx]
    conv = {"strides": [2] * 3, "pads": [KERNEL_VOX // 2 - 1] * 6}
    nodes = [
        helper.make_node("Conv", ["volume", "w", "b"], ["logits"], **conv),
        helper.make_node("Mul", ["logits", "gain"], ["scaled"]),
        helper.make_node("Sigmoid", ["scaled"], ["scores"]),
        helper.make_node("Conv", ["volume", "zero"], ["offsets"], **conv),
    ]
    constants = {
        "w": weights,
        "b": bias,
        "gain": np.array(0.003, np.float32),
        "zero": np.zeros((3, 1, *[KERNEL_VOX] * 3), np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "blobs",
        [helper.make_tensor_value_info("volume", TensorProto.FLOAT, [1, 1, *pipeline.tiling.window_zyx])],
        [
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, n_classes, *cells]),
            helper.make_tensor_value_info("offsets", TensorProto.FLOAT, [1, 3, *cells]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, {"tomopoint.pipeline": pipeline.to_json(indent=None)})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def blob_volume(shape_zyx: tuple[int, int, int], points_zyx: np.ndarray, seed: int = 0) -> np.ndarray:
    """Dark Gaussian blobs on faint noise, at the real data's scale of 1e-5."""
    volume = np.random.default_rng(seed).normal(0, 1e-7, shape_zyx).astype(np.float32)
    grids = [np.arange(size) + 0.5 for size in shape_zyx]
    for z, y, x in points_zyx:
        profiles = [np.exp(-((g - c) ** 2) / (2 * BLOB_SIGMA_VOX**2)) for g, c in zip(grids, (z, y, x), strict=True)]
        volume -= 5e-5 * (profiles[0][:, None, None] * profiles[1][None, :, None] * profiles[2][None, None, :])
    return volume.astype(np.float32)


@dataclass(frozen=True)
class BlobProject:
    """A project whose runs hold blobs at known places."""

    root: Path
    runs: tuple[Run, ...]
    points_zyx: dict[str, np.ndarray]


@pytest.fixture(scope="session")
def blob_model(tmp_path_factory) -> Path:
    return write_blob_graph(tmp_path_factory.mktemp("model") / "ensemble.onnx", blob_pipeline())


@pytest.fixture
def blob_project(tmp_path) -> Callable[..., BlobProject]:
    """Make a project of `n` test runs of some shape, three blobs each."""

    def make(n: int, shape_zyx: tuple[int, int, int] = (40, 50, 60)) -> BlobProject:
        root, rng = tmp_path / "project", np.random.default_rng(n)
        runs, points = [], {}
        for index in range(n):
            run = Run(f"TS_{index}_1", "test", root)
            corners = np.array([[12.0, 12, 12], [25, 35, 15], [14, 30, 45]])
            points[run.name] = corners + rng.uniform(-2, 2, (3, 3))
            write_tomogram(run.tomogram_path(), blob_volume(shape_zyx, points[run.name], seed=index))
            runs.append(run)
        return BlobProject(root, tuple(runs), points)

    return make


@pytest.fixture
def slow_blob_model(tmp_path) -> Path:
    """The same graph with so much overlap that a run takes seconds: time for a test to interfere."""
    pipeline = blob_pipeline()
    return write_blob_graph(
        tmp_path / "slow.onnx", replace(pipeline, tiling=replace(pipeline.tiling, overlap_zyx=(20, 20, 20)))
    )
