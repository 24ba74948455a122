"""EnsembleFolder: the networks of one or more training folders, which runs each never saw, and the Pipeline they share.

Of one training folder the results lie in that folder; of several, in an ensemble folder of their own::

    <ensemble folder>/ensemble.json        the training folders, where there are several
                      validation/          picks of the held-out runs
                      validation.json      curves, scores per class, fold and run
                      pipeline.json        the Pipeline that goes into the graph
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tomopoint.data.particles import project_particles
from tomopoint.data.picks import Points, read_run_picks
from tomopoint.data.project import Project
from tomopoint.errors import TomopointError
from tomopoint.evaluation.calibration import VALIDATION_NAME
from tomopoint.files import write_atomically
from tomopoint.networks.point_network import PointNetwork
from tomopoint.pipeline import KINDS, Member, MemberKind, Particle
from tomopoint.strict_json import Malformed, build, read, reading
from tomopoint.training.checkpoints import RECIPE, MemberRecord, find_members, load_member
from tomopoint.training.recipe import Recipe
from tomopoint.training.recipe_files import load_recipe

ENSEMBLE = "ensemble.json"
RESULT = VALIDATION_NAME


@dataclass(frozen=True)
class HeldOutRun:
    """A run and the networks that never saw it.

    Attributes
    ----------
    name
        Of the run.
    group
        Name of the set of runs that the same networks predict, e.g. ``"fold0"`` or ``"fold0+fold1"``.
    members
        Indices of these networks.
    """

    name: str
    group: str
    members: tuple[int, ...]


@dataclass(frozen=True)
class EnsembleRecord:
    """What ``ensemble.json`` holds: the training folders, as paths from the ensemble folder."""

    training_folders: tuple[str, ...]


@dataclass(frozen=True)
class EnsembleFolder:
    """Every finished network of some training folders of `tomopoint train`.

    Attributes
    ----------
    folder
        Where results go: the training folder, or the ensemble folder of several.
    training_folders
        Where the networks come from.
    networks, records, origins
        Per member: the network, what is known of it, and the index of its training folder.
    particles
        What all of them detect, in channel order, with the first recipe's thresholds.
    tomo_type
        Reconstruction to validate on: the first that was trained on.
    """

    folder: Path
    training_folders: tuple[Path, ...]
    networks: tuple[PointNetwork, ...]
    records: tuple[MemberRecord, ...]
    origins: tuple[int, ...]
    particles: tuple[Particle, ...]
    tomo_type: str

    @cached_property
    def held_out(self) -> tuple[HeldOutRun, ...]:
        """Every run that some network never saw, sorted by name."""
        found = []
        for name in sorted({name for record in self.records for name in record.validation_runs}):
            members = tuple(i for i, record in enumerate(self.records) if name in record.validation_runs)
            found.append(HeldOutRun(name, "+".join(sorted({self.fold_of(i) for i in members})), members))
        return tuple(found)

    def run_named(self, name: str) -> HeldOutRun:
        """Return the held-out run of that name."""
        return next(held_out for held_out in self.held_out if held_out.name == name)

    @cached_property
    def titles(self) -> tuple[str, ...]:
        """Of the training folders: as much of the end of their paths as tells them apart, with a ``/``."""
        if len(self.training_folders) == 1:
            return ("",)
        paths = [folder.resolve().parts for folder in self.training_folders]
        n = next(n for n in range(1, max(map(len, paths)) + 1) if len({path[-n:] for path in paths}) == len(paths))
        return tuple("/".join(path[-n:]) + "/" for path in paths)

    def fold_of(self, member: int) -> str:
        """Name of a member's fold: ``fold0``, with its training folder's title before it where there are several."""
        return self.titles[self.origins[member]] + self.records[member].fold

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Group name -> names of its runs."""
        groups: dict[str, tuple[str, ...]] = {}
        for run in self.held_out:
            groups[run.group] = (*groups.get(run.group, ()), run.name)
        return groups

    @property
    def unjudged(self) -> tuple[int, ...]:
        """Indices of the networks that hold nothing out: no run can score them."""
        return tuple(index for index, record in enumerate(self.records) if not record.validation_runs)

    @property
    def siblings(self) -> dict[str, tuple[int, ...]]:
        """Members that differ in their fold only, by a name of what they share: architecture and training folder."""
        siblings: dict[str, tuple[int, ...]] = {}
        for index, record in enumerate(self.records):
            title = self.titles[self.origins[index]] + record.network.title
            siblings[title] = (*siblings.get(title, ()), index)
        return siblings

    @property
    def of_kinds(self) -> dict[MemberKind, tuple[int, ...]]:
        """Members of each kind that is there, in the order of :data:`~tomopoint.pipeline.KINDS`."""
        found = {kind: tuple(i for i, member in enumerate(self.members) if member.kind == kind) for kind in KINDS}
        return {kind: members for kind, members in found.items() if members}

    @property
    def divisor(self) -> int:
        """Window sizes are multiples of this for every network."""
        return math.lcm(*(network.divisor for network in self.networks))

    @property
    def members(self) -> tuple[Member, ...]:
        """The networks as a Pipeline lists them, without scores, with equal weights."""
        return tuple(
            Member(
                fold=record.fold,
                network=record.network.title,
                validation_runs=record.validation_runs,
                score=None,
                weights_sha256=record.weights_sha256,
                kind=record.network.kind,
            )
            for record in self.records
        )

    def project(self, data: Path | None) -> Project:
        """Return the project that was trained on, or the one in `data`."""
        roots = {record.data_root for record in self.records}
        if data is None and len(roots) > 1:
            raise TomopointError(f"members were trained on {', '.join(sorted(roots))}; say which with --data")
        return Project(data or Path(roots.pop()))

    def read_truth(self, project: Project) -> dict[str, dict[str, Points]]:
        """Read the true picks of every held-out run: run -> particle -> ``(N, 3)`` x, y, z in Angstrom."""
        names = [particle.name for particle in self.particles]
        known = [particle.name for particle in project_particles(project.root)]
        runs = [project.run(held_out.name, "train") for held_out in self.held_out]
        return {run.name: read_run_picks(run.picks_folder, names, known) for run in runs}

    def unjudged_text(self) -> str:
        """Say which networks hold nothing out, and what that means for thresholds and scores."""
        names = ", ".join(f"{self.fold_of(i)}/{self.records[i].network.title}" for i in self.unjudged)
        return (
            f"{len(self.unjudged)} of {len(self.records)} networks hold no run out and have no score ({names}): "
            "thresholds and scores are those of the average without them, which may suit the whole average less well"
        )

    def command(self) -> str:
        """Return the words by which a user names these training folders on a command line."""
        return " ".join(str(folder) for folder in self.training_folders)


