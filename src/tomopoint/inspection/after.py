"""What a validated training folder says of the labels: its particles, thresholds and out-of-fold picks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from tomopoint.data.project import SPLITS, Project
from tomopoint.data.selection import check_scored_picks
from tomopoint.data.tables import read_pick_table
from tomopoint.data.tomograms import Tomogram
from tomopoint.data.training_project import RECIPE_NAME
from tomopoint.errors import DataError
from tomopoint.evaluation.calibration import OUT_OF_FOLD_FOLDER, VALIDATION_NAME
from tomopoint.evaluation.history import read_validation
from tomopoint.pipeline import PIPELINE_NAME, Particle, Pipeline


@dataclass(frozen=True)
class Trained:
    """Networks' word on runs that they never saw.

    Attributes
    ----------
    project
        The data that the labels are of.
    particles
        With validated thresholds.
    picks
        By run: ``particle_type, x, y, z, score`` of the average of all networks that never saw it, above the floor.
    tomo_type
        Reconstruction that they looked at.
    recipe
        Path of the recipe they were trained by; None of several training folders.
    """

    project: Project
    particles: tuple[Particle, ...]
    picks: Mapping[str, pd.DataFrame]
    tomo_type: str
    recipe: str | None

    def read(self, name: str) -> Tomogram:
        """Read the tomogram of a run; DataError where it cannot be."""
        return self.project.run(name, SPLITS[0]).read(self.tomo_type)


def read_trained(folder: Path, data: Path) -> Trained:
    """Read what `tomopoint validate` left in a training folder.

    Raises
    ------
    DataError
        It was not validated, or of other runs than those of `data`, or a table of picks is missing or damaged.
    PipelineError
        ``pipeline.json`` is missing or damaged.
    """
    validation = read_validation(folder)
    if validation is None:
        raise DataError(f"{folder / VALIDATION_NAME} is missing; run `tomopoint validate {folder}` first")
    pipeline = Pipeline.load(folder / PIPELINE_NAME)
    project = Project(data)
    there = {run.name for run in project.runs(SPLITS[0])}
    shared = sorted(there & set(validation["predictions"]))
    if not shared:
        held_out = ", ".join(sorted(validation["predictions"])[:5])
        raise DataError(
            f"{folder} held out {held_out}, none of which is a training run of {data}; give the data that it was "
            f"trained on ({validation['data_root']})"
        )
    picks = {}
    for run in shared:
        path = folder / OUT_OF_FOLD_FOLDER / f"{run}.csv"
        picks[run] = read_pick_table(path)
        check_scored_picks(picks[run], pipeline.particle_names, path)
    recipe = folder / RECIPE_NAME
    return Trained(project, pipeline.particles, picks, pipeline.tomo_type, str(recipe) if recipe.is_file() else None)
