"""Cross-validation: every network of a recipe is trained on every fold, one member after the other or side by side."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import tomopoint
from tomopoint.data.folds import LabelCounts, is_stratified, make_folds, parse_fold_selection
from tomopoint.data.particles import project_particles
from tomopoint.data.picks import read_run_picks
from tomopoint.data.project import Project
from tomopoint.errors import TomopointError, machine_fault
from tomopoint.files import write_atomically
from tomopoint.locks import LOCK, PACE, Lock, locked, look
from tomopoint.networks.build import check_network
from tomopoint.pipeline import Particle
from tomopoint.strict_json import build, read, reading
from tomopoint.tasks.task import Hire, carry_out_all
from tomopoint.training.checkpoints import (
    CANDIDATES,
    RECIPE,
    RECORD,
    WEIGHTS,
    MemberRecord,
    load_record,
    save_weights,
)
from tomopoint.training.crops.pseudo_labels import PREFIX, PseudoLabels, describe_pseudo_runs, warn_of_leaks
from tomopoint.training.crops.tomograms import (
    RunRecord,
    TrainingTomogram,
    check_voxel_sizes,
    describe_runs,
    read_tomograms,
)
from tomopoint.training.fit import MemberTask, fit_member
from tomopoint.training.forecast import Forecast, Workload
from tomopoint.training.last_checkpoint import LAST
from tomopoint.training.machine import Curves, Device, Machine, Processes
from tomopoint.training.recipe import Recipe
from tomopoint.training.recipe_files import differences, load_recipe

logger = logging.getLogger(__name__)

DATA = "data.json"
"""The runs that were trained on, by digest."""

LOG = "log.txt"
"""What a member's training says, in its folder, where that has a process of its own."""


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


@dataclass(frozen=True)
class Workshop:
    """Options of the machine that trains, where that is another one; :class:`Machine` is made of them there.

    Attributes
    ----------
    device, workers, curves
        As there.
    """

    device: Device = "auto"
    workers: int | None = None
    curves: Curves = "tensorboard"


@dataclass(frozen=True)
class MemberTraining:
    """The training of one member, as a :class:`~tomopoint.tasks.task.Task`.

    Attributes
    ----------
    plan
        The part of the plan that is about it.
    member
        Which.
    workshop
        What it is trained with.
    """

    plan: TrainingPlan
    member: MemberTask
    workshop: Workshop

    @property
    def label(self) -> str:
        """``fold0/segresnet``."""
        return self.member.label

    @property
    def log(self) -> Path:
        """What the training says."""
        return self.member.folder / LOG

    def carry_out(self) -> None:
        """Train it, from its last checkpoint where there is one."""
        machine = Machine(self.workshop.device, self.workshop.workers, self.workshop.curves)
        machine.precisions(self.member.own_recipe.fit.precision)
        forecast = _forecast(self.plan, Outcome())
        train_member(self.plan, self.member, read_tomograms(self.plan.records, self.plan.recipe), machine, forecast)


@dataclass
class Outcome:
    """What became of the members.

    Attributes
    ----------
    trained, skipped
        Labels of members trained now and of those found finished.
    failed
        Label and reason of each member that failed.
    """

    trained: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


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


def train_members(plan: TrainingPlan, machine: Machine) -> Outcome:
    """Train every member that is not finished, one after the other; a failing one does not stop the others.

    Parameters
    ----------
    plan
        What to train; :func:`open_folder` comes before.
    machine
        Device, processes and curves.

    Raises
    ------
    TomopointError
        A finished member was made with another recipe or with other data.
    """
    outcome = Outcome()
    waiting = unfinished_members(plan, outcome)
    if not waiting:
        return outcome

    # How much there is to do; then the volumes, once, because folds share them.
    forecast = _forecast(plan, outcome)
    tomograms = read_tomograms(plan.records, plan.recipe)
    for task in waiting:
        try:
            train_member(plan, task, tomograms, machine, forecast)
        except Exception as error:
            # Other processes of a joint training wait for this one: it must end, so that torchrun ends them.
            if Processes.from_environment().count > 1:
                raise
            reason = str(error) if isinstance(error, TomopointError) else machine_fault(error)
            outcome.failed[task.label] = reason or f"{type(error).__name__}: {error}"
            logger.error("%s failed: %s", task.label, outcome.failed[task.label], exc_info=None if reason else error)
        else:
            outcome.trained.append(task.label)
        forecast.done(task.label)
    return outcome


def train_members_apart(plan: TrainingPlan, workshop: Workshop, hire: Hire[MemberTraining]) -> Outcome:
    """Train every member that is not finished, each by a process of a crew; otherwise as :func:`train_members`.

    Parameters
    ----------
    plan
        What to train; :func:`open_folder` comes before.
    workshop
        What every process trains with.
    hire
        Makes the crew, where something is to be trained.
    """
    outcome = Outcome()
    trainings = [MemberTraining(plan.of(task), task, workshop) for task in unfinished_members(plan, outcome)]
    if trainings:
        _forecast(plan, outcome)
        with hire() as crew:
            outcome.failed = carry_out_all(trainings, crew, "train")
    outcome.trained = [training.label for training in trainings if training.label not in outcome.failed]
    return outcome


