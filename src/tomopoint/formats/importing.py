"""From the files of another program to one table of picks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from tomopoint.data.selection import refuse_doubled
from tomopoint.data.tables import COORDINATES, read_pick_table
from tomopoint.errors import DataError
from tomopoint.files import PLAIN_NAME, is_plain_name
from tomopoint.formats.copick import read_copick
from tomopoint.formats.dynamo import read_dynamo
from tomopoint.formats.frames import FROM_CORNER, Tomograms
from tomopoint.formats.imod import read_imod
from tomopoint.formats.libraries import check_library
from tomopoint.formats.relion import read_relion

ImportFormat = Literal["relion5", "relion4", "relion3", "dynamo", "copick", "imod", "csv"]

NAMED_INSIDE = ("copick", "csv", "imod")
"""Formats whose files say what the particles are called."""

COUNTS_VOXELS = ("relion4", "relion3", "dynamo", "csv")

ROUNDING_A = 0.01
"""So far beyond its tomogram's face a pick on the face may come to lie by the rounding of its file."""

STRAYS = 0.01
"""Points outside their tomogram are left out if they are at most this share, as shifts and edges make them; more mean a
wrong size of pixel, or wrong tomograms."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImportOptions:
    """What the files may not say.

    Attributes
    ----------
    pixel_A
        What coordinates in pixels or voxels are multiples of, Angstrom.
    first_voxel
        Coordinate of the centre of the first voxel; None: the format's own.
    user, session
        copick: whose picks.
    """

    pixel_A: float | None = None
    first_voxel: float | None = None
    user: str | None = None
    session: str | None = None


def read_files(files: Sequence[str], kind: ImportFormat, tomograms: Tomograms, options: ImportOptions) -> pd.DataFrame:
    """Read the picks of several files, each a path or ``NAME=PATH`` with the particle's name.

    Returns
    -------
    DataFrame
        ``experiment, particle_type, x, y, z``: Angstrom from the corner, inside the tomograms; and ``score`` where
        every pick has one.

    Raises
    ------
    DataError
        A file is not of that kind, does not say what is needed and was not said, names a tomogram that is no run of
        `tomograms`, or holds points twice or outside their tomograms.
    """
    check_library(kind)
    if kind not in COUNTS_VOXELS and options.first_voxel is not None:
        raise DataError(f"--first-voxel is for {', '.join(COUNTS_VOXELS)}; {kind} says where it counts from")
    if kind in ("relion5", "copick") and options.pixel_A is not None:
        raise DataError(f"--pixel-size has no meaning for {kind}, whose coordinates are Angstrom; leave it out")
    tables = []
    for file in files:
        name, path = _named(file)
        if name is None and kind not in NAMED_INSIDE:
            raise DataError(f"a file of {kind} does not say what its particles are; say it: NAME={path}")
        if name is not None and kind in ("copick", "csv"):
            raise DataError(f"{path} names its particles itself; leave out {name}=")
        tables.append(_read(path, name, kind, tomograms, options))
    picks = pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)
    if not len(picks):
        raise DataError(f"{', '.join(files)}: there are no points; name files with picks")
    for name in sorted(set(picks["particle_type"])):
        if not is_plain_name(name):
            raise DataError(f"a particle's name must be {PLAIN_NAME}, got {name!r}; rename it")
    scored = ["score"] if "score" in picks.columns and picks["score"].notna().all() else []
    picks = _inside(picks[["experiment", "particle_type", *COORDINATES, *scored]], tomograms)
    refuse_doubled(picks, ", ".join(files))
    return picks


def _named(file: str) -> tuple[str | None, Path]:
    """Split ``NAME=PATH``; a path that exists is one, whatever it is called."""
    name, separator, path = file.partition("=")
    return (None, Path(file)) if not separator or Path(file).exists() else (name.strip(), Path(path))


def _read(
    path: Path, name: str | None, kind: ImportFormat, tomograms: Tomograms, options: ImportOptions
) -> pd.DataFrame:
    pixel_A, first = options.pixel_A, options.first_voxel
    if kind in ("relion5", "relion4", "relion3"):
        return read_relion(path, kind, tomograms, pixel_A, first).assign(particle_type=name)
    if kind == "dynamo":
        return read_dynamo(path, tomograms, pixel_A, first).assign(particle_type=name)
    if kind == "imod":
        return read_imod(path, name, tomograms, pixel_A)
    if kind == "copick":
        return read_copick(path, tomograms, options.user, options.session)
    table = read_pick_table(path)
    if (pixel_A is None) != (first is None):
        raise DataError(
            f"{path}: a table is in Angstrom from the corner, or in voxels: then give both their size (--pixel-size) "
            "and the coordinate of the centre of the first one (--first-voxel 0.5, 0 or 1)"
        )
    if pixel_A is not None and first is not None:
        table[list(COORDINATES)] = (table[list(COORDINATES)] - first + FROM_CORNER) * pixel_A
    names = {name: tomograms.run(name, path) for name in set(table["experiment"])}
    return table.assign(experiment=table["experiment"].map(names))


def _inside(picks: pd.DataFrame, tomograms: Tomograms) -> pd.DataFrame:
    """Return the picks that lie in their tomograms; refuse where more than a few do not."""
    outside = np.zeros(len(picks), dtype=bool)
    for run, rows in picks.groupby("experiment").indices.items():
        points = picks[list(COORDINATES)].to_numpy(dtype=np.float64)[rows]
        outside[rows] = tomograms.frame(str(run)).outside(points, ROUNDING_A)
    if not outside.any():
        return picks
    first = picks.loc[outside].iloc[0]
    example = (
        f"{first['particle_type']} of {first['experiment']} at {first['x']:.1f}, {first['y']:.1f}, {first['z']:.1f} A"
    )
    if outside.mean() > STRAYS:
        raise DataError(
            f"{int(outside.sum())} of {len(picks)} points lie outside their tomograms, e.g. {example}; check "
            "--pixel-size (binning), --format and that these are the tomograms they were picked in"
        )
    logger.warning(
        "%d of %d points lie outside their tomograms and are left out, e.g. %s", outside.sum(), len(picks), example
    )
    return picks.loc[~outside].reset_index(drop=True)
