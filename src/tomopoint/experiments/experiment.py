"""Experiments on disk: a base recipe, what is changed in it, and how long each change is trained.

::

    base: default                 # name of a recipe, or path of a file beside this one
    variants:                     # `tomopoint compare`: each changes one thing, in the recipe's own form
      focal: {loss: {classification: focal}}
    baselines:                    # `tomopoint compare`: 2-D baselines beside them, in the form of their recipes
      slices: {base: detector, fit: {steps: 4000}}
    space:                        # `tomopoint search`: options by dotted name, a network's by its title
      optimiser.learning_rate: {log-float: [1e-4, 1e-2]}
      networks.dynunet.dropout: {choice: [0, 0.1]}
    seeds: [0, 1, 2]              # of a comparison
    folds: [0, 1]                 # default all
    steps: 1600                   # of every network; or `minutes`; or neither: as long as each recipe says
    pruning: {warmup_epochs: 2}   # of a search

One file may hold both: each command takes its own part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

from tomopoint.baselines.recipe import BaselineRecipe
from tomopoint.baselines.recipe_files import baseline_on_base
from tomopoint.errors import TomopointError, reason_of
from tomopoint.experiments.space import Dimension, parse_space
from tomopoint.files import PLAIN_NAME, is_plain_name
from tomopoint.pipeline import Particle
from tomopoint.strict_json import Malformed, build, shown
from tomopoint.strict_yaml import read_yaml
from tomopoint.training.options.fitting import FitOptions
from tomopoint.training.recipe import Recipe
from tomopoint.training.recipe_files import load_changed

BASE_NAME = "base"
"""The base among the variants: in tables, and as a folder."""

ENDLESS_EPOCHS = 100_000
"""Where the clock ends a training, its epochs must not."""


@dataclass(frozen=True)
class Pruning:
    """When a trial of a search is given up.

    Attributes
    ----------
    warmup_epochs
        No trial is given up before its first network has been trained so many epochs.
    first_trials
        No trial is given up before so many are finished.
    """

    warmup_epochs: int = 0
    first_trials: int = 5

    def __post_init__(self) -> None:
        if self.warmup_epochs < 0 or self.first_trials < 1:
            raise TomopointError(
                f"pruning: warmup_epochs must not be negative and first_trials at least 1, got {self.warmup_epochs} "
                f"and {self.first_trials}"
            )


@dataclass(frozen=True)
class Experiment:
    """What an experiment's file holds.

    Attributes
    ----------
    base
        Name or path of the recipe that everything is compared with.
    variants
        By name, what each changes, as in a recipe's file with ``base``.
    baselines
        By name, recipes of `tomopoint baseline`; folds and particles are those of the base, the length is their own.
    space
        By dotted name of an option: ``{kind: values}``, see :func:`~tomopoint.experiments.space.parse_space`.
    seeds
        Each variant is trained with each.
    folds
        Numbers of those that are trained; None: all of the recipe.
    steps, minutes
        Of every network, whatever its recipe says; at most one of them.
    pruning
        When trials of a search are given up.
    """

    base: str
    variants: Mapping[str, Any] = field(default_factory=dict)
    baselines: Mapping[str, Any] = field(default_factory=dict)
    space: Mapping[str, Mapping[str, tuple[Any, ...]]] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)
    folds: tuple[int, ...] | None = None
    steps: int | None = None
    minutes: float | None = None
    pruning: Pruning = field(default_factory=Pruning)

    def __post_init__(self) -> None:
        for name, changes in self.variants.items():
            if not is_plain_name(name) or name == BASE_NAME:
                raise TomopointError(
                    f"variants: a name must be {PLAIN_NAME} and not {BASE_NAME!r}, which is the recipe that they "
                    f"change; got {shown(name)}"
                )
            if not isinstance(changes, Mapping):
                raise TomopointError(
                    f"variants.{name} must say what it changes, e.g. {{optimiser: {{learning_rate: 0.001}}}}, "
                    f"got {shown(changes)}"
                )
        for name, content in self.baselines.items():
            if not is_plain_name(name) or name == BASE_NAME or name in self.variants:
                raise TomopointError(
                    f"baselines: a name must be {PLAIN_NAME}, not {BASE_NAME!r} and not that of a variant; got "
                    f"{shown(name)}"
                )
            if not isinstance(content, Mapping):
                raise TomopointError(
                    f"baselines.{name} must be a recipe, e.g. {{base: detector}}, got {shown(content)}"
                )
        for what, numbers in (("seeds", self.seeds), ("folds", self.folds)):
            if numbers is not None and (not numbers or len(set(numbers)) < len(numbers) or min(numbers) < 0):
                raise TomopointError(f"{what} must be different numbers from 0 on, at least one, got {list(numbers)}")
        if self.steps is not None and self.minutes is not None:
            raise TomopointError("steps and minutes exclude each other: trainings are equally long in one of them")
        if self.steps is not None and self.steps < 1:
            raise TomopointError(f"steps must be at least 1, got {self.steps}")
        if self.minutes is not None and not 0 < self.minutes < inf:
            raise TomopointError(f"minutes must be positive, got {self.minutes}")

    @property
    def fold_selection(self) -> str | None:
        """The folds as ``tomopoint train --folds`` takes them."""
        return None if self.folds is None else ",".join(map(str, self.folds))

    @property
    def length(self) -> str:
        """How long every network is trained, in words."""
        own = "; 2-D baselines for steps of their own" if self.baselines else ""
        if self.steps is not None:
            return f"{self.steps} steps of every network{own}"
        if self.minutes is not None:
            return f"{self.minutes:g} minutes of every network{own}"
        return f"as long as each recipe says{own}"

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """What a search varies."""
        return parse_space(self.space)

    def in_length(self, recipe: Recipe) -> Recipe:
        """Return a recipe that trains every network for the steps or minutes of the experiment.

        Epochs keep about the length that the recipe gives them: so many steps, of those that divide all of them, as
        come nearest to it.
        """
        if self.steps is None and self.minutes is None:
            return recipe

        def sized(fit: FitOptions) -> FitOptions:
            if self.minutes is not None:
                return replace(fit, epochs=ENDLESS_EPOCHS, max_minutes=self.minutes, patience=0)
            assert self.steps is not None
            per_epoch = nearest_divisor(self.steps, fit.steps_per_epoch)
            return replace(fit, epochs=self.steps // per_epoch, steps_per_epoch=per_epoch, max_minutes=0.0, patience=0)

        networks = [n if n.fit is None else replace(n, fit=sized(n.fit)) for n in recipe.networks]
        return replace(recipe, fit=sized(recipe.fit), networks=tuple(networks))


@dataclass(frozen=True)
class Material:
    """An experiment, where its file lies, and the particles of the project that it is trained on.

    Attributes
    ----------
    experiment
        What it says.
    path
        Its file.
    particles
        Of the project.
    """

    experiment: Experiment
    path: Path
    particles: tuple[Particle, ...]

    def base(self, full_length: bool = False) -> Recipe:
        """Return the base, in the experiment's length or in its own."""
        return self.changed({}, BASE_NAME, full_length)

    def changed(self, changes: Mapping[str, Any], name: str, full_length: bool = False) -> Recipe:
        """Return the base with changes in the recipe's own form; `name` tells them from others in messages."""
        source = f"{self.path}, {name}"
        recipe = load_changed(self.experiment.base, changes, source, self.particles, self.path.parent)
        if full_length:
            return recipe
        try:
            return self.experiment.in_length(recipe)
        except TomopointError as error:
            raise TomopointError(f"{source}: {error}") from error

    def baseline(self, name: str, base: Recipe) -> BaselineRecipe:
        """Return a 2-D baseline, with the folds and particles of the base.

        Raises
        ------
        TomopointError
            No recipe of a baseline, or one that states its own.
        """
        source, content = f"{self.path}, baselines.{name}", self.experiment.baselines[name]
        for option in {"folds", "particles"} & {*content}:
            raise TomopointError(
                f"{source}: {option} are those of the base, or scores would be no comparison; remove them"
            )
        recipe = baseline_on_base(content, source, self.path.parent, base.particles)
        return replace(recipe, folds=base.folds)


