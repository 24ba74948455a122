"""What a training is about to do: members, runs, weights to start from; and the folder that it happens in."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tomopoint.data.folds import LabelCounts, is_stratified, make_folds, parse_fold_selection
from tomopoint.data.particles import project_particles
from tomopoint.data.picks import read_run_picks
from tomopoint.data.project import Project
from tomopoint.errors import TomopointError
from tomopoint.files import write_atomically
from tomopoint.networks.build import check_network
from tomopoint.pipeline import Particle
from tomopoint.strict_json import build, read, reading
from tomopoint.training.checkpoints import RECIPE
from tomopoint.training.crops.pseudo_labels import PREFIX, PseudoLabels, describe_pseudo_runs, warn_of_leaks
from tomopoint.training.crops.tomograms import RunRecord, check_voxel_sizes, describe_runs
from tomopoint.training.fit import MemberTask
from tomopoint.training.machine import Processes
from tomopoint.training.recipe import Recipe
from tomopoint.training.recipe_files import differences, load_recipe

logger = logging.getLogger(__name__)

DATA = "data.json"
"""The runs that were trained on, by digest."""


@dataclass(frozen=True)
class TrainedOn:
    """What ``data.json`` holds: the project, the digest of every run that was read, and of weights to start from.

    Attributes
    ----------
    data_root
        Folder of the project.
    runs
        By name.
    pretrained
        By member, SHA-256 of the file that it started from; those that started fresh are not in it.
    """

    data_root: str
    runs: Mapping[str, str]
    pretrained: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingPlan:
    """Everything `tomopoint train` is about to do.

    Attributes
    ----------
    recipe, recipe_name
        How, and the name or path it was given by.
    data_root
        The project.
    out
        The training folder.
    tasks
        The chosen folds times the networks.
    records
        Every run that any of the tasks needs, by name.
    extra
        Names in `records` that no fold holds: further training runs.
    pretrained
        By label, the SHA-256 of the file of weights that a member starts from; fresh ones are not in it.
    """

    recipe: Recipe
    recipe_name: str
    data_root: Path
    out: Path
    tasks: tuple[MemberTask, ...]
    records: Mapping[str, RunRecord]
    extra: tuple[str, ...] = ()
    pretrained: Mapping[str, str] = field(default_factory=dict)

    def runs_of(self, task: MemberTask) -> tuple[str, ...]:
        """Names of the runs that a member needs."""
        return (*task.fold.runs, *self.extra)

    def data_sha256(self, task: MemberTask) -> str:
        """SHA-256 over the digests of the runs that a member needs."""
        text = "\n".join(f"{name} {self.records[name].digest}" for name in sorted(self.runs_of(task)))
        return hashlib.sha256(text.encode()).hexdigest()

    def of(self, task: MemberTask) -> TrainingPlan:
        """Return the part of the plan that is about one member."""
        records = {name: self.records[name] for name in self.runs_of(task)}
        return replace(self, tasks=(task,), records=records)


def make_plan(
    recipe: Recipe,
    recipe_name: str,
    data_root: Path,
    out: Path,
    folds: str | None = None,
    pseudo: PseudoLabels | None = None,
) -> TrainingPlan:
    """Check recipe and data as far as that goes without reading volumes.

    Raises
    ------
    DataError
        Anything wrong with the project or with `folds`.
    TomopointError
        A network that cannot be built, as one without feature maps at the stride. Weights to start from that are not
        there or do not fit. Several processes are given a time limit, or weights that move only after some steps.
    """
    for index, network in enumerate(recipe.networks):
        try:
            check_network(network, len(recipe.particles), recipe.stride)
        except TomopointError as error:
            raise TomopointError(f"{network.title}: {error}") from error
        own = recipe.for_network(index)
        if own.fit.max_minutes and Processes.from_environment().count > 1:
            raise TomopointError(
                "max_minutes sets the learning rate by each process's own clock; with several processes, limit "
                "fit.epochs"
            )
        if own.optimiser.freeze_steps and Processes.from_environment().count > 1:
            raise TomopointError(
                "several processes agree at the start on which weights move, so none can begin to after freeze_steps; "
                "freeze for the whole training (freeze_steps: 0), or train in one process"
            )
        if own.optimiser.warmup_steps >= own.fit.steps:  # not refused: a try of a few steps is meant to be allowed
            logger.warning(
                "%s: warm-up takes %d steps and the whole training has %d: learning_rate %g is never reached; lower "
                "optimiser.warmup_steps or train longer",
                *(network.title, own.optimiser.warmup_steps, own.fit.steps, own.optimiser.learning_rate),
            )
    all_names = [run.name for run in Project(data_root).runs("train")]
    counts = count_labels(data_root, recipe.particles) if is_stratified(recipe.folds) else None
    by_name = {fold.name: fold for fold in make_folds(all_names, recipe.folds, counts)}
    chosen = list(by_name) if folds is None else parse_fold_selection(folds, by_name)
    tasks = [
        MemberTask(by_name[fold], list(by_name).index(fold), index, recipe, out / fold / network.title)
        for fold in chosen
        for index, network in enumerate(recipe.networks)
    ]
    # Weights to start from are found, and looked at as far as that goes without reading them, before any volume is.
    for task in tasks:
        seen = [] if task.pretrained is None else task.pretrained.has_seen(task.fold.validation_runs, data_root)
        if seen:
            raise TomopointError(
                f"{task.label} would start from weights that were trained on {', '.join(seen)}, which it holds out: "
                "its score would be that of runs it knows. Give weights of folds that hold out the same runs, or of "
                "other data"
            )
    starts = {task.label: task.pretrained.sha256 for task in tasks if task.pretrained is not None}
    names = sorted({name for fold in chosen for name in by_name[fold].runs})
    extra = {}
    if pseudo is not None:
        extra = describe_pseudo_runs(pseudo, recipe, all_names)
        held_out = sorted({name for fold in chosen for name in by_name[fold].validation_runs})
        warn_of_leaks(pseudo.picks_path, held_out, all_names)
    for task in tasks:
        _check_data(task, n_training=len(task.fold.training_runs) + len(extra))
    records = {**describe_runs(data_root, names, recipe), **extra}
    check_voxel_sizes(records.values())
    return TrainingPlan(recipe, recipe_name, data_root, out, tuple(tasks), records, tuple(extra), starts)


def count_labels(data_root: Path, particles: Sequence[Particle]) -> LabelCounts:
    """Return how many labels every training run has of each particle; DataError as :func:`read_run_picks`."""
    names = [particle.name for particle in particles]
    known = [particle.name for particle in project_particles(data_root)]
    picks = {run.name: read_run_picks(run.picks_folder, names, known) for run in Project(data_root).runs("train")}
    return {run: {name: len(points) for name, points in own.items()} for run, own in picks.items()}


def _check_data(task: MemberTask, n_training: int) -> None:
    """Refuse options of a member that its runs cannot serve."""
    own = task.own_recipe
    if own.augmentation.copy_paste_from == "other" and n_training < 2:
        raise TomopointError(
            f"{task.label}: copy_paste_from is other, but it trains on one run alone; set it to same or any"
        )
    if own.optimiser.schedule == "plateau" and not task.fold.validation_runs:
        raise TomopointError(
            f"{task.label}: schedule 'plateau' waits for validations, but this fold holds no run out; take another "
            "schedule, or folds that hold runs out"
        )


def open_folder(plan: TrainingPlan) -> None:
    """Create the training folder, or refuse one that was made with another recipe, other data or from other weights.

    Raises
    ------
    TomopointError
        Naming the options, runs or members that differ.
    """
    recipe_path, data_path = plan.out / RECIPE, plan.out / DATA
    if recipe_path.exists():
        changed = differences(load_recipe(str(recipe_path)).to_dict(), plan.recipe.to_dict())
        if changed:
            raise TomopointError(
                f"{plan.out} was made with another recipe: {', '.join(changed)} differ; "
                f"choose another --out, or go on with its own: --recipe {recipe_path}"
            )
    digests = {name: record.digest for name, record in plan.records.items()}
    earlier: Mapping[str, str] = {}
    earlier_starts: Mapping[str, str] = {}
    if data_path.exists():
        with reading(data_path, TomopointError, "is damaged", "restore it, or choose another --out"):
            trained_on = build(TrainedOn, read(data_path))
            earlier, earlier_starts = trained_on.runs, trained_on.pretrained
    changed = [name for name, digest in digests.items() if earlier.get(name, digest) != digest]
    if earlier:
        changed += sorted({name for name in earlier if name.startswith(PREFIX)} ^ set(plan.extra))
    if changed:
        raise TomopointError(
            f"{plan.out} was made with other data: picks or tomogram of {', '.join(changed)} changed since; "
            "choose another --out, or remove that folder"
        )
    replaced = [label for label, digest in plan.pretrained.items() if earlier_starts.get(label, digest) != digest]
    if replaced:
        raise TomopointError(
            f"{plan.out} was started from other weights: the `pretrained` file of {', '.join(replaced)} changed since; "
            "choose another --out, or restore that file"
        )
    if Processes.from_environment().rank == 0:
        plan.recipe.save(recipe_path)
        content: dict[str, object] = {"data_root": str(plan.data_root.resolve()), "runs": {**earlier, **digests}}
        if pretrained := {**earlier_starts, **plan.pretrained}:
            content["pretrained"] = pretrained
        write_atomically(data_path, json.dumps(content, indent=2) + "\n")
