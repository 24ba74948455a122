"""What can be wrong with labels by themselves: doubled, on the place of another, outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tomopoint.pipeline import Particle

Points = npt.NDArray[np.float64]

LISTED_PLACES = 3
"""Places of a finding that are told."""


@dataclass(frozen=True)
class Pair:
    """Two labels on one place.

    Attributes
    ----------
    first, second
        Names of the particles; equal where one is labelled twice.
    place_xyz_A
        ``(3,)``: the middle of both, Angstrom.
    distance_A
        Of the two.
    """

    first: str
    second: str
    place_xyz_A: Points
    distance_A: float


def pairs_on_one_place(labels: Mapping[str, Points], particles: Sequence[Particle], within: float) -> list[Pair]:
    """Return the pairs of labels nearer than `within` times the mean of both radii.

    Parameters
    ----------
    labels
        Particle -> ``(N, 3)`` x, y, z in Angstrom, of one run.
    particles
        Their radii.
    within
        Share of the radius.
    """
    from scipy.spatial import KDTree

    names = [particle.name for particle in particles for _ in range(len(labels[particle.name]))]
    radii_A = np.array([particle.radius_A for particle in particles for _ in range(len(labels[particle.name]))])
    points = np.concatenate([labels[particle.name] for particle in particles])
    if len(points) < 2:
        return []
    near = KDTree(points).query_pairs(within * float(radii_A.max()), output_type="ndarray")
    distances_A = np.linalg.norm(points[near[:, 0]] - points[near[:, 1]], axis=1)
    close = distances_A < within * radii_A[near].mean(axis=1)
    return [
        Pair(names[i], names[j], points[[i, j]].mean(axis=0), float(distance))
        for (i, j), distance in sorted(zip(near[close].tolist(), distances_A[close], strict=True))
    ]


def places_text(places_xyz_A: Sequence[Points]) -> str:
    """Return some places for people, x, y, z in Angstrom."""
    told = "; ".join(", ".join(f"{value:.0f}" for value in place) for place in places_xyz_A[:LISTED_PLACES])
    more = f" and {len(places_xyz_A) - LISTED_PLACES} more" if len(places_xyz_A) > LISTED_PLACES else ""
    return f"at x, y, z {told} A{more}"
