"""Fixtures of the validation tests: one project and one validated training folder."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from validation_data import NETWORKS, RECIPE_USED, RUNS, SHAPE_ZYX, VOXEL_A, write_member

from tomopoint.data.picks import write_picks
from tomopoint.data.stores import write_tomogram
from tomopoint.training.checkpoints import RECIPE
from tomopoint.validation.command import validate


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    rng = np.random.default_rng(0)
    for name in RUNS:
        run = root / "train" / "static" / "ExperimentRuns" / name / "VoxelSpacing10.000" / "denoised.zarr"
        write_tomogram(run, rng.normal(0, 1e-5, SHAPE_ZYX).astype(np.float32), (VOXEL_A,) * 3, levels=1)
        size_xyz_A = np.array(SHAPE_ZYX[::-1]) * VOXEL_A
        for particle in ("ribosome", "thyroglobulin"):
            picks = root / "train" / "overlay" / "ExperimentRuns" / name / "Picks" / f"{particle}.json"
            write_picks(picks, name, particle, rng.uniform(0, 1, (6, 3)) * size_xyz_A)
    return root


@pytest.fixture(scope="session")
def trained(tmp_path_factory, project):
    folder = tmp_path_factory.mktemp("runs") / "small"
    RECIPE_USED.save(folder / RECIPE)
    for index, (fold, held_out) in enumerate({"fold0": ("TS_1", "TS_3"), "fold1": ("TS_2",)}.items()):
        for number, network in enumerate(NETWORKS):
            write_member(folder, fold, network, 10 * index + number, held_out, project)
    return folder


@pytest.fixture(scope="session")
def validated(trained):
    return trained, validate([trained], window="16,32,32", overlap="8,8,8")
