"""What is shown of a run: its picks and its truth, by particle, with sizes, colours and thresholds."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from tomopoint.data.colours import colours_of
from tomopoint.data.tables import COORDINATES
from tomopoint.evaluation.matching import match_points
from tomopoint.evaluation.score import DISTANCE_MULTIPLIER
from tomopoint.evaluation.viewer import JUDGED_KINDS
from tomopoint.pipeline import Particle

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


MARKERS = ("o", "^", "s", "D", "h", "v", "p", "*")
"""Per particle, in order, as matplotlib calls them."""

KIND_COLOURS = {kind.key: kind.colour for kind in JUDGED_KINDS if kind.colour}
"""Of what is found, missed and wrong: those of the report."""

REACH_A = 100.0
"""Centres up to this far from a plane count as near it: the particle then still touches it, as a rule."""


def marker_of(index: int) -> str:
    """Return the marker of the particle at this place."""
    return MARKERS[index % len(MARKERS)]


@dataclass(frozen=True)
class ParticleView:
    """The picks of one particle in one run.

    Attributes
    ----------
    name
        Of the particle.
    radius_A
        Of the ball that is drawn, Angstrom.
    colour
        Red, green, blue, in [0, 1]; those of the files for other programs, see :mod:`tomopoint.data.colours`.
    marker
        See :func:`marker_of`.
    points_zyx_A
        ``(N, 3)`` z, y, x in Angstrom from the volume's corner.
    scores
        ``(N,)``; NaN where there is none: such picks are shown whatever the threshold.
    threshold
        At which the slider starts.
    truth_zyx_A
        ``(M, 3)`` true centres, as `points_zyx_A`; None where the truth is not known.
    """

    name: str
    radius_A: float
    colour: tuple[float, float, float]
    marker: str
    points_zyx_A: Floats
    scores: Floats
    threshold: float
    truth_zyx_A: Floats | None = None

    @property
    def has_scores(self) -> bool:
        """Whether a threshold would change anything."""
        return bool(np.isfinite(self.scores).any())


def particle_views(
    run: str,
    picks: pd.DataFrame,
    particles: Sequence[Particle],
    radii_A: Mapping[str, float],
    voxel_A: float,
    truth: Mapping[str, Floats] | None = None,
    has_thresholds: bool = True,
) -> tuple[ParticleView, ...]:
    """Return what is shown of a run.

    Parameters
    ----------
    picks
        ``experiment, particle_type, x, y, z`` and, where known, ``score``; of any runs.
    particles
        Those that are known: each gets a view, with or without picks.
    radii_A
        Further particles, or other radii, Angstrom.
    voxel_A
        Edge of a voxel, Angstrom: radius of particles that nobody knows, as in files for ChimeraX.
    truth
        Particle -> ``(M, 3)`` x, y, z in Angstrom; None: not known.
    has_thresholds
        Whether the thresholds of `particles` were chosen for these picks; else all picks are shown at first.
    """
    known = {particle.name: particle for particle in particles}
    names = sorted({*known, *radii_A, *map(str, picks["particle_type"]), *(truth or {})})
    colours = colours_of(names)
    own = picks.loc[picks["experiment"] == run]
    views = []
    for index, name in enumerate(names):
        rows = own.loc[own["particle_type"] == name]
        scores = rows["score"].to_numpy(dtype=np.float64) if "score" in rows else np.full(len(rows), np.nan)
        radius_A = radii_A.get(name, known[name].radius_A if name in known else voxel_A)
        threshold = known[name].threshold if name in known and has_thresholds else 0.0
        points = rows[list(COORDINATES)].to_numpy(dtype=np.float64)[:, ::-1]
        centres = None if truth is None else truth.get(name, np.zeros((0, 3)))[:, ::-1]
        views.append(ParticleView(name, radius_A, colours[name], marker_of(index), points, scores, threshold, centres))
    return tuple(views)


def shown_at(scores: Floats, threshold: float) -> Mask:
    """Return which picks are shown, ``(N,)``: those of at least the threshold, and those without a score."""
    return np.isnan(scores) | (scores >= threshold)


def judged(points_zyx_A: Floats, truth_zyx_A: Floats, radius_A: float) -> tuple[Mask, Mask]:
    """Return which picks reach a true centre, ``(N,)``, and which true centres are reached, ``(M,)``, as scored."""
    match = match_points(truth_zyx_A, points_zyx_A, radius_A * DISTANCE_MULTIPLIER)
    return match.hits, match.found


def judged_colours(is_good: Mask, good: str, bad: str) -> list[str]:
    """Return a colour of the report for each point: ``found``, ``wrong`` or ``missed``."""
    return [KIND_COLOURS[good if is_one else bad] for is_one in is_good]


def busiest_z_A(views: Collection[ParticleView], depth_A: float) -> float:
    """Return the height, Angstrom, near which most picks lie at their thresholds; the middle where there are none."""
    shown = [view.points_zyx_A[shown_at(view.scores, view.threshold), 0] for view in views]
    heights = np.sort(np.concatenate([*shown, np.zeros(0)]))
    if not len(heights):
        return depth_A / 2
    near = np.searchsorted(heights, heights + REACH_A, "right") - np.searchsorted(heights, heights - REACH_A, "left")
    fullest = heights[near == near.max()]
    return float(fullest[len(fullest) // 2])
