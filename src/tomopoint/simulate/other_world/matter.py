"""Unlabelled matter of the other world: filaments, sheets, machines, cages, particles of fat, chains, crowd, gold.

Every drawing function returns blobs about their centre. Builds and masses are those of the structures named; none is
fitted to a map.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tomopoint.simulate.density import UNITS_PER_KDA, Array, Blobs, joined, random_direction, random_rotation

GOLD_UNITS_PER_A3 = 0.2
"""Gold, of 30 V, scatters eight to nine times as strongly as protein over ice (0.0236 units per A^3)."""

LIPID_UNITS_PER_A2 = 0.24
"""One head group layer of a membrane."""

CROWD_KDA = (12.0, 160.0)
CROWD_EXPONENT = 1.6
"""Masses of small proteins: a power law, most of them small."""


# Long and wide: everything lies in the plane of the ice, along x, until it is turned.


def actin_filament(rng: np.random.Generator) -> Blobs:
    """F-actin: 42 kDa every 27.5 A, turned by -166.6 degrees, 500-3500 A long, hardly bent."""
    return _filament(rng, rng.uniform(500.0, 3500.0), rise_A=27.5, turn_deg=-166.6, radius_A=11.0, kda=42.0)


def microtubule(rng: np.random.Generator) -> Blobs:
    """13 protofilaments on a ring of 112 A, 50 kDa every 40 A, a three-start helix, 800-4000 A long."""
    length = rng.uniform(800.0, 4000.0)
    level, protofilament = np.meshgrid(np.arange(int(length / 40.0)), np.arange(13), indexing="ij")
    angle = protofilament.ravel() * 2 * np.pi / 13
    along = 40.0 * level.ravel() + protofilament.ravel() * 120.0 / 13
    positions = np.stack([112.0 * np.sin(angle), 112.0 * np.cos(angle), along], axis=1)
    return _bent(rng, _even(positions, 13.0, 50.0 * len(positions)), 0.02)


def thick_filament(rng: np.random.Generator) -> Blobs:
    """An intermediate filament: four strands wound about each other, 100 A thick, 40 kDa per 10 A, well bent."""
    length = rng.uniform(600.0, 2500.0)
    along = np.repeat(np.arange(0.0, length, 22.0), 4)
    angle = along / 75.0 + np.tile(np.arange(4), len(along) // 4) * np.pi / 2
    positions = np.stack([26.0 * np.sin(angle), 26.0 * np.cos(angle), along], axis=1)
    positions += rng.normal(0.0, 6.0, positions.shape)
    return _bent(rng, _even(positions, 14.0, 4.0 * length), 0.25)


def membrane_sheet(rng: np.random.Generator) -> Blobs:
    """A flat or gently curved bilayer, 500-1600 A across, upright or slanted, with proteins through it."""
    width, length = rng.uniform(500.0, 1100.0), rng.uniform(700.0, 1600.0)
    up, along = (axis.ravel() for axis in np.meshgrid(np.arange(0, width, 17.0), np.arange(0, length, 17.0)))
    sag = (
        rng.normal(0.0, 0.12) * (along - length / 2) ** 2 / length
        + rng.normal(0.0, 0.1) * (up - width / 2) ** 2 / width
    )
    layers = [np.stack([up, sag + side, along], axis=1) for side in (-19.0, 19.0)]
    lipid = np.concatenate(layers) + rng.normal(0.0, 2.0, (2 * len(up), 3))
    weight = rng.uniform(0.8, 1.3) * LIPID_UNITS_PER_A2 * 17.0**2 * np.exp(rng.normal(0.0, 0.25, len(lipid)))
    parts = [Blobs(lipid, np.full(len(lipid), 10.5), weight)]
    for index in rng.choice(len(up), int(rng.poisson(width * length / 9e4)), replace=False):
        head = np.array([up[index], sag[index] + rng.choice([-1, 1]) * rng.uniform(45.0, 75.0), along[index]])
        parts.append(_globule(rng, head, rng.uniform(50.0, 250.0)))
    # Upright in the ice or slanted; lying flat a sheet would be in the missing wedge.
    return _tipped(joined(parts).centred(), rng.normal(0.0, 25.0))


def gold_bead(rng: np.random.Generator) -> Blobs:
    """A gold bead of 8-12 nm."""
    radius = rng.uniform(40.0, 60.0)
    points = _filled_ball(radius - 9.0, 14.0)
    return Blobs(points, np.full(len(points), 7.5), np.full(len(points), 1.0)).with_integral(
        GOLD_UNITS_PER_A3 * 4 / 3 * math.pi * radius**3
    )


# Complexes of 150 kDa to 5 MDa.


def medium_complex(rng: np.random.Generator) -> Blobs:
    """Draw one of the complexes of :data:`COMPLEXES`, randomly turned; small and common ones more often."""
    kinds, shares = zip(*COMPLEXES, strict=True)
    blobs: Blobs = kinds[int(rng.choice(len(kinds), p=np.array(shares) / sum(shares)))](rng)
    return blobs.centred().rotated(random_rotation(rng))


def capped_proteasome(rng: np.random.Generator) -> Blobs:
    """A 20S core (700 kDa) with no, one or two lids of 900 kDa, each a lopsided pile of domains on an end."""
    core = [_ring(z, radius, 7, 0.1 * z / 40) for z, radius in ((-57, 34), (-20, 43), (20, 43), (57, 34))]
    parts = [_even(np.concatenate(core), 12.5, 700.0)]
    for end in (-1.0, 1.0)[: int(rng.integers(0, 3))]:
        base = end * _ring(85, 30, 6, 0.3)
        lid = np.array([end * 130.0, 25.0, 0.0]) + rng.normal(0.0, 1.0, (14, 3)) * [24.0, 38.0, 32.0]
        parts.append(_even(np.concatenate([base, lid]), 13.0, 900.0))
    return joined(parts)


def chaperonin(rng: np.random.Generator) -> Blobs:
    """GroEL: two rings of seven, each subunit three domains, 800 kDa, with or without a lid on one end."""
    rings = [_ring(z, radius, 7, 0.0) for z, radius in ((-58, 44), (-38, 56), (-14, 38), (14, 38), (38, 56), (58, 44))]
    lid = [_ring(88, 24, 7, 0.2)] if rng.random() < 0.5 else []
    return _even(np.concatenate([*rings, *lid]), 11.5, 800.0 + 70.0 * len(lid))


def fatty_acid_synthase(rng: np.random.Generator) -> Blobs:
    """A hollow barrel of 270 x 220 A, 2.6 MDa: two domes of arches on a central wheel."""
    wheel = [_ring(0, radius, 6, 0.5) for radius in (28, 58, 88)]
    arches = [_ring(sign * z, r, 9, 0.2) for sign in (-1, 1) for z, r in ((38, 103), (72, 92), (104, 62), (122, 24))]
    return _even(np.concatenate([*wheel, *arches]), 15.0 * rng.uniform(0.9, 1.1), 2600.0)


def chromatin(rng: np.random.Generator) -> Blobs:
    """One to eight nucleosomes (200 kDa, discs of 110 x 55 A) on a thread, each about 200 A from the last."""
    place, discs = np.zeros(3), []
    for _ in range(int(rng.integers(1, 9))):
        disc = np.concatenate([_ring(z, radius, n, 0.3) for z in (-14, 14) for radius, n in ((14, 3), (40, 8))])
        discs.append(_even(disc @ random_rotation(rng).T + place, 11.0, 200.0))
        place = place + rng.uniform(130.0, 230.0) * random_direction(rng)
    return joined(discs)


def clathrin_cage(rng: np.random.Generator) -> Blobs:
    """An open cage of edges: a soccer ball of 60 corners, 250-340 A in radius, 36 triskelia of 600 kDa."""
    corners = rng.uniform(250.0, 340.0) * _soccer_ball()
    distance = np.linalg.norm(corners[:, None] - corners[None], axis=-1)
    first, second = np.nonzero(np.triu(distance < 1.2 * distance[distance > 1].min(), 1))
    steps = np.linspace(0.12, 0.88, 5)[:, None, None]  # three edges share a corner: none ends in it
    positions = (corners[first] * (1 - steps) + corners[second] * steps).reshape(-1, 3)
    kept = positions @ random_direction(rng) > rng.uniform(-1.2, 0.3) * np.linalg.norm(corners[0])
    return _even(positions[kept], 13.0, 36 * 600.0 * float(kept.mean()))


def lipoprotein(rng: np.random.Generator) -> Blobs:
    """A ball of fat in a coat of protein, 45-130 A in radius: dense rim, weaker core in layers."""
    radius = float(np.exp(rng.uniform(math.log(45.0), math.log(130.0))))
    coat = radius * _sphere_points(max(int((radius / 11.0) ** 2), 12))
    core = _filled_ball(max(radius - 22.0, 16.0), 19.0)
    density = 0.5 * UNITS_PER_KDA / 1210.0  # half of protein's, in units per A^3
    core_blobs = _even(core, 11.0, 4 / 3 * math.pi * (radius - 18.0) ** 3 * density / UNITS_PER_KDA)
    return joined([_even(coat, 9.0, 4 * math.pi * radius**2 * 18.0 * 1.6 * density / UNITS_PER_KDA), core_blobs])


def loose_chain(rng: np.random.Generator) -> Blobs:
    """A random walk of 6-25 domains of 15-40 kDa: disordered, or torn off something."""
    steps = [rng.uniform(32.0, 58.0) * random_direction(rng) for _ in range(int(rng.integers(6, 26)))]
    path = np.cumsum(steps, axis=0)
    return joined([_globule(rng, point, rng.uniform(15.0, 40.0)) for point in path])


def bilobed(rng: np.random.Generator) -> Blobs:
    """Two unequal ellipsoidal lobes on a neck, 180-700 kDa: receptors, synthetases, dimers of enzymes."""
    mass, axis = float(np.exp(rng.uniform(math.log(180.0), math.log(700.0)))), random_direction(rng)
    share = rng.uniform(0.3, 0.6)
    return joined([
        _globule(rng, sign * 0.62 * _globule_radius_A(mass) * axis, mass * part, roughness=0.5)
        for sign, part in ((-1.0, share), (1.0, 1 - share))
    ])  # fmt: skip


def starfish(rng: np.random.Generator) -> Blobs:
    """Three to six arms from a hub, 300-1500 kDa: ligases, pores, receptors with their ligands."""
    n_arms, reach = int(rng.integers(3, 7)), rng.uniform(70.0, 125.0)
    angle = np.arange(n_arms) * 2 * np.pi / n_arms
    directions = np.stack([rng.normal(0.2, 0.25, n_arms), np.sin(angle), np.cos(angle)], axis=1)
    arms = np.concatenate([distance * directions for distance in np.linspace(28.0, reach, 4)])
    blobs = _even(np.concatenate([np.zeros((2, 3)), arms]), 14.0, rng.uniform(60.0, 200.0) * n_arms)
    return Blobs(blobs.positions_zyx_A + rng.normal(0.0, 5.0, (len(arms) + 2, 3)), blobs.sigmas_A, blobs.weights)


COMPLEXES: tuple[tuple[Callable[[np.random.Generator], Blobs], float], ...] = (
    (capped_proteasome, 3.0),
    (chaperonin, 3.0),
    (fatty_acid_synthase, 1.5),
    (chromatin, 1.5),
    (clathrin_cage, 0.4),
    (lipoprotein, 2.5),
    (loose_chain, 4.0),
    (bilobed, 6.0),
    (starfish, 3.0),
)
"""Each kind, and how often there is one."""


def small_protein(rng: np.random.Generator) -> Blobs:
    """Draw a small protein: a mass from a power law, as one to five domains in a row that bends."""
    low, high = (limit ** (1 - CROWD_EXPONENT) for limit in CROWD_KDA)
    mass = float((low + rng.random() * (high - low)) ** (1 / (1 - CROWD_EXPONENT)))
    n_domains = min(1 + int(mass / 30.0), 5)
    size = _globule_radius_A(mass / n_domains)
    path = np.cumsum([1.5 * size * random_direction(rng) for _ in range(n_domains)], axis=0)
    return _even(path, 0.55 * size, mass).centred()


def mean_small_protein_A3() -> float:
    """Return the mean volume of :func:`small_protein`, by the mean of its power law and 1.21 A^3 per Da."""
    low, high = CROWD_KDA
    first, second = 1 - CROWD_EXPONENT, 2 - CROWD_EXPONENT
    mean_kda = first / second * (high**second - low**second) / (high**first - low**first)
    return float(mean_kda * 1210.0)


def _filament(
    rng: np.random.Generator, length_A: float, rise_A: float, turn_deg: float, radius_A: float, kda: float
) -> Blobs:
    """A helix of two blobs per subunit, along x."""
    index = np.arange(int(length_A / rise_A))
    angle = np.radians(turn_deg) * index
    rims = [np.stack([r * np.sin(angle), r * np.cos(angle), rise_A * index], axis=1) for r in (radius_A, 2 * radius_A)]
    return _bent(rng, _even(np.concatenate(rims), 12.0, kda * len(index)), 0.03)


def _bent(rng: np.random.Generator, blobs: Blobs, sag: float) -> Blobs:
    """Bend along x within the plane of the ice by a share of the length, about the middle."""
    positions = blobs.positions_zyx_A - blobs.positions_zyx_A.mean(axis=0)
    length = float(np.ptp(positions[:, 2]))
    positions[:, 1] += rng.normal(0.0, sag) * positions[:, 2] ** 2 / length * 4
    return Blobs(positions, blobs.sigmas_A, blobs.weights).centred()


def _tipped(blobs: Blobs, degrees: float) -> Blobs:
    """Turn about x."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return blobs.rotated(np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]]))


