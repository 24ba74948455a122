"""One kind of particle, as placement, imaging, labels and a picker need to know it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tomopoint.simulate.density import Array, Blobs, random_rotation, random_upright
from tomopoint.simulate.particles.variety import varied_copy
from tomopoint.simulate.statistics import ParticleStatistics


@dataclass(frozen=True, eq=False)
class SimulatedParticle:
    """One kind of molecule, where it lies, and what a picker needs to know of it.

    Attributes
    ----------
    name
        The particle's name in picks files.
    blobs
        Density in its standard orientation, centre of mass at the origin.
    core_A
        Radius of the sphere about the centre that no other molecule may enter (hollow shells included), Angstrom.
    statistics
        How many there are and where.
    radius_A, weight, suppression_A
        As in :class:`tomopoint.pipeline.Particle`.
    interior_A
        Of a closed shell: no small protein lies within this distance of the centre, Angstrom. 0: open or solid.
    """

    name: str
    blobs: Blobs
    core_A: float
    statistics: ParticleStatistics
    radius_A: float
    weight: float
    suppression_A: float
    interior_A: float = 0.0

    def instance(self, rng: np.random.Generator, variety: float = 1.0, up_zyx: Array | None = None) -> Blobs:
        """Return a copy that differs from others as :func:`varied_copy` says, centred.

        It is turned at random; where `up_zyx`, a unit vector, is given, about this only, which the z axis is turned to.
        """
        copy = varied_copy(rng, self.blobs, variety)
        return copy.rotated(random_rotation(rng) if up_zyx is None else random_upright(rng, up_zyx))
