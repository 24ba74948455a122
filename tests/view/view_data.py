"""A tomogram as an MRC file, and as a project, and picks in it, for the tests of this folder."""

from __future__ import annotations

import mrcfile
import numpy as np
import pandas as pd

from tomopoint.data.project import Run
from tomopoint.data.stores import write_tomogram
from tomopoint.data.tables import write_pick_table
from tomopoint.pipeline import COMPETITION_PARTICLES, Pipeline

VOXEL_A = 10.012
SHAPE_ZYX = (21, 40, 50)
VOLUME = np.random.default_rng(0).normal(0, 1e-5, SHAPE_ZYX).astype(np.float32)
ROWS = [
    ("TS_1", "ribosome", 123.456, 234.567, 45.678, 0.98765),
    ("TS_1", "ribosome", 345.678, 56.789, 150.123, 0.31415),
    ("TS_1", "apo-ferritin", 290.001, 12.345, 98.765, 0.5),
    ("TS_2", "ribosome", 5.006, 195.5, 80.1, 0.77777),
]


def write_mrcs(folder, origin_A=0.0):
    """Write TS_1 and TS_2 as MRC files; return the folder."""
    folder.mkdir(parents=True)
    for name in ("TS_1", "TS_2"):
        with mrcfile.new(folder / f"{name}.mrc") as file:
            file.set_data(VOLUME)
            file.voxel_size = VOXEL_A
            file.header.origin.x = origin_A
    return folder


def write_stores(root):
    """Write TS_1 and TS_2 as test runs of a project; return its root."""
    for name in ("TS_1", "TS_2"):
        write_tomogram(Run(name, "test", root).tomogram_path(), VOLUME, (VOXEL_A,) * 3, levels=2)
    return root


def write_prediction(folder):
    """Write picks.csv and pipeline.json as a prediction leaves them; return the folder."""
    picks = pd.DataFrame(ROWS, columns=["experiment", "particle_type", "x", "y", "z", "score"])
    write_pick_table(picks, folder / "picks.csv")
    thresholds = {"ribosome": 0.4, "apo-ferritin": 0.25}
    Pipeline(COMPETITION_PARTICLES, VOXEL_A).with_thresholds(thresholds).save(folder / "pipeline.json")
    return folder
