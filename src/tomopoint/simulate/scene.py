"""The content of a simulated run before it is imaged: all molecules and large structures, and their density."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import cKDTree

from tomopoint.simulate.density import Array, Blobs, Volume, add_blobs, random_direction
from tomopoint.simulate.matter import (
    SMALL_PROTEIN_VOLUME_A3,
    aggregate,
    decoy,
    fragment,
    gold_bead,
    medium_complex,
    membrane_protein,
    small_protein,
)
from tomopoint.simulate.options import VOXEL_A, SimulationOptions
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
from tomopoint.simulate.statistics import FULL_WIDTH_A
from tomopoint.simulate.structures import (
    MEMBRANE_CLEARANCE_A,
    FilmEdge,
    Vesicle,
    add_film_edge,
    add_vesicle,
    draw_film_edge,
    draw_vesicle,
)

MEMBRANE_PROTEINS_PER_A2 = 1.5e-5
"""One protein per about 260 x 260 A of membrane."""

MAGNIFICATION_ERROR = 0.03
"""Largest error of a microscope's calibration, either way."""

_CLEARANCE_A = 32.0
_ATTEMPTS = 20
_RIM_A = 60.0


@dataclass(frozen=True)
class Surroundings:
    """How much unlabelled matter a full-size run holds; the defaults are the nominal run's.

    Attributes
    ----------
    small_proteins
        Their volume share of the ice.
    complexes, decoys, fragments, aggregates, vesicles
        Expected numbers: of known complexes, of complexes of random build, of broken labelled particles, of lumps of
        denatured protein, of closed membranes.
    membrane_proteins
        Expected number on a square Angstrom of membrane.
    film
        Chance that a film edge crosses a corner.
    gold_beads
        Expected number.
    """

    small_proteins: float = 0.012
    complexes: float = 20.0
    decoys: float = 40.0
    fragments: float = 10.0
    aggregates: float = 12.0
    vesicles: float = 6.0
    membrane_proteins: float = MEMBRANE_PROTEINS_PER_A2
    film: float = 0.2
    gold_beads: float = 0.0


def draw_surroundings(rng: np.random.Generator, options: SimulationOptions) -> Surroundings:
    """Draw how full a run is, from a dilute sample to a lysate; docs/simulator.md has the ranges."""
    nominal, variety = Surroundings(), options.variety

    def times(width: float, low: float, high: float, middle: float) -> float:
        return float(middle * np.exp(width * rng.uniform(math.log(low), math.log(high))))

    # One factor makes everything rarer or more frequent, one each tells the kinds apart.
    fullness = options.crowding * times(variety.crowding, 0.4, 2.0, 1.0)
    return Surroundings(
        small_proteins=times(variety.crowding, 0.5, 2.0, fullness * nominal.small_proteins),
        complexes=times(variety.crowding, 0.5, 2.0, fullness * nominal.complexes),
        aggregates=times(variety.crowding, 0.5, 2.0, fullness * nominal.aggregates),
        decoys=times(variety.decoys, 0.3, 3.0, fullness * nominal.decoys),
        fragments=times(variety.decoys, 0.3, 3.0, options.crowding * nominal.fragments),
        vesicles=times(variety.crowding, 0.4, 2.5, nominal.vesicles),
        membrane_proteins=options.crowding * nominal.membrane_proteins,
        film=nominal.film,
        gold_beads=options.crowding * float(rng.uniform(1.0, 12.0)) if rng.random() < 0.15 * variety.ice else 0.0,
    )


