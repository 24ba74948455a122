"""Whether a table of picks and a truth speak of the same runs: what would score 0.0000 without a word is refused."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

import pandas as pd

from tomopoint.errors import DataError

MOST_NAMED = 5
"""Of runs, in a message."""


def check_shared_runs(picks: pd.DataFrame, source: Path, runs: Collection[str], truth: Path) -> None:
    """DataError where no run of a table is one of the truth's.

    Parameters
    ----------
    picks
        With the column ``experiment``; a table without any rows passes.
    source
        The table's file, for the message.
    runs
        Those of the truth.
    truth
        Its folder, for the message.
    """
    with_picks = set(picks["experiment"])
    if with_picks and not with_picks & set(runs):
        raise DataError(
            f"{source} and {truth} share no run: the one has picks of {_some(with_picks)}, the other of {_some(runs)}; "
            "name the truth of these runs"
        )


def differing_runs(picks: pd.DataFrame, runs: Collection[str], truth: Path, whose: str = "") -> list[str]:
    """Return a sentence for the rows of runs that the truth lacks, and one for its runs that have no row.

    Parameters
    ----------
    picks, runs, truth
        As for :func:`check_shared_runs`.
    whose
        What the table is called, where there are several: `` of A.csv``.
    """
    notes = []
    if ignored := int((~picks["experiment"].isin(list(runs))).sum()):
        notes.append(
            f"{ignored} of {len(picks)} rows{whose} belong to runs that {truth} does not hold; they were left out."
        )
    if missing := set(runs) - set(picks["experiment"]):
        notes.append(
            f"{len(missing)} of {len(runs)} runs of the truth have no row{whose} and count as missed: {_some(missing)}."
        )
    return notes


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - MOST_NAMED} more" if len(listed) > MOST_NAMED else ""
    return ", ".join(listed[:MOST_NAMED]) + more
