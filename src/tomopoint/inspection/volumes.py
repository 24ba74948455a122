"""What the voxels of a tomogram are like: all are looked at once, figures are taken of a sample."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tomopoint.data.contrast import Statistics, measure, protein_of
from tomopoint.data.read_record import Protein
from tomopoint.data.tomograms import StoredTomogram

SAMPLED_VOX = 2_000_000
"""Mean, standard deviation and quantiles are those of about so many voxels, evenly over the whole."""

MOST_MEASURED_VOX = 100_000_000
"""Contrast and correlation are measured on the middle planes of so many voxels: on all of a tomogram of the
competition, as prediction does, and of larger ones within the memory that one of these takes."""

QUANTILES = (0.001, 0.01, 0.99, 0.999)


@dataclass(frozen=True)
class VolumeLook:
    """Figures of one tomogram.

    Attributes
    ----------
    shape_zyx, voxel_A
        As stored.
    mean, sd
        Of the raw values.
    quantiles
        :data:`QUANTILES`, as distances from the median in standard deviations.
    statistics
        Skewness in the proteins' band, tails, correlation of neighbouring voxels: see
        :mod:`tomopoint.data.contrast`.
    notes
        What reading says of it.
    """

    shape_zyx: tuple[int, int, int]
    voxel_A: float
    mean: float
    sd: float
    quantiles: tuple[float, ...]
    statistics: Statistics
    notes: tuple[str, ...]

    @property
    def protein(self) -> Protein:
        """Whether protein is dark or light, or that the values do not tell."""
        return protein_of(self.statistics)


def look_at(stored: StoredTomogram) -> VolumeLook:
    """Read a tomogram piece by piece and take its figures.

    Raises
    ------
    DataError
        A piece cannot be read, voxels are not finite, or all are equal.
    """
    depth, height, width = stored.shape_zyx
    kept = min(depth, max(1, MOST_MEASURED_VOX // (height * width)))
    first = (depth - kept) // 2
    step = _sampling_step(stored.shape_zyx)
    middle = np.zeros((0, height, width), np.float32)
    parts: list[npt.NDArray[np.float64]] = []
    for begin, planes in stored.slabs():
        parts.append(planes.reshape(-1)[-begin * height * width % step :: step].astype(np.float64))
        low, high = max(first, begin), min(first + kept, begin + len(planes))
        if high - low == kept:  # all of it in one piece: no copy of what may be most of the memory
            middle = planes[low - begin : high - begin]
        elif low < high:
            if not len(middle):
                middle = np.empty((kept, height, width), np.float32)
            middle[low - first : high - first] = planes[low - begin : high - begin]
    sample = np.concatenate(parts)
    mean, sd = float(sample.mean()), float(sample.std())
    limits = (np.quantile(sample, QUANTILES) - np.median(sample)) / (sd or 1.0)
    statistics = measure(middle, stored.voxel_A)
    return VolumeLook(stored.shape_zyx, stored.voxel_A, mean, sd, tuple(limits.tolist()), statistics, stored.notes)


def _sampling_step(shape_zyx: tuple[int, int, int]) -> int:
    """Return the distance of sampled voxels in memory; it shares no factor with a row, so no column is preferred."""
    step = max(1, math.prod(shape_zyx) // SAMPLED_VOX)
    while math.gcd(step, shape_zyx[2]) > 1:
        step += 1
    return step
