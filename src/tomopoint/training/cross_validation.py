"""Cross-validation: every network of a recipe is trained on every fold, one member after the other or side by side."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import tomopoint
from tomopoint.errors import TomopointError, machine_fault
from tomopoint.locks import LOCK, PACE, Lock, locked, look
from tomopoint.tasks.task import Hire, carry_out_all
from tomopoint.training.checkpoints import CANDIDATES, RECORD, WEIGHTS, MemberRecord, load_record, save_weights
from tomopoint.training.crops.tomograms import TrainingTomogram, read_tomograms
from tomopoint.training.fit import MemberTask, fit_member
from tomopoint.training.forecast import Forecast, Workload
from tomopoint.training.last_checkpoint import LAST
from tomopoint.training.machine import Curves, Device, Machine, Processes
from tomopoint.training.plan import TrainingPlan

logger = logging.getLogger(__name__)

LOG = "log.txt"
"""What a member's training says, in its folder, where that has a process of its own."""


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
