"""Density maps in MRC format as points that scatter."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from tomopoint.errors import DataError, reason_of
from tomopoint.files import require_file
from tomopoint.simulate.density import UNITS_PER_KDA
from tomopoint.simulate.particles.coarse import VOLUME_PER_KDA_A3, Points

DEFAULT_THRESHOLD_SD = 3.0
"""A map's contour, where none is stated: so many standard deviations above the mean of all voxels."""


def read_map(path: Path, threshold: float | None = None, mass_kda: float | None = None) -> Points:
    """Read a molecule from a map: its voxels above a threshold, weighted by what they exceed the solvent (median).

    Parameters
    ----------
    path
        ``.mrc``, ``.map`` or ``.ccp4``, also with ``.gz``; protein positive. Any order of axes.
    threshold
        In the map's unit, such as the recommended contour level; default 3 standard deviations above the mean.
    mass_kda
        Of the molecule; default what protein of the enclosed volume weighs. Maps have no absolute scale.

    Raises
    ------
    DataError
        Not there, not a map, without a voxel size, or with no voxel above the threshold.
    """
    import mrcfile

    require = "give a map in MRC format (.mrc, .map, also .gz)"
    try:
        require_file(path)
        with warnings.catch_warnings():  # mrcfile warns of oddities of the header that do not matter here
            warnings.simplefilter("ignore")
            with mrcfile.open(path, permissive=False) as opened:
                voxel_xyz_A = np.array([opened.voxel_size.x, opened.voxel_size.y, opened.voxel_size.z], dtype=float)
                origin_xyz_A = np.array([opened.header.origin[axis] for axis in "xyz"], dtype=float)
                axes = [int(opened.header[name]) for name in ("maps", "mapr", "mapc")]  # of the stored array
                starts = [int(opened.header[name]) for name in ("nzstart", "nystart", "nxstart")]
                stored = np.asarray(opened.data, dtype=np.float32)
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror or reason_of(error)}); {require}") from error
    except (ValueError, EOFError) as error:
        raise DataError(f"{path} is not a density map ({reason_of(error)}); {require}") from error
    if stored.ndim != 3 or sorted(axes) != [1, 2, 3]:
        raise DataError(f"{path} holds {stored.ndim} axes, ordered {axes}; {require} of one volume")
    if not (np.isfinite(voxel_xyz_A) & (voxel_xyz_A > 0)).all():
        raise DataError(f"{path} states no voxel size; set it, e.g. with mrcfile: `opened.voxel_size = 1.5`")
    order = [axes.index(axis) for axis in (3, 2, 1)]
    volume, start_zyx = stored.transpose(order), np.array(starts)[order]

    level = float(volume.mean() + DEFAULT_THRESHOLD_SD * volume.std()) if threshold is None else threshold
    above = np.argwhere(volume > level)
    if len(above) == 0:
        raise DataError(
            f"{path} has no voxel above the threshold {level:.4g} (its largest is {volume.max():.4g}); lower "
            "map_threshold"
        )
    voxel_zyx_A = voxel_xyz_A[::-1]
    volume_A3 = len(above) * float(voxel_zyx_A.prod())
    weights = volume[tuple(above.T)].astype(np.float64) - min(level, float(np.median(volume)))
    mass = volume_A3 / VOLUME_PER_KDA_A3 if mass_kda is None else mass_kda
    weights *= mass * UNITS_PER_KDA / weights.sum()
    return Points((above + start_zyx + 0.5) * voxel_zyx_A + origin_xyz_A[::-1], weights, volume_A3)
