"""From many points with weights (atoms, voxels) to a few hundred Gaussians with the same density at some resolution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from tomopoint.simulate.density import NARROWEST_VOX, Array, Blobs
from tomopoint.simulate.options import VOXEL_A

VOLUME_PER_KDA_A3 = 1210.0
"""Of protein: 1.21 A^3 per Dalton (Harpaz et al. 1994)."""

MAX_BEADS = 600
"""The largest of the measured shapes, a virus-like particle, has 531; rendering takes as long as there are beads."""

MIN_BEADS = 8

BLUR_PER_RESOLUTION = 0.225
"""Standard deviation of the Gaussian that stands for a resolution: 1 / (pi sqrt 2), its transform is 1/e there."""

MIN_SIGMA_A = NARROWEST_VOX * VOXEL_A

_BEAD_PER_RESOLUTION = 0.8
"""Edge of the cube that one bead stands for, over the resolution: the measured shapes have 15-20 A at about 20 A."""

_CELL_PER_BEAD = 0.25
"""Edge of the cells that points are first gathered in, over the edge of a bead's cube."""

_ITERATIONS = 20
_SEED = 20241106


@dataclass(frozen=True)
class Points:
    """A density as weighted points.

    Attributes
    ----------
    positions_zyx_A
        ``(N, 3)``, in the coordinates of the file they come from.
    weights
        ``(N,)`` integrals, in the unit of :mod:`tomopoint.simulate.density`.
    volume_A3
        Of the molecule, roughly: decides how many beads it takes.
    """

    positions_zyx_A: Array
    weights: Array
    volume_A3: float


def beads_of(points: Points, resolution_A: float) -> Blobs:
    """Return Gaussians that keep the points' integral and centre exactly and their second moments on average.

    The points are gathered in small cells, and the cells by k-means; a bead has the mean position of its points, and
    the spread about it as its width, on top of the blur of the resolution. That takes a second for any number of atoms.

    Parameters
    ----------
    points
        Atoms or voxels.
    resolution_A
        Finer detail is left out.

    Returns
    -------
    Blobs
        At most :data:`MAX_BEADS`, in the coordinates of the points, not centred.
    """
    edge_A = _BEAD_PER_RESOLUTION * resolution_A
    n_beads = int(np.clip(points.volume_A3 / edge_A**3, MIN_BEADS, MAX_BEADS))
    edge_A = max(edge_A, (points.volume_A3 / n_beads) ** (1 / 3))

    # Gather points in cells: mass, mean position and mean square distance from it.
    low = points.positions_zyx_A.min(axis=0)
    cells = np.floor((points.positions_zyx_A - low) / (_CELL_PER_BEAD * edge_A)).astype(np.int64)
    _, cell_of = np.unique(cells, axis=0, return_inverse=True)
    masses, centres, squares = _gathered(
        cell_of.reshape(-1), points.weights, points.positions_zyx_A, np.zeros(len(cells))
    )

    # Weighted k-means (Lloyd), from cells drawn by their mass; the seed is fixed, a structure has one bead model.
    rng = np.random.default_rng(_SEED)
    n_beads = min(n_beads, len(masses))
    beads = centres[rng.choice(len(masses), n_beads, replace=False, p=masses / masses.sum())]
    for _ in range(_ITERATIONS):
        nearest = np.asarray(cKDTree(beads).query(centres)[1])
        _, bead_of = np.unique(nearest, return_inverse=True)  # a bead that no cell is nearest to is dropped
        weights, beads, spread = _gathered(bead_of.reshape(-1), masses, centres, squares)

    sigmas = np.sqrt(spread / 3.0 + (BLUR_PER_RESOLUTION * resolution_A) ** 2)
    return Blobs(beads, np.maximum(sigmas, MIN_SIGMA_A), weights)


def _gathered(group_of: np.ndarray, weights: Array, positions: Array, squares: Array) -> tuple[Array, Array, Array]:
    """Return mass, centre and mean square distance from the centre of each group of points.

    `squares` are the points' own mean square extents.
    """
    masses = np.bincount(group_of, weights).astype(np.float64)
    centres = np.stack([np.bincount(group_of, weights * axis) for axis in positions.T], axis=1) / masses[:, None]
    distances = ((positions - centres[group_of]) ** 2).sum(axis=1) + squares
    return masses, centres, np.bincount(group_of, weights * distances) / masses