def find_folders(given: Sequence[Path], out: Path | None = None) -> tuple[Path, tuple[Path, ...]]:
    """Return the folder of the results and the training folders that somebody names.

    Parameters
    ----------
    given
        Training folders, or one ensemble folder that stands for its own.
    out
        The ensemble folder, where it is not the usual one: beside the first training folder, their names joined by
        ``+``, in the order of their paths, so that the order in which they are given does not matter.

    Raises
    ------
    TomopointError
        No such folder, one that is named twice, or a training folder of several as `out`.
    """
    for folder in given:
        if not folder.is_dir():
            raise TomopointError(f"no such training folder: {folder}; give the --out of `tomopoint train`")
    runs = tuple(member for folder in given for member in training_folders_in(folder))
    resolved = [folder.resolve() for folder in runs]
    if len(set(resolved)) < len(resolved):
        twice = next(folder for folder in runs if resolved.count(folder.resolve()) > 1)
        raise TomopointError(f"{twice} would be averaged twice; name every training folder once")
    if out is None and len(given) == 1:
        return given[0], runs
    if out is not None and len(runs) > 1 and out.resolve() in resolved:
        raise TomopointError(
            f"--out {out} is one of the training folders, whose own calibration it would replace; choose another"
        )
    ordered = sorted(runs, key=lambda folder: folder.resolve())
    return out or ordered[0].with_name("+".join(folder.name for folder in ordered)), runs


