"""Place the molecules of a run: counts, clusters, the slab of ice, no overlaps.

Coordinates are z, y, x in Angstrom from the box's corner. Everything is drawn from a numpy generator, so the picks of
a seed are the same on every device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.spatial.distance import cdist

from tomopoint.simulate.density import Array, Blobs, random_direction
from tomopoint.simulate.particles.model import SimulatedParticle
from tomopoint.simulate.statistics import (
    DEPTH_LIMITS_A,
    EDGE_MARGIN_A,
    FULL_DEPTH_A,
    FULL_WIDTH_A,
    SLAB_CENTRE_A,
    SLAB_FULL_SHARE,
    SLAB_THICKNESS_A,
    SLAB_TILT_DEG,
    UNUSUAL_ICE,
    UNUSUAL_THICKNESS_A,
    UNUSUAL_TILT_DEG,
    Clusters,
    ParticleStatistics,
)
from tomopoint.simulate.structures import MEMBRANE_CLEARANCE_A, FilmEdge, Vesicle

CONTACT_A = 10.0
"""Blob centres of two molecules keep this distance: their surfaces touch (apo-ferritins 122 A apart)."""

UNLABELLED = "unlabelled"
"""Name of molecules that are no labelled particle."""

_ATTEMPTS = 60


@dataclass(frozen=True)
class Slab:
    """The ice: a tilted layer.

    Attributes
    ----------
    extent_zyx_A
        ``(3,)`` edges of the box.
    bottom_A
        Height of the box's bottom above that of a full-depth tomogram: boxes shallower than the real ones are cut
        out of one, about the middle of the ice, so the density of particles in them is the real one.
    middle_A, thickness_A
        Middle of the layer at the box's centre, from the box's bottom, and its full thickness.
    slope_yx
        ``(2,)`` rise of the middle per Angstrom along y and x.
    """

    extent_zyx_A: Array
    bottom_A: float
    middle_A: float
    thickness_A: float
    slope_yx: Array

    def height_A(self, share: float, y_A: float, x_A: float) -> float:
        """Return z of a place between the lower (0) and upper (1) face of the ice."""
        offset = np.array([y_A, x_A]) - self.extent_zyx_A[1:] / 2
        return float(self.middle_A + offset @ self.slope_yx + (share - 0.5) * self.thickness_A)

    def contains(self, point_zyx_A: Array) -> bool:
        """Tell whether a centre lies in the ice, within the depth real labels have and off the box's sides."""
        z, y, x = (float(value) for value in point_zyx_A)
        margin_y, margin_x = self.margins_A()
        low, high = (limit - self.bottom_A for limit in DEPTH_LIMITS_A)
        above = z - self.height_A(0.0, y, x)
        return (
            low <= z <= high
            and 0.0 <= above <= self.thickness_A
            and margin_y <= y <= self.extent_zyx_A[1] - margin_y
            and margin_x <= x <= self.extent_zyx_A[2] - margin_x
        )

    def margins_A(self) -> tuple[float, float]:
        """Return the empty margin along y and x; narrower in boxes too small for the real one."""
        _, height, width = self.extent_zyx_A
        return min(EDGE_MARGIN_A, 0.15 * height), min(EDGE_MARGIN_A, 0.15 * width)

    def area_share(self) -> float:
        """Return the area centres may lie in, over that of a full-size run."""
        margin_y, margin_x = self.margins_A()
        _, height, width = self.extent_zyx_A
        return float((height - 2 * margin_y) * (width - 2 * margin_x) / (FULL_WIDTH_A - 2 * EDGE_MARGIN_A) ** 2)


@dataclass(frozen=True)
class Molecule:
    """One placed molecule.

    Attributes
    ----------
    name
        Particle name, or :data:`UNLABELLED`.
    centre_zyx_A
        ``(3,)`` centre of mass.
    blobs
        Its density, turned and textured, about the centre.
    core_A
        Radius nothing else may enter.
    room_A
        Particles of different kinds are at least the sum of both apart; 0 for unlabelled ones.
    interior_A
        Of a closed shell: no small protein lies within this distance of the centre.
    anchor
        The vesicle whose membrane it stands in.
    """

    name: str
    centre_zyx_A: Array
    blobs: Blobs
    core_A: float
    room_A: float = 0.0
    interior_A: float = 0.0
    anchor: Vesicle | None = None


