"""From raw voxel values to network input."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from tomopoint.errors import DataError
from tomopoint.pipeline import Normalisation

MAX_SAMPLES = 4_000_000
"""Quantiles are read off at most about this many evenly spaced voxels: exact to 1e-4 of rank, and no full sort."""


def normalise(
    volume_zyx: npt.NDArray[np.float32], normalisation: Normalisation, out: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.float32]:
    """Standardise a whole tomogram, see :class:`~tomopoint.pipeline.Normalisation`.

    Parameters
    ----------
    volume_zyx
        ``(D, H, W)`` float32, raw.
    out
        Float32 of the same shape that takes the result; `volume_zyx` itself where it is not needed any more. None: a
        new array.

    Returns
    -------
    ndarray
        `out`: mean about 0, standard deviation about 1, within ``+-clip_sd``.

    Raises
    ------
    DataError
        The volume is constant, so there is nothing to scale by.
    """
    step = max(1, volume_zyx.size // MAX_SAMPLES)
    while math.gcd(step, volume_zyx.shape[-1]) != 1:  # else only some columns would be looked at
        step += 1
    samples = volume_zyx.reshape(-1)[::step].copy()
    low, high = _quantiles(samples, normalisation.quantiles)
    clipped = np.clip(samples, low, high, dtype=np.float64)
    mean, sd = float(clipped.mean()), float(clipped.std())
    # Raw values are about 1e-5: their standard deviation is compared with the values, never with a fixed epsilon.
    if sd <= 1e-6 * max(abs(low), abs(high)):
        raise DataError("the tomogram is constant but for a few voxels, it cannot be normalised; check the store")
    # float64 arithmetic on scalars only: 1e-5 is well within float32, the volume stays float32 throughout.
    if out is None:
        out = np.empty(volume_zyx.shape, dtype=np.float32)
    for plane, scaled in zip(volume_zyx, out, strict=True):  # plane by plane, which a cache holds
        np.subtract(plane, np.float32(mean), out=scaled)
        np.divide(scaled, np.float32(sd), out=scaled)
        np.clip(scaled, -normalisation.clip_sd, normalisation.clip_sd, out=scaled)
    return out


def _quantiles(samples: npt.NDArray[np.float32], shares: tuple[float, float]) -> tuple[float, float]:
    """Return two quantiles as :func:`numpy.quantile` does in float64, by a partition in float32; reorders `samples`."""
    ranks = [share * (len(samples) - 1) for share in shares]
    neighbours = [(math.floor(rank), math.ceil(rank)) for rank in ranks]
    samples.partition(sorted({index for pair in neighbours for index in pair}))
    low, high = (
        float(samples[below]) + (rank - below) * (float(samples[above]) - float(samples[below]))
        for rank, (below, above) in zip(ranks, neighbours, strict=True)
    )
    return low, high
