"""A finished training run: its networks, and which runs each of them never saw."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tomopoint.data.picks import Points, read_run_picks
from tomopoint.data.project import Project
from tomopoint.errors import TomopointError
from tomopoint.networks.contract import PointNetwork
from tomopoint.pipeline import Decoding, Member, Pipeline, Tiling
from tomopoint.training.checkpoints import RECIPE, MemberRecord, find_members, load_member
from tomopoint.training.recipe_files import load_recipe
from tomopoint.training.recipes import Recipe


@dataclass(frozen=True)
class HeldOutRun:
    """A run and the networks that never saw it.

    Attributes
    ----------
    name
        Of the run.
    folds
        Folds that hold it out.
    members
        Indices of the networks of these folds.
    """

    name: str
    folds: tuple[str, ...]
    members: tuple[int, ...]

    @property
    def group(self) -> str:
        """Name of the set of runs that the same networks predict, e.g. ``"fold0"`` or ``"fold0+fold1"``."""
        return "+".join(self.folds)


@dataclass(frozen=True)
class TrainedRun:
    """A run folder of `tomopoint train`: networks, their records, and the recipe."""

    folder: Path
    networks: tuple[PointNetwork, ...]
    records: tuple[MemberRecord, ...]
    recipe: Recipe

    @cached_property
    def held_out(self) -> tuple[HeldOutRun, ...]:
        """Every run that some network never saw, sorted by name."""
        names = sorted({name for record in self.records for name in record.validation_runs})
        found = []
        for name in names:
            members = tuple(i for i, record in enumerate(self.records) if name in record.validation_runs)
            folds = tuple(sorted({self.records[i].fold for i in members}))
            found.append(HeldOutRun(name, folds, members))
        return tuple(found)

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Group name -> names of its runs."""
        groups: dict[str, tuple[str, ...]] = {}
        for run in self.held_out:
            groups[run.group] = (*groups.get(run.group, ()), run.name)
        return groups

    @property
    def divisor(self) -> int:
        """Window sizes are multiples of this for every network."""
        return math.lcm(*(network.divisor for network in self.networks))

    @property
    def members(self) -> tuple[Member, ...]:
        """The networks as a Pipeline lists them, without scores."""
        return tuple(
            Member(record.fold, record.network.title, record.validation_runs, None, record.weights_sha256)
            for record in self.records
        )

    @property
    def tomo_type(self) -> str:
        """Reconstruction to validate on: the first that was trained on."""
        return self.recipe.crops.tomo_types[0]

    def project(self, data: Path | None) -> Project:
        """Return the project that was trained on, or the one in `data`."""
        roots = {record.data_root for record in self.records}
        if data is None and len(roots) > 1:
            raise TomopointError(f"members were trained on {', '.join(sorted(roots))}; say which with --data")
        return Project(data or Path(roots.pop()))


def load_trained_run(folder: Path) -> TrainedRun:
    """Load every finished member of a run folder.

    Raises
    ------
    TomopointError
        No such folder or no member in it, or members that cannot be averaged.
    """
    if not folder.is_dir():
        raise TomopointError(f"no such run folder: {folder}; give the --out of `tomopoint train`")
    loaded = [load_member(path) for path in find_members(folder)]
    records = tuple(record for _, record in loaded)
    recipe = load_recipe(str(folder / RECIPE))
    names = tuple(particle.name for particle in recipe.particles)
    first = records[0]
    for record in records:
        ours = (record.particles, record.stride, round(record.voxel_A, 2), record.normalisation)
        if ours != (names, first.stride, round(first.voxel_A, 2), first.normalisation):
            raise TomopointError(
                f"{folder}: {record.fold}/{record.network.title} differs from the others in particles, stride, voxel "
                "size or normalisation; train it again with this folder's recipe"
            )
    return TrainedRun(folder, tuple(network for network, _ in loaded), records, recipe)


def base_pipeline(trained: TrainedRun, tiling: Tiling, views: tuple[str, ...]) -> Pipeline:
    """Return the Pipeline of a run before calibration, with all members, unscored."""
    first = trained.records[0]
    return Pipeline(
        particles=trained.recipe.particles,
        voxel_A=first.voxel_A,
        stride=first.stride,
        normalisation=first.normalisation,
        tiling=tiling,
        decoding=Decoding(),
        tomo_type=trained.tomo_type,
        views=views,
        members=trained.members,
    )


def read_held_out_truth(trained: TrainedRun, project: Project) -> dict[str, dict[str, Points]]:
    """Read the true picks of every held-out run: run -> particle -> ``(N, 3)`` x, y, z in Angstrom."""
    names = [particle.name for particle in trained.recipe.particles]
    runs = [project.run(held_out.name, "train") for held_out in trained.held_out]
    return {run.name: read_run_picks(run.picks_folder, names) for run in runs}
