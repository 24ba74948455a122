"""What laboratories do to a reconstruction before they look at it: one low-pass filter and three that keep edges."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Volume = npt.NDArray[np.float32]
PostFilter = Literal["gaussian", "median", "bilateral", "diffusion"]
POST_FILTERS: tuple[PostFilter, ...] = get_args(PostFilter)


def robust_sd(volume_zyx: Volume) -> float:
    """Standard deviation of the normal distribution with this median absolute deviation, from every third voxel."""
    values = volume_zyx.ravel()[::3]
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def gaussian(volume_zyx: Volume, strength: float) -> Volume:
    """Low-pass: a Gaussian of 0.6 to 1.0 voxels."""
    return np.asarray(ndimage.gaussian_filter(volume_zyx, 0.6 + 0.4 * strength))


def median(volume_zyx: Volume, strength: float) -> Volume:
    """Median over a voxel and its faces' neighbours, blended with the volume."""
    cross = ndimage.generate_binary_structure(3, 1)
    filtered = ndimage.median_filter(volume_zyx, footprint=cross)
    share = np.float32(0.7 + 0.3 * strength)
    return np.asarray(share * filtered + (1 - share) * volume_zyx)


def bilateral(volume_zyx: Volume, strength: float) -> Volume:
    """Mean over 3 x 3 x 3 neighbours, each weighted by nearness in space and in value (Tomasi and Manduchi 1998)."""
    tolerance = np.float32((1.5 + 1.5 * strength) * robust_sd(volume_zyx))
    framed = np.pad(volume_zyx, 1, mode="edge")
    total = np.zeros_like(volume_zyx)
    weights = np.zeros_like(volume_zyx)
    depth, height, width = volume_zyx.shape
    for z, y, x in product(range(3), repeat=3):
        neighbour = framed[z : z + depth, y : y + height, x : x + width]
        distance2 = (z - 1) ** 2 + (y - 1) ** 2 + (x - 1) ** 2
        weight = np.exp(-0.5 * (((neighbour - volume_zyx) / tolerance) ** 2 + np.float32(distance2)))
        total += weight * neighbour
        weights += weight
    return np.asarray(total / weights)


def diffusion(volume_zyx: Volume, strength: float) -> Volume:
    """Nonlinear diffusion (Perona and Malik 1990), as in IMOD: steps of some standard deviations stop it."""
    result = volume_zyx.copy()
    for _ in range(3 + round(4 * strength)):
        tolerance = np.float32(2.0 * robust_sd(result))
        flow = np.zeros_like(result)
        for axis in range(3):
            step = np.diff(result, axis=axis)
            step /= 1 + (step / tolerance) ** 2
            ahead = tuple(slice(None, -1) if other == axis else slice(None) for other in range(3))
            behind = tuple(slice(1, None) if other == axis else slice(None) for other in range(3))
            flow[ahead] += step
            flow[behind] -= step
        result += np.float32(0.14) * flow
    return result


FILTERS: dict[PostFilter, Callable[[Volume, float], Volume]] = {
    "gaussian": gaussian,
    "median": median,
    "bilateral": bilateral,
    "diffusion": diffusion,
}
"""By name: (volume, strength between 0 and 1) to a filtered volume of the same shape."""
