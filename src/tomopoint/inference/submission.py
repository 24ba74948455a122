"""Joining the parts of a prediction into the submission and the pick table."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from tomopoint.data.selection import check_scored_picks, select_picks
from tomopoint.data.tables import (
    PICK_COLUMNS,
    empty_pick_table,
    read_pick_table,
    write_pick_table,
    write_submission,
)
from tomopoint.errors import DataError, PipelineError, machine_fault
from tomopoint.inference.folder import PredictionFolder
from tomopoint.inference.parts import PartOrigin, read_part
from tomopoint.pipeline import Pipeline

logger = logging.getLogger(__name__)


def join_parts(
    folder: PredictionFolder, parts: Iterable[Path], origin: PartOrigin, pipeline: Pipeline
) -> tuple[int, dict[str, int], list[str]]:
    """Write ``submission.csv``, then ``picks.csv``, from parts; both are valid when there are none.

    The submission comes first, and has room kept for it, because it is what must come out.

    Returns
    -------
    n_picks : int
        Rows of ``picks.csv``: picks above the floor.
    counts : dict
        Particle -> rows of ``submission.csv``: picks above its threshold; where the metric is not the competition's,
        one class per place.
    troubles : list
        One sentence for each part that was damaged since it was written, and where ``picks.csv`` could not be written.

    Raises
    ------
    LockLost
        See :meth:`~tomopoint.inference.folder.PredictionFolder.check`.
    """
    tables, troubles = [], []
    for path in parts:
        try:
            table = read_part(path, origin).loc[:, list(PICK_COLUMNS)]
        except DataError as error:
            troubles.append(str(error))
            continue
        tables += [table] if len(table) else []
    picks = pd.concat(tables, ignore_index=True) if tables else empty_pick_table()
    folder.check()
    folder.reserve_path.unlink(missing_ok=True)
    counts = _submit(picks, pipeline, folder.submission_path)
    try:
        write_pick_table(picks, folder.picks_path)
    except OSError as error:
        if (fault := machine_fault(error)) is None:
            raise
        troubles.append(f"{folder.picks_path} is not written: {fault}")
    for trouble in troubles:
        logger.error("%s", trouble)
    return len(picks), counts, troubles


def submission_of(picks_path: Path, pipeline: Pipeline, out: Path, exclusive: bool | None = None) -> dict[str, int]:
    """Write a submission from ``picks.csv`` with the thresholds of `pipeline`; return the rows of each particle.

    Nothing is predicted: the picks, above the floor they were decoded with, are only sorted out anew. One class stays
    per place where `exclusive`, by default (None) where the metric is not the competition's.

    Raises
    ------
    DataError
        No scores in the table, a particle the Pipeline does not know, or a pick that is there twice.
    PipelineError
        A threshold below the floor: picks between the two were never kept.
    """
    picks = read_pick_table(picks_path)
    check_scored_picks(picks, pipeline.particle_names, picks_path)
    for particle in pipeline.particles:
        if particle.threshold < pipeline.decoding.floor:
            raise PipelineError(
                f"the threshold {particle.threshold:g} of {particle.name} is below the floor "
                f"{pipeline.decoding.floor:g}, under which no picks were kept; choose a higher one"
            )
    return _submit(picks, pipeline, out, exclusive)


def _submit(picks: pd.DataFrame, pipeline: Pipeline, out: Path, exclusive: bool | None = None) -> dict[str, int]:
    """Write the picks that are handed on; return the rows of each particle."""
    submitted = select_picks(picks, pipeline.particles, exclusive)
    write_submission(submitted, out)
    return {name: int((submitted["particle_type"] == name).sum()) for name in pipeline.particle_names}
