"""Markers of ChimeraX, ``.cmm``, and a script, ``.cxc``, that opens them in their tomogram; see docs/formats.md.

The script's commands are those of the user guide, https://www.rbvi.ucsf.edu/chimerax/docs/user: ``open``, ``volume``,
``set``, ``lighting``, ``camera``, ``view``, ``mousemode``. ChimeraX itself never ran it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
import pandas as pd

from tomopoint.data.colours import colours_of
from tomopoint.data.tables import COORDINATES
from tomopoint.errors import DataError
from tomopoint.files import write_atomically
from tomopoint.formats.frames import FROM_INDEX, Frame


def write_chimerax(
    picks: pd.DataFrame, frames: Mapping[str, Frame], out: Path, radii_A: Mapping[str, float]
) -> list[Path]:
    """Write ``<out>/<run>_<particle>.cmm``: Angstrom, the centre of the first voxel at 0, scores as an attribute.

    Spheres have the particle's radius, or that of a voxel where `radii_A` has none; colours are those of all that are
    named in either.
    """
    paths = []
    colours = colours_of({*radii_A, *map(str, picks["particle_type"])})
    for (run, kind), rows in picks.groupby(["experiment", "particle_type"], sort=True):
        frame, name = frames[str(run)], str(kind)
        points = frame.to_voxels(rows[list(COORDINATES)].to_numpy(dtype=np.float64), FROM_INDEX) * frame.voxel_A
        r, g, b = colours[name]
        radius_A = radii_A.get(name, frame.voxel_A)
        look = f'r="{r:g}" g="{g:g}" b="{b:g}" radius="{radius_A:g}"'
        scores = [f' score="{score:.5f}"' for score in rows["score"]] if "score" in rows else [""] * len(rows)
        lines = [f"<marker_set name={quoteattr(f'{run} {name}')}>"]
        lines += [
            f'<marker id="{index}" x="{x:.4f}" y="{y:.4f}" z="{z:.4f}" {look}{score}/>'
            for index, ((x, y, z), score) in enumerate(zip(points.tolist(), scores, strict=True), start=1)
        ]
        paths.append(out / f"{run}_{name}.cmm")
        write_atomically(paths[-1], "\n".join([*lines, "</marker_set>", ""]))
    return paths


@dataclass(frozen=True)
class ShownVolume:
    """A tomogram as a script shows it.

    Attributes
    ----------
    path
        An MRC file.
    voxel_A
        Edge of a voxel, Angstrom.
    limits
        Values that are black and white.
    centre_xyz_vox
        Where its three planes cross.
    """

    path: Path
    voxel_A: float
    limits: tuple[float, float]
    centre_xyz_vox: tuple[int, int, int]


def write_script(script: Path, volume: ShownVolume | None, markers: Sequence[Path], note: str = "") -> None:
    """Write a script for an empty session of ChimeraX.

    Parameters
    ----------
    script
        The file, ``.cxc``.
    volume
        The tomogram; None: what ChimeraX cannot read.
    markers
        Files of markers, one for each particle.
    note
        For whoever reads the script.

    Raises
    ------
    DataError
        A path with a quotation mark or a line break, which a command cannot hold.
    """
    lines = ["# Written by tomopoint. Open it in a session of ChimeraX without models: open SCRIPT.cxc"]
    lines += [f"# {line}" for line in note.splitlines()]
    lines.append("set bgColor black")
    if volume is not None:
        low, high = volume.limits
        place = ",".join(map(str, volume.centre_xyz_vox))
        lines += [
            f"open {_quoted(volume.path)}",
            # The first voxel's centre is where markers count from, whatever origin the header has.
            f"volume #1 originIndex 0,0,0 voxelSize {volume.voxel_A:.6g}",
            "volume #1 region all step 1",
            f"volume #1 style image level {low:.6g},0 level {high:.6g},1 color white",
            f"volume #1 orthoplanes xyz positionPlanes {place}",
        ]
    lines += [f"open {_quoted(path)}" for path in markers]
    lines += ["lighting soft", "camera ortho", "view", 'mousemode rightMode "move planes"']
    write_atomically(script, "\n".join([*lines, ""]))


def _quoted(path: Path) -> str:
    text = str(path.resolve())
    if {'"', "\n", "\\"} & set(text):
        raise DataError(
            f"{text} cannot stand in a command of ChimeraX; rename it without quotation marks or backslashes"
        )
    return f'"{text}"'
