"""Tables of Dynamo, ``.tbl`` with the list of tomograms ``.doc`` beside, see docs/formats.md."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from tomopoint.data.tables import COORDINATES
from tomopoint.errors import DataError, reason_of
from tomopoint.files import check_output, put_in_place, require_file
from tomopoint.formats.frames import FROM_CORNER, Frame, Tomograms, check_words

TABLE, MAP = ".tbl", ".doc"


def write_dynamo(
    picks: pd.DataFrame, frames: Mapping[str, Frame], out: Path, first_voxel: float = FROM_CORNER
) -> list[Path]:
    """Write ``<out>/<particle>.tbl`` of all runs, and ``.doc`` with the run of each tomogram number.

    Numbers of tomograms are the same in all tables. Scores are in column 10, ``cc``; the voxel size is in 36, ``apix``.
    """
    import dynamotable

    check_words(set(picks["experiment"]), "run name")
    numbers = {run: index for index, run in enumerate(sorted(set(picks["experiment"])), start=1)}
    paths: list[Path] = []
    out.mkdir(parents=True, exist_ok=True)
    for particle, own in picks.groupby("particle_type", sort=True):
        ordered = own.assign(tomo=own["experiment"].map(numbers)).sort_values("tomo", kind="stable")
        points = [
            frames[str(run)].to_voxels(rows[list(COORDINATES)].to_numpy(dtype=np.float64), first_voxel)
            for run, rows in ordered.groupby("experiment", sort=True)
        ]
        table = pd.DataFrame(np.concatenate(points), columns=list(COORDINATES)).assign(
            tag=np.arange(1, len(ordered) + 1),
            tomo=ordered["tomo"].to_numpy(),
            cc=ordered["score"].to_numpy() if "score" in ordered else 0.0,
            apix=[frames[run].voxel_A for run in ordered["experiment"]],
            tomo_file=ordered["experiment"].to_numpy(),
        )
        with tempfile.TemporaryDirectory(prefix=".", dir=out) as folder:
            dynamotable.write(table, str(Path(folder) / f"picks{TABLE}"))
            for ending in (TABLE, MAP):
                path = out / f"{particle}{ending}"
                check_output(path)
                put_in_place(Path(folder) / f"picks{ending}", path)
                paths.append(path)
    return paths


def read_dynamo(path: Path, tomograms: Tomograms, pixel_A: float | None, first_voxel: float | None) -> pd.DataFrame:
    """Read a table of one kind of particle; its shifts (columns 4 to 6) are applied.

    The run of each tomogram number is told by ``<name>.doc`` beside the table, or by the user's renaming of the number.

    Returns
    -------
    DataFrame
        ``experiment, x, y, z``, Angstrom from the corner.

    Raises
    ------
    DataError
        No such table, a tomogram that is no run, or no voxel size.
    """
    import dynamotable

    try:
        require_file(path)
        table = dynamotable.read(str(path))
        wanted = ["dx", "dy", "dz", "tomo", *COORDINATES]
        values = table[wanted].to_numpy(dtype=np.float64)
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}); name a table of Dynamo") from error
    except Exception as error:  # pandas raises many kinds, and columns may be missing
        raise DataError(f"{path} is no table of Dynamo ({reason_of(error)}); it has at least 26 columns") from error
    if not np.isfinite(values).all():
        raise DataError(f"{path}: columns 4 to 6, 20 and 24 to 26 are not all finite numbers; correct the table")
    names = _names(path.with_suffix(MAP))
    runs = np.array([tomograms.run(names.get(int(n), str(int(n))), path) for n in values[:, 3]], dtype=object)
    if pixel_A is not None:
        sizes_A = np.full(len(table), pixel_A)
    elif "apix" in table.columns and (table["apix"].to_numpy(dtype=np.float64) > 0).all():
        sizes_A = table["apix"].to_numpy(dtype=np.float64)
    else:
        raise DataError(f"{path} does not say its voxel size (column 36); give it in Angstrom with --pixel-size")
    first = FROM_CORNER if first_voxel is None else first_voxel
    points = (values[:, 4:] + values[:, :3] - first + FROM_CORNER) * sizes_A[:, None]
    return pd.DataFrame(points, columns=list(COORDINATES)).assign(experiment=runs)


def _names(path: Path) -> dict[int, str]:
    """Return what the tomograms are called: lines of a number and a file."""
    if not path.exists():
        return {}
    try:
        require_file(path)
        lines = [line.split(maxsplit=1) for line in path.read_text().splitlines() if line.strip()]
        return {int(number): name.strip() for number, name in lines}
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no list of tomograms, a number and a name on each line; correct it") from error
