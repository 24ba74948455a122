"""What lies in the ice of the other world: labelled particles at real density, deformed, among other things."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from scipy.spatial import cKDTree

from tomopoint.simulate.density import Array, Blobs
from tomopoint.simulate.options import SimulationOptions
from tomopoint.simulate.other_world.matter import (
    actin_filament,
    gold_bead,
    mean_small_protein_A3,
    medium_complex,
    membrane_sheet,
    microtubule,
    small_protein,
    thick_filament,
)
from tomopoint.simulate.other_world.shapes import deformed_copy, in_pieces
from tomopoint.simulate.particles.model import SimulatedParticle
from tomopoint.simulate.placement import (
    UNLABELLED,
    Molecule,
    Occupancy,
    Slab,
    draw_slab,
    place_particles,
    random_place,
)
from tomopoint.simulate.scene import Scene
from tomopoint.simulate.structures import FilmEdge

COUNTS = (0.5, 1.5)
"""Particles of a kind per full-size run: uniform between these, over the kind's mean."""

COMPLEXES = (30.0, 120.0)
"""Fewest and most per full-size run."""

SMALL_PROTEINS = (0.005, 0.02)
"""Least and most of the ice's volume."""

LONG: tuple[tuple[Callable[[np.random.Generator], Blobs], tuple[float, float]], ...] = (
    (membrane_sheet, (0.0, 4.0)),
    (microtubule, (0.0, 2.0)),
    (actin_filament, (0.0, 12.0)),
    (thick_filament, (0.0, 4.0)),
)
"""Fewest and most per full-size run, before those that find no room."""

GOLD_SHARE = 0.3
GOLD = (3.0, 12.0)
"""Share of full-size runs with gold beads, and how many there are."""

CARBON_SHARE = 0.3
"""Share of full-size runs with the edge of a carbon film."""

PIECE_A = 320.0
_ATTEMPTS = 15
_CLEARANCE_A = 28.0


def draw_other_scene(
    rng: np.random.Generator,
    options: SimulationOptions,
    shape_zyx: tuple[int, int, int],
    particles: Sequence[SimulatedParticle],
) -> Scene:
    """Draw a run's content; `particles` in placement order. Of the options only crowding and voxel size count.

    As in the own world, crowding multiplies complexes and small proteins, and leaves what is large as it is.
    """
    slab = draw_slab(rng, np.asarray(shape_zyx) * options.voxel_A)
    share = slab.area_share()

    # 1. What is longer than a particle, the largest first; most of it is in the box only in part.
    film = _carbon_edge(rng, slab) if rng.random() < CARBON_SHARE * math.sqrt(share) else None
    occupancy = Occupancy((), film)
    for draw, (low, high) in LONG:
        for _ in range(rng.poisson(rng.uniform(low, high) * share)):
            _place_long(rng, slab, occupancy, draw(rng))

    # 2. The labelled particles, where they lie in real runs; as many of each as this run has room for, every copy bent.
    placed = len(occupancy.molecules)
    place_particles(rng, slab, occupancy, [_with_uniform_count(rng, particle) for particle in particles], 0.0)
    occupancy.molecules[placed:] = [
        replace(molecule, blobs=deformed_copy(rng, molecule.blobs)) for molecule in occupancy.molecules[placed:]
    ]

    # 3. Unlabelled complexes and gold between them, small proteins wherever there is room left.
    for _ in range(rng.poisson(options.crowding * rng.uniform(*COMPLEXES) * share)):
        _place(rng, slab, occupancy, medium_complex(rng))
    if rng.random() < GOLD_SHARE:
        for _ in range(rng.poisson(rng.uniform(*GOLD) * share)):
            _place(rng, slab, occupancy, gold_bead(rng))
    crowd = _draw_crowd(rng, options, slab, occupancy)
    molecules = tuple(occupancy.molecules)
    return Scene(shape_zyx, slab, tuple(particles), molecules, (), film, tuple(crowd), voxel_A=options.voxel_A)


def _with_uniform_count(rng: np.random.Generator, particle: SimulatedParticle) -> SimulatedParticle:
    """Return the particle with a mean drawn for this run, and counts that scatter about it like Poisson's."""
    mean = float(rng.uniform(*COUNTS)) * particle.statistics.mean
    # The negative binomial becomes Poisson's distribution where its variance comes down to the mean.
    return replace(particle, statistics=replace(particle.statistics, mean=mean, spread=math.sqrt(1.001 * mean)))


