"""Pick tables: all picks with their scores, and the submission made from them.

The only place, with the picks files, where coordinates are x, y, z.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from tomopoint.errors import DataError
from tomopoint.files import whole_or_absent

PICK_COLUMNS = ("experiment", "particle_type", "x", "y", "z", "score")
"""One row per pick; x, y, z in Angstrom from the volume's corner; score in (0, 1)."""

SUBMISSION_COLUMNS = ("id", "experiment", "particle_type", "x", "y", "z")
COORDINATES = ("x", "y", "z")


def empty_pick_table() -> pd.DataFrame:
    """Return a pick table without rows, with the right column types."""
    text, number = pd.Series(dtype=object), pd.Series(dtype=np.float64)
    return pd.DataFrame({name: text if name in PICK_COLUMNS[:2] else number for name in PICK_COLUMNS})


def passing(picks: pd.DataFrame, thresholds: Mapping[str, float]) -> pd.DataFrame:
    """Return the picks whose score is at least the threshold of their particle."""
    least = picks["particle_type"].map(dict(thresholds)).to_numpy(dtype=np.float64)
    return picks.loc[picks["score"].to_numpy(dtype=np.float64) >= least]


def read_pick_table(path: Path) -> pd.DataFrame:
    """Read a submission or a pick table (a ``score`` or ``id`` column may be there or not).

    Raises
    ------
    DataError
        Missing, not a CSV, a column missing, or a coordinate that is not a finite number.
    """
    try:
        table = pd.read_csv(path, dtype={"experiment": str, "particle_type": str})
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(f"{path} is not a CSV table ({error})") from error
    missing = [name for name in PICK_COLUMNS[:5] if name not in table.columns]
    if missing:
        raise DataError(f"{path} has no column {', '.join(missing)}; a submission has {', '.join(SUBMISSION_COLUMNS)}")
    for name in COORDINATES:
        values = pd.to_numeric(table[name], errors="coerce")
        bad = ~np.isfinite(values.to_numpy(dtype=np.float64))
        if bad.any():
            raise DataError(f"{path}, line {int(bad.argmax()) + 2}: {name} is not a finite number; remove the row")
        table[name] = values.astype(np.float64)
    return table


def write_pick_table(picks: pd.DataFrame, path: Path) -> None:
    """Write picks with their scores, atomically: 3 decimals of an Angstrom, 5 of a score."""
    ordered = picks.loc[:, list(PICK_COLUMNS)]
    rounded = ordered.round({"x": 3, "y": 3, "z": 3, "score": 5})
    _write_csv(rounded, path)


def write_submission(picks: pd.DataFrame, path: Path) -> None:
    """Write the competition's CSV from picks, atomically: sorted, ``id`` from 0."""
    keys = [name for name in ("experiment", "particle_type", *COORDINATES) if name in picks.columns]
    table = picks.loc[:, keys].sort_values(keys, kind="stable").reset_index(drop=True).round(3)
    table.insert(0, "id", np.arange(len(table)))
    _write_csv(table.loc[:, list(SUBMISSION_COLUMNS)], path)


def _write_csv(table: pd.DataFrame, path: Path) -> None:
    with whole_or_absent(path) as temporary:
        table.to_csv(temporary, index=False)
