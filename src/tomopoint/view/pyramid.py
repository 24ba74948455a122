"""A tomogram as levels of resolution that are read where they are looked at, and how bright to show it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tomopoint.data.mrc import is_mrc, open_mrc
from tomopoint.data.tomograms import open_tomogram

BLOCK_VOX = (8, 512, 512)
"""Of an MRC file, read at a time: 8 MB of float32, and planes of a slice are next to each other in the file."""

COARSEST_VOX = 256
"""Levels are halved until no axis is longer: such a volume is drawn in 3-D at once."""

SAMPLED_PLANES, SAMPLED_VOX = 8, 256
"""Contrast is measured on so many planes, and on about so many voxels along y and x of each."""

SHOWN_QUANTILES = (0.005, 0.995)
"""Black and white; those of the report's slices."""


@dataclass(frozen=True)
class Pyramid:
    """A tomogram in levels.

    Attributes
    ----------
    levels
        dask arrays ``(D, H, W)`` of float32, the finest first; nothing is read before it is asked for.
    voxel_A
        Edge of a voxel of the finest, Angstrom.
    limits
        Values that are shown black and white.
    """

    levels: tuple[Any, ...]
    voxel_A: float
    limits: tuple[float, float]


def open_pyramid(path: Path, voxel_A: float | None = None) -> Pyramid:
    """Open a tomogram for looking at.

    The levels of a store are taken as they are; those of an MRC file, which stays on the disk, average 2x2x2 voxels of
    the next finer one, block by block. A plane that is left over at a far face is left out of a coarser level, which
    napari stretches over the whole, so at that face it lies off by up to one of its voxels.

    Parameters
    ----------
    voxel_A
        Edge of its voxels as the user states it; None: as its metadata say.

    Raises
    ------
    DataError
        As :func:`tomopoint.data.tomograms.open_tomogram`.
    """
    import dask.array as da

    stored = open_tomogram(path, voxel_A)
    if is_mrc(path):
        finest = open_mrc(path, voxel_A).voxels_zyx
        levels = [da.from_array(finest, chunks=BLOCK_VOX, name=False).astype(np.float32)]
        while max(levels[-1].shape) > COARSEST_VOX and min(levels[-1].shape) > 1:
            levels.append(da.coarsen(np.mean, levels[-1], dict.fromkeys(range(3), 2), trim_excess=True))
    else:
        levels = [da.from_zarr(str(path), component=name).astype(np.float32) for name in _level_names(path)]
        finest = levels[0]
    return Pyramid(tuple(levels), stored.voxel_A, contrast_limits(finest))


def contrast_limits(volume_zyx: Any) -> tuple[float, float]:
    """Return what to show black and white: quantiles of some planes of ``(D, H, W)``, an array that may be lazy."""
    depth, height, width = volume_zyx.shape
    steps = (max(1, depth // SAMPLED_PLANES), max(1, height // SAMPLED_VOX), max(1, width // SAMPLED_VOX))
    starts = [(size - 1) % step // 2 for size, step in zip((depth, height, width), steps, strict=True)]
    z, y, x = (slice(start, None, step) for start, step in zip(starts, steps, strict=True))
    sample = np.asarray(volume_zyx[z, y, x], dtype=np.float32)
    sample = sample[np.isfinite(sample)]
    low, high = (float(value) for value in np.quantile(sample, SHOWN_QUANTILES)) if len(sample) else (0.0, 1.0)
    return (low, high) if high > low else (low, low + (abs(low) or 1.0))


def _level_names(path: Path) -> list[str]:
    """Return the names of a store's levels, the finest first, as far as they are arrays of ever fewer voxels."""
    import zarr

    group = zarr.open_group(str(path), mode="r", use_consolidated=False)
    attributes: Any = group.attrs.asdict()
    multiscales = attributes.get("ome", attributes).get("multiscales", [{}])
    listed = [str(dataset["path"]) for dataset in multiscales[0].get("datasets", [])]
    names = ["0"]  # what open_tomogram has checked
    for name in (name for name in listed if name != "0"):
        level = group.get(name)
        finer = group[names[-1]]
        if isinstance(level, zarr.Array) and isinstance(finer, zarr.Array) and level.size < finer.size:
            names.append(name)
    return names
