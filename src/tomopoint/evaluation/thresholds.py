"""Thresholds from out-of-fold picks: F-beta as a function of the threshold, and a choice that noise cannot move far.

The metric has no ranking and no one-to-one matching, so a whole curve follows from one matching of all picks above
the floor: a centre is found at a threshold exactly if the highest score among the picks that reach it passes.
Suppression goes from high to low scores, so that removing low picks before or after it comes to the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tomopoint.data.tables import COORDINATES
from tomopoint.evaluation.matching import match_points
from tomopoint.evaluation.score import BETA, DISTANCE_MULTIPLIER, TruthMapping, f_beta_of
from tomopoint.pipeline import Particle

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

GRID_STEP = 0.005
"""Step of the threshold grid: finer than any score difference that carries over to other tomograms."""

HIGHEST_THRESHOLD = 0.95

PLATEAU = 0.02
"""Thresholds whose F-beta lies within this share of the maximum, or within one particle's share where a class has few,
count as equally good. On synthetic scores (benchmarks/thresholds.py) the threshold so chosen loses half as much on new
data as the maximum itself does; one of 0.005 gains little, because one particle more or less moves F-beta more."""

N_LOSSES = 21
"""Losses of score that a curve is averaged over: a step of at most 5 % of a score."""

FLATNESS = 0.01
"""The reported flat interval loses at most this share of the chosen F-beta."""


@dataclass(frozen=True)
class Curve:
    """Counts of one particle kind, summed over runs, at every threshold.

    Attributes
    ----------
    thresholds
        ``(T,)``, rising. A pick passes if its score is at least the threshold.
    tp, n_picks
        ``(T,)``: centres found, and picks that pass.
    n_truth
        Number of true centres.
    """

    particle: str
    thresholds: Floats
    tp: Counts
    n_picks: Counts
    n_truth: int
    beta: float = BETA

    @property
    def f_beta(self) -> Floats:
        """``(T,)``: the official F-beta."""
        return f_beta_of(self.tp, self.n_picks - self.tp, self.n_truth - self.tp, self.beta)

    @property
    def precision(self) -> Floats:
        """``(T,)``: TP / picks; 0 without picks."""
        return np.divide(self.tp, self.n_picks, out=np.zeros(len(self.tp)), where=self.n_picks > 0)

    @property
    def recall(self) -> Floats:
        """``(T,)``: TP / centres; 0 without centres."""
        return self.tp / self.n_truth if self.n_truth else np.zeros(len(self.tp))

    def to_dict(self) -> dict[str, Any]:
        """Return the curve as plain JSON types, rounded to five decimals."""
        lists = {
            name: getattr(self, name).round(5).tolist() for name in ("thresholds", "f_beta", "precision", "recall")
        }
        return {**lists, "tp": self.tp.tolist(), "n_picks": self.n_picks.tolist(), "n_truth": self.n_truth}


@dataclass(frozen=True)
class Choice:
    """A threshold and how much depends on it.

    Attributes
    ----------
    threshold
        The chosen one.
    f_beta, best_f_beta
        F-beta there, and the highest of the curve.
    flat_low, flat_high
        Between these thresholds F-beta stays within :data:`FLATNESS` of `f_beta` or above.
    from_curve
        False where the picks say nothing (no centre, or none found) and the threshold was left as it was.
    """

    threshold: float
    f_beta: float
    best_f_beta: float
    flat_low: float
    flat_high: float
    from_curve: bool = True


def threshold_grid(floor: float) -> Floats:
    """Return thresholds from `floor`, the lowest score that was kept, to :data:`HIGHEST_THRESHOLD`."""
    n_steps = max(1, round((HIGHEST_THRESHOLD - floor) / GRID_STEP))
    return np.round(floor + GRID_STEP * np.arange(n_steps + 1), 6)


def sweep(
    truth: TruthMapping,
    picks: pd.DataFrame,
    particles: Sequence[Particle],
    grid: Floats,
    distance_multiplier: float = DISTANCE_MULTIPLIER,
) -> dict[str, Curve]:
    """Compute the curve of every particle over the runs of `truth`.

    Parameters
    ----------
    truth
        Run -> particle -> ``(N, 3)`` x, y, z in Angstrom.
    picks
        ``experiment, particle_type, x, y, z, score`` of at least these runs, after suppression, above the floor.
    particles
        Whose radii decide what is found.
    grid
        ``(T,)`` thresholds, rising.
    distance_multiplier
        Share of the radius within which a centre counts as found.
    """
    own = picks.loc[picks["experiment"].isin(list(truth))]
    curves = {}
    for particle in particles:
        reach_A = particle.radius_A * distance_multiplier
        table = own.loc[own["particle_type"] == particle.name]
        best: list[Floats] = [np.zeros(0)]
        for run, points in truth.items():
            rows = table.loc[table["experiment"] == run]
            best.append(_best_scores(points.get(particle.name, np.zeros((0, 3))), rows, reach_A))
        best_score = np.concatenate(best)
        found = best_score[best_score > -np.inf]
        scores = table["score"].to_numpy(dtype=np.float64)
        tp, n_picks = _at_least(found, grid), _at_least(scores, grid)
        curves[particle.name] = Curve(particle.name, grid, tp, n_picks, len(best_score))
    return curves


def choose(curve: Curve, fallback: float, score_loss: float = 0.0) -> Choice:
    """Choose the centre of the curve's widest plateau; `fallback` where the curve is zero throughout.

    The plateau is the widest interval of thresholds whose F-beta lies within :data:`PLATEAU` of the maximum, or within
    ``1 / n_truth`` if that is more. The maximum itself is a matter of a few particles; the centre of all that is
    equally good moves little when they do.

    Parameters
    ----------
    curve
        Of the picks at hand.
    fallback
        Threshold that is left as it is.
    score_loss
        Share of their scores, in [0, 1), that picks may have lost in the tomograms that the threshold is for. The
        curve is then the mean over losses from none to this.
    """
    f_beta = _mean_over_losses(curve, score_loss)
    best = f_beta.max(initial=0.0)
    if best == 0.0:
        return _left_as_is(fallback)
    tolerance = max(PLATEAU, 1 / curve.n_truth)
    low, high = max(_intervals(f_beta >= (1 - tolerance) * best), key=lambda interval: interval[1] - interval[0])
    return _choice_at(curve, (low + high) // 2)


def choose_thresholds(
    curves: Mapping[str, Curve], particles: Sequence[Particle], score_loss: float = 0.0
) -> dict[str, Choice]:
    """Choose the threshold of every particle, see :func:`choose`; one whose curve says nothing keeps its own."""
    return {particle.name: choose(curves[particle.name], particle.threshold, score_loss) for particle in particles}


def count_thresholds(
    curves: Mapping[str, Curve], particles: Sequence[Particle], picks_per_particle: float
) -> dict[str, Choice]:
    """Choose thresholds by counts alone: the lowest that keeps at most `picks_per_particle` picks per true particle.

    Steadier than the curve where a class has few particles, and usable where only their expected number is known.
    """
    chosen = {}
    for particle in particles:
        curve = curves[particle.name]
        within = np.flatnonzero(curve.n_picks <= picks_per_particle * curve.n_truth)
        known = curve.n_truth > 0 and len(within) > 0
        chosen[particle.name] = _choice_at(curve, int(within[0])) if known else _left_as_is(particle.threshold)
    return chosen


def _mean_over_losses(curve: Curve, score_loss: float) -> Floats:
    """Return F-beta at each threshold, averaged over tomograms in which scores are lower by 0 to `score_loss` of them.

    Where scores are ``1 - loss`` of what they were, a threshold t lets pass what ``t / (1 - loss)`` did; beyond the
    curve's end nothing passes.
    """
    if score_loss == 0:
        return curve.f_beta
    grid, shares = curve.thresholds, 1 - np.linspace(0, score_loss, N_LOSSES)
    lowered = [np.interp(grid / share, grid, curve.f_beta, right=0.0) for share in shares]
    return np.asarray(np.mean(lowered, axis=0))


def _choice_at(curve: Curve, index: int) -> Choice:
    f_beta, grid = curve.f_beta, curve.thresholds
    good_enough = f_beta >= (1 - FLATNESS) * f_beta[index]
    low, high = next(interval for interval in _intervals(good_enough) if interval[0] <= index <= interval[1])
    return Choice(float(grid[index]), float(f_beta[index]), float(f_beta.max()), float(grid[low]), float(grid[high]))


def _left_as_is(threshold: float) -> Choice:
    return Choice(threshold, 0.0, 0.0, threshold, threshold, from_curve=False)


def _best_scores(truth_xyz_A: Floats, rows: pd.DataFrame, reach_A: float) -> Floats:
    """Return the highest score among the picks that reach each centre, -inf where none does."""
    match = match_points(truth_xyz_A, rows.loc[:, list(COORDINATES)].to_numpy(dtype=np.float64), reach_A)
    best = np.full(match.n_truth, -np.inf)
    np.maximum.at(best, match.truth_index, rows["score"].to_numpy(dtype=np.float64)[match.pick_index])
    return best


def _at_least(scores: Floats, grid: Floats) -> Counts:
    """Return how many scores are at least each threshold."""
    return (len(scores) - np.searchsorted(np.sort(scores), grid, side="left")).astype(np.int64)


def _intervals(inside: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return first and last index of every stretch of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]]).astype(np.int8)))
    return [(int(first), int(end) - 1) for first, end in edges.reshape(-1, 2)]
