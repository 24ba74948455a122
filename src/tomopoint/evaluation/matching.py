"""Which picks lie within reach of which true centres: the one geometric question behind score and thresholds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Match:
    """All pairs of a pick and a true centre no further apart than the radius (inclusive).

    A pick may reach several centres and a centre several picks: the official metric does not match one to one.

    Attributes
    ----------
    n_picks, n_truth
        How many there are of each.
    pick_index, truth_index
        ``(M,)``: the pairs.
    distance_A
        ``(M,)``: their distances, Angstrom.
    """

    n_picks: int
    n_truth: int
    pick_index: Indices
    truth_index: Indices
    distance_A: Floats

    @property
    def found(self) -> npt.NDArray[np.bool_]:
        """``(n_truth,)``: whether a centre is reached by any pick; its sum is the official TP."""
        found = np.zeros(self.n_truth, dtype=bool)
        found[self.truth_index] = True
        return found

    @property
    def hits(self) -> npt.NDArray[np.bool_]:
        """``(n_picks,)``: whether a pick reaches any centre."""
        hits = np.zeros(self.n_picks, dtype=bool)
        hits[self.pick_index] = True
        return hits

    def nearest(self) -> tuple[Indices, Indices, Floats]:
        """Return the nearest pick of every found centre: ``(truth_index, pick_index, distance_A)``, each ``(TP,)``."""
        order = np.lexsort((self.distance_A, self.truth_index))
        truth_index, first = np.unique(self.truth_index[order], return_index=True)
        return truth_index, self.pick_index[order][first], self.distance_A[order][first]


def match_points(truth_xyz_A: Floats, picks_xyz_A: Floats, radius_A: float) -> Match:
    """Pair picks with true centres.

    Parameters
    ----------
    truth_xyz_A, picks_xyz_A
        ``(N, 3)`` and ``(K, 3)``: finite coordinates, Angstrom; either may be empty.
    radius_A
        Largest distance of a pair, inclusive.
    """
    from scipy.spatial import KDTree

    truth = np.asarray(truth_xyz_A, dtype=np.float64).reshape(-1, 3)
    picks = np.asarray(picks_xyz_A, dtype=np.float64).reshape(-1, 3)
    # The very call of the official metric, so that pairs at exactly the radius fall on the same side.
    reached = KDTree(picks).query_ball_tree(KDTree(truth), r=radius_A) if len(truth) and len(picks) else []
    pick_index = np.repeat(np.arange(len(reached), dtype=np.intp), [len(r) for r in reached])
    truth_index = np.fromiter((index for r in reached for index in r), dtype=np.intp, count=len(pick_index))
    distance_A = np.linalg.norm(picks[pick_index] - truth[truth_index], axis=1)
    return Match(len(picks), len(truth), pick_index, truth_index, distance_A)
