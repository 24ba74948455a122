"""What the values of a tomogram tell: whether protein is dark or light in it, and what is unlike those of training.

Protein is a small part of a tomogram and stands far out of the rest, in one direction. So the skewness of the values,
in a band of the size of proteins, has the sign of their contrast, also where noise hides it from the values as they
are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from tomopoint.data.notes import UNLIKE_TRAINING
from tomopoint.data.read_record import Protein

Volume = npt.NDArray[np.float32]

BAND_A = (20.0, 80.0)
"""Standard deviations of the two Gaussians whose difference passes proteins of some 60 to 250 A."""

WORKING_A = 15.1
"""Voxels are averaged to no more than twice this before the band is taken: it loses nothing, and 8 times the work. The
competition's, 10.0124 A, are averaged by two as those of 10 A are."""

CLIPPED = 0.0005
"""Share of the values at either end that counts as the last before it: a bead or a hot spot is no majority."""

PATCHES = 4
"""Skewness is also taken of so many by so many patches across x and y: one thing in one place convinces one of them."""

CLEAR_SKEWNESS, CLEAR_SHARE = 0.15, 0.75
"""The least skewness of the whole, and the least share of patches of the same sign, that tell the contrast."""

MAX_VOXELS = 4_000_000
"""Tails and correlation are measured on about so many voxels in the middle."""


@dataclass(frozen=True)
class Statistics:
    """What the values of a tomogram are like.

    Attributes
    ----------
    skewness
        In the proteins' band.
    negative_share
        Of the patches, those whose skewness in the band is negative.
    tails
        Excess kurtosis of the values.
    correlation_zyx
        Of neighbouring voxels along z, y, x.
    """

    skewness: float
    negative_share: float
    tails: float
    correlation_zyx: tuple[float, float, float]

    def inverted(self) -> Statistics:
        """Return those of the tomogram with all signs changed."""
        return replace(self, skewness=-self.skewness, negative_share=1 - self.negative_share)


def measure(volume_zyx: Volume, voxel_A: float) -> Statistics:
    """Measure a tomogram ``(D, H, W)``, raw, of voxels of `voxel_A` Angstrom."""
    depth, height, width = volume_zyx.shape
    # In the proteins' band, on averaged voxels.
    step = max(1, round(WORKING_A / voxel_A))
    step = min(step, depth, height, width)
    small = _binned(volume_zyx, step)
    scale = float(small.std()) or 1.0  # raw values of 1e-5 have cubes that float32 does not hold
    small = (small - small.mean()) / scale
    near, far = (gaussian_filter(small, size / (voxel_A * step), mode="reflect") for size in BAND_A)
    band = near - far
    band = np.clip(band, *np.quantile(band, (CLIPPED, 1 - CLIPPED)))
    patches = [part for rows in np.array_split(band, PATCHES, 1) for part in np.array_split(rows, PATCHES, 2)]
    skewnesses = [_moment(part, 3) for part in patches if part.size]
    # As they are.
    middle = volume_zyx[_middle(depth), _middle(height), _middle(width)]
    middle = (middle - middle.mean()) / (float(middle.std()) or 1.0)
    correlations = [_correlation(middle, axis) for axis in range(3)]
    return Statistics(
        _moment(band, 3),
        float(np.mean([value < 0 for value in skewnesses])),
        _moment(middle, 4) - 3.0,
        (correlations[0], correlations[1], correlations[2]),
    )


def protein_of(statistics: Statistics) -> Protein:
    """Return whether protein is dark or light, or that the values do not tell."""
    if statistics.skewness <= -CLEAR_SKEWNESS and statistics.negative_share >= CLEAR_SHARE:
        return "dark"
    if statistics.skewness >= CLEAR_SKEWNESS and statistics.negative_share <= 1 - CLEAR_SHARE:
        return "light"
    return "unclear"


