"""How the score of held-out runs rose while networks were trained: ``metrics.csv`` of every member, read."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from tomopoint.errors import DataError, reason_of

METRICS = "metrics.csv"
"""In a member's folder, one row per epoch."""

SCORE_OF = "score/"
"""Before the name of a particle: the column of its F4."""


def read_epoch_scores(training_folder: Path) -> dict[str, pd.DataFrame]:
    """Return, by member (``fold0/segresnet``), the epochs whose held-out runs were scored class by class.

    Columns are ``epoch`` (from 0), ``score``, and :data:`SCORE_OF` with the name of each particle. Members that were
    not so scored are left out.

    Raises
    ------
    DataError
        A file is damaged.
    """
    members = {}
    for path in sorted(training_folder.glob(f"*/*/{METRICS}")):
        try:
            table = pd.read_csv(path)
            columns = [name for name in table.columns if name.startswith(SCORE_OF)]
            scored = table[["epoch", "score", *columns]].astype(float).dropna()
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                f"{path} is damaged ({reason_of(error)}); remove it, and the report goes without its curves"
            ) from error
        if columns and len(scored):
            members[f"{path.parent.parent.name}/{path.parent.name}"] = scored
    return members