def unfinished_members(plan: TrainingPlan, outcome: Outcome) -> list[MemberTask]:
    """Return what is to be trained; what is finished, if it was made from the same, is noted as skipped.

    Raises
    ------
    TomopointError
        A finished member was made with another recipe or with other data.
    """
    waiting = []
    for task in plan.tasks:
        if not (task.folder / RECORD).exists():
            waiting.append(task)
            continue
        record = load_record(task.folder)
        same = {
            "recipe": record.recipe_sha256 == plan.recipe.digest,
            "data": record.data_sha256 == plan.data_sha256(task),
            # Records of earlier versions do not know it.
            "file of pretrained weights": record.pretrained_sha256 in (None, plan.pretrained.get(task.label)),
        }
        if not all(same.values()):
            wrong = " and other ".join(what for what, is_same in same.items() if not is_same)
            raise TomopointError(f"{task.folder} was trained with another {wrong}; choose another --out, or remove it")
        outcome.skipped.append(task.label)
        logger.info("%s is finished, skipped", task.label)
    return waiting


def train_member(
    plan: TrainingPlan,
    task: MemberTask,
    tomograms: Mapping[str, TrainingTomogram],
    machine: Machine,
    forecast: Forecast,
) -> None:
    """Train one member, from its last checkpoint where there is one, and write its weights and its record.

    Parameters
    ----------
    plan, task
        All that is trained, and the member.
    tomograms
        The plan's runs by name, at least those of the member.
    machine
        Device, processes and curves.
    forecast
        Of the plan.

    Raises
    ------
    TomopointError
        Another process trains it, or what :func:`~tomopoint.training.fit.fit_member` raises.
    """
    task.folder.mkdir(parents=True, exist_ok=True)
    with _alone_with(task) as lock:
        if (task.folder / RECORD).exists():
            logger.info("%s was finished meanwhile, by another process", task.label)
            return
        verb = "goes on" if (task.folder / LAST).exists() else "starts"
        logger.info("%s %s: %d training runs", task.label, verb, len(task.fold.training_runs) + len(plan.extra))
        needed = {name: tomograms[name] for name in plan.runs_of(task)}
        result = fit_member(task, needed, machine, forecast=forecast)
        # Weights, then the record, which marks the member as finished; candidates go last, because a member that is
        # interrupted before its record needs them again.
        if Processes.from_environment().rank == 0:
            if lock is not None:
                lock.check()
            record = MemberRecord(
                fold=task.fold.name,
                network=task.network.architecture.resolved(),
                particles=tuple(particle.name for particle in plan.recipe.particles),
                stride=plan.recipe.stride,
                voxel_A=tomograms[task.fold.training_runs[0]].voxel_A,
                normalisation=plan.recipe.normalisation,
                training_runs=(*task.fold.training_runs, *plan.extra),
                validation_runs=task.fold.validation_runs,
                data_root=str(plan.data_root.resolve()),
                data_sha256=plan.data_sha256(task),
                recipe_sha256=plan.recipe.digest,
                weights_sha256=save_weights(result.weights, task.folder / WEIGHTS),
                recipe=plan.recipe_name,
                tomopoint=tomopoint.__version__,
                epochs=result.epochs,
                steps=result.steps,
                kept=result.kept,
                seconds=result.seconds,
                device=result.device,
                precision=result.precision,
                pretrained_sha256=plan.pretrained.get(task.label),
                layout=result.layout,
            )
            record.save(task.folder)
            shutil.rmtree(task.folder / CANDIDATES, ignore_errors=True)


@contextmanager
def _alone_with(task: MemberTask) -> Iterator[Lock | None]:
    """Keep other commands from a member while it is trained here; of a joint training, its first process does.

    A holder on another machine may be one whose death nobody told, so it is waited for as long as that takes to show.

    Raises
    ------
    TomopointError
        Another process trains it.
    """
    if Processes.from_environment().rank != 0:
        yield None
        return
    end = time.monotonic() + 2 * (PACE.stale + PACE.watch)
    while True:
        with locked(task.folder / LOCK, wait=False) as lock:
            if lock is not None:
                yield lock
                return
        found = look(task.folder / LOCK)
        if found is not None and ((found.holder is not None and found.holder.is_here) or time.monotonic() > end):
            raise TomopointError(
                f"another process trains {task.label} in {task.folder}: {found.text()}; wait for its end, train other "
                "--folds meanwhile, or choose another --out"
            )
        time.sleep(PACE.beat / 10)


def _forecast(plan: TrainingPlan, outcome: Outcome) -> Forecast:
    """Say how much there is to do."""
    workloads = [Workload.of(task.own_recipe, task.label, task.network.title) for task in plan.tasks]
    forecast = Forecast(workloads, outcome.skipped)
    logger.info("%s", forecast.announcement())
    return forecast
