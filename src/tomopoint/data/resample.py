"""A tomogram with other voxels: band-limited, along one axis after another, without ever holding the original whole.

Each new voxel is a weighted sum of old ones along an axis, by a sinc under a Kaiser window whose band ends at the
Nyquist frequency of the coarser of both grids: what the new voxels cannot hold is filtered away and not folded back.
Beyond the faces the tomogram continues as its mirror image. Positions count from the corner
(:mod:`tomopoint.pipeline`), which both grids share: the centre of new voxel ``j`` lies at ``(j + 0.5) * target_A``, so
a position in Angstrom is the same in both.

Source of the window and its length: J. F. Kaiser, Proc. IEEE ISCAS 1974, pp. 20-23, as in
``scipy.signal.kaiserord``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Volume = npt.NDArray[np.float32]

LOBES = 12
"""Zeros of the sinc on each side, in voxels of the coarser grid: the band then ends within 15 % of Nyquist."""

KAISER_BETA = 5.65
"""60 dB between what passes and what does not: a thousandth, well below any tomogram's noise."""

BLOCK_VOX = 64
"""New voxels that are summed by one matrix product; it also multiplies the zeros around the band's diagonal."""


@dataclass(frozen=True)
class _Band:
    """New voxels ``[start, stop)`` from old ones ``[first, last)`` along one axis.

    Attributes
    ----------
    weights
        ``(stop - start, last - first)``.
    """

    start: int
    stop: int
    first: int
    last: int
    weights: Volume


def resampled_shape(shape_zyx: tuple[int, int, int], voxel_A: float, target_A: float) -> tuple[int, int, int]:
    """Return the number of whole new voxels in the old extent: less than one voxel is cut off at the far faces."""
    depth, height, width = (math.floor(size * voxel_A / target_A + 1e-6) for size in shape_zyx)
    return depth, height, width


def resample(
    slabs: Iterable[tuple[int, Volume]], shape_zyx: tuple[int, int, int], voxel_A: float, target_A: float
) -> Volume:
    """Resample a tomogram to voxels of another size.

    Parameters
    ----------
    slabs
        All planes in pieces, in any order: where each begins along z, and ``(n, H, W)`` float32. One is held at a time.
    shape_zyx
        ``(D, H, W)`` of the whole.
    voxel_A, target_A
        Edge of a voxel, Angstrom, before and after.

    Returns
    -------
    ndarray
        Float32 of :func:`resampled_shape`.
    """
    new_zyx = resampled_shape(shape_zyx, voxel_A, target_A)
    along_z, along_y, along_x = (
        _bands(old, new, target_A / voxel_A) for old, new in zip(shape_zyx, new_zyx, strict=True)
    )
    result = np.zeros(new_zyx, np.float32)
    for begin, slab in slabs:
        end = begin + len(slab)
        wide = np.empty((*slab.shape[:2], new_zyx[2]), np.float32)
        for band in along_x:
            np.matmul(slab[:, :, band.first : band.last], band.weights.T, out=wide[:, :, band.start : band.stop])
        planes = np.empty((len(slab), *new_zyx[1:]), np.float32)
        for band in along_y:
            np.matmul(band.weights, wide[:, band.first : band.last], out=planes[:, band.start : band.stop])
        flat = planes.reshape(len(slab), -1)
        for band in along_z:
            first, last = max(begin, band.first), min(end, band.last)
            if first < last:
                part = band.weights[:, first - band.first : last - band.first] @ flat[first - begin : last - begin]
                result[band.start : band.stop] += part.reshape(-1, *new_zyx[1:])
    return result


def _bands(n_old: int, n_new: int, step: float) -> list[_Band]:
    """Return the weights along one axis; new voxels are `step` old ones apart."""
    cutoff = min(1.0, 1.0 / step)
    half = LOBES / cutoff
    bands = []
    for start in range(0, n_new, BLOCK_VOX):
        stop = min(start + BLOCK_VOX, n_new)
        centres = (np.arange(start, stop) + 0.5) * step - 0.5  # in indices of old voxels
        near = np.arange(math.floor(centres[0] - half), math.ceil(centres[-1] + half) + 1)
        distances = near - centres[:, None]
        window = np.i0(KAISER_BETA * np.sqrt(np.clip(1 - (distances / half) ** 2, 0, None)))
        weights = np.sinc(cutoff * distances) * np.where(np.abs(distances) <= half, window, 0.0)
        weights /= weights.sum(axis=1, keepdims=True)
        mirrored = near % (2 * n_old)
        mirrored = np.where(mirrored < n_old, mirrored, 2 * n_old - 1 - mirrored)
        first, last = int(mirrored.min()), int(mirrored.max()) + 1
        folded = np.zeros((stop - start, last - first))
        np.add.at(folded.T, mirrored - first, weights.T)
        bands.append(_Band(start, stop, first, last, folded.astype(np.float32)))
    return bands
