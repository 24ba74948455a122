"""Bringing one kind's scores to the scale of another: the map between scores of equal rank and equal precision.

A score is worth what share of the picks around it are right. For each kind that share is estimated as a function of
the score by isotonic regression (it never falls; no shape is assumed beyond that), on local maxima matched to true
centres. Where it does not rise the rank decides, among hits first: where all picks of both kinds are right, the
highest of one corresponds to the highest of the other. A score of one kind then becomes the score of the other that has
the same share and rank.

Of that curve a few knots are kept: from quantiles of the scores of hits, as many as there are hits to support them,
those where a straight line would miss the curve most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tomopoint.pipeline import MAX_KNOTS, Knots

Floats = npt.NDArray[np.float64]

HITS_PER_KNOT = 10
"""A knot for so many hits of the kind that has fewer. Of ten hits and as many wrong picks the share of right ones is
known to about 0.1."""

LOWEST_QUANTILE = 0.02
"""Of the hits' scores, where the first knot lies: below it a hit is as likely a wrong pick that happens to lie near."""

PICKS_PER_HIT = 4
"""One more place for a knot lies among the wrong picks, so deep that a threshold would lie above it."""

RANK_SHARE = 0.1
"""What rank counts beside precision: enough that the mean of both rises strictly, too little to outweigh a difference
of precision that ten hits show."""

SMALLEST_STEP = 1e-6
"""Knots nearer to each other than this are one: float32 could not tell them apart."""


@dataclass(frozen=True)
class JudgedPicks:
    """Picks of one kind and particle with what became of them.

    Attributes
    ----------
    scores
        ``(N,)``, in (0, 1).
    hits
        ``(N,)``: whether each lies within reach of a true centre.
    """

    scores: Floats
    hits: npt.NDArray[np.bool_]

    @property
    def n_hits(self) -> int:
        """How many are right."""
        return int(self.hits.sum())

    @classmethod
    def pooled(cls, parts: Sequence[JudgedPicks]) -> JudgedPicks:
        """Return all of them as one."""
        return cls(np.concatenate([p.scores for p in parts]), np.concatenate([p.hits for p in parts]))


def fit_knots(own: JudgedPicks, reference: JudgedPicks) -> Knots | None:
    """Return the map of `own` scores to the scale of `reference`; None where there are too few hits for one knot."""
    # Where knots may lie, and what the curve says there.
    n_steps = min(own.n_hits, reference.n_hits) // HITS_PER_KNOT
    if n_steps < 1:
        return None
    scores, worth = _worth(own)
    reference_scores, reference_worth = _worth(reference)
    quantiles = np.array([0.5]) if n_steps == 1 else np.linspace(LOWEST_QUANTILE, 1.0, n_steps)
    below = [scores[-rank] for rank in (PICKS_PER_HIT * own.n_hits,) if rank <= len(scores) and n_steps > 1]
    places = np.concatenate([below, np.quantile(own.scores[own.hits], quantiles)])
    values = np.interp(np.interp(places, scores, worth), reference_worth, reference_scores)

    # One after the other the place is taken where the line between those taken misses most.
    taken: Knots = ((0.0, 1.0), (0.0, 1.0))
    for _ in range(MAX_KNOTS - 2):
        misses = np.abs(np.interp(places, *taken) - values)
        misses[[not _fits(place, value, taken) for place, value in zip(places, values, strict=True)]] = 0
        if misses.max() < SMALLEST_STEP:
            break
        at = int(misses.argmax())
        rows = sorted([*zip(*taken, strict=True), (float(places[at]), float(values[at]))])
        taken = tuple(row[0] for row in rows), tuple(row[1] for row in rows)
    return taken


def _fits(place: float, value: float, taken: Knots) -> bool:
    """Whether a knot keeps a distance from those taken, along both axes, and their order."""
    after = max(1, int(np.searchsorted(taken[0], place)))
    return all(
        knots[after - 1] + SMALLEST_STEP < at < knots[after] - SMALLEST_STEP
        for knots, at in zip(taken, (place, value), strict=True)
    )


def fit_score_scale(own: Mapping[str, JudgedPicks], reference: Mapping[str, JudgedPicks]) -> dict[str, Knots]:
    """Return the maps of all particles, by name.

    A particle of too few hits takes the map that all particles together have; where these are too few, too, it is left
    out.
    """
    of_all = fit_knots(JudgedPicks.pooled(list(own.values())), JudgedPicks.pooled(list(reference.values())))
    found = {name: fit_knots(own[name], reference[name]) or of_all for name in own}
    return {name: knots for name, knots in found.items() if knots is not None}


def _worth(picks: JudgedPicks) -> tuple[Floats, Floats]:
    """Return the scores, rising, and what each is worth: precision there, and a little of its rank; rises strictly.

    Isotonic regression makes steps. Their edges are an accident of the sample, so precision is taken to rise evenly
    from the middle of one step to that of the next, by rank: what a distortion of the scores does not change.
    """
    from scipy.optimize import isotonic_regression

    scores, place, n = np.unique(picks.scores, return_inverse=True, return_counts=True)
    hits = np.bincount(place, weights=picks.hits, minlength=len(scores))
    steps = isotonic_regression(hits / n, weights=n.astype(np.float64))
    ranks = np.cumsum(n)
    ends = ranks[steps.blocks[1:] - 1]
    middles = (np.concatenate([[0], ends[:-1]]) + ends) / 2
    precision = np.interp(ranks, middles, steps.x[steps.blocks[:-1]])
    rank = (np.cumsum(hits) + ranks / ranks[-1]) / (hits.sum() + 1)
    return scores, (1 - RANK_SHARE) * precision + RANK_SHARE * rank
