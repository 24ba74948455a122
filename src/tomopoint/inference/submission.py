"""Joining the parts of a prediction into the pick table and the submission."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from tomopoint.data.tables import PICK_COLUMNS, empty_pick_table, read_pick_table, write_pick_table, write_submission
from tomopoint.inference.decode import apply_thresholds
from tomopoint.inference.folder import PredictionFolder
from tomopoint.pipeline import Pipeline


@dataclass(frozen=True)
class Joined:
    """The joined tables.

    Attributes
    ----------
    n_picks
        Picks above the floor.
    n_submitted
        Picks above their particle's threshold.
    counts
        Particle -> number submitted.
    """

    n_picks: int
    n_submitted: int
    counts: dict[str, int]


def join_parts(folder: PredictionFolder, runs: Sequence[str], pipeline: Pipeline) -> Joined:
    """Write ``picks.csv`` and ``submission.csv`` from the parts of `runs`; both are valid when there are none."""
    tables = [read_pick_table(folder.part_path(run)).loc[:, list(PICK_COLUMNS)] for run in sorted(runs)]
    tables = [table for table in tables if len(table)]
    picks = pd.concat(tables, ignore_index=True) if tables else empty_pick_table()
    write_pick_table(picks, folder.picks_path)
    submitted = apply_thresholds(picks, pipeline)
    write_submission(submitted, folder.submission_path)
    counts = {name: int((submitted["particle_type"] == name).sum()) for name in pipeline.particle_names}
    return Joined(len(picks), len(submitted), counts)


def submission_of(picks_path: Path, pipeline: Pipeline, out: Path) -> int:
    """Write a submission from ``picks.csv`` with other thresholds, without predicting again; return its rows."""
    submitted = apply_thresholds(read_pick_table(picks_path), pipeline)
    write_submission(submitted, out)
    return len(submitted)
