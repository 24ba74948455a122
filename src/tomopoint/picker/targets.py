"""What a picker is to find: structures named on the command line, and a particles file, as one particles file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tomopoint.data.particles import ParticleEntry, read_entries
from tomopoint.errors import TomopointError
from tomopoint.files import PLAIN_NAME, is_plain_name, write_atomically
from tomopoint.simulate.density import UNITS_PER_KDA
from tomopoint.simulate.particles.measured import protein_data_bank_entries
from tomopoint.simulate.particles.own import SOURCES, OwnParticles, own_particles

PER_RUN = 20.0
"""Mean number in a simulated tomogram of particles of which nobody says how many there are: as many as thresholds and
training need, which is more than most samples hold."""

SMALLEST_KDA = 150.0
"""Lighter particles hardly stand out of the noise of 10 A tomograms: apo-ferritin, the best seen of the competition's,
has 444 kDa, beta-amylase, which its hosts do not score, 224."""


@dataclass(frozen=True)
class Targets:
    """Particles to find.

    Attributes
    ----------
    own
        As the simulator reads them.
    entries
        As they are written for it: paths absolute, numbers filled in.
    """

    own: OwnParticles
    entries: tuple[ParticleEntry, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Their names, in order."""
        return tuple(entry.name for entry in self.entries)

    @property
    def sources(self) -> dict[str, str]:
        """What each shape comes from: a file's name, beads listed in place, an entry of the Protein Data Bank."""
        known = protein_data_bank_entries()

        def source(entry: ParticleEntry) -> str:
            given = [entry.simulate[key] for key in SOURCES if entry.simulate.get(key) is not None]
            if given:
                return Path(given[0]).name if isinstance(given[0], str) else "beads"
            return f"PDB {known[entry.name]}" if entry.name in known else "symmetry and size"

        return {entry.name: source(entry) for entry in self.entries}

    def masses_kda(self) -> dict[str, float]:
        """Return the mass of each, by name."""
        rendered = {particle.name: particle.blobs.integral / UNITS_PER_KDA for particle in self.own.particles}
        # A difficult particle is rendered fainter than it is heavy.
        return {e.name: round(rendered[e.name] * float(e.simulate.get("difficulty") or 1.0), 1) for e in self.entries}

    def unlikely(self) -> list[str]:
        """Return a sentence for each particle that a picker is unlikely to find."""
        return [
            f"{name} weighs {mass:.0f} kDa: below about {SMALLEST_KDA:.0f} kDa a picker is unlikely to find a particle"
            for name, mass in self.masses_kda().items()
            if mass < SMALLEST_KDA
        ]

    def save(self, path: Path) -> None:
        """Write them as a particles file."""
        import yaml

        shown = [{key: value for key, value in asdict(e).items() if value not in (None, {})} for e in self.entries]
        write_atomically(path, yaml.safe_dump({"particles": shown}, sort_keys=False))


def read_targets(structures: Sequence[str], particles: Path | None) -> Targets:
    """Read everything that a picker is to find.

    Parameters
    ----------
    structures
        ``NAME=FILE`` each, an mmCIF or PDB file.
    particles
        Particles file, see :mod:`tomopoint.simulate.particles.own`.

    Raises
    ------
    TomopointError
        Nothing to find, a name twice, or anything wrong with a file.
    """
    if not structures and particles is None:
        raise TomopointError(
            "nothing to find: give --structure NAME=FILE (mmCIF or PDB), several times for several particles, or "
            "--particles FILE.yaml"
        )
    named = [_entry(text) for text in structures]
    listed = read_entries(particles) if particles is not None else ()
    names = [entry.name for entry in (*named, *listed)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise TomopointError(f"two particles are called {', '.join(twice)}; give each --structure a name of its own")

    # Each is read once where its paths count from, so that what is wrong is said of what the user gave.
    entries: list[ParticleEntry] = []
    for stated, source in ((named, Path("--structure")), (listed, particles)):
        if stated and source is not None:
            own_particles(stated, source, "measured")
            entries += [_filled(entry, source.parent) for entry in stated]
    return Targets(own_particles(entries, Path("--particles"), "measured"), tuple(entries))


def _entry(text: str) -> ParticleEntry:
    name, equals, file = text.partition("=")
    if not (equals and file and is_plain_name(name)):
        raise TomopointError(f"--structure takes NAME=FILE, the name {PLAIN_NAME}, e.g. spike=7abc.cif; got {text!r}")
    return ParticleEntry(name, simulate={"structure": file})


def _filled(entry: ParticleEntry, folder: Path) -> ParticleEntry:
    """Return an entry with absolute paths and, where it has a shape of its own, a number of copies."""
    simulate: dict[str, Any] = dict(entry.simulate)
    own_shape = [source for source in SOURCES if simulate.get(source) is not None]
    for source in own_shape:
        if isinstance(simulate[source], str):
            simulate[source] = str((folder / simulate[source]).resolve())
    if own_shape and simulate.get("per_run") is None and simulate.get("per_um3") is None:
        simulate["per_run"] = PER_RUN
    return replace(entry, simulate=simulate)