@dataclass(frozen=True)
class Scene:
    """All matter of a run.

    Attributes
    ----------
    shape_zyx
        Box, voxels.
    slab
        The ice.
    particles
        The labelled kinds, whether or not one of them is here.
    molecules
        Labelled particles and unlabelled complexes.
    vesicles, film
        Large structures.
    crowd
        Albumin-like and membrane proteins: (centre, density) each.
    magnification
        Size of every molecule over its true one: the calibration of a microscope is right to some percent.
    voxel_A
        Edge of a voxel.
    """

    shape_zyx: tuple[int, int, int]
    slab: Slab
    particles: tuple[SimulatedParticle, ...]
    molecules: tuple[Molecule, ...]
    vesicles: tuple[Vesicle, ...]
    film: FilmEdge | None
    crowd: tuple[tuple[Array, Blobs], ...]
    magnification: float = 1.0
    voxel_A: float = VOXEL_A

    def points_xyz_A(self) -> dict[str, Array]:
        """Return the true centres of labelled particles inside the box, ``(N, 3)`` x, y, z, per name."""
        depth_A = self.shape_zyx[0] * self.voxel_A
        inside = [m for m in self.molecules if 0.0 <= m.centre_zyx_A[0] <= depth_A]
        return {
            name: np.array([m.centre_zyx_A[::-1] for m in inside if m.name == name]).reshape(-1, 3)
            for name in sorted(particle.name for particle in self.particles)
        }

    def density(self) -> Volume:
        """Render everything, ``(D, H, W)`` float32."""
        volume = np.zeros(self.shape_zyx, dtype=np.float32)
        for vesicle in self.vesicles:
            add_vesicle(volume, vesicle, self.voxel_A)
        if self.film is not None:
            add_film_edge(volume, self.film, self.voxel_A)
        for molecule in self.molecules:
            add_blobs(volume, molecule.blobs.scaled(self.magnification), molecule.centre_zyx_A, self.voxel_A)
        for centre, blobs in self.crowd:
            add_blobs(volume, blobs.scaled(self.magnification), centre, self.voxel_A)
        return volume


def draw_scene(
    rng: np.random.Generator,
    options: SimulationOptions,
    shape_zyx: tuple[int, int, int],
    particles: Sequence[SimulatedParticle],
) -> Scene:
    """Draw a run's content at the real density of everything, whatever the box; `particles` in placement order."""
    extent = np.asarray(shape_zyx) * options.voxel_A
    amounts = draw_surroundings(rng, options)
    slab = draw_slab(rng, extent, options.variety.ice)
    film = _draw_film(rng, slab, amounts)
    in_vesicles = any(particle.statistics.where in ("lumen", "membrane") for particle in particles)
    vesicles = _draw_vesicles(rng, slab, film, amounts, at_least=int(in_vesicles))
    occupancy = Occupancy(vesicles, film)
    place_particles(rng, slab, occupancy, particles, options.variety.molecules)
    _place_unlabelled(rng, slab, occupancy, amounts.fragments, lambda r: _fragment_of_any(r, particles))
    _place_unlabelled(rng, slab, occupancy, amounts.aggregates, aggregate)
    _place_unlabelled(rng, slab, occupancy, amounts.complexes, medium_complex)
    _place_unlabelled(rng, slab, occupancy, amounts.decoys, decoy)
    _place_unlabelled(rng, slab, occupancy, amounts.gold_beads, gold_bead)
    crowd = _draw_membrane_proteins(rng, amounts, vesicles, occupancy) + _draw_small_proteins(
        rng, amounts, slab, occupancy
    )
    magnification = 1.0 + options.variety.magnification * float(rng.uniform(-MAGNIFICATION_ERROR, MAGNIFICATION_ERROR))
    return Scene(
        shape_zyx,
        slab,
        tuple(particles),
        tuple(occupancy.molecules),
        vesicles,
        film,
        tuple(crowd),
        magnification,
        options.voxel_A,
    )


def _area_share(extent_zyx_A: Array) -> float:
    return float(extent_zyx_A[1] * extent_zyx_A[2] / FULL_WIDTH_A**2)


def _fragment_of_any(rng: np.random.Generator, particles: Sequence[SimulatedParticle]) -> Blobs:
    return fragment(rng, particles[int(rng.integers(len(particles)))].blobs)


def _draw_film(rng: np.random.Generator, slab: Slab, amounts: Surroundings) -> FilmEdge | None:
    """Draw whether a film edge crosses the box: its length, not its area, decides how often."""
    if rng.random() >= amounts.film * np.sqrt(_area_share(slab.extent_zyx_A)):
        return None
    return draw_film_edge(rng, slab.extent_zyx_A, slab.middle_A)


def _draw_vesicles(
    rng: np.random.Generator, slab: Slab, film: FilmEdge | None, amounts: Surroundings, at_least: int = 0
) -> tuple[Vesicle, ...]:
    """Draw vesicles that touch neither each other nor the film."""
    vesicles: list[Vesicle] = []
    drawn = int(rng.poisson(amounts.vesicles * _area_share(slab.extent_zyx_A)))
    for _ in range(max(drawn, at_least)):
        y, x = (float(value) for value in rng.uniform(0.0, slab.extent_zyx_A[1:]))
        vesicle = draw_vesicle(rng, np.zeros(3), 0.42 * slab.thickness_A)
        room = max(0.5 - float(vesicle.semi_axes_zyx_A[0]) / slab.thickness_A, 0.0)
        centre = np.array([slab.height_A(0.5 + float(rng.uniform(-room, room)), y, x), y, x])
        vesicle = replace(vesicle, centre_zyx_A=centre)
        reach = float(vesicle.semi_axes_zyx_A.max())
        apart = all(
            np.linalg.norm(centre - other.centre_zyx_A) > 1.1 * (reach + float(other.semi_axes_zyx_A.max())) + 60.0
            for other in vesicles
        )
        rim = np.array([vesicle.surface(random_direction(rng))[0] for _ in range(40)])
        if apart and not (film is not None and bool(film.contains(rim).any())):
            vesicles.append(vesicle)
    return tuple(vesicles)


