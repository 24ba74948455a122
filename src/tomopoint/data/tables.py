"""Pick tables: all picks with their scores, and the submission made from them.

The only place, with the picks files, where coordinates are x, y, z.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from tomopoint.errors import DataError
from tomopoint.files import require_file, write_atomically

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


def points_by_run(picks: pd.DataFrame) -> dict[str, dict[str, npt.NDArray[np.float64]]]:
    """Return the picks of a table: run -> particle -> ``(N, 3)`` x, y, z in Angstrom; names sorted."""
    by_run: dict[str, dict[str, npt.NDArray[np.float64]]] = {}
    for (run, name), rows in picks.groupby(["experiment", "particle_type"], sort=True):
        by_run.setdefault(str(run), {})[str(name)] = rows[list(COORDINATES)].to_numpy(dtype=np.float64)
    return by_run


def read_pick_table(path: Path, skip_lines: int = 0) -> pd.DataFrame:
    """Read a submission or a pick table (a ``score`` or ``id`` column may be there or not) below `skip_lines` lines.

    Raises
    ------
    DataError
        Missing, not a CSV, a column missing, a line with more or fewer fields than the header, an empty name, or a
        coordinate or score that is not a finite number; the message names the line.
    """
    table = _read_csv(path, skip_lines)
    missing = [name for name in PICK_COLUMNS[:5] if name not in table.columns]
    if missing:
        raise DataError(
            f"{path} has no column {', '.join(missing)}; correct its first line, "
            f"a submission has {', '.join(SUBMISSION_COLUMNS)}"
        )
    blank = table["experiment"].isna() | (table["experiment"] == "")
    if blank.any():
        blank &= (table.isna() | (table == "")).all(axis="columns")
        table = table[~blank].copy()
    for name in ("experiment", "particle_type"):
        _refuse(path, table[name].isna() | (table[name] == ""), f"{name} is empty")
    for name in (*COORDINATES, "score"):
        if name in table.columns:
            values = table[name]
            if not is_numeric_dtype(values) or is_bool_dtype(values):
                values = pd.to_numeric(values.astype(str), errors="coerce")
            table[name] = values.astype(np.float64)
            _refuse(path, ~np.isfinite(table[name]), f"{name} is not a finite number")
    return table.reset_index(drop=True)


def _read_csv(path: Path, skip_lines: int) -> pd.DataFrame:
    """Return a CSV table, one row per line, in which ``NA`` is a name like any other; refuse lines that are too long.

    pandas shifts columns, or drops fields, where lines have more fields than the header; what it warns of is refused.
    """
    options: dict[str, Any] = {"keep_default_na": False, "compression": None, "encoding": "utf-8-sig"}
    options["skiprows"] = skip_lines
    try:
        require_file(path)
        header = [str(name) for name in pd.read_csv(path, header=None, nrows=1, dtype=str, **options).iloc[0]]
        with warnings.catch_warnings(action="error", category=pd.errors.ParserWarning):
            table: pd.DataFrame = pd.read_csv(
                path,
                header=0,
                names=header,
                index_col=False,
                dtype={"experiment": str, "particle_type": str},
                skip_blank_lines=False,
                low_memory=False,
                **options,
            )
            return table
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}); give the CSV table of a prediction") from error
    except pd.errors.ParserWarning as error:
        raise DataError(f"{path}, line 2: it has more fields than the header; correct or remove such rows") from error
    except (ValueError, OverflowError) as error:  # what pandas raises of its own are ValueErrors too
        reason = " ".join(str(error).split()).removeprefix("Error tokenizing data. C error: ")
        raise DataError(f"{path} is not a CSV table ({reason}); correct it, or write it again") from error


def _refuse(path: Path, bad: pd.Series, reason: str) -> None:
    """Name the first line of which something is wrong; the index counts rows from 0."""
    if bad.any():
        raise DataError(
            f"{path}, line {bad.index[int(bad.to_numpy().argmax())] + 2}: {reason}; correct or remove the row"
        )


def pick_table_text(picks: pd.DataFrame) -> str:
    """Return picks with their scores as CSV: 3 decimals of an Angstrom, 5 of a score."""
    ordered = picks.loc[:, list(PICK_COLUMNS)]
    return ordered.round({"x": 3, "y": 3, "z": 3, "score": 5}).to_csv(index=False, lineterminator="\n")


def write_pick_table(picks: pd.DataFrame, path: Path) -> None:
    """Write picks with their scores, atomically; see :func:`pick_table_text`."""
    write_atomically(path, pick_table_text(picks))


def write_submission(picks: pd.DataFrame, path: Path) -> None:
    """Write the competition's CSV from picks, atomically: sorted, ``id`` from 0."""
    keys = [name for name in ("experiment", "particle_type", *COORDINATES) if name in picks.columns]
    table = picks.loc[:, keys].sort_values(keys, kind="stable").reset_index(drop=True).round(3)
    table.insert(0, "id", np.arange(len(table)))
    write_atomically(path, table.loc[:, list(SUBMISSION_COLUMNS)].to_csv(index=False, lineterminator="\n"))
