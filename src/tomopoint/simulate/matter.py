"""Densities of unlabelled proteins, which a picker must learn to leave alone.

Albumin-like crowding, medium-sized complexes of shapes that no labelled particle has, and the proteins that sit in
membranes. (Membranes and film: :mod:`tomopoint.simulate.structures`.)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

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
    kinds: tuple[Callable[[np.random.Generator], Blobs], ...] = (_barrel, _double_ring, _rod, _clump)
    blobs = kinds[int(rng.integers(len(kinds)))](rng)
    return blobs.centred().rotated(random_rotation(rng))


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
