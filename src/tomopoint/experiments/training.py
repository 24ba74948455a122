"""One training of an experiment: a recipe with one seed, trained and validated by the commands that a user types.

::

    <training folder>/recipe.yaml, fold0/ ...    as `tomopoint train` and `tomopoint validate` leave them
                      log.txt                    what both said
                      result.json                what came of it; there only once both are done
"""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tomopoint.baselines.recipe import BaselineRecipe
from tomopoint.errors import TomopointError
from tomopoint.files import write_atomically
from tomopoint.strict_json import build, read, reading
from tomopoint.training.recipe import Recipe

if TYPE_CHECKING:
    from tomopoint.baselines.cross_validation import BaselinePlan
    from tomopoint.baselines.folder import NetworkRecord
    from tomopoint.training.checkpoints import MemberRecord
    from tomopoint.training.plan import TrainingPlan

LOG = "log.txt"
RESULT = "result.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hardware:
    """What trains.

    Attributes
    ----------
    device
        As of `tomopoint train`.
    workers
        Processes that cut crops, of every training; None: as of `tomopoint train`.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int | None = None


@dataclass(frozen=True)
class Training:
    """One training.

    Attributes
    ----------
    label
        For people: ``focal, seed 1``.
    folder
        The training folder.
    recipe
        File of the whole recipe.
    seed
        Instead of the recipe's.
    data
        The project.
    folds
        As of `tomopoint train`.
    hardware
        What trains.
    two_d
        Whether it is a 2-D baseline, trained and validated by `tomopoint baseline`.
    """

    label: str
    folder: Path
    recipe: Path
    seed: int
    data: Path
    folds: str | None
    hardware: Hardware = Hardware()
    two_d: bool = False

    @property
    def log(self) -> Path:
        """What training and validation say."""
        return self.folder / LOG

    @property
    def command(self) -> str:
        """The command of the training, as one types it."""
        recipe = str(self.recipe)
        named = ["baseline", recipe] if self.two_d else ["train", "--recipe", recipe]
        words = ["tomopoint", *named, "--data", str(self.data), "--seed", str(self.seed)]
        folds = [] if self.folds is None else ["--folds", self.folds]
        return shlex.join([*words, *folds, "--out", str(self.folder)])

    def carry_out(self) -> Result:
        """Train, from the last checkpoint where there is one, validate, and write what came of it.

        Raises
        ------
        TomopointError
            A network could not be trained, or the training folder not be validated.
        """
        logger.info("%s", self.command)
        found, records = _baseline(self) if self.two_d else _train_and_validate(self)
        left_out = found["per_class_left_out"] is not None
        per_class = found["per_class_left_out" if left_out else "per_class"]
        result = Result(
            score=found["score_left_out"] if left_out else found["score"],
            per_class={name: figures["f_beta"] for name, figures in per_class.items()},
            left_out=left_out,
            simulated=found["simulated"],
            steps=sum(record.steps for record in records.values()),
            seconds=round(sum(record.seconds for record in records.values()), 1),
            members=tuple(records),
        )
        write_atomically(self.folder / RESULT, json.dumps(asdict(result), indent=2) + "\n")
        return result


@dataclass(frozen=True)
class Result:
    """What came of a training.

    Attributes
    ----------
    score
        Out of fold, by the official metric.
    per_class
        F-beta of every particle.
    left_out
        Whether each fold was scored at thresholds of the other folds. With a single fold there are none: thresholds
        were chosen on the runs that are scored.
    simulated
        Whether the tomograms were.
    steps, seconds
        Trained, of all networks on all folds.
    members
        Which these are: ``fold0/segresnet``; of a 2-D baseline ``fold0``.
    """

    score: float
    per_class: Mapping[str, float]
    left_out: bool
    simulated: bool
    steps: int
    seconds: float
    members: tuple[str, ...]


@dataclass(frozen=True)
class Prepared:
    """What a training is about to train and to be judged on.

    Attributes
    ----------
    members
        ``fold0/segresnet``; of a 2-D baseline ``fold0``.
    held_out
        Runs, by name.
    plan
        Of `tomopoint train` or `tomopoint baseline`.
    """

    members: frozenset[str]
    held_out: frozenset[str]
    plan: TrainingPlan | BaselinePlan


def prepare(training: Training, recipe: Recipe | BaselineRecipe) -> Prepared:
    """Check a training as far as that goes without reading volumes; writes nothing.

    Raises
    ------
    TomopointError
        As :func:`~tomopoint.training.plan.make_plan` and
        :func:`~tomopoint.baselines.cross_validation.make_baseline_plan`; or a fold holds no run out.
    """
    from tomopoint.baselines.cross_validation import make_baseline_plan
    from tomopoint.training.plan import make_plan

    if isinstance(recipe, BaselineRecipe):
        seeded_2d = replace(recipe, seed=training.seed)
        plan_2d = make_baseline_plan(seeded_2d, training.data, training.folder, training.folds)
        held_out = frozenset(run for fold in plan_2d.folds for run in fold.validation_runs)
        return Prepared(frozenset(fold.name for fold in plan_2d.folds), held_out, plan_2d)
    seeded = replace(recipe, seed=training.seed)
    plan = make_plan(seeded, str(training.recipe), training.data, training.folder, training.folds)
    unscored = [task.fold.name for task in plan.tasks if not task.fold.validation_runs]
    if unscored:
        raise TomopointError(
            f"{unscored[0]} holds no run out, so nothing says how good its networks are; take `folds` that do"
        )
    members = frozenset(task.label for task in plan.tasks)
    return Prepared(members, frozenset(run for task in plan.tasks for run in task.fold.validation_runs), plan)


def open_training(training: Training, prepared: Prepared) -> None:
    """Make the folder of a training.

    Raises
    ------
    TomopointError
        It holds one of another recipe, of other data or of further folds.
    """
    from tomopoint.baselines.folder import RECORD as RECORD_2D
    from tomopoint.baselines.folder import open_baseline_folder
    from tomopoint.training.checkpoints import RECORD
    from tomopoint.training.plan import TrainingPlan, open_folder

    records = f"*/{RECORD_2D}" if training.two_d else f"*/*/{RECORD}"
    there = {str(path.parent.relative_to(training.folder)) for path in training.folder.glob(records)}
    if further := sorted(there - prepared.members):
        raise TomopointError(
            f"{training.folder} holds {', '.join(further)} beside the folds that are asked for, which would be judged "
            "with them; choose another --out, or ask for these folds too"
        )
    plan = prepared.plan
    try:
        if isinstance(plan, TrainingPlan):
            open_folder(plan)
        else:
            open_baseline_folder(plan.out, plan.recipe, plan.data_root, plan.records)
    except TomopointError as error:
        raise TomopointError(f"{training.label}: {error}") from error


def _train_and_validate(training: Training) -> tuple[dict[str, Any], Mapping[str, MemberRecord | NetworkRecord]]:
    """Return the figures of `tomopoint validate`, and the record of every network."""
    from tomopoint.training.checkpoints import find_members, load_record
    from tomopoint.training.command import train
    from tomopoint.validation.command import validate

    hardware = training.hardware
    trained = train(
        data=training.data,
        out=training.folder,
        recipe=str(training.recipe),
        seed=training.seed,
        folds=training.folds,
        device=hardware.device,
        workers=hardware.workers,
        curves="none",
    )
    if not trained.ok:
        raise TomopointError("; ".join(f"{label}: {reason}" for label, reason in trained.figures["failed"].items()))
    found = validate([training.folder], device=hardware.device).figures
    members = find_members(training.folder)
    return found, {str(folder.relative_to(training.folder)): load_record(folder) for folder in members}


def _baseline(training: Training) -> tuple[dict[str, Any], Mapping[str, MemberRecord | NetworkRecord]]:
    """Return the figures of `tomopoint baseline`, and the record of every network."""
    from tomopoint.baselines.command import baseline
    from tomopoint.baselines.folder import RECORD, load_record

    found = baseline(
        str(training.recipe),
        data=training.data,
        out=training.folder,
        seed=training.seed,
        folds=training.folds,
        device=training.hardware.device,
        workers=training.hardware.workers,
    ).figures
    folders = sorted(path.parent for path in training.folder.glob(f"*/{RECORD}"))
    return found, {folder.name: load_record(folder) for folder in folders}


def finished(training: Training, prepared: Prepared) -> Result | None:
    """Return what came of a training whose folder :func:`open_training` found in order; None if it is not finished."""
    path = training.folder / RESULT
    if not path.exists():
        return None
    with reading(path, TomopointError, "is damaged", "remove it, and the training is validated again"):
        result = build(Result, read(path), to_float=True)
    return result if set(result.members) == prepared.members else None
