"""From a pick table to the files of another program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pandas as pd

from tomopoint.data.tables import write_pick_table, write_submission
from tomopoint.errors import DataError
from tomopoint.formats.chimerax import write_chimerax
from tomopoint.formats.copick import write_copick
from tomopoint.formats.dynamo import write_dynamo
from tomopoint.formats.frames import FROM_CORNER, FROM_INDEX, Frame
from tomopoint.formats.imod import write_imod
from tomopoint.formats.libraries import check_library
from tomopoint.formats.relion import write_relion
from tomopoint.pipeline import Particle

ExportFormat = Literal["relion5", "relion4", "relion3", "dynamo", "copick", "imod", "chimerax", "csv"]

ENDINGS = (".star", ".tbl", ".doc", ".mod", ".cmm", ".json")
"""Of files that are written into the folder --out: a name of that kind was meant to be one."""

ANGSTROM_FROM_CORNER = ("copick", "csv")
"""Formats with this project's own coordinates: nothing has to be known of the tomograms."""

COUNTS_VOXELS = ("relion4", "relion3", "dynamo")


@dataclass(frozen=True)
class ExportOptions:
    """What a format wants to know besides the picks.

    Attributes
    ----------
    binning
        RELION 4: pixels of the tilt series per voxel of the tomogram.
    first_voxel
        Coordinate of the centre of the first voxel; None: the format's own.
    user, session
        copick: whose picks they are.
    names
        RELION 5: run -> rlnTomoName, where it is another.
    """

    binning: float | None = None
    first_voxel: float | None = None
    user: str = "tomopoint"
    session: str = "1"
    names: Mapping[str, str] = field(default_factory=dict)


def write_picks_as(
    kind: ExportFormat,
    picks: pd.DataFrame,
    frames: Mapping[str, Frame],
    particles: Sequence[Particle],
    out: Path,
    options: ExportOptions,
) -> list[Path]:
    """Write picks in a format; return the files.

    Parameters
    ----------
    picks
        ``experiment, particle_type, x, y, z`` (Angstrom from the corner) and, where known, ``score``; at least one.
    frames
        Of every run, where the format counts voxels or from a centre.
    particles
        Those whose radii are known, for formats that draw them.
    out
        Folder; for ``csv`` the file.

    Raises
    ------
    DataError
        What the format needs to be told was not, or a name does not fit into it.
    """
    check_library(kind)
    if not len(picks):
        raise DataError("no pick is left to write; lower the thresholds, or take --all")
    if out.suffix in ENDINGS and not out.is_dir():
        raise DataError(f"-o {out}: this format writes several files, name the folder for them")
    if kind == "relion4" and options.binning is None:
        raise DataError(
            "RELION 4 counts pixels of the tilt series; say with --binning how many times the tomograms are binned "
            "(1: not at all)"
        )
    if kind != "relion4" and options.binning is not None:
        raise DataError(f"--binning is for relion4, {kind} has no use for it; leave it out")
    if kind not in COUNTS_VOXELS and options.first_voxel is not None:
        raise DataError(f"--first-voxel is for {', '.join(COUNTS_VOXELS)}; {kind} says where it counts from")
    by_name = {particle.name: particle for particle in particles}
    first = options.first_voxel
    if kind in ("relion5", "relion4", "relion3"):
        first = FROM_INDEX if first is None else first
        return write_relion(kind, picks, frames, options.names, out, options.binning or 1.0, first)
    if kind == "dynamo":
        return write_dynamo(picks, frames, out, FROM_CORNER if first is None else first)
    if kind == "copick":
        return write_copick(picks, out, options.user, options.session)
    if kind == "imod":
        return write_imod(picks, frames, out, by_name)
    if kind == "chimerax":
        return write_chimerax(picks, frames, out, {name: particle.radius_A for name, particle in by_name.items()})
    path = out if out.suffix == ".csv" else out / "picks.csv"
    (write_pick_table if "score" in picks else write_submission)(picks, path)
    return [path]
