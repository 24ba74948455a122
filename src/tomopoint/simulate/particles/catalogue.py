"""The six particles of the competition."""

from __future__ import annotations

import functools

from tomopoint.pipeline import COMPETITION_PARTICLES
from tomopoint.simulate.options import Shapes
from tomopoint.simulate.particles.analytic import analytic_shape
from tomopoint.simulate.particles.measured import measured_shapes
from tomopoint.simulate.particles.model import SimulatedParticle
from tomopoint.simulate.statistics import COMPETITION_STATISTICS

CORE_A = {
    "virus-like-particle": 135.0,
    "ribosome": 95.0,
    "thyroglobulin": 48.0,
    "beta-galactosidase": 38.0,
    "apo-ferritin": 52.0,
    "beta-amylase": 32.0,
}
"""What nothing may enter: nine tenths of the shortest semi-axis, of a shell the radius of its wall."""

INTERIOR_A = {"virus-like-particle": 145.0, "apo-ferritin": 65.0}
"""The closed shells."""


@functools.cache
def competition_particles(shapes: Shapes = "measured") -> tuple[SimulatedParticle, ...]:
    """Return the six particles in the order they are placed: the large ones first, while there is room.

    Parameters
    ----------
    shapes
        ``"measured"``: real shapes; of beta-amylase there is none, it stays analytic. ``"analytic"``: all by symmetry
        and size.
    """
    measured = measured_shapes() if shapes == "measured" else {}
    known = {particle.name: particle for particle in COMPETITION_PARTICLES}
    return tuple(
        SimulatedParticle(
            name,
            measured.get(name) or analytic_shape(name),
            CORE_A[name],
            statistics,
            known[name].radius_A,
            known[name].weight,
            known[name].suppression_A,
            INTERIOR_A.get(name, 0.0),
        )
        for name, statistics in COMPETITION_STATISTICS.items()
    )


def competition_particle(name: str, shapes: Shapes = "measured") -> SimulatedParticle:
    """Return one of the six by name; KeyError if it is none of them."""
    return {particle.name: particle for particle in competition_particles(shapes)}[name]
