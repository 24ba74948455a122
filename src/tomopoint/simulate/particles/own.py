"""The user's own particles: what ``particles.yaml`` says under ``simulate``, and the shapes of the files it names.

::

    particles:
      - name: spike
        simulate:
          structure: 7abc.cif.gz     # or map: emd_1234.mrc, or beads: spike.csv
          where: membrane
          per_um3: 300
      - name: ribosome               # of the competition: its shape and numbers are known

Paths count from the file's folder. See :mod:`tomopoint.data.particles` for what else it holds.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tomopoint.data.particles import ParticleEntry, particle_of, read_entries
from tomopoint.errors import DataError
from tomopoint.files import require_file, sha256_of, write_atomically
from tomopoint.simulate.density import UNITS_PER_KDA, Blobs
from tomopoint.simulate.options import Shapes
from tomopoint.simulate.particles.bead_table import read_beads
from tomopoint.simulate.particles.catalogue import competition_particles
from tomopoint.simulate.particles.coarse import BLUR_PER_RESOLUTION, MIN_SIGMA_A, beads_of
from tomopoint.simulate.particles.density_map import read_map
from tomopoint.simulate.particles.extent import core_A, interior_A, radius_A
from tomopoint.simulate.particles.model import SimulatedParticle
from tomopoint.simulate.particles.structure import read_structure
from tomopoint.simulate.statistics import (
    FULL_VOLUME_UM3,
    Clusters,
    ParticleStatistics,
    Where,
)
from tomopoint.strict_json import Malformed, build

SOURCES = ("structure", "map", "beads")
MAX_REACH_A = 600.0
"""Larger particles fill the ice: nine in ten tomograms are less than 1200 A deep."""

LEAFLET_REACH_A = 30.0
"""Half the thickness of a bilayer with its head groups and some: what stands in a membrane has density there."""

DEFAULT_PER_UM3 = 400.0
"""The mean of the competition's six: 30 in a tomogram of 0.073 um^3."""

MAX_PER_RUN = 2000
"""Ten times all the particles of a real tomogram."""

RELATIVE_SPREAD = 0.35
"""Of the counts of different runs, beyond chance: the mean of the six."""


@dataclass(frozen=True)
class ClusterEntry:
    """How a particle gathers, see :class:`tomopoint.simulate.statistics.Clusters`; spacing by default two radii."""

    shares: tuple[float, float, float] = (0.4, 0.4, 0.2)
    largest: int = 12
    spacing_A: float | None = None
    chain: bool = False


@dataclass(frozen=True)
class SimulateEntry:
    """What the simulator needs to know of a particle.

    Attributes
    ----------
    structure
        Path of an mmCIF or PDB file, also gzipped.
    assembly
        Of the structure: its number in the file, or ``none`` for the coordinates as they stand.
    map, map_threshold
        Path of a density map in MRC format, and the density above which it is the molecule.
    beads
        Path of a CSV file with columns x, y, z, weight and, optionally, sigma; or rows of these. Angstrom and kDa.
    mass_kda
        Mass where the file does not say it, or says it wrong.
    resolution_A
        Finer detail is left out. The default is two voxels of 10 A: the tomograms hold no finer one.
    difficulty
        Divides the contrast of this particle.
    per_um3, per_run
        Mean number per cubic micrometre of tomogram, or in each tomogram of whatever size.
    clusters
        None where it does not gather.
    where
        ``anywhere`` in the ice; outside (``cytosol``) or inside (``lumen``) vesicles; ``membrane``: standing in one,
        its z axis pointing out, as structures of the OPM database are oriented.
    membrane_z_A
        Of a membrane particle: height of the bilayer's middle in the coordinates of its file.
    """

    structure: str | None = None
    assembly: int | str = 1
    map: str | None = None
    map_threshold: float | None = None
    beads: str | tuple[tuple[float, ...], ...] | None = None
    mass_kda: float | None = None
    resolution_A: float = 20.0
    difficulty: float = 1.0
    per_um3: float | None = None
    per_run: float | None = None
    clusters: ClusterEntry | None = None
    where: Where = "anywhere"
    membrane_z_A: float = 0.0

    @property
    def source(self) -> str | None:
        """Which of the three ways of giving a shape is used."""
        return next((name for name in SOURCES if getattr(self, name) is not None), None)


