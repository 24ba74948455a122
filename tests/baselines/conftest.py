"""Fixtures of the tests of baselines: the small project of the training tests, and recipes that learn it quickly."""

import sys
from pathlib import Path

import pytest
import torch
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from training_data import PARTICLES, write_project

RECIPE = {
    "crops": {"size_zyx": [3, 48, 48]},
    "augmentation": {"resample_probability": 0.0},
    "folds": "kfold-3",
    "particles": [vars(particle) for particle in PARTICLES],
    "fit": {"steps": 120, "batch_size": 4, "save_every": 30, "warmup_steps": 10, "learning_rate": 0.005},
}
METHODS = {
    "detector": {"detector": {"channels": [8, 8, 16, 16], "features": 16, "smallest_box_vox": 2.0}},
    "segmenter": {"segmenter": {"channels": [8, 16, 32], "radius_factor": 0.8}},
}


@pytest.fixture(autouse=True)
def _one_thread():
    """Several threads on tiny tensors only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return write_project(tmp_path_factory.mktemp("baselines") / "data")


@pytest.fixture(scope="session")
def recipes(tmp_path_factory):
    """Return the paths of the recipes, by method."""
    folder = tmp_path_factory.mktemp("recipes")
    for method, own in METHODS.items():
        (folder / f"{method}.yaml").write_text(yaml.safe_dump({"method": method, **RECIPE, **own}))
    return {method: folder / f"{method}.yaml" for method in METHODS}
