"""A project of two small tomograms, and picks in them, for round trips through the files of other programs."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tomopoint.data.project import Run
from tomopoint.data.stores import write_tomogram
from tomopoint.data.tables import write_pick_table
from tomopoint.pipeline import COMPETITION_PARTICLES, Pipeline

sys.path.insert(0, str(Path(__file__).parent))

from laid_out import SHAPES_ZYX, VOXEL_A


@pytest.fixture(scope="session")
def tomograms(tmp_path_factory):
    root = tmp_path_factory.mktemp("tomograms")
    for name, shape in SHAPES_ZYX.items():
        volume = np.random.default_rng(1).normal(size=shape).astype(np.float32)
        write_tomogram(Run(name, "test", root).tomogram_path(), volume, (VOXEL_A,) * 3, levels=1)
    return root


@pytest.fixture(scope="session")
def picks():
    """No two coordinates alike, so that axes cannot be mixed up; scores of five decimals."""
    rows = [
        ("TS_1", "ribosome", 123.456, 234.567, 45.678, 0.98765),
        ("TS_1", "ribosome", 345.678, 56.789, 150.123, 0.31415),
        ("TS_1", "apo-ferritin", 590.001, 12.345, 98.765, 0.5),
        ("TS_2", "ribosome", 5.006, 295.5, 80.1, 0.77777),
        ("TS_2", "ribosome", 150.0, 150.0, 150.0, 0.1),  # below its threshold of 0.25
    ]
    return pd.DataFrame(rows, columns=["experiment", "particle_type", "x", "y", "z", "score"])


@pytest.fixture
def prediction(picks, tmp_path):
    folder = tmp_path / "prediction"
    write_pick_table(picks, folder / "picks.csv")
    Pipeline(COMPETITION_PARTICLES, VOXEL_A).save(folder / "pipeline.json")
    return folder