@dataclass(frozen=True, eq=False)
class OwnParticles:
    """The particles of a user's file.

    Attributes
    ----------
    particles
        In the order they are placed: large ones first, while there is room.
    entries
        The file's entries in its order, completed.
    folder
        Paths in the entries count from here.
    hashes
        SHA-256 of every file that an entry names, by entry.
    """

    particles: tuple[SimulatedParticle, ...]
    entries: tuple[ParticleEntry, ...]
    folder: Path
    hashes: dict[str, str]

    def record(self) -> dict[str, Any]:
        """Return what decides the content of a run: entries by name, with hashes in place of paths."""
        content = {}
        for entry in self.entries:
            files = {_file_of(entry): self.hashes[entry.name]} if entry.name in self.hashes else {}
            content[entry.name] = {**_stated(entry), "simulate": {**entry.simulate, **files}}
        return content

    def save(self, path: Path) -> None:
        """Write the completed entries as a particles file, so that every command finds them in the project."""
        import yaml

        shown = []
        for entry in self.entries:
            simulate = dict(entry.simulate)
            if entry.name in self.hashes:
                key = _file_of(entry)
                simulate[key] = os.path.relpath(self.folder / simulate[key], path.parent)
            shown.append({**_stated(entry), **({"simulate": simulate} if simulate else {})})
        write_atomically(path, yaml.safe_dump({"particles": shown}, sort_keys=False))


def read_own_particles(path: Path, shapes: Shapes) -> OwnParticles:
    """Read a particles file with every structure it names.

    Parameters
    ----------
    path
        ``particles.yaml``, see the module's text.
    shapes
        Of the competition's particles among them.

    Raises
    ------
    DataError
        Anything wrong with the file or with one that it names; says which particle.
    """
    return own_particles(read_entries(path), path, shapes)


def own_particles(stated_entries: Sequence[ParticleEntry], path: Path, shapes: Shapes) -> OwnParticles:
    """Read the structures of entries that stand in `path`, as :func:`read_own_particles` does."""
    known = {particle.name: particle for particle in competition_particles(shapes)}
    particles, entries, hashes = [], [], {}
    for entry in stated_entries:
        try:
            stated = build(SimulateEntry, dict(entry.simulate), f"{entry.name}.simulate", to_float=True)
            _check(entry.name, stated)
        except Malformed as fault:
            raise DataError(f"{path}: {fault}; see docs/simulator.md") from fault
        named = getattr(stated, stated.source) if stated.source else None
        if isinstance(named, str):
            hashes[entry.name] = _hash_of(path.parent / named, f"{path}, {entry.name}")
        if stated.source is None and entry.name not in known:
            raise DataError(
                f"{path}: {entry.name} has no shape and is none of {', '.join(sorted(known))}; give structure, map or "
                "beads under `simulate`"
            )
        particle, completed = _particle(entry, stated, known.get(entry.name), path)
        particles.append(particle)
        entries.append(completed)
    placed = sorted(particles, key=lambda particle: -particle.blobs.integral)
    return OwnParticles(tuple(placed), tuple(entries), path.parent, hashes)


def _particle(
    entry: ParticleEntry, stated: SimulateEntry, known: SimulatedParticle | None, path: Path
) -> tuple[SimulatedParticle, ParticleEntry]:
    """Build one particle, and its entry with all that a picker needs filled in."""
    # The shape: its own, or that of the competition's particle of this name.
    if stated.source is not None:
        placed = _shape(stated, path.parent, f"{path}, {entry.name}")
        blobs, measured = placed.centred(), radius_A(placed.centred())
        core, interior = core_A(blobs), interior_A(blobs)
        height = float(blobs.weights @ placed.positions_zyx_A[:, 0] / blobs.integral) - stated.membrane_z_A
    else:
        assert known is not None
        blobs, measured, core, interior, height = (
            known.blobs,
            None,
            known.core_A,
            known.interior_A,
            -stated.membrane_z_A,
        )
    if blobs.reach_A > MAX_REACH_A:
        raise DataError(
            f"{path}: {entry.name} reaches {blobs.reach_A:.0f} A from its centre; more than {MAX_REACH_A:.0f} A do not "
            "fit into the ice of a tomogram: take a part of it"
        )
    if stated.where == "membrane" and np.abs(blobs.positions_zyx_A[:, 0] + height).min() > LEAFLET_REACH_A:
        raise DataError(
            f"{path}: {entry.name} stands in a membrane, but nothing of it lies within {LEAFLET_REACH_A:.0f} A of "
            f"z = {stated.membrane_z_A:g}; turn the structure's z axis along the membrane's normal, and give "
            "membrane_z_A where the membrane's middle is not at z = 0"
        )
    blobs = blobs.with_integral(blobs.integral / stated.difficulty)

    # What a picker needs, as far as the user leaves it out.
    particle = particle_of(entry, path, measured)
    completed = replace(
        entry,
        radius_A=particle.radius_A,
        weight=particle.weight,
        threshold=particle.threshold,
        suppression_A=particle.suppression_A,
    )

    # How many there are and where.
    if known is not None and stated.source is None:
        statistics = known.statistics
    else:
        statistics = ParticleStatistics(0.0, 0.0, (2.0, 2.0), room_A=core)
    if stated.per_run is not None or stated.per_um3 is not None or statistics.mean == 0:
        per_full_run = (DEFAULT_PER_UM3 if stated.per_um3 is None else stated.per_um3) * FULL_VOLUME_UM3
        mean = per_full_run if stated.per_run is None else stated.per_run
        if mean > MAX_PER_RUN:
            raise DataError(
                f"{path}: {mean:.0f} copies of {entry.name} in a tomogram do not find room; at most {MAX_PER_RUN}"
            )
        spread = float(np.sqrt(mean + (RELATIVE_SPREAD * mean) ** 2))
        statistics = replace(statistics, mean=mean, spread=spread, whatever_the_box=stated.per_run is not None)
    if stated.clusters is not None:
        gathered = stated.clusters
        spacing = 2.0 * particle.radius_A if gathered.spacing_A is None else gathered.spacing_A
        clusters = Clusters(gathered.shares, gathered.largest, (spacing, 0.05 * spacing), gathered.chain)
        statistics = replace(statistics, clusters=clusters)
    if stated.where != "anywhere":
        statistics = replace(statistics, where=stated.where, membrane_height_A=height, beside_membrane=0.0)
    simulated = SimulatedParticle(
        entry.name, blobs, core, statistics, particle.radius_A, particle.weight, particle.suppression_A, interior
    )
    return simulated, completed


