"""Numbers of real runs that placement follows: counts, depth in the ice, clusters.

Measured on the labels of the competition's seven training runs (1269 particles in boxes of 184 x 630 x 630 voxels).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tomopoint.simulate.options import FULL_SHAPE_ZYX, VOXEL_A

FULL_DEPTH_A = FULL_SHAPE_ZYX[0] * VOXEL_A
FULL_WIDTH_A = FULL_SHAPE_ZYX[2] * VOXEL_A

FULL_VOLUME_UM3 = FULL_DEPTH_A * FULL_WIDTH_A**2 / 1e12

Where = Literal["anywhere", "cytosol", "lumen", "membrane"]
"""Where a particle lies: in the ice, outside vesicles, inside them, or standing in their bilayer."""

SLAB_THICKNESS_A = (950.0, 200.0)
"""Mean and spread over runs of the depth between the 5 % and 95 % quantile of all particles."""

SLAB_CENTRE_A = (770.0, 90.0)
"""Mean and spread over runs of the slab's middle, from the bottom of a full-depth tomogram."""

SLAB_TILT_DEG = 3.0
"""Spread over runs of the slab's tilt."""

UNUSUAL_ICE = 0.2
UNUSUAL_THICKNESS_A = (350.0, 1500.0)
UNUSUAL_TILT_DEG = 10.0
"""Share of runs whose ice is none of the real runs', its thickness, and its tilt either way: other grids, lamellae."""

SLAB_FULL_SHARE = 1.15
"""Full thickness of the ice over that between the quantiles."""

DEPTH_LIMITS_A = (35.0, 1560.0)
"""No label lies outside, from the bottom of a full-depth tomogram."""

EDGE_MARGIN_A = 80.0
"""Labels keep this distance from the edges in x and y (real ones begin at 70 A; 0.5 % are nearer than 100 A)."""


@dataclass(frozen=True)
class Clusters:
    """How a particle gathers.

    Attributes
    ----------
    shares
        Share of particles alone, in clusters of 2-5, and of 6 and more.
    largest
        Size of the largest clusters grown on purpose.
    spacing_A
        Mean and spread of the distance between neighbours in a cluster.
    chain
        True: each next one follows the last (polysomes). False: it touches any (aggregates).
    """

    shares: tuple[float, float, float]
    largest: int
    spacing_A: tuple[float, float]
    chain: bool


@dataclass(frozen=True)
class ParticleStatistics:
    """One particle in a full-size run.

    Attributes
    ----------
    mean, spread
        Mean and standard deviation of the count per run.
    depth_beta
        Parameters of the beta distribution of its place between the lower (0) and upper (1) face of the ice.
    room_A
        Distance to a particle of another kind is at least the sum of both; real labels of different kinds keep
        apart more than their sizes ask for.
    apart_A
        Smallest distance to another particle of its kind outside a cluster.
    clusters
        None where it does not gather.
    beside_membrane
        Share of clusters that begin just outside a membrane, where there is one.
    where
        See :data:`Where`.
    membrane_height_A
        Of one that stands in a membrane: height of its centre over the bilayer's middle.
    whatever_the_box
        Whether `mean` counts in a box of any size; otherwise it is that of a full-size run, scaled to the box's area.
    """

    mean: float
    spread: float
    depth_beta: tuple[float, float]
    room_A: float
    apart_A: float = 0.0
    clusters: Clusters | None = None
    beside_membrane: float = 0.0
    where: Where = "anywhere"
    membrane_height_A: float = 0.0
    whatever_the_box: bool = False

    @property
    def dispersion(self) -> float:
        """Shape ``r`` of the negative binomial with this mean and spread: variance = mean + mean**2 / r."""
        return self.mean**2 / (self.spread**2 - self.mean)


COMPETITION_STATISTICS: dict[str, ParticleStatistics] = {
    "virus-like-particle": ParticleStatistics(16.1, 7.0, (3.2, 3.2), room_A=130.0, apart_A=290.0),
    "ribosome": ParticleStatistics(
        47.3,
        19.0,
        (1.9, 1.2),
        room_A=150.0,
        clusters=Clusters((0.28, 0.47, 0.25), 14, (290.0, 24.0), chain=True),
        beside_membrane=0.06,
    ),
    "thyroglobulin": ParticleStatistics(37.4, 8.3, (1.8, 1.7), room_A=105.0, apart_A=230.0),
    "beta-galactosidase": ParticleStatistics(16.7, 5.2, (2.0, 2.0), room_A=95.0, apart_A=200.0),
    "apo-ferritin": ParticleStatistics(
        53.6, 21.0, (0.70, 1.15), room_A=85.0, clusters=Clusters((0.37, 0.47, 0.16), 12, (124.0, 4.0), chain=False)
    ),
    "beta-amylase": ParticleStatistics(12.0, 4.0, (1.1, 1.0), room_A=85.0, apart_A=180.0),
}
"""Statistics by name; large particles are placed first, while there is room.

Means are of true particles: of the two hard kinds a few more are there than are labelled, of beta-amylase fewer.
"""
