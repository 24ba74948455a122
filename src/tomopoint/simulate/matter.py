"""Densities of unlabelled proteins, which a picker must learn to leave alone.

Albumin-like crowding, medium-sized complexes of shapes that no labelled particle has, and the proteins that sit in
membranes. (Membranes and film: :mod:`tomopoint.simulate.structures`.)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.spatial.transform import Rotation

from tomopoint.simulate.density import (
    UNITS_PER_KDA,
    Array,
    Blobs,
    joined,
    random_direction,
    random_rotation,
)

ALBUMIN_KDA = 66.0
MASS_SPREAD = 0.45
"""Spread of the logarithm of the masses of small proteins: albumin and what else a cell lysate holds."""

SMALL_PROTEIN_VOLUME_A3 = 8.8e4
"""Mean volume of one small protein: 73 kDa (the mean of the masses drawn) at 1.21 A^3 per Da (Harpaz et al. 1994)."""

PROTEIN_A3_PER_KDA = 1210.0
"""Volume of protein (Harpaz et al. 1994)."""

_ASSEMBLY_GROUPS = tuple(("C", n) for n in (1, 2, 3, 4, 5, 7)) + tuple(("D", n) for n in (2, 3, 4, 7))
_ASSEMBLY_SHARES = (0.34, 0.16, 0.1, 0.06, 0.05, 0.03, 0.12, 0.08, 0.03, 0.03)
_CAGE_RADII_A = ((25.0, 40.0), (64.0, 108.0), (155.0, 190.0))
"""Between them lie apo-ferritin's shell (50 A) and the virus-like particle's (130 A)."""

_ALBUMIN_LOBES_A = np.array([[0.0, 20.0, 0.0], [0.0, -11.0, 19.0], [0.0, -11.0, -19.0]])


def small_protein(rng: np.random.Generator) -> Blobs:
    """Draw a small globular protein: three lobes in a triangle as in albumin, 35-200 kDa, mostly about 66."""
    mass = ALBUMIN_KDA * float(np.clip(np.exp(rng.normal(0.0, MASS_SPREAD)), 0.55, 3.0))
    size = (mass / ALBUMIN_KDA) ** (1 / 3)
    positions = size * (_ALBUMIN_LOBES_A + rng.normal(0.0, 3.0, (3, 3)))
    blobs = Blobs(positions, np.full(3, 12.5 * size), rng.uniform(0.7, 1.3, 3))
    return blobs.with_integral(mass * UNITS_PER_KDA).centred().rotated(random_rotation(rng))


def medium_complex(rng: np.random.Generator) -> Blobs:
    """Draw one of four kinds of unlabelled complexes, 150-1500 kDa, randomly turned."""
    return _one_of(rng, (_barrel, _double_ring, _rod, _clump))


def decoy(rng: np.random.Generator) -> Blobs:
    """Draw a complex whose like was never seen: random build and symmetry, a hollow cage or a ball, 100-2500 kDa."""
    return _one_of(rng, (_random_assembly, _random_assembly, _random_assembly, _cage, _ball))


def fragment(rng: np.random.Generator, blobs: Blobs) -> Blobs:
    """Break a molecule: a plane cuts it, and the smaller part, 20-50 % of its mass, is what is left of it."""
    height = blobs.positions_zyx_A @ random_direction(rng)
    order = np.argsort(height)
    share = np.cumsum(blobs.weights[order]) / blobs.integral
    kept = order[share <= max(float(rng.uniform(0.2, 0.5)), float(share[0]))]
    part = Blobs(blobs.positions_zyx_A[kept], blobs.sigmas_A[kept], blobs.weights[kept])
    return part.centred().rotated(random_rotation(rng))


def aggregate(rng: np.random.Generator) -> Blobs:
    """Draw a dense, shapeless lump of denatured protein, 1-5 MDa: dark, large, and not a ribosome."""
    return _grown(rng, n_domains=int(rng.integers(20, 70)), distance_A=(36.0, 46.0), mass_kda=(35.0, 90.0)).centred()


def membrane_protein(rng: np.random.Generator, outward: Array) -> Blobs:
    """Draw a protein with a stem through a membrane and a head outside it, `outward` being the unit normal."""
    height = rng.uniform(45.0, 80.0)
    stem = np.array([-15.0, 0.0, 15.0])[:, None] * outward
    head = height * outward + rng.normal(0.0, 13.0, (4, 3))
    weights = np.concatenate([np.full(3, 0.6), rng.uniform(0.7, 1.3, 4)])
    blobs = Blobs(np.concatenate([stem, head]), np.full(7, 11.0), weights)
    return blobs.with_integral(rng.uniform(60.0, 160.0) * UNITS_PER_KDA)


def gold_bead(rng: np.random.Generator) -> Blobs:
    """Draw a fiducial: a ball of gold of 50-75 A radius, which scatters some 12 times as strongly as protein."""
    radius = float(rng.uniform(50.0, 75.0))
    places = 0.72 * radius * _lattice_ball(rng, 24)
    mass_kda = 12 * 4 / 3 * np.pi * radius**3 / PROTEIN_A3_PER_KDA
    return Blobs(places, np.full(24, 0.42 * radius), np.ones(24)).with_integral(mass_kda * UNITS_PER_KDA)


def _one_of(rng: np.random.Generator, kinds: tuple[Callable[[np.random.Generator], Blobs], ...]) -> Blobs:
    blobs = kinds[int(rng.integers(len(kinds)))](rng)
    return blobs.centred().rotated(random_rotation(rng))


def _random_assembly(rng: np.random.Generator) -> Blobs:
    """Copies of a random subunit in cyclic or dihedral symmetry, touching one another; a third have no symmetry."""
    mass = float(np.exp(rng.uniform(np.log(110.0), np.log(1500.0))))
    family, fold = _ASSEMBLY_GROUPS[int(rng.choice(len(_ASSEMBLY_GROUPS), p=_ASSEMBLY_SHARES))]
    group = _symmetry(family, fold)
    order = len(group)
    per_subunit = mass / order
    n_domains = int(np.clip(round(per_subunit / rng.uniform(25.0, 55.0)), 1, 24))
    subunit = _grown(rng, n_domains, (30.0, 42.0), (per_subunit / n_domains, per_subunit / n_domains)).centred()
    if order == 1:
        return subunit
    # So far from the axis, and from the plane across it, that the copies touch.
    breadth = 2 * float(np.sqrt(np.linalg.eigvalsh(subunit.covariance_A2())[1])) * 1.6
    outwards = breadth / (2 * np.sin(np.pi / fold)) * float(rng.uniform(0.75, 1.2))
    upwards = breadth / 2 * float(rng.uniform(0.7, 1.2)) if family == "D" else 0.0
    angle = float(rng.uniform(0.0, 2 * np.pi))
    place = np.array([upwards, outwards * np.cos(angle), outwards * np.sin(angle)])
    subunit = subunit.rotated(random_rotation(rng))
    moved = Blobs(subunit.positions_zyx_A + place, subunit.sigmas_A, subunit.weights)
    return joined([moved.rotated(turn) for turn in group])


def _symmetry(family: str, fold: int) -> list[Array]:
    """Return the rotations of a cyclic (C) or dihedral (D) group about the first axis."""
    angles = 2 * np.pi * np.arange(fold) / fold
    turns = [Rotation.from_rotvec([angle, 0.0, 0.0]).as_matrix() for angle in angles]
    half_turn = np.diag([-1.0, 1.0, -1.0])
    return turns + [turn @ half_turn for turn in turns] if family == "D" else turns


def _cage(rng: np.random.Generator) -> Blobs:
    """A hollow, lumpy shell, 25-40 A thick, of a radius that no labelled shell has."""
    low, high = _CAGE_RADII_A[int(rng.integers(len(_CAGE_RADII_A)))]
    radius = float(rng.uniform(low, high))
    count = int(np.clip(4 * np.pi * (radius / 22.0) ** 2, 12, 320))
    lumps = np.exp(rng.normal(0.0, 0.35, count))
    positions = radius * _sphere(count) * rng.normal(1.0, 0.05, (count, 1)) * rng.uniform(0.8, 1.2, 3)
    mass_kda = 4 * np.pi * radius**2 * float(rng.uniform(18.0, 32.0)) / PROTEIN_A3_PER_KDA
    return Blobs(positions, np.full(count, 10.0), lumps).with_integral(mass_kda * UNITS_PER_KDA)


def _ball(rng: np.random.Generator) -> Blobs:
    """A compact ball or lens of 35-110 A radius: lipoproteins, condensed protein."""
    radii = float(rng.uniform(35.0, 110.0)) * rng.uniform(0.6, 1.1, 3)
    count = int(np.clip(np.prod(radii) / 20.0**3, 8, 150))
    positions = _lattice_ball(rng, count) * radii
    mass_kda = 4 / 3 * np.pi * float(np.prod(radii)) * float(rng.uniform(0.35, 0.8)) / PROTEIN_A3_PER_KDA
    weights = np.exp(rng.normal(0.0, 0.3, count))
    return Blobs(positions, np.full(count, 13.0), weights).with_integral(mass_kda * UNITS_PER_KDA)


def _sphere(count: int) -> Array:
    """Spread points evenly over the unit sphere (Fibonacci lattice)."""
    index = np.arange(count) + 0.5
    polar, azimuth = np.arccos(1.0 - 2.0 * index / count), np.pi * (1.0 + np.sqrt(5.0)) * index
    return np.stack([np.cos(polar), np.sin(polar) * np.sin(azimuth), np.sin(polar) * np.cos(azimuth)], axis=1)


def _lattice_ball(rng: np.random.Generator, count: int) -> Array:
    """Spread points about evenly in the unit ball."""
    radius = ((rng.permutation(count) + 0.5) / count) ** (1 / 3)
    return np.asarray(_sphere(count) * radius[:, None])


def _barrel(rng: np.random.Generator) -> Blobs:
    """Four stacked rings of seven, an open cylinder 150 x 110 A (a proteasome core's build, 700 kDa)."""
    angle = np.arange(7) * 2 * np.pi / 7
    rings = [_ring(z, 37.0, angle + 0.22 * turn) for turn, z in enumerate((-56.0, -19.0, 19.0, 56.0))]
    return _blobs(rng, np.concatenate(rings), 11.0, rng.uniform(600.0, 750.0))


def _double_ring(rng: np.random.Generator) -> Blobs:
    """Two back-to-back rings of eight with a wide cavity, 160 A across (a chaperonin's build, 900 kDa)."""
    angle = np.arange(8) * 2 * np.pi / 8
    rings = [_ring(z, radius, angle) for z, radius in ((-62, 40), (-34, 62), (-12, 56), (12, 56), (34, 62), (62, 40))]
    return _blobs(rng, np.concatenate(rings), 12.0, rng.uniform(800.0, 1000.0))


def _rod(rng: np.random.Generator) -> Blobs:
    """A bent piece of filament, 50 A thick and 250-500 A long."""
    n_steps = int(rng.integers(9, 18))
    direction = random_direction(rng)
    bend = random_direction(rng)
    steps = np.arange(n_steps) - (n_steps - 1) / 2
    path = 28.0 * steps[:, None] * direction + 0.45 * (steps**2)[:, None] * bend
    beads = np.concatenate([path, path + rng.normal(0.0, 11.0, path.shape)])
    return _blobs(rng, beads, 12.0, 35.0 * n_steps)


def _clump(rng: np.random.Generator) -> Blobs:
    """An irregular assembly of 5-14 globular domains, each touching an earlier one."""
    return _grown(rng, n_domains=int(rng.integers(5, 15)), distance_A=(38.0, 52.0), mass_kda=(30.0, 80.0))


def _grown(
    rng: np.random.Generator, n_domains: int, distance_A: tuple[float, float], mass_kda: tuple[float, float]
) -> Blobs:
    """Grow an assembly: each globular domain touches a random earlier one."""
    centres = [np.zeros(3)]
    while len(centres) < n_domains:
        candidate = centres[int(rng.integers(len(centres)))] + rng.uniform(*distance_A) * random_direction(rng)
        if np.linalg.norm(np.asarray(centres) - candidate, axis=1).min() > 0.8 * distance_A[0]:
            centres.append(candidate)
    domains = [_blobs(rng, centre + rng.normal(0.0, 9.0, (4, 3)), 11.0, rng.uniform(*mass_kda)) for centre in centres]
    return joined(domains)


def _ring(z: float, radius_A: float, angle: Array) -> Array:
    return np.stack([np.full(len(angle), float(z)), radius_A * np.sin(angle), radius_A * np.cos(angle)], axis=1)


def _blobs(rng: np.random.Generator, positions: Array, sigma_A: float, mass_kda: float) -> Blobs:
    weights = np.exp(rng.normal(0.0, 0.2, len(positions)))
    moved = positions + rng.normal(0.0, 2.0, positions.shape)
    return Blobs(moved, np.full(len(positions), sigma_A), weights).with_integral(mass_kda * UNITS_PER_KDA)
