"""Scores of several sources on one scale, so that they may be averaged.

``as-is``: taken as they are. They have to lie in [0, 1], and to mean the same.

``rank``: the k-th best pick of one source is worth what the k-th best of another is. With r the rank of a pick (1 the
best, ties at their mean) among the source's picks of the particle, R the source's runs, and N the largest number of
picks per run that any source has of that particle::

    score = 1 - (r - 0.5) / (R N)

``calibrated``: where there is truth. Of each source and particle a monotone map from score to precision, the share p of
picks of that score that are right, is fitted to the picks of the runs with truth by isotonic regression (pool adjacent
violators): 1 for the highest scored pick that reaches a true centre, 0 for all others. Between the blocks that this
finds the map is linear, from the mean score of one to that of the next ("centred" isotonic regression, A. P. Oron, N.
Flournoy, Statistics in Biopharmaceutical Research 9 (2017)), so that picks of different scores keep their order. Two
further picks, at the lowest and at the highest score, are right by the share of all, (right + 1) / (picks + 2): few
picks make no certainty. What is averaged is the precision in which a right pick counts 1 + beta^2 = 17 times, as F4
weighs it::

    score = 17 p / (1 + 16 p)

F4 has its best thresholds where one pick in ten or twenty is right. Among plain precisions that is the lowest tenth of
the scale, and what one source is sure of would always outweigh what two agree on: on made-up sources the mean of plain
precisions was worse than that of raw scores, and this one better than both (benchmarks/fusion.py).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from tomopoint.data.tables import COORDINATES
from tomopoint.errors import DataError
from tomopoint.evaluation.matching import match_points
from tomopoint.evaluation.score import BETA, DISTANCE_MULTIPLIER, TruthMapping
from tomopoint.pipeline import Particle

Scale = Literal["calibrated", "as-is", "rank"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PrecisionMap:
    """A rising map from the score of a source to the share of picks of that score that are right.

    Attributes
    ----------
    scores
        ``(K,)``, rising strictly: where the map is known; linear between, constant beyond.
    precisions
        ``(K,)``, rising, in (0, 1).
    n_picks, n_right
        What it was fitted to.
    """

    scores: tuple[float, ...]
    precisions: tuple[float, ...]
    n_picks: int
    n_right: int

    def __call__(self, scores: npt.ArrayLike) -> Floats:
        """Return the precision of picks of these scores."""
        return np.interp(np.asarray(scores, dtype=np.float64), self.scores, self.precisions)


def fit_precision(scores: Floats, right: npt.NDArray[np.bool_]) -> PrecisionMap:
    """Fit the map of one source and particle; see the module's text.

    Parameters
    ----------
    scores
        ``(N,)`` on any scale, higher is better.
    right
        ``(N,)``: whether each pick is right.
    """
    from scipy.optimize import isotonic_regression

    share = (int(right.sum()) + 1) / (len(right) + 2)
    if not len(scores):
        return PrecisionMap((0.0,), (share,), 0, 0)
    extended = np.concatenate([[scores.min()], scores, [scores.max()]])
    values, place = np.unique(extended, return_inverse=True)
    counts = np.bincount(place).astype(np.float64)
    means = np.bincount(place, np.concatenate([[share], right, [share]])) / counts
    fit = isotonic_regression(means, weights=counts)
    starts = fit.blocks[:-1]
    n_of_block = np.add.reduceat(counts, starts)
    centres = np.add.reduceat(values * counts, starts) / n_of_block
    # What rounding leaves must not make the map fall.
    precisions = np.maximum.accumulate(fit.x[starts])
    return PrecisionMap(tuple(centres.tolist()), tuple(precisions.tolist()), len(right), int(right.sum()))


def right_picks(truth_xyz_A: Floats, picks_xyz_A: Floats, scores: Floats, reach_A: float) -> npt.NDArray[np.bool_]:
    """Return which picks are right, ``(N,)``: of those that reach a true centre the highest scored, of each centre."""
    match = match_points(truth_xyz_A, picks_xyz_A, reach_A)
    order = np.lexsort((match.distance_A, -scores[match.pick_index], match.truth_index))
    first = np.unique(match.truth_index[order], return_index=True)[1]
    right = np.zeros(len(scores), dtype=bool)
    right[match.pick_index[order][first]] = True
    return right


def fit_maps(
    table: pd.DataFrame, truth: TruthMapping, particles: Sequence[Particle], runs: Collection[str]
) -> dict[str, PrecisionMap]:
    """Fit the maps of one source, of every particle.

    Parameters
    ----------
    table
        Its picks, ``experiment, particle_type, x, y, z, score``.
    truth
        Run -> particle -> ``(N, 3)`` x, y, z in Angstrom.
    particles
        Whose radii decide what is right.
    runs
        Of the truth, those that are looked at.

    Returns
    -------
    dict
        Particle -> map; without those of which these runs hold no true centre, so that nothing can be said.
    """
    maps = {}
    groups = dict(iter(table.groupby(["particle_type", "experiment"])))
    for particle in particles:
        if not any(len(truth[run].get(particle.name, ())) for run in runs):
            continue
        scores, right = [np.zeros(0)], [np.zeros(0, dtype=bool)]
        for run in runs:
            rows = groups.get((particle.name, run))
            if rows is None:
                continue
            scores.append(rows["score"].to_numpy(dtype=np.float64))
            points = rows[list(COORDINATES)].to_numpy(dtype=np.float64)
            centres = truth[run].get(particle.name, np.zeros((0, 3)))
            right.append(right_picks(centres, points, scores[-1], DISTANCE_MULTIPLIER * particle.radius_A))
        maps[particle.name] = fit_precision(np.concatenate(scores), np.concatenate(right))
    return maps


def calibrated(tables: Sequence[pd.DataFrame], maps: Sequence[Mapping[str, PrecisionMap]]) -> list[pd.DataFrame]:
    """Return the picks of all sources with calibrated scores; particles without a map have scores made from ranks."""
    changed = []
    for table, by_rank, own in zip(tables, ranked(tables), maps, strict=True):
        given, scores = (t["score"].to_numpy(dtype=np.float64, copy=True) for t in (table, by_rank))
        for name, rows in table.groupby("particle_type").indices.items():
            if name in own:
                precision = own[str(name)](given[rows])
                scores[rows] = (1 + BETA**2) * precision / (1 + BETA**2 * precision)
        changed.append(table.assign(score=scores))
    return changed


def ranked(tables: Sequence[pd.DataFrame]) -> list[pd.DataFrame]:
    """Return the picks of all sources with scores made from ranks; see the module's text."""
    per_run: list[pd.Series] = []
    most: dict[str, float] = {}
    for table in tables:
        ranks = table.groupby("particle_type")["score"].rank(ascending=False, method="average")
        n_runs = table["experiment"].nunique()
        per_run.append((ranks - 0.5) / n_runs)
        for name, count in table["particle_type"].value_counts().items():
            most[str(name)] = max(most.get(str(name), 0.0), count / n_runs)
    return [
        table.assign(score=1 - rank / table["particle_type"].map(most))
        for table, rank in zip(tables, per_run, strict=True)
    ]


def as_they_are(table: pd.DataFrame, source: object) -> pd.DataFrame:
    """Return a source's picks; DataError where a score lies outside [0, 1]."""
    low, high = float(table["score"].min()), float(table["score"].max())
    if low < 0 or high > 1:
        raise DataError(
            f"the scores of {source} go from {low:g} to {high:g}, not from 0 to 1: give --truth to calibrate them, or "
            "--scale rank"
        )
    return table