def load_experiment(path: Path) -> Experiment:
    """Read an experiment.

    Raises
    ------
    TomopointError
        It cannot be read, holds an unknown field, or a value out of range.
    """
    content = read_yaml(path, "say every change in full")
    try:
        return build(Experiment, content, to_float=False)
    except (Malformed, TomopointError) as error:
        raise TomopointError(f"{path}: {reason_of(error, 2000)}") from error


def nearest_divisor(whole: int, wanted: int) -> int:
    """Return the divisor of `whole` that is nearest to `wanted`; of two, the smaller."""
    divisors = {d for small in range(1, int(whole**0.5) + 1) if whole % small == 0 for d in (small, whole // small)}
    return min(sorted(divisors), key=lambda divisor: abs(divisor - wanted))


def variant_recipes(material: Material) -> dict[str, Recipe]:
    """Return the base and every variant, checked; the base first.

    Raises
    ------
    TomopointError
        There is neither a variant nor a baseline; a variant is no recipe, or trains no network otherwise than the base;
        or two are equal.
    """
    path, variants = material.path, material.experiment.variants
    if not variants and not material.experiment.baselines:
        raise TomopointError(f"{path} has no `variants` to compare; add at least one, e.g. focal: {{loss: ...}}")
    recipes = {BASE_NAME: material.base()}
    for name, changes in variants.items():
        recipe = material.changed(changes, f"variants.{name}")
        twin = next((other for other, known in recipes.items() if same_training(recipe, known)), None)
        if twin == BASE_NAME:
            raise TomopointError(
                f"{path}: variants.{name} changes nothing: with it every network is trained as in the base. "
                "Is that what the base says already, is it overruled by options of the networks themselves (then say "
                "it under `networks`), or is it decided by `steps`, `minutes` or `seeds`?"
            )
        if twin is not None:
            raise TomopointError(f"{path}: variants.{name} trains the same as variants.{twin}; remove one")
        recipes[name] = recipe
    return recipes


def same_training(first: Recipe, second: Recipe) -> bool:
    """Tell whether every network of two recipes is trained alike, wherever its options stand, but for the seed."""
    if len(first.networks) != len(second.networks):
        return False

    def alone(recipe: Recipe, index: int) -> Recipe:
        own = recipe.for_network(index)  # its optimiser has the network's own learning rate by now
        return replace(own, seed=0, networks=(replace(own.networks[0], learning_rate=None),))

    return all(alone(first, index) == alone(second, index) for index in range(len(first.networks)))
