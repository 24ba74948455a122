"""What a reconstruction goes through after imaging, in real space: adaptive denoising, uneven background, hot spots."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import uniform_filter

from tomopoint.simulate.density import Volume
from tomopoint.simulate.optics import ImagingParameters

_ADAPTIVE_BOX_VOX = 5
_HOT_SPOT_SDS = (8.0, 25.0)
"""How far isolated extreme voxels lie from the mean, standard deviations of the volume."""


def apply_look(volume_zyx: Volume, parameters: ImagingParameters, rng: np.random.Generator) -> Volume:
    """Return a reconstruction with the run's look; without one it is returned as it is.

    Parameters
    ----------
    volume_zyx
        ``(D, H, W)`` float32; changed in place where that saves memory.
    """
    gradient, spots = rng.standard_normal(9), rng.spawn(1)[0]
    if parameters.adaptive > 0:
        smoothed = adaptively_smoothed(volume_zyx, parameters.adaptive)
        smoothed *= volume_zyx.std() / smoothed.std()
        volume_zyx = smoothed
    if parameters.gradient > 0:
        volume_zyx += parameters.gradient * parameters.noise_sd * _slow_background(volume_zyx.shape, gradient)
    if parameters.hot_spots > 0:
        _add_hot_spots(volume_zyx, parameters.hot_spots, spots)
    return volume_zyx


def adaptively_smoothed(volume_zyx: Volume, strength: float) -> Volume:
    """Return the volume after the locally adaptive Wiener filter (Lee 1980), blended with itself by `strength`.

    Where the local variance is that of the background the local mean replaces the voxel; where something stands out
    it stays. Denoising networks do much the same to tomograms.
    """
    mean = uniform_filter(volume_zyx, _ADAPTIVE_BOX_VOX)
    variance = uniform_filter(volume_zyx**2, _ADAPTIVE_BOX_VOX)
    variance -= mean**2
    background = np.float32(np.median(variance[::2, ::2, ::2]))
    kept = variance - background
    np.maximum(kept, 0.0, out=kept)
    kept /= np.maximum(variance, np.float32(1e-20), out=variance)
    kept *= np.float32(strength)
    kept += np.float32(1.0 - strength)
    smoothed = np.subtract(volume_zyx, mean, out=variance)
    smoothed *= kept
    smoothed += mean
    return np.asarray(smoothed)


def _slow_background(shape_zyx: tuple[int, ...], coefficients: np.ndarray) -> Volume:
    """Return a quadratic over the volume, of about unit variance: uneven ice and illumination."""
    z, y, x = (np.linspace(-1.7, 1.7, size, dtype=np.float32) for size in shape_zyx)
    share = (coefficients / np.linalg.norm(coefficients)).astype(np.float32)
    plane = share[0] * y[:, None] + share[1] * x + share[2] * y[:, None] * x
    plane += share[3] * (y[:, None] ** 2 - 1) + share[4] * (x**2 - 1)
    slope = share[6] * y[:, None] + share[7] * x + share[8]
    height = share[5] * (z**2 - 1)
    return np.asarray(height[:, None, None] + plane + z[:, None, None] * slope)


def _add_hot_spots(volume_zyx: Volume, per_million: float, rng: np.random.Generator) -> None:
    """Set isolated voxels to extreme values: X-rays and dead pixels that survived the reconstruction."""
    count = int(rng.poisson(per_million * volume_zyx.size / 1e6))
    places = tuple(rng.integers(0, size, count) for size in volume_zyx.shape)
    values = rng.uniform(*_HOT_SPOT_SDS, count) * rng.choice([-1.0, 1.0], count)
    volume_zyx[places] = (values * volume_zyx.std()).astype(np.float32)
