"""A run for ChimeraX: a script, markers of the picks that pass their thresholds, and the tomogram."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tomopoint.command import CommandResult
from tomopoint.data.mrc import is_mrc, open_mrc, write_mrc
from tomopoint.data.sources.run import FileRun
from tomopoint.data.tables import COORDINATES
from tomopoint.data.tomograms import open_tomogram
from tomopoint.errors import DataError
from tomopoint.files import check_output
from tomopoint.formats.chimerax import ShownVolume, write_chimerax, write_script
from tomopoint.formats.frames import Frame
from tomopoint.view.pyramid import contrast_limits
from tomopoint.view.scene import ParticleView, shown_at

ENDING = ".cxc"


def write_chimerax_view(
    script: Path, tomogram: FileRun, views: tuple[ParticleView, ...], mrc_copy: bool
) -> CommandResult:
    """Write the script and all that it opens.

    Parameters
    ----------
    script
        The file; markers and a copy of the tomogram lie beside it.
    tomogram
        What is shown.
    mrc_copy
        Write the tomogram as an MRC file: ChimeraX reads no OME-Zarr.

    Raises
    ------
    DataError
        Another ending, or as for reading the tomogram.
    """
    if script.suffix != ENDING:
        raise DataError(f"--chimerax {script}: the script of ChimeraX ends in {ENDING}")
    run, path, voxel_A = tomogram.name, tomogram.path, tomogram.voxel_A
    stored = open_tomogram(path, voxel_A)
    volume = path if is_mrc(path) else None
    values: Any = open_mrc(path, voxel_A).voxels_zyx if is_mrc(path) else None
    if mrc_copy:
        volume, values = script.with_name(f"{run}.mrc"), stored.read()
        check_output(volume, [path])
        write_mrc(volume, values, stored.voxel_A)
    note = (
        ""
        if volume
        else f"ChimeraX reads no OME-Zarr, so {path} is not in it: say --mrc-copy for an MRC file beside it"
    )
    tables = [table for table in (_rows(run, view) for view in views) if len(table)]
    radii_A = {view.name: view.radius_A for view in views}
    shown = pd.concat(tables, ignore_index=True) if tables else None
    markers = [] if shown is None else write_chimerax(shown, {run: Frame(stored.voxel_A)}, script.parent, radii_A)
    depth, height, width = stored.shape_zyx
    middle = (width // 2, height // 2, depth // 2)
    seen = None if volume is None else ShownVolume(volume, stored.voxel_A, contrast_limits(values), middle)
    write_script(script, seen, markers, note)
    count = sum(map(len, tables))
    lines = [f"wrote {script} with {count} picks of {run}; in ChimeraX: open {script.resolve()}"]
    lines += [note] if note else []
    figures = {"run": run, "script": str(script), "markers": [str(file) for file in markers], "n_picks": count}
    return CommandResult("\n".join(lines), figures | {"volume": None if volume is None else str(volume)})


def _rows(run: str, view: ParticleView) -> pd.DataFrame:
    """Return the picks of a particle that pass its threshold, as a table."""
    is_shown = shown_at(view.scores, view.threshold)
    table = pd.DataFrame(view.points_zyx_A[is_shown][:, ::-1], columns=list(COORDINATES))
    table = table.assign(experiment=run, particle_type=view.name)
    scores = view.scores[is_shown]
    return table.assign(score=scores) if np.isfinite(scores).all() else table
