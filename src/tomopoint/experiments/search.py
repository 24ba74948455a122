"""A search: trials of recipes that Optuna proposes, trained and judged alike, the hopeless ones given up early.

::

    <folder>/search.db            every trial, as Optuna keeps it
             recipes/0007.yaml    the whole recipe of a trial
             trials/0007/         its training folder, see :mod:`tomopoint.experiments.training`
             best.yaml            the best recipe, in the length of the base, for `tomopoint train`
             trials.csv, report.html

Several processes may work in one folder. Each holds a lock on every trial that it is at; one that is not finished and
that nobody holds was interrupted, and whoever comes next goes on with it, from its last checkpoint.
"""

from __future__ import annotations

import csv
import json
import logging
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tomopoint.errors import TomopointError
from tomopoint.evaluation.epochs import METRICS
from tomopoint.experiments.experiment import Material, same_training
from tomopoint.experiments.space import Dimension, Value, changes_of
from tomopoint.experiments.training import Hardware, Result, Training, open_training, prepare
from tomopoint.locks import LOCK, locked
from tomopoint.strict_json import shown
from tomopoint.tasks.task import Crew, Failed, Hire
from tomopoint.training.recipe import Recipe

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger(__name__)

STORAGE = "search.db"
STUDY = "tomopoint"
ASKED, REASON, RESULT = "asked", "reason", "result"
"""Attributes: of the study, what was asked; of a trial, why it failed, and what came of it."""

MOST_FAILURES = 5
"""Trials in a row that fail end a search: what is wrong is then not their values."""

TURN_SECONDS = 2.0
"""Between two looks at the epochs of what is trained."""


@dataclass(frozen=True)
class Limits:
    """When a search ends; at the first of these.

    Attributes
    ----------
    trials
        So many have ended, in this call and earlier ones, or other processes are at them.
    hours
        Of this call; what is being trained then is gone on with by the next one.
    """

    trials: int | None = None
    hours: float | None = None

    def __post_init__(self) -> None:
        if self.trials is None and self.hours is None:
            raise TomopointError("say when the search ends: --trials N or --hours H")
        if (self.trials is not None and self.trials < 1) or (self.hours is not None and not 0 < self.hours < 1e6):
            raise TomopointError(f"--trials and --hours must be positive, got {self.trials} and {self.hours}")


@dataclass
class _Running:
    """A trial that is trained: Optuna's, ours, its lock, the last epoch that Optuna was told, the file it stands in."""

    trial: optuna.trial.Trial
    training: Training
    lock: ExitStack
    told: int = 0
    metrics: Path = Path()


@dataclass(frozen=True)
class Search:
    """Everything that stays the same from trial to trial.

    Attributes
    ----------
    material
        Experiment, file, particles.
    data
        The project.
    out
        The folder.
    seed
        Of all trainings, and of what Optuna proposes.
    hardware
        What trains.
    """

    material: Material
    data: Path
    out: Path
    seed: int = 0
    hardware: Hardware = field(default_factory=Hardware)

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """What is varied."""
        return self.material.experiment.dimensions

    def options_of(self, values: Mapping[str, Value]) -> dict[str, Any]:
        """Return options as a recipe takes them, from values as Optuna keeps them, as far as it has chosen."""
        return {d.name: d.option(values[d.name]) for d in self.dimensions if d.name in values}

    def recipe_of(self, values: Mapping[str, Value], name: str, full_length: bool = False) -> Recipe:
        """Return the recipe of a trial, from values as Optuna keeps them."""
        changes = changes_of(self.options_of(values), self.material.base(full_length=True).networks)
        return self.material.changed(changes, name, full_length)

    def training_of(self, number: int) -> Training:
        """Return the training of a trial."""
        name = f"{number:04d}"
        recipe, folder = self.out / "recipes" / f"{name}.yaml", self.out / "trials" / name
        folds = self.material.experiment.fold_selection
        return Training(f"trial {number}", folder, recipe, self.seed, self.data, folds, self.hardware)


