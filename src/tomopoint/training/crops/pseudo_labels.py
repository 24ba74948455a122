"""Pseudo-labels: confident picks in unlabelled tomograms as further training runs.

A pick below the threshold may well be a particle, so it is neither learned nor punished: it is listed as uncertain,
and no background loss is taken near it (see :mod:`tomopoint.training.losses.ignore_regions`).
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from tomopoint.data.particles import project_particles
from tomopoint.data.picks import Points
from tomopoint.data.project import Project
from tomopoint.data.tables import COORDINATES, read_pick_table
from tomopoint.data.tomograms import describe_tomogram
from tomopoint.errors import DataError
from tomopoint.training.crops.tomograms import RunRecord, check_record
from tomopoint.training.recipe import Recipe

logger = logging.getLogger(__name__)

PREFIX = "pseudo/"
"""Before the names of these runs, so that none is taken for a run of a fold."""


@dataclass(frozen=True)
class PseudoLabels:
    """Where pseudo-labels come from.

    Attributes
    ----------
    picks_path
        Pick table with scores, such as the ``picks.csv`` of `tomopoint predict`.
    data_root
        Project whose runs it names.
    split
        Split of these runs.
    threshold
        Picks scored at least this are learned as particles, the others are uncertain.
    """

    picks_path: Path
    data_root: Path
    split: str = "test"
    threshold: float = 0.5


def describe_pseudo_runs(options: PseudoLabels, recipe: Recipe, known: Collection[str]) -> dict[str, RunRecord]:
    """Turn a pick table into training runs.

    Parameters
    ----------
    options
        Picks and tomograms.
    recipe
        Its particles and reconstructions.
    known
        Names of the labelled runs. A run of the same name is left out: the competition's visible test runs are
        copies of training runs, and would carry labels of held-out runs into training.

    Raises
    ------
    DataError
        No scores, an unknown particle, no run left, or anything wrong with a run.
    """
    table = _read(options, recipe)
    names = [particle.name for particle in recipe.particles]
    project, records = Project(options.data_root), {}
    for name, rows in table.groupby("experiment", sort=True):
        sure = rows["score"] >= options.threshold
        if name in known:
            logger.info("pseudo-labels: %s is a labelled run, left out", name)
        elif sure.any():
            run = project.run(str(name), options.split)
            record = RunRecord(
                run=run,
                infos={kind: describe_tomogram(run.tomogram_path(kind)) for kind in recipe.crops.tomo_types},
                picks_xyz_A=_by_particle(rows[sure], names),
                uncertain_xyz_A=_by_particle(rows[~sure], names),
            )
            check_record(record)
            records[PREFIX + run.name] = record
    if not records:
        raise DataError(
            f"{options.picks_path} gives no training run: no pick of an unlabelled run is scored {options.threshold} "
            "or more; lower --pseudo-threshold"
        )
    return records


def _read(options: PseudoLabels, recipe: Recipe) -> pd.DataFrame:
    table = read_pick_table(options.picks_path)
    if "score" not in table.columns:
        raise DataError(f"{options.picks_path} has no scores; give the picks.csv of `tomopoint predict`")
    names = [particle.name for particle in recipe.particles]
    left_out = {particle.name for particle in project_particles(options.data_root)} - set(names)
    unknown = sorted(set(table["particle_type"]) - set(names) - left_out)
    if unknown:
        raise DataError(f"{options.picks_path}: unknown particle {', '.join(unknown)}; known are {', '.join(names)}")
    return table[table["particle_type"].isin(names)]


def _by_particle(rows: pd.DataFrame, names: Collection[str]) -> dict[str, Points]:
    points: dict[str, Points] = {}
    for name in names:
        own = rows.loc[rows["particle_type"] == name, list(COORDINATES)]
        points[name] = own.to_numpy(dtype=np.float64).reshape(-1, 3)
    return points
