"""EnsembleFolder: the networks of one or more run folders, which runs each never saw, and the Pipeline they share.

Of one run folder the results lie in that folder; of several, in an ensemble folder of their own::

    <ensemble folder>/ensemble.json        the run folders, where there are several
                      validation/          picks of the held-out runs
                      validation.json      curves, scores per class, fold and run
                      pipeline.json        the Pipeline that goes into the graph
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tomopoint.data.picks import Points, read_run_picks
from tomopoint.data.project import Project
from tomopoint.errors import PipelineError, TomopointError
from tomopoint.files import write_atomically
from tomopoint.networks.point_network import PointNetwork
from tomopoint.pipeline import PIPELINE_NAME, Member, Particle, Pipeline
from tomopoint.training.checkpoints import RECIPE, MemberRecord, find_members, load_member, read_json
from tomopoint.training.recipe import Recipe
from tomopoint.training.recipe_files import load_recipe

ENSEMBLE = "ensemble.json"
RESULT = "validation.json"


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
class EnsembleFolder:
    """Every finished network of some run folders of `tomopoint train`.

    Attributes
    ----------
    folder
        Where results go: the run folder, or the ensemble folder of several.
    run_folders
        Where the networks come from.
    networks, records, origins
        Per member: the network, what is known of it, and the index of its run folder.
    particles
        What all of them detect, in channel order, with the first recipe's thresholds.
    tomo_type
        Reconstruction to validate on: the first that was trained on.
    """

    folder: Path
    run_folders: tuple[Path, ...]
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

    @cached_property
    def titles(self) -> tuple[str, ...]:
        """Of the run folders: as much of the end of their paths as tells them apart, and a ``/``; one needs none."""
        if len(self.run_folders) == 1:
            return ("",)
        paths = [folder.resolve().parts for folder in self.run_folders]
        n = next(n for n in range(1, max(map(len, paths)) + 1) if len({path[-n:] for path in paths}) == len(paths))
        return tuple("/".join(path[-n:]) + "/" for path in paths)

    def fold_of(self, member: int) -> str:
        """Name of a member's fold: ``fold0``, with its run folder's title before it where there are several."""
        return self.titles[self.origins[member]] + self.records[member].fold

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Group name -> names of its runs."""
        groups: dict[str, tuple[str, ...]] = {}
        for run in self.held_out:
            groups[run.group] = (*groups.get(run.group, ()), run.name)
        return groups

    @property
    def kinds(self) -> dict[str, tuple[int, ...]]:
        """Members that differ in their fold only, by a name of what they share: architecture and run folder."""
        kinds: dict[str, tuple[int, ...]] = {}
        for index, record in enumerate(self.records):
            title = self.titles[self.origins[index]] + record.network.title
            kinds[title] = (*kinds.get(title, ()), index)
        return kinds

    @property
    def divisor(self) -> int:
        """Window sizes are multiples of this for every network."""
        return math.lcm(*(network.divisor for network in self.networks))

    @property
    def members(self) -> tuple[Member, ...]:
        """The networks as a Pipeline lists them, without scores, with equal weights."""
        return tuple(
            Member(record.fold, record.network.title, record.validation_runs, None, record.weights_sha256)
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
        runs = [project.run(held_out.name, "train") for held_out in self.held_out]
        return {run.name: read_run_picks(run.picks_folder, names) for run in runs}

    def command(self) -> str:
        """Return the words by which a user names these run folders on a command line."""
        return " ".join(str(folder) for folder in self.run_folders)


@dataclass(frozen=True)
class ValidatedEnsemble:
    """Networks and, in the order of its members, the Pipeline they were validated with."""

    networks: tuple[PointNetwork, ...]
    pipeline: Pipeline

    @property
    def architectures(self) -> dict[str, PointNetwork]:
        """First network of each architecture."""
        first: dict[str, PointNetwork] = {}
        for network, member in zip(self.networks, self.pipeline.members, strict=True):
            first.setdefault(member.network, network)
        return first


def find_folders(given: Sequence[Path], out: Path | None = None) -> tuple[Path, tuple[Path, ...]]:
    """Return the folder of the results and the run folders that somebody names.

    Parameters
    ----------
    given
        Run folders, or one ensemble folder that stands for its own.
    out
        The ensemble folder, where it is not the usual one: beside the first run folder, their names joined by ``+``,
        in the order of their paths, so that the order in which they are given does not matter.

    Raises
    ------
    TomopointError
        No such folder, one that is named twice, or a run folder of several as `out`.
    """
    for folder in given:
        if not folder.is_dir():
            raise TomopointError(f"no such run folder: {folder}; give the --out of `tomopoint train`")
    runs = tuple(member for folder in given for member in _run_folders_in(folder))
    resolved = [folder.resolve() for folder in runs]
    if len(set(resolved)) < len(resolved):
        twice = next(folder for folder in runs if resolved.count(folder.resolve()) > 1)
        raise TomopointError(f"{twice} would be averaged twice; name every run folder once")
    if out is None and len(given) == 1:
        return given[0], runs
    if out is not None and len(runs) > 1 and out.resolve() in resolved:
        raise TomopointError(
            f"--out {out} is one of the run folders, whose own calibration it would replace; choose another"
        )
    ordered = sorted(runs, key=lambda folder: folder.resolve())
    return out or ordered[0].with_name("+".join(folder.name for folder in ordered)), runs


def _run_folders_in(folder: Path) -> tuple[Path, ...]:
    record = folder / ENSEMBLE
    if not record.is_file():
        return (folder,)
    names = read_json(record).get("run_folders")
    if not isinstance(names, list) or not names:
        raise TomopointError(f"{record} names no run folders; run `tomopoint validate` on them again")
    found = tuple(folder / str(name) for name in names)
    for path in found:
        if not path.is_dir():
            raise TomopointError(f"{record} names {path}, which is not there; restore it, or validate without it")
    return found


def load_ensemble(given: Sequence[Path], out: Path | None = None) -> EnsembleFolder:
    """Load every finished member of some run folders; arguments as for :func:`find_folders`.

    Raises
    ------
    TomopointError
        No such folder or no member in it, or networks that cannot be averaged; says in what they differ.
    """
    folder, run_folders = find_folders(given, out)
    networks: list[PointNetwork] = []
    records: list[MemberRecord] = []
    origins: list[int] = []
    recipes: list[Recipe] = []
    for index, run_folder in enumerate(run_folders):
        recipes.append(load_recipe(str(run_folder / RECIPE)))
        for path in find_members(run_folder):
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
        folder, run_folders, tuple(networks), tuple(records), tuple(origins), recipes[0].particles, tomo_type
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
    """Write ``ensemble.json`` where the run folders are several: how the ensemble folder finds them again."""
    if ensemble.folder in ensemble.run_folders:
        return
    record = ensemble.folder / ENSEMBLE
    if record.is_file() and {f.resolve() for f in _run_folders_in(ensemble.folder)} != {
        f.resolve() for f in ensemble.run_folders
    }:
        raise TomopointError(f"{ensemble.folder} is the ensemble of other run folders ({record}); choose another --out")
    names = [os.path.relpath(folder, ensemble.folder) for folder in ensemble.run_folders]
    write_atomically(record, json.dumps({"run_folders": names}, indent=2) + "\n")


def load_validated(given: Sequence[Path]) -> ValidatedEnsemble:
    """Load the networks of validated run folders with the Pipeline that validation wrote: nothing else is deployed.

    Parameters
    ----------
    given
        The folders that `tomopoint validate` was given, or its ensemble folder.

    Raises
    ------
    PipelineError
        They were not validated, not together, or were trained on since, or ``pipeline.json`` was changed in more than
        its thresholds.
    TomopointError
        As :func:`load_ensemble`.
    """
    folder, run_folders = find_folders(given)
    again = f"run `tomopoint validate {' '.join(str(path) for path in run_folders)}`"
    path = folder / PIPELINE_NAME
    several = {run.resolve() for run in run_folders}
    other = len(run_folders) > 1 and folder.is_dir() and {run.resolve() for run in _run_folders_in(folder)} != several
    if not path.is_file() or other:
        together = "" if len(run_folders) == 1 else " together"
        raise PipelineError(f"{path} is missing: these networks were never validated{together}; {again} first")
    pipeline = Pipeline.load(path)
    validated_state = read_json(folder / RESULT).get("state_sha256") if (folder / RESULT).is_file() else None
    if validated_state not in (None, state_of(pipeline)):
        raise PipelineError(
            f"{path} was changed by hand since it was validated; only thresholds may be. {again} again, with the "
            "options that say what you want instead (window, overlap, views, weights, offset average)"
        )
    ensemble = load_ensemble(given)
    networks = dict(zip((record.weights_sha256 for record in ensemble.records), ensemble.networks, strict=True))
    if tuple(particle.name for particle in ensemble.particles) != pipeline.particle_names:
        raise PipelineError(f"{path} has other particles, or in another order, than the networks; {again} again")
    validated = {member.weights_sha256 for member in pipeline.members}
    for index, record in enumerate(ensemble.records):
        if record.weights_sha256 not in validated:
            title = f"{ensemble.fold_of(index)}/{record.network.title}"
            raise PipelineError(f"{title} is not in {path}: it was trained after the validation; {again} again")
    lost = [f"{m.fold}/{m.network}" for m in pipeline.members if m.weights_sha256 not in networks]
    if lost:
        raise PipelineError(f"{path} names networks that are lost ({', '.join(lost)}); restore them, or {again} again")
    return ValidatedEnsemble(tuple(networks[member.weights_sha256] for member in pipeline.members), pipeline)


def state_of(pipeline: Pipeline) -> str:
    """Return a digest of all that validation fixes: everything but the thresholds, which may be changed by hand."""
    return pipeline.with_thresholds(dict.fromkeys(pipeline.particle_names, 0.5)).digest


def with_weights(
    members: Sequence[Member], kinds: Mapping[str, tuple[int, ...]], shares: Mapping[str, float]
) -> tuple[Member, ...]:
    """Return the members, each with the weight of its kind."""
    of_member = {index: shares[kind] for kind, indices in kinds.items() for index in indices}
    return tuple(replace(member, weight=of_member[index]) for index, member in enumerate(members))
