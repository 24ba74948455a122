"""From raw voxel values to network input."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from tomopoint.errors import DataError
from tomopoint.pipeline import Normalisation

MAX_SAMPLES = 4_000_000
"""Quantiles are read off at most about this many evenly spaced voxels: exact to 1e-4 of rank, and no full sort."""


def normalise(volume_zyx: npt.NDArray[np.float32], normalisation: Normalisation) -> npt.NDArray[np.float32]:
    """Standardise a whole tomogram, see :class:`~tomopoint.pipeline.Normalisation`.

    Parameters
    ----------
    volume_zyx
        ``(D, H, W)`` float32, raw.

    Returns
    -------
    ndarray
        A new float32 array: mean about 0, standard deviation about 1, within ``+-clip_sd``.

    Raises
    ------
    DataError
        The volume is constant, so there is nothing to scale by.
    """
    step = max(1, volume_zyx.size // MAX_SAMPLES)
    while math.gcd(step, volume_zyx.shape[-1]) != 1:  # else only some columns would be looked at
        step += 1
    samples = volume_zyx.reshape(-1)[::step].astype(np.float64)
    low, high = np.quantile(samples, normalisation.quantiles)
    clipped = np.clip(samples, low, high)
    mean, sd = float(clipped.mean()), float(clipped.std())
    # Raw values are about 1e-5: their standard deviation is compared with the values, never with a fixed epsilon.
    if sd <= 1e-6 * max(abs(float(low)), abs(float(high))):
        raise DataError("the tomogram is constant but for a few voxels, it cannot be normalised; check the store")
    # float64 arithmetic on scalars only: 1e-5 is well within float32, the volume stays float32 throughout.
    scaled = (volume_zyx - np.float32(mean)) / np.float32(sd)
    return np.clip(scaled, -normalisation.clip_sd, normalisation.clip_sd, out=scaled)
