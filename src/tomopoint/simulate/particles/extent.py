"""What follows from a molecule's extent: the radius a picker is judged by, and what other molecules may not enter.

The rules are held against the competition's six, whose official radii and placement are known.
"""

from __future__ import annotations

import numpy as np

from tomopoint.simulate.density import Blobs, sphere_points

ENCLOSED_SHARE = 0.98
"""Share of the mass within a particle's radius.

Over the official radii of the five measured shapes that gives 0.95 to 1.13: thyroglobulin 124 / 130 A, ribosome
146 / 150, beta-galactosidase 87 / 90, apo-ferritin 63 / 60, virus-like particle 153 / 135.
"""

CORE_SHARE = 0.8
"""Radius of the core over the shortest semi-axis: between 0.72 (apo-ferritin) and 0.9 (ribosome) among the six."""

GAP_A = 35.0
"""Half the breadth of the gaps in a shell that small proteins, 50 to 70 A across, no longer pass through."""

HOLLOW_A = 32.0
"""Small proteins keep this distance from blob centres anyway: only larger cavities have to be kept empty."""

_DIRECTIONS = 400


def radius_A(blobs: Blobs) -> float:
    """Return the radius about the centre that holds nearly all of a centred molecule's mass, whole Angstrom.

    It is at least that of the ball which one of its blobs stands for.
    """
    distances = np.linalg.norm(blobs.positions_zyx_A, axis=1)
    outwards = np.argsort(distances)
    enclosed = np.cumsum(blobs.weights[outwards]) / blobs.integral
    ball = np.sqrt(5.0 * float(blobs.weights @ blobs.sigmas_A**2) / blobs.integral)
    return float(round(max(np.interp(ENCLOSED_SHARE, enclosed, distances[outwards]), ball)))


def core_A(blobs: Blobs) -> float:
    """Return the radius of the sphere in a centred molecule that no other one may enter, Angstrom."""
    semi_axes = np.sqrt(5.0 * np.linalg.eigvalsh(blobs.covariance_A2()))
    return float(CORE_SHARE * semi_axes[0])


def interior_A(blobs: Blobs) -> float:
    """Return the radius of the wall of a centred, closed and hollow shell, Angstrom; 0 for anything else."""
    distances = np.linalg.norm(blobs.positions_zyx_A, axis=1)
    if distances.min() < HOLLOW_A:
        return 0.0
    wall = float(np.median(distances))
    # Closed, if from every place on the wall there is a blob in sight.
    places = sphere_points(_DIRECTIONS)
    nearest = (places @ (blobs.positions_zyx_A / distances[:, None]).T).max(axis=1)
    return wall if float(np.arccos(np.clip(nearest.min(), -1.0, 1.0))) * wall < GAP_A else 0.0