@dataclass
class Occupancy:
    """What lies where, for the overlap test."""

    vesicles: Sequence[Vesicle] = ()
    film: FilmEdge | None = None
    molecules: list[Molecule] = field(default_factory=list)

    def fits(self, candidate: Molecule) -> bool:
        """Tell whether a molecule overlaps no other one, no membrane and no film."""
        points = candidate.blobs.positions_zyx_A + candidate.centre_zyx_A
        if self.film is not None and bool(self.film.contains(points).any()):
            return False
        if self._crowded(candidate):
            return False
        reach = candidate.blobs.reach_A
        for vesicle in self.vesicles:
            if vesicle is candidate.anchor:
                continue
            near = abs(float(vesicle.distance_A(candidate.centre_zyx_A))) < reach + 3 * MEMBRANE_CLEARANCE_A
            if near and bool((np.abs(vesicle.distance_A(points)) < MEMBRANE_CLEARANCE_A).any()):
                return False
        return all(not _overlap(candidate, points, other) for other in self._near(candidate.centre_zyx_A, reach))

    def nearest_A(self, name: str, point_zyx_A: Array) -> float:
        """Return the distance to the nearest molecule of a kind; infinity where there is none."""
        centres = [m.centre_zyx_A for m in self.molecules if m.name == name]
        return float(np.linalg.norm(np.asarray(centres) - point_zyx_A, axis=1).min()) if centres else math.inf

    def _crowded(self, candidate: Molecule) -> bool:
        """Tell whether a labelled particle of another kind is too near."""
        others = [m for m in self.molecules if m.room_A > 0 and m.name != candidate.name]
        if candidate.room_A == 0 or not others:
            return False
        distances = np.linalg.norm(np.stack([m.centre_zyx_A for m in others]) - candidate.centre_zyx_A, axis=1)
        return bool((distances < candidate.room_A + np.array([m.room_A for m in others])).any())

    def _near(self, centre: Array, reach: float) -> Iterator[Molecule]:
        if not self.molecules:
            return
        distances = np.linalg.norm(np.stack([m.centre_zyx_A for m in self.molecules]) - centre, axis=1)
        for molecule, distance in zip(self.molecules, distances, strict=True):
            if distance < reach + molecule.blobs.reach_A + CONTACT_A:
                yield molecule


def draw_slab(rng: np.random.Generator, extent_zyx_A: Array, variety: float = 0.0) -> Slab:
    """Draw thickness, height and tilt of the ice; a shallow box is cut out about its middle, a deep one centred.

    They spread as in the real runs; with `variety`, up to 1, some runs have ice as thin, thick or steep as elsewhere.
    """
    thickness = float(np.clip(rng.normal(*SLAB_THICKNESS_A), 600.0, 1250.0))
    centre = float(np.clip(rng.normal(*SLAB_CENTRE_A), 590.0, 950.0))
    slope_deg = float(np.clip(rng.normal(0.0, SLAB_TILT_DEG), -6.0, 6.0))
    azimuth = float(rng.uniform(0.0, 2 * math.pi))
    elsewhere = rng.uniform(*UNUSUAL_THICKNESS_A), rng.uniform(-UNUSUAL_TILT_DEG, UNUSUAL_TILT_DEG)
    if rng.random() < UNUSUAL_ICE * variety:
        thickness, slope_deg = elsewhere
    tilt = math.tan(math.radians(slope_deg))
    depth = float(extent_zyx_A[0])
    spare = FULL_DEPTH_A - depth
    bottom = float(np.clip(centre - depth / 2, 0.0, spare)) if spare >= 0 else spare / 2
    slope = tilt * np.array([math.sin(azimuth), math.cos(azimuth)])
    return Slab(extent_zyx_A, bottom, centre - bottom, thickness * SLAB_FULL_SHARE, slope)


def draw_count(rng: np.random.Generator, statistics: ParticleStatistics, area_share: float) -> int:
    """Draw a count: negative binomial (a Poisson count at a gamma distributed density), scaled to the area."""
    shape = statistics.dispersion
    share = 1.0 if statistics.whatever_the_box else area_share
    return int(rng.poisson(rng.gamma(shape, statistics.mean / shape) * share))


def place_particles(
    rng: np.random.Generator,
    slab: Slab,
    occupancy: Occupancy,
    particles: Sequence[SimulatedParticle],
    variety: float,
) -> None:
    """Place all kinds of labelled particles into `occupancy`, one kind after the other.

    `variety` is how much copies of one kind differ, see
    :func:`tomopoint.simulate.particles.variety.varied_copy`. A particle that finds no room after many attempts is left
    out; at real density that is below one in a hundred.
    """
    for particle in particles:
        remaining = draw_count(rng, particle.statistics, slab.area_share())
        while remaining > 0:
            clusters = particle.statistics.clusters
            size = 1 if clusters is None else min(remaining, draw_cluster_size(rng, clusters))
            _place_cluster(rng, particle, size, slab, occupancy, variety)
            remaining -= size


