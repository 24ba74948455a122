"""Fusing picks as points: what weighted boxes fusion does with boxes, done with centres.

One run and one particle at a time. Every source s has a weight w_s, every pick of it a score p in [0, 1]; its strength
is w_s p.

1. From the strongest pick down: a pick that belongs to no cluster yet begins one, and each other source gives its
   nearest free pick within ``radius_scale`` of the particle's radius, or none. So no cluster holds two picks of one
   source, and none reaches further than that from the pick that began it.
2. The centre is the mean of its picks' positions, each weighted by its strength.
3. The score is the sum of the strengths over the sum of the weights of all sources that looked::

       score = sum of w_s p over the cluster / sum of w_s over the sources that looked

   A source that looked and found nothing counts as a score of 0: what one of two equal sources found has half its
   score. It is what an average of networks does with score maps. A source looked where it has a pick in the run, of
   whatever particle, and a pick of the particle, in whatever run.
4. Of two fused picks nearer than the particle's suppression radius, only the higher scored stays, as in decoding.

Ties are broken by position (picks that tie in that, too, are of two sources, and either may begin), and sums run from
the strongest pick down, so that the order in which sources are named changes nothing, not the last digit.

Source of the idea: R. Solovyev, W. Wang, T. Gabruseva, "Weighted boxes fusion", Image and Vision Computing 107 (2021).
Theirs compares a box with the fused one so far; here it is the pick that began the cluster, which does not move.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.spatial import cKDTree

from tomopoint.data.selection import SCORE_STEP
from tomopoint.data.tables import COORDINATES, PICK_COLUMNS, empty_pick_table
from tomopoint.inference.decode import suppress
from tomopoint.pipeline import Particle

VOTES = "votes"
"""Column of a fused table: how many sources a pick was found by."""

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]


def fuse_picks(
    tables: Sequence[pd.DataFrame],
    particles: Sequence[Particle],
    weights: Sequence[float] | None = None,
    radius_scale: float = 0.5,
) -> pd.DataFrame:
    """Fuse picks of several sources; see the module's text.

    Parameters
    ----------
    tables
        Of each source ``experiment, particle_type, x, y, z, score``: Angstrom; scores in [0, 1] that mean the same in
        all of them. Picks of other particles than `particles` are left out.
    particles
        Their radii and suppression radii.
    weights
        Of each source, positive; None: all the same.
    radius_scale
        Picks of a cluster lie within this share of the radius from the one that began it.

    Returns
    -------
    DataFrame
        ``experiment, particle_type, x, y, z, score, votes``; by run, particle (in the order of `particles`) and score,
        the highest first.
    """
    shares = [1.0] * len(tables) if weights is None else [float(weight) for weight in weights]
    looked = [set(table["experiment"]) for table in tables]
    stacked = pd.concat(
        [table.loc[:, list(PICK_COLUMNS)].assign(source=source) for source, table in enumerate(tables)],
        ignore_index=True,
    )
    by_key = stacked.groupby(["particle_type", "experiment"]).indices
    knows = {name: set(rows["source"]) for name, rows in stacked.groupby("particle_type")}
    points = stacked[list(COORDINATES)].to_numpy(dtype=np.float64)
    scores = np.clip(stacked["score"].to_numpy(dtype=np.float64), SCORE_STEP, 1.0)
    sources = stacked["source"].to_numpy(dtype=np.intp)
    parts = []
    for run in sorted(set().union(*looked)):
        for particle in particles:
            rows = by_key.get((particle.name, run))
            if rows is None:
                continue
            total = math.fsum(shares[source] for source in knows[particle.name] if run in looked[source])
            reach_A = radius_scale * particle.radius_A
            fused = _fuse_one(points[rows], scores[rows], sources[rows], np.array(shares), reach_A)
            fused["score"] = fused.pop("strength") / total
            kept = suppress(fused[list(COORDINATES)].to_numpy(), fused["score"].to_numpy(), particle.suppression_A)
            parts.append(fused.iloc[kept].assign(experiment=run, particle_type=particle.name))
    if not parts:
        return empty_pick_table().assign(votes=np.zeros(0, dtype=np.int64))
    return pd.concat(parts, ignore_index=True)[[*PICK_COLUMNS, VOTES]]


def _fuse_one(points_xyz_A: Floats, scores: Floats, sources: Indices, shares: Floats, reach_A: float) -> pd.DataFrame:
    """Return the clusters of one particle in one run: ``x, y, z``, the sum of their strengths, and their votes."""
    # All that follows works in this order, so that neither ties nor sums know the order of the sources.
    order = np.lexsort((*points_xyz_A.T[::-1], -shares[sources] * scores))
    points_xyz_A, sources = points_xyz_A[order], sources[order]
    strengths = shares[sources] * scores[order]
    cluster = _clusters(points_xyz_A, sources, reach_A)
    n = len(cluster)
    total = np.bincount(cluster, strengths, n)
    begins = np.flatnonzero(total)
    columns = {
        name: np.bincount(cluster, strengths * points_xyz_A[:, axis], n)[begins] / total[begins]
        for axis, name in enumerate(COORDINATES)
    }
    return pd.DataFrame({**columns, "strength": total[begins], VOTES: np.bincount(cluster, minlength=n)[begins]})


def _clusters(points_xyz_A: Floats, sources: Indices, reach_A: float) -> Indices:
    """Return, for each pick, the one that began its cluster; picks are sorted, the strongest first."""
    tree = cKDTree(points_xyz_A)
    cluster = np.arange(len(points_xyz_A), dtype=np.intp)
    taken = np.zeros(len(points_xyz_A), dtype=bool)
    # Most picks have nothing near, or little: only the others are looked at one by one.
    for index in np.flatnonzero(tree.query_ball_point(points_xyz_A, reach_A, return_length=True) > 1):
        if taken[index]:
            continue
        taken[index] = True
        near = np.array(tree.query_ball_point(points_xyz_A[index], reach_A), dtype=np.intp)
        near = near[~taken[near] & (sources[near] != sources[index])]
        if not len(near):
            continue
        away_A = np.linalg.norm(points_xyz_A[near] - points_xyz_A[index], axis=1)
        nearest = near[np.lexsort((near, away_A))]
        members = nearest[np.unique(sources[nearest], return_index=True)[1]]
        cluster[members], taken[members] = index, True
    return cluster