def run_search(search: Search, limits: Limits, hire: Hire[Training]) -> optuna.Study:
    """Try recipes until a limit is reached; a trial that fails does not end the search.

    Only this process asks and tells Optuna: those that train, wherever they are, know nothing of it.

    Parameters
    ----------
    search, limits
        What is searched, and for how long.
    hire
        Makes the crew that trains, once there is a trial to train.

    Raises
    ------
    TomopointError
        A search space that makes no recipes or has an option without effect; data or folds that do not fit; a folder
        that belongs to another search; :data:`MOST_FAILURES` trials in a row failed.
    """
    check_space(search.material)
    study = open_study(search)
    from optuna.trial import TrialState

    prunes = search.material.base().fit.score_every > 0
    if not prunes:
        logger.warning("the base has fit.score_every 0: no trial is given up early, for nothing says how it goes")
    deadline = None if limits.hours is None else time.monotonic() + 3600 * limits.hours
    running: list[_Running] = []
    failures = 0
    crew: Crew[Training] | None = None
    with ExitStack() as locks, ExitStack() as hired:  # who trains is stopped before trials are given back
        while True:
            # Begin trials: interrupted ones first.
            while not (is_over := deadline is not None and time.monotonic() >= deadline) and (
                crew is None or crew.has_room
            ):
                begun = _next_trial(search, study, limits)
                if begun is None:
                    break
                locks.push(begun.lock)
                try:
                    begun.metrics = _prepare(search, begun)
                except TomopointError as error:  # values that do not go together: the next ones may
                    _tell(search, study, begun, Failed(str(error)))
                    begun.lock.close()
                    failures = _count_failures(failures, str(error))
                    continue
                running.append(begun)
                logger.info("%s: %s", begun.training.label, _told(search, begun))
                crew = crew or hired.enter_context(hire())
                crew.begin(begun.training)
            if is_over or not running or crew is None:
                break

            # Hear what has ended; and of the others, whether they are worth going on with.
            ended = dict(crew.ended(TURN_SECONDS))
            for one in list(running):
                if one.training in ended:
                    answer = ended[one.training]
                    _tell(search, study, one, answer)
                    failures = 0 if isinstance(answer, Result) else _count_failures(failures, answer.reason)
                elif prunes and _is_hopeless(one):
                    crew.stop(one.training)
                    study.tell(one.trial.number, state=TrialState.PRUNED)
                    logger.info("%s is given up after %d epochs", one.training.label, one.told)
                else:
                    continue
                one.lock.close()
                running.remove(one)
    return study