def draw_cluster_size(rng: np.random.Generator, clusters: Clusters) -> int:
    """Draw how many gather, such that the given shares of *particles* are alone, in small and in large clusters."""
    bands = ((1, 1), (2, 5), (6, clusters.largest))
    means = np.array([(low + high) / 2 for low, high in bands])
    weights = np.asarray(clusters.shares) / means
    low, high = bands[int(rng.choice(3, p=weights / weights.sum()))]
    return int(rng.integers(low, high + 1))


def random_place(rng: np.random.Generator, slab: Slab, depth_beta: tuple[float, float]) -> Array:
    """Draw a centre in the ice, its depth beta distributed between the faces."""
    margin_y, margin_x = slab.margins_A()
    y = float(rng.uniform(margin_y, slab.extent_zyx_A[1] - margin_y))
    x = float(rng.uniform(margin_x, slab.extent_zyx_A[2] - margin_x))
    return np.array([slab.height_A(float(rng.beta(*depth_beta)), y, x), y, x])


def _place_cluster(
    rng: np.random.Generator,
    particle: SimulatedParticle,
    size: int,
    slab: Slab,
    occupancy: Occupancy,
    variety: float,
) -> None:
    """Place `size` particles that touch each other, the first one anywhere it may lie.

    Without any vesicle those that belong in one or in its membrane lie in the ice, as if solubilised.
    """
    name, statistics = particle.name, particle.statistics
    clusters, vesicles = statistics.clusters, occupancy.vesicles
    placed: list[Array] = []
    heading = random_direction(rng)
    anchor: Vesicle | None = None
    for _ in range(_ATTEMPTS * size):
        if len(placed) == size:
            return
        up = None
        if placed and clusters is not None:
            heading = _next_heading(rng, heading, clusters)
            base = placed[-1] if clusters.chain else placed[int(rng.integers(len(placed)))]
            centre = base + float(rng.normal(*clusters.spacing_A)) * heading
            if anchor is not None:
                centre, up = _standing(anchor, _unit(centre - anchor.centre_zyx_A), statistics.membrane_height_A)
        elif vesicles and statistics.where == "membrane":
            anchor = vesicles[int(rng.integers(len(vesicles)))]
            centre, up = _standing(anchor, random_direction(rng), statistics.membrane_height_A)
        elif vesicles and statistics.where == "lumen":
            inside = vesicles[int(rng.integers(len(vesicles)))]
            depth = float(rng.random()) ** (1 / 3)
            centre = inside.centre_zyx_A + depth * inside.semi_axes_zyx_A * random_direction(rng)
        elif vesicles and rng.random() < statistics.beside_membrane:
            centre = _beside_membrane(rng, particle, vesicles)
        else:
            centre = random_place(rng, slab, statistics.depth_beta)
        if not slab.contains(centre) or (not placed and occupancy.nearest_A(name, centre) < statistics.apart_A):
            continue
        if vesicles and statistics.where in ("cytosol", "lumen"):
            enclosed = any(float(vesicle.distance_A(centre)) < 0 for vesicle in vesicles)
            if enclosed != (statistics.where == "lumen"):
                continue
        copy = particle.instance(rng, variety, up)
        candidate = Molecule(name, centre, copy, particle.core_A, statistics.room_A, particle.interior_A, anchor)
        if occupancy.fits(candidate):
            occupancy.molecules.append(candidate)
            placed.append(centre)


def _standing(vesicle: Vesicle, direction_zyx: Array, height_A: float) -> tuple[Array, Array]:
    """Return a centre at a height over a membrane, in a direction from the vesicle's centre, and the normal there."""
    point, normal = vesicle.surface(direction_zyx)
    return point + height_A * normal, normal


def _next_heading(rng: np.random.Generator, heading: Array, clusters: Clusters) -> Array:
    """A chain bends gently and at random; an aggregate grows in any direction."""
    if not clusters.chain:
        return random_direction(rng)
    return _unit(heading + 0.9 * random_direction(rng))


def _unit(vector: Array) -> Array:
    return np.asarray(vector / np.linalg.norm(vector))


def _beside_membrane(rng: np.random.Generator, particle: SimulatedParticle, vesicles: Sequence[Vesicle]) -> Array:
    """Draw a centre just outside a vesicle, for a particle that touches it or nearly does."""
    vesicle = vesicles[int(rng.integers(len(vesicles)))]
    point, normal = vesicle.surface(random_direction(rng))
    return np.asarray(point + normal * (particle.blobs.reach_A + rng.uniform(-5.0, 30.0)))


def _overlap(candidate: Molecule, points: Array, other: Molecule) -> bool:
    offset = float(np.linalg.norm(candidate.centre_zyx_A - other.centre_zyx_A))
    if offset < candidate.core_A + other.core_A:
        return True
    return bool(cdist(points, other.blobs.positions_zyx_A + other.centre_zyx_A).min() < CONTACT_A)