def _place_unlabelled(
    rng: np.random.Generator,
    slab: Slab,
    occupancy: Occupancy,
    per_run: float,
    draw: Callable[[np.random.Generator], Blobs],
) -> None:
    """Place unlabelled matter among the labelled particles; `per_run` is expected in a full-size box."""
    for _ in range(int(rng.poisson(per_run * slab.area_share()))):
        for _ in range(_ATTEMPTS):
            place = random_place(rng, slab, (1.3, 1.3))
            candidate = Molecule(UNLABELLED, place, draw(rng), core_A=30.0)
            if slab.contains(place) and occupancy.fits(candidate):
                occupancy.molecules.append(candidate)
                break


def _draw_membrane_proteins(
    rng: np.random.Generator, amounts: Surroundings, vesicles: tuple[Vesicle, ...], occupancy: Occupancy
) -> list[tuple[Array, Blobs]]:
    """Stud membranes with unlabelled proteins, outside only, away from the particles beside them."""
    taken = cKDTree(_blob_positions(occupancy.molecules))
    proteins: list[tuple[Array, Blobs]] = []
    for vesicle in vesicles:
        area = 4 * np.pi * float(np.prod(vesicle.semi_axes_zyx_A)) ** (2 / 3)
        for _ in range(int(rng.poisson(area * amounts.membrane_proteins))):
            point, normal = vesicle.surface(random_direction(rng))
            protein = membrane_protein(rng, normal)
            if float(np.min(taken.query(protein.positions_zyx_A + point)[0])) > _CLEARANCE_A:
                proteins.append((point, protein))
    return proteins


def _draw_small_proteins(
    rng: np.random.Generator, amounts: Surroundings, slab: Slab, occupancy: Occupancy
) -> list[tuple[Array, Blobs]]:
    """Fill a share of the ice with small proteins that touch nothing and one another at most."""
    extent = slab.extent_zyx_A
    volume = slab.thickness_A * float(np.prod(extent[1:] + 2 * _RIM_A))
    count = int(rng.poisson(amounts.small_proteins * volume / SMALL_PROTEIN_VOLUME_A3))
    centres = np.empty((count, 3))
    centres[:, 1:] = rng.uniform(-_RIM_A, extent[1:] + _RIM_A, (count, 2))
    centres[:, 0] = slab.middle_A + (centres[:, 1:] - extent[1:] / 2) @ slab.slope_yx
    centres[:, 0] += rng.uniform(-0.5, 0.5, count) * slab.thickness_A
    centres = centres[(centres[:, 0] > -_RIM_A) & (centres[:, 0] < extent[0] + _RIM_A)]
    centres = centres[_free(centres, occupancy)]
    return [(centre, small_protein(rng)) for centre in centres]


def _free(centres: Array, occupancy: Occupancy) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Tell which small proteins overlap nothing, and keep one of two that overlap each other."""
    free = np.asarray(cKDTree(_blob_positions(occupancy.molecules)).query(centres)[0] > _CLEARANCE_A)
    for radius_A in {m.interior_A for m in occupancy.molecules if m.interior_A > 0}:
        shells = np.array([m.centre_zyx_A for m in occupancy.molecules if m.interior_A == radius_A])
        free &= cKDTree(shells).query(centres)[0] > radius_A
    for vesicle in occupancy.vesicles:
        free &= np.abs(vesicle.distance_A(centres)) > MEMBRANE_CLEARANCE_A + 15.0
    if occupancy.film is not None:
        free &= ~occupancy.film.contains(centres)
    for first, second in sorted(cKDTree(centres).query_pairs(45.0)):
        if free[first]:
            free[second] = False
    return np.asarray(free)


def _blob_positions(molecules: list[Molecule]) -> Array:
    """Return all blob centres; a far point stands in where there are no molecules."""
    parts = [m.blobs.positions_zyx_A + m.centre_zyx_A for m in molecules]
    return np.concatenate(parts) if parts else np.full((1, 3), -1e9)
