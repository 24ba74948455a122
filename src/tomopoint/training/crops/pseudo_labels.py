"""Pseudo-labels: confident picks in unlabelled tomograms as further training runs.

A pick below the threshold may well be a particle, so it is neither learned nor punished: it is listed as uncertain,
and no background loss is taken near it (see :mod:`tomopoint.training.losses.ignore_regions`).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from tomopoint.data.particles import project_particles
from tomopoint.data.picks import Points
from tomopoint.data.project import Project
from tomopoint.data.selection import parse_thresholds
from tomopoint.data.tables import COORDINATES, read_pick_table
from tomopoint.data.tomograms import describe_tomogram
from tomopoint.errors import DataError
from tomopoint.pipeline import PIPELINE_NAME, Pipeline
from tomopoint.training.crops.tomograms import RunRecord, check_record
from tomopoint.training.recipe import Recipe

logger = logging.getLogger(__name__)

PREFIX = "pseudo/"
"""Before the names of these runs, so that none is taken for a run of a fold."""

DEFAULT_THRESHOLD = 0.5


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
    per_particle
        Instead of `threshold`, for particles by name: classes differ in how bold a network is, and in what a wrong
        label costs.
    """

    picks_path: Path
    data_root: Path
    split: str = "test"
    threshold: float = DEFAULT_THRESHOLD
    per_particle: Mapping[str, float] = field(default_factory=dict)

    def threshold_of(self, particle: str) -> float:
        """Return the threshold of a particle."""
        return self.per_particle.get(particle, self.threshold)


def parse_pseudo_threshold(text: str) -> tuple[float, dict[str, float]]:
    """Read one threshold, or some particles' (the others keep the default): ``0.6``, or ``ribosome=0.4,virus=0.7``.

    Raises
    ------
    DataError
        Neither, or outside (0, 1].
    """
    if "=" in text or not text.strip() or Path(text).suffix == ".json":
        common, single = DEFAULT_THRESHOLD, parse_thresholds(text, "--pseudo-threshold")
    else:
        try:
            common, single = float(text), {}
        except ValueError as error:
            raise DataError(f"--pseudo-threshold takes 0.6, or ribosome=0.4,thyroglobulin=0.7; got {text!r}") from error
    for value in (common, *single.values()):
        if not 0 < value <= 1:
            raise DataError(f"--pseudo-threshold must lie in (0, 1], got {value:g}")
    return common, single


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
        No scores, an unknown particle, in the table or among the thresholds, no run left, or anything wrong with a run.
    """
    table = _read(options, recipe)
    names = [particle.name for particle in recipe.particles]
    if unknown := sorted(set(options.per_particle) - set(names)):
        raise DataError(f"--pseudo-threshold: unknown particle {', '.join(unknown)}; known are {', '.join(names)}")
    thresholds = table["particle_type"].map({name: options.threshold_of(name) for name in names}).astype(float)
    project, records = Project(options.data_root), {}
    for name, rows in table.groupby("experiment", sort=True):
        sure = rows["score"] >= thresholds[rows.index]
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
            f"{options.picks_path} gives no training run: no pick of an unlabelled run reaches its threshold, which is "
            f"{', '.join(f'{options.threshold_of(name):g} for {name}' for name in names)}; lower --pseudo-threshold"
        )
    return records


def warn_of_leaks(picks_path: Path, held_out: Collection[str], known: Collection[str]) -> None:
    """Say so where the networks behind a pick table were trained on runs that are to be held out.

    What such a network knows of a held-out run it passes on in its labels, and the score of that run then flatters.
    The ``pipeline.json`` beside the picks names the runs that each network did not see; what a network of this project
    does not name it saw. That of other data names none of the project's runs.

    Parameters
    ----------
    picks_path
        The table.
    held_out
        Runs that are to judge what is trained.
    known
        All labelled runs of the project.
    """
    path = picks_path.parent / PIPELINE_NAME
    if not held_out:
        return
    if not path.is_file():
        logger.warning(
            "pseudo-labels: no %s beside %s, so it is not known which networks made them; scores flatter if they were "
            "trained on %s",
            *(PIPELINE_NAME, picks_path, ", ".join(held_out)),
        )
        return
    members = Pipeline.load(path).members
    named = {run for member in members for run in member.validation_runs}
    if named and not named & set(known):
        return
    seen = [run for run in held_out if any(run not in member.validation_runs for member in members)]
    if seen:
        saw = {member.fold for member in members if not set(seen) <= set(member.validation_runs)}
        logger.warning(
            "pseudo-labels: networks that made %s (%s) were trained on %s, which are held out here: their scores and "
            "thresholds will flatter. Take picks of networks that held out the same runs, or judge by other runs",
            *(picks_path, ", ".join(sorted(saw)), ", ".join(seen)),
        )


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