def open_study(search: Search) -> optuna.Study:
    """Return the study in the search's folder, made where there is none.

    Raises
    ------
    TomopointError
        The folder belongs to another search.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    experiment = search.material.experiment
    pruning = experiment.pruning
    asked = {
        "base": search.material.base().digest,
        "space": json.dumps({name: dict(given) for name, given in experiment.space.items()}),
        "folds": experiment.fold_selection,
        "data": str(search.data.resolve()),
        "seed": search.seed,
    }
    search.out.mkdir(parents=True, exist_ok=True)
    with locked(search.out / LOCK):  # two processes must not both make it
        study = optuna.create_study(
            study_name=STUDY,
            storage=f"sqlite:///{(search.out / STORAGE).resolve()}",
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(pruning.first_trials, pruning.warmup_epochs),
        )
        earlier = study.user_attrs.get(ASKED)
        if earlier is None:
            study.set_user_attr(ASKED, asked)
        elif differing := [name for name in asked if earlier.get(name) != asked[name]]:
            raise TomopointError(
                f"{search.out} holds a search with another {', '.join(differing)}; its trials are no comparison. "
                "Choose another --out"
            )
    return study


def check_space(material: Material) -> None:
    """Refuse a search space before anything is trained: each option is tried at both ends, or at every choice.

    Raises
    ------
    TomopointError
        There is none, a value makes no recipe, or an option changes no network's training.
    """
    dimensions = material.experiment.dimensions
    if not dimensions:
        raise TomopointError(
            f"{material.path} has no `space` to search; add e.g. optimiser.learning_rate: {{log-float: [1e-4, 1e-2]}}"
        )
    networks = material.base().networks
    for dimension in dimensions:
        recipes = [
            material.changed(changes_of({dimension.name: value}, networks), f"space.{dimension.name}: {shown(value)}")
            for value in dimension.tried
        ]
        if all(same_training(recipe, recipes[0]) for recipe in recipes[1:]):
            raise TomopointError(
                f"{material.path}: space.{dimension.name} changes no network's training. Is it overruled by options of "
                "the networks themselves (then vary networks.TITLE.OPTION), or is it decided by `steps` or `minutes`?"
            )


def _next_trial(search: Search, study: optuna.Study, limits: Limits) -> _Running | None:
    """Return a trial to train: an interrupted one, or a new one; None at the limit."""
    from optuna.samplers import TPESampler
    from optuna.trial import Trial, TrialState

    with locked(search.out / LOCK):  # what is proposed depends on what is there
        trials = study.get_trials(deepcopy=False)
        for known in trials:
            lock = _lock_of(search.training_of(known.number)) if known.state == TrialState.RUNNING else None
            if lock is not None:
                if set(known.params) != {dimension.name for dimension in search.dimensions}:
                    study.tell(known.number, state=TrialState.FAIL)  # interrupted before it was proposed in full
                    lock.close()
                    continue
                trial = Trial(study, known._trial_id)  # Optuna has no public way back to a trial
                told = max(known.intermediate_values, default=0)
                break
        else:
            n_begun = sum(known.state != TrialState.WAITING for known in trials)  # others may have been enqueued
            if limits.trials is not None and n_begun >= limits.trials:
                return None
            # Of its own for every trial, so that a search that was stopped proposes what it would have proposed.
            state = np.random.SeedSequence((search.seed, n_begun)).generate_state(1)
            study.sampler = TPESampler(seed=int(state[0]))
            trial, told = study.ask(), 0
            lock = _lock_of(search.training_of(trial.number))
            assert lock is not None
            for dimension in search.dimensions:
                _propose(trial, dimension)
    return _Running(trial, search.training_of(trial.number), lock, told)


def _prepare(search: Search, begun: _Running) -> Path:
    """Write and check the recipe of a trial; return the file with the epochs that say early how it goes."""
    training = begun.training
    recipe = search.recipe_of(begun.trial.params, training.label)
    recipe.save(training.recipe)
    open_training(training, prepare(training, recipe))
    fold = f"fold{(search.material.experiment.folds or (0,))[0]}"
    return training.folder / fold / recipe.networks[0].title / METRICS


def _count_failures(before: int, reason: str) -> int:
    """Return how many trials failed in a row with this one; TomopointError where these are too many."""
    if before + 1 >= MOST_FAILURES:
        raise TomopointError(f"{before + 1} trials in a row failed, the last one thus: {reason}")
    return before + 1


def _lock_of(training: Training) -> ExitStack | None:
    """Return the lock of a trial, held; None where another process holds it."""
    training.folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        if stack.enter_context(locked(training.folder / LOCK, wait=False)):
            return stack.pop_all()
    return None


def _propose(trial: optuna.trial.Trial, dimension: Dimension) -> None:
    """Let Optuna choose a value."""
    if dimension.kind == "choice":
        trial.suggest_categorical(dimension.name, dimension.texts)
        return
    low, high = dimension.values
    if dimension.kind == "int":
        trial.suggest_int(dimension.name, low, high)
    else:
        trial.suggest_float(dimension.name, low, high, log=dimension.kind == "log-float")


def _is_hopeless(one: _Running) -> bool:
    """Tell Optuna of new scored epochs of the trial's first network on its first fold; return whether to give it up."""
    new = [(epoch, score) for epoch, score in scored_epochs(one.metrics) if epoch > one.told]
    for epoch, score in new:
        one.trial.report(score, epoch)
        one.told = epoch
        if one.trial.should_prune():
            return True
    return False


def scored_epochs(metrics: Path) -> list[tuple[int, float]]:
    """Return the epochs of a network, from 1, whose held-out runs were scored, with the scores; none before the first.

    The file is replaced whole, so that it is never read half.
    """
    if not metrics.exists():
        return []
    rows = csv.DictReader(metrics.read_text().splitlines())
    return [(int(row["epoch"]) + 1, float(row["score"])) for row in rows if row["score"]]


def _tell(search: Search, study: optuna.Study, one: _Running, answer: Result | Failed) -> None:
    """Note what came of a trial."""
    from optuna.trial import TrialState

    if isinstance(answer, Result):
        one.trial.set_user_attr(RESULT, {**asdict(answer), "per_class": dict(answer.per_class)})
        study.tell(one.trial.number, answer.score)
        simulated = "simulated " if answer.simulated else ""
        logger.info("%s: %sout-of-fold score %.4f", one.training.label, simulated, answer.score)
    else:
        one.trial.set_user_attr(REASON, answer.reason)
        study.tell(one.trial.number, state=TrialState.FAIL)
        logger.error("%s failed: %s (%s)", one.training.label, answer.reason, _told(search, one))


def _told(search: Search, one: _Running) -> str:
    return ", ".join(f"{name} {value_text(value)}" for name, value in search.options_of(one.trial.params).items())


def value_text(value: Any) -> str:
    """Return a value for a table."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