def _globule(rng: np.random.Generator, centre: Array, kda: float, roughness: float = 0.3) -> Blobs:
    """A compact domain: points in a ball of protein's density."""
    radius = _globule_radius_A(kda)
    n_points = max(3, round(kda / 20.0))
    points = centre + 0.65 * radius * (_sphere_points(n_points) + roughness * rng.normal(0.0, 1.0, (n_points, 3)))
    return _even(points, max(0.5 * radius, 7.5), kda)


def _globule_radius_A(kda: float) -> float:
    return math.cbrt(3 * 1210.0 * kda / (4 * math.pi))


def _ring(z: float, radius_A: float, n_points: int, turn: float) -> Array:
    angle = np.arange(n_points) * 2 * np.pi / n_points + turn
    return np.stack([np.full(n_points, float(z)), radius_A * np.sin(angle), radius_A * np.cos(angle)], axis=1)


def _even(positions: Array, sigma_A: float, kda: float) -> Blobs:
    """Blobs of one width and weight."""
    return Blobs(positions, np.full(len(positions), sigma_A), np.ones(len(positions))).with_integral(
        kda * UNITS_PER_KDA
    )


def _sphere_points(n_points: int) -> Array:
    """Spread points evenly over the unit sphere (spiral)."""
    height = 1 - (2 * np.arange(n_points) + 1) / n_points
    angle = np.arange(n_points) * np.pi * (3 - math.sqrt(5))
    ring = np.sqrt(1 - height**2)
    return np.stack([height, ring * np.sin(angle), ring * np.cos(angle)], axis=1)


def _filled_ball(radius_A: float, spacing_A: float) -> Array:
    """Points of a cubic grid in a ball; its centre is one."""
    n_steps = int(radius_A / spacing_A)
    axis = spacing_A * np.arange(-n_steps, n_steps + 1)
    grid = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(-1, 3)
    return np.asarray(grid[(grid**2).sum(axis=1) <= radius_A**2])


def _soccer_ball() -> Array:
    """The 60 corners of a truncated icosahedron on the unit sphere."""
    golden = (1 + math.sqrt(5)) / 2
    corners = []
    for a, b, c in ((0.0, 1.0, 3 * golden), (1.0, 2 + golden, 2 * golden), (golden, 2.0, 2 * golden + 1)):
        for signs in np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1]), axis=-1).reshape(-1, 3):
            corner = signs * np.array([a, b, c])
            corners += [np.roll(corner, shift) for shift in range(3)]
    unique = np.unique(np.round(corners, 9) + 0.0, axis=0)
    return np.asarray(unique / np.linalg.norm(unique[0]))