def _carbon_edge(rng: np.random.Generator, slab: Slab) -> FilmEdge:
    """Draw a nearly straight edge of carbon along one side of the box, 100-900 A wide, thicker than the own world's."""
    side, sign = int(rng.integers(2)), float(rng.choice([-1.0, 1.0]))
    radius, width = rng.uniform(12000.0, 30000.0), rng.uniform(100.0, 900.0)
    centre = slab.extent_zyx_A[1:] * rng.uniform(0.3, 0.7, 2)
    centre[side] = slab.extent_zyx_A[1 + side] * (sign > 0) - sign * (radius + width)
    thickness, density = rng.uniform(80.0, 160.0), rng.uniform(5.0, 12.0)
    return FilmEdge(centre, radius, slab.middle_A, thickness, density, int(rng.integers(2**31)))


def _place_long(rng: np.random.Generator, slab: Slab, occupancy: Occupancy, blobs: Blobs) -> None:
    """Place something long in the plane of the ice, cut in pieces, where it stays in the ice and touches nothing."""
    for _ in range(_ATTEMPTS):
        angle, rise = rng.uniform(0.0, 2 * np.pi), rng.normal(0.0, 0.07)
        heading = np.array([rise, math.sin(angle), math.cos(angle)])
        heading += np.array([float(heading[1:] @ slab.slope_yx), 0.0, 0.0])
        heading /= np.linalg.norm(heading)
        side = np.array([0.0, math.cos(angle), -math.sin(angle)])
        turned = blobs.rotated(np.stack([np.cross(side, heading), side, heading], axis=1))
        candidate = Molecule(UNLABELLED, random_place(rng, slab, (1.5, 1.5)), turned, core_A=0.0)
        points = turned.positions_zyx_A + candidate.centre_zyx_A
        middle = slab.middle_A + (points[:, 1:] - slab.extent_zyx_A[1:] / 2) @ slab.slope_yx
        in_ice = bool((np.abs(points[:, 0] - middle) < slab.thickness_A / 2).all())
        if in_ice and occupancy.fits(candidate):
            occupancy.molecules += [
                Molecule(UNLABELLED, candidate.centre_zyx_A + place, piece, core_A=0.0)
                for place, piece in in_pieces(turned, PIECE_A)
            ]
            return


def _place(rng: np.random.Generator, slab: Slab, occupancy: Occupancy, blobs: Blobs) -> None:
    """Place one compact thing where it touches nothing, or nowhere."""
    for _ in range(_ATTEMPTS):
        candidate = Molecule(UNLABELLED, random_place(rng, slab, (1.0, 1.0)), blobs, core_A=20.0)
        if slab.contains(candidate.centre_zyx_A) and occupancy.fits(candidate):
            occupancy.molecules.append(candidate)
            return


def _draw_crowd(
    rng: np.random.Generator, options: SimulationOptions, slab: Slab, occupancy: Occupancy
) -> list[tuple[Array, Blobs]]:
    """Fill a share of the ice with small proteins; they may touch one another."""
    volume = slab.thickness_A * float(np.prod(slab.extent_zyx_A[1:]))
    count = int(rng.poisson(options.crowding * rng.uniform(*SMALL_PROTEINS) * volume / mean_small_protein_A3()))
    y, x = rng.uniform(0.0, slab.extent_zyx_A[1:, None], (2, count))
    z = slab.middle_A + np.stack([y, x], axis=1) @ slab.slope_yx - slab.extent_zyx_A[1:] / 2 @ slab.slope_yx
    centres = np.stack([z + rng.uniform(-0.5, 0.5, count) * slab.thickness_A, y, x], axis=1)
    free = np.ones(count, dtype=bool)
    taken = [molecule.blobs.positions_zyx_A + molecule.centre_zyx_A for molecule in occupancy.molecules]
    if taken:
        free &= cKDTree(np.concatenate(taken)).query(centres)[0] > _CLEARANCE_A
    for molecule in occupancy.molecules:
        if molecule.interior_A > 0:
            free &= np.linalg.norm(centres - molecule.centre_zyx_A, axis=1) > molecule.interior_A
    if occupancy.film is not None:
        free &= ~occupancy.film.contains(centres)
    return [(centre, small_protein(rng)) for centre in centres[free]]
