"""Every pick and every true centre by what became of it: what the report counts and draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from tomopoint.data.tables import COORDINATES
from tomopoint.evaluation.matching import match_points
from tomopoint.evaluation.score import DISTANCE_MULTIPLIER
from tomopoint.pipeline import Particle

Floats = npt.NDArray[np.float64]

Marks = Mapping[str, Mapping[str, Floats]]
"""Kind -> particle -> ``(N, 3)`` x, y, z in Angstrom."""

JUDGED = ("found", "missed", "wrong", "duplicate")
"""Kinds of one submission where there is truth, see :func:`judge_picks`."""

AGREED = ("both", "first", "second")
"""Kinds of two submissions: what both have, and what only the one or the other has."""

COMPARED = (*AGREED, "wrong_first", "wrong_second")
"""Kinds of two submissions where there is truth: found by both, by one of them; wrong in one of them."""


def points_of(picks: pd.DataFrame, particle: Particle) -> Floats:
    """Return the places of the picks of a particle, ``(N, 3)`` x, y, z in Angstrom."""
    return picks.loc[picks["particle_type"] == particle.name, list(COORDINATES)].to_numpy(dtype=np.float64)


def judge_picks(truth: Mapping[str, Floats], picks: pd.DataFrame, particles: Sequence[Particle]) -> Marks:
    """Sort the picks of one run by what they reach, and name the centres that were missed.

    Parameters
    ----------
    truth
        Particle -> ``(N, 3)`` x, y, z in Angstrom.
    picks
        ``particle_type, x, y, z`` of this run.
    particles
        Whose radii decide.

    Returns
    -------
    Marks
        ``found``: picks that are the nearest to some true centre within reach. ``duplicate``: picks that reach a
        centre to which another pick is nearer; they cost precision as wrong ones do. ``wrong``: picks that reach no
        centre. ``missed``: centres that no pick reaches.
    """
    judged: dict[str, dict[str, Floats]] = {kind: {} for kind in JUDGED}
    for particle in particles:
        centres, own = truth.get(particle.name, np.zeros((0, 3))), points_of(picks, particle)
        match = match_points(centres, own, particle.radius_A * DISTANCE_MULTIPLIER)
        nearest = np.zeros(len(own), dtype=bool)
        nearest[match.nearest()[1]] = True
        judged["found"][particle.name] = own[nearest]
        judged["duplicate"][particle.name] = own[match.hits & ~nearest]
        judged["wrong"][particle.name] = own[~match.hits]
        judged["missed"][particle.name] = centres[~match.found]
    return judged


def compare_picks(
    truth: Mapping[str, Floats] | None, first: pd.DataFrame, second: pd.DataFrame, particles: Sequence[Particle]
) -> Marks:
    """Sort the picks of two submissions of one run by which of them has what.

    Parameters
    ----------
    truth
        As for :func:`judge_picks`; None: there is none.
    first, second
        As its `picks`.
    particles
        Whose radii decide.

    Returns
    -------
    Marks
        With truth :data:`COMPARED`: centres that both reach, or one alone, and picks of one that reach no centre and
        have no such pick of the other within reach. Without :data:`AGREED`: picks of the first with a pick of the
        second within reach, and picks of each without one of the other.
    """
    compared: dict[str, dict[str, Floats]] = {kind: {} for kind in (AGREED if truth is None else COMPARED)}
    for particle in particles:
        reach_A = particle.radius_A * DISTANCE_MULTIPLIER
        of_first, of_second = points_of(first, particle), points_of(second, particle)
        if truth is None:
            shared = match_points(of_second, of_first, reach_A)
            compared["both"][particle.name] = of_first[shared.hits]
            compared["first"][particle.name] = of_first[~shared.hits]
            compared["second"][particle.name] = of_second[~shared.found]
            continue
        centres = truth.get(particle.name, np.zeros((0, 3)))
        by_first, by_second = (match_points(centres, own, reach_A) for own in (of_first, of_second))
        compared["both"][particle.name] = centres[by_first.found & by_second.found]
        compared["first"][particle.name] = centres[by_first.found & ~by_second.found]
        compared["second"][particle.name] = centres[~by_first.found & by_second.found]
        wrong_first, wrong_second = of_first[~by_first.hits], of_second[~by_second.hits]
        shared = match_points(wrong_second, wrong_first, reach_A)
        compared["wrong_first"][particle.name] = wrong_first[~shared.hits]
        compared["wrong_second"][particle.name] = wrong_second[~shared.found]
    return compared


def count_marks(marks: Marks) -> dict[str, int]:
    """Return how many marks there are of each kind, over all particles."""
    return {kind: sum(len(points) for points in part.values()) for kind, part in marks.items()}