@dataclass(frozen=True)
class _Range:
    """Between which values training tomograms lie."""

    low: float
    high: float

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class _Known:
    """What tomograms of one reconstruction are like, see :func:`unlike`."""

    skewness: _Range
    tails: _Range
    correlation_z: _Range
    correlation_y: _Range
    correlation_x: _Range


KNOWN: dict[str, _Known] = {
    "denoised": _Known(
        _Range(-7.0, -0.4), _Range(0.3, 150.0), _Range(0.5, 0.995), _Range(0.4, 0.98), _Range(0.2, 0.97)
    ),
    "wbp": _Known(_Range(-4.0, -0.15), _Range(-0.3, 60.0), _Range(0.0, 0.93), _Range(-0.15, 0.85), _Range(-0.6, 0.7)),
    "ctfdeconvolved": _Known(
        _Range(-5.0, -0.4), _Range(0.5, 100.0), _Range(0.45, 0.99), _Range(0.35, 0.97), _Range(0.1, 0.95)
    ),
    "isonetcorrected": _Known(
        _Range(-10.0, -0.8), _Range(5.0, 400.0), _Range(0.4, 0.99), _Range(0.4, 0.97), _Range(0.3, 0.97)
    ),
}
"""By reconstruction. 42 simulated denoised tomograms of both worlds have skewness -5.1 to -0.8, tails 0.8 to 83 and
correlations of 0.66 to 0.98 along z, 0.53 to 0.94 along y, 0.35 to 0.91 along x, and slices of real ones correlate
by 0.87, 0.60 and 0.46: the ranges hold these with room. The others are from ten simulated tomograms each; of plain
back-projection -2.3 to -0.4, 0 to 24, 0.14 to 0.83, 0.01 to 0.64 and -0.41 to 0.45."""


def unlike(statistics: Statistics, tomo_type: str) -> list[str]:
    """Say what of a tomogram, protein dark, is far from those that networks of a reconstruction type were trained on.

    Nothing is said of types that are not in :data:`KNOWN`.
    """
    known = KNOWN.get(tomo_type)
    if known is None:
        return []
    z, y, x = statistics.correlation_zyx
    compared = (
        ("skewness in the proteins' band", statistics.skewness, known.skewness),
        ("tails (excess kurtosis)", statistics.tails, known.tails),
        ("correlation of neighbours along z", z, known.correlation_z),
        ("correlation of neighbours along y", y, known.correlation_y),
        ("correlation of neighbours along x", x, known.correlation_x),
    )
    return [
        f"{UNLIKE_TRAINING} {tomo_type} tomograms of training: {name} outside {limits.low:g} to {limits.high:g}"
        for name, value, limits in compared
        if not limits.holds(value)
    ]


def _binned(volume: Volume, step: int) -> Volume:
    """Average cubes of `step` voxels; what is left over at the far faces is left out."""
    depth, height, width = (size // step for size in volume.shape)
    sums = np.zeros((depth, height, width), np.float32)
    for z in range(step):
        for y in range(step):
            for x in range(step):
                sums += volume[z : depth * step : step, y : height * step : step, x : width * step : step]
    sums /= np.float32(step**3)
    return sums


def _middle(size: int) -> slice:
    wanted = min(size, round(MAX_VOXELS ** (1 / 3)))
    return slice((size - wanted) // 2, (size - wanted) // 2 + wanted)


def _moment(values: Volume, order: int) -> float:
    """Return a standardised moment; 0 of what is constant."""
    flat = values.reshape(-1).astype(np.float64)
    flat -= flat.mean()
    sd = float(flat.std())
    if sd == 0:
        return 0.0
    flat /= sd
    product = flat.copy()
    for _ in range(order - 1):  # numpy's power takes ten times as long
        product *= flat
    return float(product.mean())


def _correlation(values: Volume, axis: int) -> float:
    size = values.shape[axis]
    if size < 2:
        return 0.0
    first = np.take(values, range(size - 1), axis).reshape(-1)
    second = np.take(values, range(1, size), axis).reshape(-1)
    return float(np.mean(first.astype(np.float64) * second))