def training_folders_in(folder: Path) -> tuple[Path, ...]:
    """Return the training folders that a folder stands for: itself, or those of its ``ensemble.json``."""
    record = folder / ENSEMBLE
    if not record.is_file():
        return (folder,)
    with reading(record, TomopointError, "is damaged", "run `tomopoint validate` on its training folders again"):
        names = build(EnsembleRecord, read(record)).training_folders
        if not names:
            raise Malformed("it names no training folder")
        found = tuple(folder / name for name in names)
        if lost := [path for path in found if not path.is_dir()]:
            raise TomopointError(f"{record} names {lost[0]}, which is not there; restore it, or validate without it")
    return found


def places(folders: Sequence[Path]) -> set[Path]:
    """Return where folders lie, whatever they are called and in whichever order."""
    return {folder.resolve() for folder in folders}


def load_ensemble(given: Sequence[Path], out: Path | None = None) -> EnsembleFolder:
    """Load every finished member of some training folders; arguments as for :func:`find_folders`.

    Raises
    ------
    TomopointError
        No such folder or no member in it, or networks that cannot be averaged; says in what they differ.
    """
    folder, training_folders = find_folders(given, out)
    networks: list[PointNetwork] = []
    records: list[MemberRecord] = []
    origins: list[int] = []
    recipes: list[Recipe] = []
    for index, training_folder in enumerate(training_folders):
        recipes.append(load_recipe(str(training_folder / RECIPE)))
        for path in find_members(training_folder):
            network, record = load_member(path)
            _check_agreement(recipes, records, record, path)
            networks.append(network)
            records.append(record)
            origins.append(index)
    hashes = [record.weights_sha256 for record in records]
    if len(set(hashes)) < len(hashes):
        twice = next(record for record in records if hashes.count(record.weights_sha256) > 1)
        raise TomopointError(f"{twice.fold}/{twice.network.title} would be averaged twice; name every network once")
    tomo_type = recipes[0].crops.tomo_types[0]
    return EnsembleFolder(
        folder, training_folders, tuple(networks), tuple(records), tuple(origins), recipes[0].particles, tomo_type
    )


def _check_agreement(
    recipes: Sequence[Recipe], records: Sequence[MemberRecord], record: MemberRecord, path: Path
) -> None:
    """Refuse a member whose output cannot be averaged with that of the first."""
    first_recipe, recipe = recipes[0], recipes[-1]
    first = records[0] if records else record
    compared: dict[str, tuple[Any, Any]] = {
        "particles": (tuple(particle.name for particle in first_recipe.particles), record.particles),
        "radii, weights or suppression": (_geometry(first_recipe.particles), _geometry(recipe.particles)),
        "stride": (first.stride, record.stride),
        "voxel size": (round(first.voxel_A, 2), round(record.voxel_A, 2)),
        "normalisation": (first.normalisation, record.normalisation),
        "reconstruction": (first_recipe.crops.tomo_types[0], recipe.crops.tomo_types[0]),
    }
    for what, (ours, theirs) in compared.items():
        if ours != theirs:
            raise TomopointError(
                f"{path} differs from the first network in {what} ({theirs} and {ours}) and cannot be averaged with "
                "it; validate and export it apart, or train it again"
            )


def _geometry(particles: Sequence[Particle]) -> list[tuple[str, float, float, float]]:
    return [(p.name, p.radius_A, p.weight, p.suppression_A) for p in particles]


def save_ensemble(ensemble: EnsembleFolder) -> None:
    """Write ``ensemble.json`` where the training folders are several: how the ensemble folder finds them again."""
    if ensemble.folder in ensemble.training_folders:
        return
    record = ensemble.folder / ENSEMBLE
    if record.is_file() and places(training_folders_in(ensemble.folder)) != places(ensemble.training_folders):
        raise TomopointError(
            f"{ensemble.folder} is the ensemble of other training folders ({record}); choose another --out"
        )
    names = [os.path.relpath(folder, ensemble.folder) for folder in ensemble.training_folders]
    write_atomically(record, json.dumps({"training_folders": names}, indent=2) + "\n")
