"""What a search varies: options of a recipe by dotted name, each between two ends or among choices."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

from tomopoint.errors import TomopointError
from tomopoint.strict_json import shown
from tomopoint.training.recipe import NetworkRecipe

Kind = Literal["float", "log-float", "int", "choice"]
Value = float | int | str
"""As Optuna keeps it: of a choice, its JSON text."""


@dataclass(frozen=True)
class Dimension:
    """One option that a search varies.

    Attributes
    ----------
    name
        ``optimiser.learning_rate``, ``networks.dynunet.dropout``.
    kind
        ``float`` and ``log-float`` lie between two ends, ``int`` too, both ends being possible.
    values
        The two ends, or the choices.
    """

    name: str
    kind: Kind
    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        where = f"space.{self.name}"
        if self.kind == "choice":
            if len(self.texts) < 2 or len(set(self.texts)) < len(self.texts):
                raise TomopointError(f"{where}: choice needs two different values or more, got {shown(self.values)}")
            return
        kinds = (int,) if self.kind == "int" else (int, float)
        if len(self.values) != 2 or any(type(end) not in kinds or not isfinite(end) for end in self.values):
            what = "whole numbers" if self.kind == "int" else "numbers"
            raise TomopointError(f"{where}: {self.kind} needs two {what}, the ends, got {shown(list(self.values))}")
        low, high = self.values
        if low >= high or (self.kind == "log-float" and low <= 0):
            above = " above 0" if self.kind == "log-float" else ""
            raise TomopointError(
                f"{where}: {self.kind} goes from a lower end{above} to a higher one, got {low}, {high}"
            )

    @property
    def texts(self) -> list[str]:
        """The choices as JSON."""
        return [json.dumps(value) for value in self.values]

    def option(self, value: Value) -> Any:
        """Return what a recipe is given for a value as Optuna keeps it."""
        return json.loads(value) if self.kind == "choice" and isinstance(value, str) else value

    @property
    def tried(self) -> list[Any]:
        """Values that must make recipes: both ends, or every choice."""
        return list(self.values)


def parse_space(space: Mapping[str, Mapping[str, Sequence[Any]]]) -> tuple[Dimension, ...]:
    """Return the dimensions of a search space: ``{name: {kind: values}}``.

    Raises
    ------
    TomopointError
        An unknown kind, more than one for an option, or values that the kind cannot have.
    """
    found = []
    for name, given in space.items():
        kinds = list(given)
        if len(kinds) != 1 or kinds[0] not in ("float", "log-float", "int", "choice"):
            raise TomopointError(
                f"space.{name}: say one of {{float: [low, high]}}, {{log-float: [low, high]}}, {{int: [low, high]}}, "
                f"{{choice: [a, b]}}, got {shown(given)}"
            )
        kind: Any = kinds[0]
        found.append(Dimension(name, kind, tuple(given[kind])))
    return tuple(found)


def changes_of(options: Mapping[str, Any], networks: Sequence[NetworkRecipe]) -> dict[str, Any]:
    """Return options by dotted name as changes in the recipe's own form.

    Parameters
    ----------
    options
        ``{"fit.batch_size": 4, "networks.dynunet.dropout": 0.1}``; a network is named by its title.
    networks
        Those of the base, all of which stay.

    Raises
    ------
    TomopointError
        No such network.
    """
    changes: dict[str, Any] = {}
    own: dict[str, dict[str, Any]] = {network.title: {"name": network.name} for network in networks}
    for network in networks:
        if network.label is not None:
            own[network.title]["label"] = network.label
    for name, value in options.items():
        first, *rest = name.split(".")
        into = changes
        if first == "networks" and rest:
            if rest[0] not in own or len(rest) < 2:
                raise TomopointError(
                    f"space.{name}: name an option of one of the base's networks, networks.TITLE.OPTION; "
                    f"there are {', '.join(own)}"
                )
            into, (first, *rest) = own[rest[0]], rest[1:]
            changes["networks"] = list(own.values())
        *folders, last = (first, *rest)
        for folder in folders:
            into = into.setdefault(folder, {})
        into[last] = value
    return changes
