"""All members of a recipe: which are done, which go on, which fail; one after the other."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import tomopoint
from tomopoint.data.folds import Fold, make_folds, parse_fold_selection
from tomopoint.data.project import Project
from tomopoint.errors import TomopointError, machine_fault
from tomopoint.files import write_atomically
from tomopoint.networks.point_network import PointNetwork
from tomopoint.training.checkpoints import (
    LAST,
    RECIPE,
    RECORD,
    WEIGHTS,
    MemberRecord,
    load_record,
    read_json,
    save_weights,
)
from tomopoint.training.crops.pseudo_labels import PREFIX, PseudoLabels, describe_pseudo_runs
from tomopoint.training.crops.tomograms import RunRecord, check_voxel_sizes, describe_runs, read_runs
from tomopoint.training.epochs import CANDIDATES, ScoreFunction
from tomopoint.training.fit import STRIDE, FitResult, MemberTask, check_sizes, fit_member
from tomopoint.training.forecast import Forecast, Workload
from tomopoint.training.machine import Machine, Processes
from tomopoint.training.recipe import Recipe
from tomopoint.training.recipe_files import differences

logger = logging.getLogger(__name__)

DATA = "data.json"
ScoreMember = Callable[["TrainingPlan", MemberTask, PointNetwork], float]
"""Official score of a network on the runs held out from a member."""


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
        Folder of the run.
    tasks
        The chosen folds times the networks.
    records
        Every run that any of the tasks needs.
    extra
        Names in `records` that no fold holds: further training runs.
    """

    recipe: Recipe
    recipe_name: str
    data_root: Path
    out: Path
    tasks: tuple[MemberTask, ...]
    records: Mapping[str, RunRecord]
    extra: tuple[str, ...] = ()

    def digest_of(self, names: Sequence[str]) -> str:
        """SHA-256 over the digests of some runs."""
        text = "\n".join(f"{name} {self.records[name].digest}" for name in sorted(names))
        return hashlib.sha256(text.encode()).hexdigest()


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
        A network cannot take the recipe's crops, or `out` holds a run of another recipe or other data.
    """
    check_sizes(recipe)
    for own in (recipe.for_network(index) for index in range(len(recipe.networks))):
        if own.fit.max_minutes and Processes.from_environment().count > 1:
            raise TomopointError(
                "max_minutes sets the learning rate by each process's own clock; with several processes, limit "
                "fit.epochs"
            )
    _warn_of_endless_warm_up(recipe)
    all_names = [run.name for run in Project(data_root).runs("train")]
    by_name = {fold.name: fold for fold in make_folds(all_names, recipe.folds)}
    chosen = list(by_name) if folds is None else parse_fold_selection(folds, by_name)
    names = sorted({name for fold in chosen for name in _runs_of(by_name[fold])})
    tasks = [
        MemberTask(by_name[fold], list(by_name).index(fold), index, recipe, out / fold / network.title)
        for fold in chosen
        for index, network in enumerate(recipe.networks)
    ]
    records = describe_runs(data_root, names, recipe)
    extra = {} if pseudo is None else describe_pseudo_runs(pseudo, recipe, all_names)
    records = {**records, **extra}
    check_voxel_sizes(records.values())
    return TrainingPlan(recipe, recipe_name, data_root, out, tuple(tasks), records, tuple(extra))


def open_run(plan: TrainingPlan) -> None:
    """Create the run's folder, or refuse one that was made with another recipe or with other data.

    Raises
    ------
    TomopointError
        Naming the options or runs that differ.
    """
    import yaml

    recipe_path, data_path = plan.out / RECIPE, plan.out / DATA
    if recipe_path.exists():
        changed = differences(yaml.safe_load(recipe_path.read_text()), plan.recipe.to_dict())
        if changed:
            raise TomopointError(
                f"{plan.out} was made with another recipe: {', '.join(changed)} differ; "
                f"choose another --out, or go on with its own: --recipe {recipe_path}"
            )
    digests = {name: record.digest for name, record in plan.records.items()}
    earlier = read_json(data_path)["runs"] if data_path.exists() else {}
    moved = [name for name, digest in digests.items() if earlier.get(name, digest) != digest]
    if earlier:
        moved += sorted({name for name in earlier if name.startswith(PREFIX)} ^ set(plan.extra))
    if moved:
        raise TomopointError(
            f"{plan.out} was made with other data: picks or tomogram of {', '.join(moved)} changed since; "
            "choose another --out, or remove that folder"
        )
    if Processes.from_environment().rank == 0:
        plan.recipe.save(recipe_path)
        content = {"data_root": str(plan.data_root.resolve()), "runs": {**earlier, **digests}}
        write_atomically(data_path, json.dumps(content, indent=2) + "\n")


def train_members(plan: TrainingPlan, machine: Machine, score_member: ScoreMember | None = None) -> Outcome:
    """Train every member that is not finished; a failing one does not stop the others.

    Parameters
    ----------
    plan
        What to train; :func:`open_run` comes before.
    machine
        Where.
    score_member
        Called every ``fit.score_every`` epochs; None: never.
    """
    outcome = Outcome()
    waiting = []
    for task in plan.tasks:
        if (task.folder / RECORD).exists():
            _check_finished(plan, task)
            outcome.skipped.append(task.label)
            logger.info("%s is finished, skipped", task.label)
        else:
            waiting.append(task)
    if not waiting:
        return outcome
    workloads = [Workload.of(task.own_recipe, task.label, task.network.title) for task in plan.tasks]
    forecast = Forecast(workloads, outcome.skipped)
    logger.info("%s", forecast.announcement())
    runs = read_runs(plan.records, plan.recipe)
    for task in waiting:
        score: ScoreFunction | None = None
        if score_member is not None and task.own_recipe.fit.score_every and task.fold.validation_runs:
            score = partial(score_member, plan, task)
        needed = {name: runs[name] for name in (*_runs_of(task.fold), *plan.extra)}
        verb = "goes on" if (task.folder / LAST).exists() else "starts"
        logger.info("%s %s: %d training runs", task.label, verb, len(task.fold.training_runs) + len(plan.extra))
        try:
            task.folder.mkdir(parents=True, exist_ok=True)
            result = fit_member(task, needed, machine, score, forecast=forecast)
            if Processes.from_environment().rank == 0:
                _finish(plan, task, result)
        except Exception as error:
            # Other processes of a DDP run wait for this one: it must end, so that torchrun ends them.
            if Processes.from_environment().count > 1:
                raise
            reason = str(error) if isinstance(error, TomopointError) else machine_fault(error)
            outcome.failed[task.label] = reason or f"{type(error).__name__}: {error}"
            logger.error("%s failed: %s", task.label, outcome.failed[task.label], exc_info=None if reason else error)
        else:
            outcome.trained.append(task.label)
        forecast.done(task.label)
    return outcome


def _finish(plan: TrainingPlan, task: MemberTask, result: FitResult) -> None:
    """Write weights and record; the record comes last and marks the member as finished."""
    recipe = plan.recipe
    record = MemberRecord(
        fold=task.fold.name,
        network=task.network.architecture.resolved(),
        particles=tuple(particle.name for particle in recipe.particles),
        stride=STRIDE,
        voxel_A=next(iter(plan.records[task.fold.training_runs[0]].infos.values())).voxel_A,
        normalisation=recipe.normalisation,
        training_runs=(*task.fold.training_runs, *plan.extra),
        validation_runs=task.fold.validation_runs,
        data_root=str(plan.data_root.resolve()),
        data_sha256=plan.digest_of(_member_runs(plan, task)),
        recipe_sha256=recipe.digest,
        weights_sha256=save_weights(result.weights, task.folder / WEIGHTS),
        recipe=plan.recipe_name,
        tomopoint=tomopoint.__version__,
        epochs=result.epochs,
        steps=result.steps,
        kept=result.kept,
        seconds=result.seconds,
        device=result.device,
        precision=result.precision,
    )
    record.save(task.folder)
    shutil.rmtree(task.folder / CANDIDATES, ignore_errors=True)  # not before: an interrupted member needs them again


def _check_finished(plan: TrainingPlan, task: MemberTask) -> None:
    """Refuse to count a finished member that was made from something else."""
    record = load_record(task.folder)
    expected: dict[str, Any] = {
        "recipe_sha256": plan.recipe.digest,
        "data_sha256": plan.digest_of(_member_runs(plan, task)),
    }
    wrong = [name.removesuffix("_sha256") for name, value in expected.items() if getattr(record, name) != value]
    if wrong:
        raise TomopointError(
            f"{task.folder} was trained with another {' and other '.join(wrong)}; choose another --out, or remove it"
        )


def _warn_of_endless_warm_up(recipe: Recipe) -> None:
    """Say where a run is too short to reach its learning rate; a try of a few steps is meant to be allowed."""
    for index, network in enumerate(recipe.networks):
        own = recipe.for_network(index)
        if own.optimiser.warmup_steps >= own.fit.steps:
            logger.warning(
                "%s: warm-up takes %d steps and the whole run has %d: learning_rate %g is never reached; lower "
                "optimiser.warmup_steps or train longer",
                network.title,
                own.optimiser.warmup_steps,
                own.fit.steps,
                own.optimiser.learning_rate,
            )


def _member_runs(plan: TrainingPlan, task: MemberTask) -> tuple[str, ...]:
    return (*_runs_of(task.fold), *plan.extra)


def _runs_of(fold: Fold) -> tuple[str, ...]:
    return (*fold.training_runs, *fold.validation_runs)