def _shape(stated: SimulateEntry, folder: Path, source: str) -> Blobs:
    """Return the density in the coordinates of its file."""
    if stated.structure is not None:
        atoms = read_structure(folder / stated.structure, stated.assembly, stated.mass_kda)
        blobs = beads_of(atoms, stated.resolution_A)
    elif stated.map is not None:
        blobs = beads_of(read_map(folder / stated.map, stated.map_threshold, stated.mass_kda), stated.resolution_A)
    else:
        assert stated.beads is not None
        given = folder / stated.beads if isinstance(stated.beads, str) else stated.beads
        blobs = read_beads(given, max(BLUR_PER_RESOLUTION * stated.resolution_A, MIN_SIGMA_A), source)
        if stated.mass_kda is not None:
            blobs = blobs.with_integral(stated.mass_kda * UNITS_PER_KDA)
    return blobs


def _check(name: str, stated: SimulateEntry) -> None:
    """Refuse what fits together as types and not otherwise."""

    def require(condition: bool, message: str) -> None:
        if not condition:
            raise Malformed(f"{name}.simulate.{message}")

    given = [source for source in SOURCES if getattr(stated, source) is not None]
    require(len(given) <= 1, f"{' and '.join(given)} are both given; a particle has one shape")
    require(stated.map is not None or stated.map_threshold is None, "map_threshold belongs to a map")
    require(stated.structure is not None or stated.assembly == 1, "assembly belongs to a structure")
    require(stated.source is not None or stated.mass_kda is None, "mass_kda belongs to a structure, map or beads")
    require(
        stated.source is not None or stated.resolution_A == 20.0, "resolution_A belongs to a structure, map or beads"
    )
    require(5 <= stated.resolution_A <= 60, f"resolution_A must lie in [5, 60], got {stated.resolution_A}")
    require(0.1 <= stated.difficulty <= 10, f"difficulty must lie in [0.1, 10], got {stated.difficulty}")
    require(stated.per_um3 is None or stated.per_run is None, "per_um3 and per_run are both given; keep one")
    for key in ("per_um3", "per_run", "mass_kda"):
        value = getattr(stated, key)
        require(value is None or value > 0, f"{key} must be positive, got {value}")
    if stated.clusters is not None:
        shares, largest, spacing = stated.clusters.shares, stated.clusters.largest, stated.clusters.spacing_A
        require(min(shares) >= 0 and sum(shares) > 0, f"clusters.shares must not be negative, got {list(shares)}")
        require(largest >= 6, f"clusters.largest must be at least 6, got {largest}")
        require(spacing is None or spacing > 0, f"clusters.spacing_A must be positive, got {spacing}")


def _hash_of(path: Path, source: str) -> str:
    try:
        require_file(path)
        return sha256_of(path)
    except OSError as error:
        raise DataError(f"{source}: cannot read {path} ({error.strerror}); correct the path") from error


def _file_of(entry: ParticleEntry) -> str:
    """Name the key under which an entry names a file."""
    return next(name for name in SOURCES if isinstance(entry.simulate.get(name), str))


def _stated(entry: ParticleEntry) -> dict[str, Any]:
    return {name: value for name, value in asdict(entry).items() if name != "simulate" and value is not None}
