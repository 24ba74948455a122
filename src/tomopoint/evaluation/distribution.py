"""How picks lie in their tomograms: what can be told of a submission without any truth.

Picks of a good model lie where the sample is, as dense as the sample and no closer than particles can be. What stands
out (a run with ten times the picks of the others, a class that sits on one face of the ice, two classes that claim
the same places) is worth a look at the pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from tomopoint.data.tables import COORDINATES
from tomopoint.data.tomograms import TomogramInfo
from tomopoint.pipeline import Particle

Floats = npt.NDArray[np.float64]

CUBIC_A_PER_CUBIC_UM = 1e12


def volume_um3(info: TomogramInfo) -> float:
    """Return the volume of a tomogram, cubic micrometres."""
    return float(np.prod(info.shape_zyx)) * info.voxel_A**3 / CUBIC_A_PER_CUBIC_UM


def count_picks(picks: pd.DataFrame, runs: Sequence[str], names: Sequence[str]) -> pd.DataFrame:
    """Return how many picks there are: one row per run, one column per particle; 0 where there are none."""
    counts = pd.crosstab(picks["experiment"], picks["particle_type"])
    return counts.reindex(index=list(runs), columns=list(names), fill_value=0)


@dataclass(frozen=True)
class Neighbours:
    """Distances of the picks of one particle to their nearest neighbours in the same run.

    Attributes
    ----------
    same_A
        ``(N,)`` to the nearest pick of the same particle, Angstrom; inf where there is no other in the run.
    other_A
        ``(N,)`` to the nearest pick of any other particle; inf alike.
    claimed
        ``(N,)``: a pick of another particle is nearer than the mean of both radii, so both claim one place.
    """

    same_A: Floats
    other_A: Floats
    claimed: npt.NDArray[np.bool_]


def neighbours_of(picks: pd.DataFrame, particles: Sequence[Particle]) -> Mapping[str, Neighbours]:
    """Return the distances to nearest neighbours, within a particle and across particles.

    Parameters
    ----------
    picks
        ``experiment, particle_type, x, y, z`` in Angstrom.
    particles
        Whose picks, and their radii; picks of others are passed over.

    Returns
    -------
    Mapping
        Particle -> distances, runs in the order of their names.
    """
    from scipy.spatial import KDTree

    radii_A = np.array([particle.radius_A for particle in particles])
    found: dict[str, list[tuple[Floats, Floats, npt.NDArray[np.bool_]]]] = {particle.name: [] for particle in particles}
    for _, run in picks.groupby("experiment", sort=True):
        points = [
            run.loc[run["particle_type"] == particle.name, list(COORDINATES)].to_numpy(dtype=np.float64)
            for particle in particles
        ]
        trees = [KDTree(own) if len(own) else None for own in points]
        for place, own in enumerate(points):
            if not len(own):
                continue
            # (particles, N): to the nearest of each; a pick is its own first neighbour.
            nearest_A = np.full((len(particles), len(own)), np.inf)
            for other, tree in enumerate(trees):
                if tree is not None:
                    rank = 2 if other == place else 1
                    nearest_A[other] = np.reshape(tree.query(own, k=[rank])[0], len(own))
            across = np.arange(len(particles)) != place
            touching = nearest_A < (radii_A[:, None] + radii_A[place]) / 2
            found[particles[place].name].append(
                (
                    nearest_A[place],
                    nearest_A[across].min(axis=0, initial=np.inf),
                    touching[across].any(axis=0),
                )
            )
    nothing = [(np.zeros(0), np.zeros(0), np.zeros(0, dtype=bool))]
    return {
        name: Neighbours(*(np.concatenate(column) for column in zip(*(parts or nothing), strict=True)))
        for name, parts in found.items()
    }
