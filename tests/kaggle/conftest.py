"""A small real graph, the kit staged from it, and a project to predict: made once, for all tests of this folder."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tomopoint.data.stores import write_tomogram
from tomopoint.export.onnx_export import ExportOptions, export_merged
from tomopoint.kaggle.dataset import stage_dataset
from tomopoint.networks.build import build_network
from tomopoint.networks.config import NetworkConfig
from tomopoint.pipeline import COMPETITION_PARTICLES, Member, Pipeline, ScoreMap, Tiling
from tomopoint.validation.validated import ValidatedEnsemble

CHECKOUT = Path(__file__).parents[2]
VOXEL_A = 10.0124
SHAPE_ZYX = (24, 40, 56)
RUNS = ("TS_1", "TS_2", "TS_3")


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Return the export of a network whose answers are random but spread over (0, 1).

    It has what a blend has: a kind, a score map, weights per particle.
    """
    torch.manual_seed(0)
    config = NetworkConfig("segresnet", init_filters=8, blocks_down=(1, 1, 1), class_width=8, offset_width=8)
    network = build_network(config, len(COMPETITION_PARTICLES), stride=2).eval().requires_grad_(False)
    for parameter in network.head.parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=2 / parameter[0].numel() ** 0.5)
    pipeline = Pipeline(
        particles=COMPETITION_PARTICLES,
        voxel_A=VOXEL_A,
        tiling=Tiling((24, 32, 32), (8, 8, 8), 0.1),
        members=(
            Member(
                *("fold0", "segresnet", ("TS_9",), 0.5, "0" * 64),
                kind="segmentation",
                class_weights=(1.0, 2.0, 1.0, 1.0, 3.0, 1.0),
            ),
        ),
        score_maps=(ScoreMap("segmentation", "ribosome", (0.0, 0.3, 1.0), (0.0, 0.4, 1.0)),),
    )
    out = tmp_path_factory.mktemp("export") / "ensemble.onnx"
    return export_merged(ValidatedEnsemble((network,), pipeline, (config,)), out, ExportOptions())


@pytest.fixture(scope="session")
def checkout(tmp_path_factory):
    """Return a copy of the checkout with an empty ``wheels/``: what `make wheels` fetched is not for this Python."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("src", "kernels", "recipes", "wheels"):
        shutil.copytree(CHECKOUT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.whl"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, copy / name)
    return copy


@pytest.fixture(scope="session")
def staged(exported, checkout, tmp_path_factory):
    """Return the kit staged from the graph. Never change it: `kit` is a copy."""
    out = tmp_path_factory.mktemp("stage") / "kit"
    stage_dataset(exported.path, out, checkout)
    return out


@pytest.fixture
def kit(staged, tmp_path):
    return Path(shutil.copytree(staged, tmp_path / "kit"))


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    """Return a project with test runs of noise."""
    root = tmp_path_factory.mktemp("project")
    rng = np.random.default_rng(0)
    for run in RUNS:
        store = root / "test/static/ExperimentRuns" / run / "VoxelSpacing10.000/denoised.zarr"
        store.parent.mkdir(parents=True)
        write_tomogram(store, 1e-5 * rng.standard_normal(SHAPE_ZYX, dtype=np.float32))
    (root / "sample_submission.csv").write_text("id,experiment,particle_type,x,y,z\n0,TS_1,ribosome,0,0,0\n")
    return root
