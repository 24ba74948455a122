"""Markers of ChimeraX, ``.cmm``, see docs/formats.md."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
import pandas as pd

from tomopoint.data.colours import colour_of
from tomopoint.data.tables import COORDINATES
from tomopoint.files import write_atomically
from tomopoint.formats.frames import FROM_INDEX, Frame
from tomopoint.pipeline import Particle


def write_chimerax(
    picks: pd.DataFrame, frames: Mapping[str, Frame], out: Path, particles: Mapping[str, Particle]
) -> list[Path]:
    """Write ``<out>/<run>_<particle>.cmm``: Angstrom, the centre of the first voxel at 0, scores as an attribute.

    Spheres have the particle's radius, or that of a voxel where it is not known.
    """
    paths = []
    names = sorted(map(str, set(picks["particle_type"])))
    for (run, kind), rows in picks.groupby(["experiment", "particle_type"], sort=True):
        frame, name = frames[str(run)], str(kind)
        points = frame.to_voxels(rows[list(COORDINATES)].to_numpy(dtype=np.float64), FROM_INDEX) * frame.voxel_A
        r, g, b = colour_of(names.index(name))
        radius_A = particles[name].radius_A if name in particles else frame.voxel_A
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
