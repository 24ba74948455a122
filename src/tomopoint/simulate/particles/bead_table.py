"""Bead models that users give: rows of x, y, z, weight and, optionally, sigma."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from tomopoint.errors import DataError, reason_of
from tomopoint.files import require_file
from tomopoint.simulate.density import UNITS_PER_KDA, Blobs
from tomopoint.strict_json import shown

COLUMNS = ("x", "y", "z", "weight")
MAX_ROWS = 5000
"""Each is rendered for each copy of the particle."""


def read_beads(given: Path | tuple[tuple[float, ...], ...], sigma_A: float, source: str) -> Blobs:
    """Return the beads of a CSV file, or of rows, in their own coordinates.

    Parameters
    ----------
    given
        A file with the columns x, y, z (Angstrom), weight (kDa) and, optionally, sigma (Angstrom); or such rows.
    sigma_A
        Width of beads that state none.
    source
        Who asks, for messages.

    Raises
    ------
    DataError
        Not there, other columns, no rows or too many, or a value that is no number or not positive.
    """
    if isinstance(given, Path):
        try:
            require_file(given)
            table = pd.read_csv(given, skipinitialspace=True, nrows=MAX_ROWS + 1)
        except OSError as error:
            raise DataError(f"{source}: cannot read {given} ({error.strerror}); correct the path") from error
        except (ValueError, OverflowError) as error:
            raise DataError(f"{source}: {given} is not a CSV table ({reason_of(error)}); correct it") from error
        columns = {str(name) for name in table.columns}
        if not set(COLUMNS) <= columns <= {*COLUMNS, "sigma"}:
            raise DataError(
                f"{source}: {given} has the columns {shown(', '.join(sorted(columns)))}; correct its first line to "
                "x, y, z, weight and, optionally, sigma"
            )
        rows = table[[*COLUMNS, *(["sigma"] if "sigma" in table.columns else [])]]
        source = f"{source}, {given}"
        values = rows.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    else:
        if {len(row) for row in given} not in ({4}, {5}):
            raise DataError(f"{source}: every bead is x, y, z, weight, or all are x, y, z, weight, sigma")
        values = np.array(given, dtype=np.float64)
    if not 0 < len(values) <= MAX_ROWS:
        raise DataError(f"{source}: {len(values)} beads; give between 1 and {MAX_ROWS}")
    if not np.isfinite(values).all() or (values[:, 3:] <= 0).any():
        raise DataError(
            f"{source}: coordinates of beads must be numbers, weights and sigmas positive ones; correct them"
        )
    sigmas = values[:, 4] if values.shape[1] == 5 else np.full(len(values), sigma_A)
    return Blobs(np.ascontiguousarray(values[:, 2::-1]), sigmas, values[:, 3] * UNITS_PER_KDA)
