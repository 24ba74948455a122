"""The particles of a project: ``particles.yaml`` in its root, where they are not those of the competition.

::

    particles:
      - name: spike               # as in the picks files and the submission
        radius_A: 75              # a pick within half of it counts as found
        weight: 2                 # in the score; default 1
        threshold: 0.3            # until validation has chosen one; default 0.25
        suppression_A: 90         # of two picks closer than this one stays; default 1.2 radii
        simulate: {...}           # what `tomopoint simulate` needs to know; nothing else reads it
      - name: ribosome            # one of the competition's needs its name only

The order is that of the score map's channels. Every command finds the file by the project's folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tomopoint.data.project import SPLITS
from tomopoint.errors import DataError, PipelineError
from tomopoint.files import PLAIN_NAME, is_plain_name
from tomopoint.pipeline import COMPETITION_PARTICLES, Particle
from tomopoint.strict_json import Malformed, build, shown
from tomopoint.strict_yaml import read_yaml

PARTICLES_NAME = "particles.yaml"

DEFAULT_THRESHOLD = 0.25
"""Where networks that know their particles have their best F4, roughly; validation chooses a better one."""

MAX_RADIUS_A = 1e6

SUPPRESSION_RADII = 1.2
"""Default suppression over the radius. Two balls that touch are 2 radii apart, elongated particles side by side less.
The competition's six, whose distances are known, have 1.0 to 2.3: near the lower end a default costs no true pair."""


@dataclass(frozen=True)
class ParticleEntry:
    """One particle as a user states it; see :class:`tomopoint.pipeline.Particle`. What is None has a default.

    Attributes
    ----------
    name, radius_A, weight, threshold, suppression_A
        As there.
    simulate
        What the simulator needs to know, see :mod:`tomopoint.simulate.particles.own`.
    """

    name: str
    radius_A: float | None = None
    weight: float | None = None
    threshold: float | None = None
    suppression_A: float | None = None
    simulate: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _File:
    particles: tuple[ParticleEntry, ...]


def read_entries(path: Path) -> tuple[ParticleEntry, ...]:
    """Read a particles file as it stands.

    Raises
    ------
    DataError
        Not there, not YAML, a field unknown or of another type, no particle, or a name twice or with odd characters.
    """
    try:
        entries = build(_File, read_yaml(path, "write the fields out", DataError), to_float=True).particles
    except Malformed as fault:
        raise DataError(f"{path}: {fault}; see docs/simulator.md for an example") from fault
    names = [entry.name for entry in entries]
    if not names:
        raise DataError(f"{path} lists no particle; remove it, or add one under `particles:`")
    for name in names:
        if not is_plain_name(name):
            raise DataError(f"{path}: a particle's name must be {PLAIN_NAME}, got {shown(name)}; rename it")
        if names.count(name) > 1:
            raise DataError(f"{path}: two particles are called {name!r}; rename one of them")
    return entries


def particle_of(entry: ParticleEntry, source: object, radius_A: float | None = None) -> Particle:
    """Complete an entry by what is known of the competition's particle of that name, or else by defaults.

    Parameters
    ----------
    entry
        What the user states; it goes before everything else.
    source
        Where, for messages.
    radius_A
        Radius where the user states none, e.g. measured on a structure.

    Raises
    ------
    DataError
        There is no radius, or a value is out of range.
    """
    values: dict[str, Any] = {"weight": 1.0, "threshold": DEFAULT_THRESHOLD}
    values |= next((asdict(known) for known in COMPETITION_PARTICLES if known.name == entry.name), {})
    if radius_A is not None:  # another structure than the competition's: its suppression is not known either
        values = {"weight": values["weight"], "threshold": values["threshold"], "radius_A": radius_A}
    stated = {name: value for name, value in vars(entry).items() if name != "simulate" and value is not None}
    values |= stated
    if "radius_A" not in values:
        raise DataError(
            f"{source}: the radius of {entry.name} is missing; state its radius_A in Angstrom (`tomopoint simulate` "
            "finds it from a structure)"
        )
    values.setdefault("suppression_A", round(SUPPRESSION_RADII * values["radius_A"], 1))
    try:
        return Particle(**values)
    except PipelineError as fault:
        raise DataError(f"{source}: {fault}") from fault


def read_particles(path: Path) -> tuple[Particle, ...]:
    """Read a particles file, every value that it leaves out completed; errors as :func:`read_entries`."""
    return tuple(particle_of(entry, path) for entry in read_entries(path))


def project_particles(root: Path) -> tuple[Particle, ...]:
    """Return the particles of a project: those of its file, where there is one, else the competition's."""
    path = root / PARTICLES_NAME
    return read_particles(path) if path.is_file() else COMPETITION_PARTICLES


def particles_around(folder: Path) -> tuple[Particle, ...]:
    """Return the particles of the project that a folder (of true picks) lies in, as :func:`project_particles` does."""
    place = folder.resolve()
    for root in (place, *place.parents):
        if (root / PARTICLES_NAME).is_file() and any((root / split).is_dir() for split in SPLITS):
            return project_particles(root)
    return COMPETITION_PARTICLES


def parse_radii(text: str) -> dict[str, float]:
    """Read ``spike=75,fas=130``, radii in Angstrom as typed; DataError where it is anything else."""
    try:
        pairs = [part.rpartition("=") for part in text.split(",") if part.strip()]
        radii_A = {name.strip(): float(value) for name, _, value in pairs}
    except ValueError as error:
        raise DataError(f"--radius takes spike=75,fas=130, Angstrom; got {text!r}") from error
    for name, radius_A in radii_A.items():
        if not is_plain_name(name):
            raise DataError(f"--radius takes spike=75,fas=130, Angstrom; got {text!r}")
        if not 0 < radius_A < MAX_RADIUS_A:
            raise DataError(f"--radius {name} must be a positive number of Angstrom, got {radius_A:g}")
    return radii_A


def complete_particles(stated: Any, known: Sequence[Particle]) -> Any:
    """Complete the `particles` of a recipe, parsed YAML, from those that are known; what is no such list is left.

    Parameters
    ----------
    stated
        A list of names, and of mappings in which all but the name of a known particle may be missing.
    known
        Those of the project, or of the competition.

    Raises
    ------
    DataError
        A name alone that is not known.
    """
    if not isinstance(stated, list):
        return stated
    by_name = {particle.name: asdict(particle) for particle in known}
    completed = []
    for item in stated:
        if isinstance(item, str):
            if item not in by_name:
                raise DataError(
                    f"unknown particle {shown(item)}; known are {', '.join(by_name)}, or state its radius_A"
                )
            completed.append(by_name[item])
        elif isinstance(item, dict):
            name, radius_A = item.get("name"), item.get("radius_A")
            values = {"weight": 1.0, "threshold": DEFAULT_THRESHOLD}
            if isinstance(radius_A, (int, float)):
                values["suppression_A"] = round(SUPPRESSION_RADII * radius_A, 1)
            completed.append({**values, **(by_name.get(name, {}) if isinstance(name, str) else {}), **item})
        else:
            completed.append(item)
    return completed
