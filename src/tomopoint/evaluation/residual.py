"""The systematic error of picks: the mean of (predicted - true) over matched out-of-fold picks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from tomopoint.data.tables import COORDINATES
from tomopoint.evaluation.matching import match_points
from tomopoint.evaluation.score import DISTANCE_MULTIPLIER, TruthMapping
from tomopoint.pipeline import Particle

SIGNIFICANCE = 3.0
"""A mean within this many standard errors of zero may be chance."""

SMALLEST_A = 0.5
"""Corrections below a twentieth of a voxel change no match and are not made."""


@dataclass(frozen=True)
class Residual:
    """Mean of (predicted - true) over `n` matched picks, Angstrom, with its standard error, along x, y, z."""

    mean_xyz_A: tuple[float, float, float]
    error_xyz_A: tuple[float, float, float]
    n: int

    @property
    def correction_xyz_A(self) -> tuple[float, float, float]:
        """What to subtract from every pick: the mean along axes where it is significant and not negligible, else 0."""
        x, y, z = (
            mean if abs(mean) > max(SIGNIFICANCE * error, SMALLEST_A) else 0.0
            for mean, error in zip(self.mean_xyz_A, self.error_xyz_A, strict=True)
        )
        return x, y, z


def estimate_residual(truth: TruthMapping, picks: pd.DataFrame, particles: Sequence[Particle]) -> Residual:
    """Estimate the mean error over the nearest pick of every found centre, all particles and runs alike.

    Parameters
    ----------
    truth
        Run -> particle -> ``(N, 3)`` x, y, z in Angstrom.
    picks
        Out-of-fold picks that pass their thresholds (``experiment, particle_type, x, y, z``).
    particles
        Whose radii decide what is found.
    """
    errors: list[npt.NDArray[np.float64]] = [np.zeros((0, 3))]
    for run, own in truth.items():
        rows = picks.loc[picks["experiment"] == run]
        for particle in particles:
            points = own.get(particle.name, np.zeros((0, 3)))
            found = rows.loc[rows["particle_type"] == particle.name, list(COORDINATES)].to_numpy(dtype=np.float64)
            truth_index, pick_index, _ = match_points(points, found, particle.radius_A * DISTANCE_MULTIPLIER).nearest()
            errors.append(found[pick_index] - points[truth_index])
    stacked = np.concatenate(errors)
    n = len(stacked)
    if n < 2:
        return Residual((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), n)
    mean, error = stacked.mean(axis=0), stacked.std(axis=0, ddof=1) / np.sqrt(n)
    return Residual(
        (float(mean[0]), float(mean[1]), float(mean[2])), (float(error[0]), float(error[1]), float(error[2])), n
    )


def shifted(picks: pd.DataFrame, correction_xyz_A: Sequence[float]) -> pd.DataFrame:
    """Return the picks with the correction subtracted, as decoding does with the Pipeline's residual."""
    moved = picks.copy()
    moved.loc[:, list(COORDINATES)] = picks.loc[:, list(COORDINATES)].to_numpy() - np.asarray(correction_xyz_A)
    return moved
