"""Recipes on disk: found by name or path, read from YAML, refused with the option that is wrong.

A file may start from another one and say what it changes::

    base: winner                  # name or path (of a file beside this one) of a recipe
    networks:                     # these and no others; each goes on from the base's network of that label or name
      - {name: segresnet, init_filters: 8}
    fit: {epochs: 4}              # the base's other options of `fit` stay

Its particles are those of the project; it may leave some out, or say them in full::

    particles: [ribosome, {name: spike, radius_A: 75}]

Options are merged at any depth; lists (folds, particles, sizes) are replaced, but `networks` as shown. A network's own
options go before the recipe's, also before those that the file with `base` changes: ``fit: {batch_size: 2}`` does not
change a network of the base that has its own `batch_size`.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from tomopoint.data.particles import complete_particles
from tomopoint.errors import TomopointError, reason_of
from tomopoint.files import is_plain_name
from tomopoint.pipeline import COMPETITION_PARTICLES, Particle
from tomopoint.strict_json import Malformed, build, shown
from tomopoint.strict_yaml import read_yaml
from tomopoint.training.recipe import OWN_OPTIONS, NetworkRecipe, Recipe

BASE = "base"
_MAX_MESSAGE = 2000
"""Characters: an unknown option is answered with all known ones, a long value need not be repeated whole."""


def recipes_folder() -> Path:
    """Return the folder of the named recipes: ``recipes/`` of a checkout, or its copy in an installed package."""
    package = Path(__file__).parents[1]
    checkout = package.parents[1] / "recipes"
    return checkout if checkout.is_dir() and package.parent.name == "src" else package / "recipes"


def load_recipe(name_or_path: str, known: Sequence[Particle] = COMPETITION_PARTICLES) -> Recipe:
    """Read a recipe by name (``demo``) or from a YAML file; `known` are the particles of the project.

    Raises
    ------
    TomopointError
        No such recipe, not YAML, a `base` that is not there or goes round in a circle, an unknown option (the
        allowed ones are named), or a value out of range.
    """
    path = _find(name_or_path)
    return recipe_from_dict(_read(path, (), known), str(path), known)


def load_changed(base: str, changes: Mapping[str, Any], source: str, known: Sequence[Particle], beside: Path) -> Recipe:
    """Build the recipe `base` with changes, as from a file in the folder `beside` with this ``base`` and these lines.

    `source` names it in errors (see :func:`load_recipe`).
    """
    if BASE in changes:
        raise TomopointError(f"{source}: `{BASE}` is said already ({base}); take it out of the changes")
    return recipe_from_dict(_on_base({BASE: base, **changes}, source, beside, (), known), source, known)


def recipe_from_dict(content: Any, source: str, known: Sequence[Particle] = COMPETITION_PARTICLES) -> Recipe:
    """Build a recipe from parsed YAML; `source` names it in errors (see :func:`load_recipe`)."""
    if isinstance(content, Mapping) and "method" in content and "networks" not in content:
        raise TomopointError(
            f"{source} is the recipe of a 2-D baseline, which `tomopoint baseline` trains and validates in one; it is "
            "never exported, and needs no `train`, `validate` or `export`"
        )
    try:
        return build(Recipe, _with_particles(_with_own_options(content), known), to_float=True)
    except (Malformed, TomopointError) as error:
        raise TomopointError(f"{source}: {reason_of(error, _MAX_MESSAGE)}") from error


def differences(first: Mapping[str, Any], second: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted names of the options in which two recipes (as dicts) differ."""
    names = []
    for key in sorted({*first, *second}):
        a, b = first.get(key), second.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            names += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            names.append(f"{prefix}{key}")
    return names


def _read(path: Path, above: tuple[Path, ...], known: Sequence[Particle]) -> Any:
    """Return what a file holds on top of its base; `above` are the files that led here."""
    if path.resolve() in above:
        chain = " -> ".join(str(p) for p in (*above, path.resolve()))
        raise TomopointError(f"recipes go round in a circle: {chain}; take `{BASE}` out of one of them")
    content = read_yaml(path, f"`{BASE}` names a recipe to start from")
    if content is None:  # most likely a file that was cut or never written, not the wish for all defaults
        raise TomopointError(f"{path} is empty; put at least `{BASE}: default` into it")
    if not isinstance(content, Mapping) or BASE not in content:
        return content
    return _on_base(content, str(path), path.parent, (*above, path.resolve()), known)


def _on_base(
    content: Mapping[str, Any], source: str, beside: Path, above: tuple[Path, ...], known: Sequence[Particle]
) -> Any:
    """Return `content` on top of the base that it names, which may lie in the folder `beside`."""
    base = content[BASE]
    if not isinstance(base, str):
        raise TomopointError(f"{source}: {BASE} must be the name or path of one recipe, got {shown(base)}")
    try:
        below = _read(_find(base, beside), above, known)
        # What is wrong in a base may lie hidden under the changes, so it is refused here, where its file is known.
        recipe_from_dict(below, str(_find(base, beside)), known)
    except TomopointError as error:
        raise TomopointError(f"{source}, {BASE}: {error}") from error
    changes = {key: value for key, value in content.items() if key != BASE}
    merged = merge(below, changes)
    if isinstance(merged, dict) and isinstance(changes.get("networks"), list):
        by_title = {_title(item): item for item in below.get("networks") or []}
        merged["networks"] = [_changed_network(by_title.get(_title(item), {}), item) for item in changes["networks"]]
    return merged


def _changed_network(base: Mapping[str, Any], changes: Any) -> Any:
    """Return a network on top of the base's; its learning rate replaces the base's, whichever way either says it."""
    merged = merge(base, changes)
    if not isinstance(merged, dict) or not isinstance(merged.get("optimiser"), dict):
        return merged
    if "learning_rate" in changes:
        merged["optimiser"].pop("learning_rate", None)
    elif "learning_rate" in (changes.get("optimiser") or {}):
        merged.pop("learning_rate", None)
    return merged


def merge(base: Any, changes: Any) -> Any:
    """Return `changes` on top of `base`: mappings are merged at any depth, everything else is replaced."""
    if not isinstance(base, Mapping) or not isinstance(changes, Mapping):
        return copy.deepcopy(changes)
    return {**base, **{key: merge(base.get(key), value) for key, value in changes.items()}}


def _title(network: Any) -> str | None:
    title = network.get("label") or network.get("name") if isinstance(network, Mapping) else None
    return title if isinstance(title, str) else None


def _with_own_options(content: Any) -> Any:
    """Complete the options that a network has of its own by the recipe's; what is no recipe is left as it is."""
    if not isinstance(content, dict) or not isinstance(content.get("networks"), list):
        return content
    for_all = {f.name for f in fields(Recipe)} - {f.name for f in fields(NetworkRecipe)}
    networks = []
    for index, network in enumerate(content["networks"]):
        if not isinstance(network, dict):
            networks.append(network)
            continue
        if misplaced := sorted(for_all & set(network)):
            raise TomopointError(
                f"networks[{index}]: {misplaced[0]!r} is one for all networks; a network may have its own "
                f"{', '.join(OWN_OPTIONS)}"
            )
        own = {name: network[name] for name in OWN_OPTIONS if isinstance(network.get(name), dict)}
        rates = [network.get("learning_rate"), own.get("optimiser", {}).get("learning_rate")]
        if None not in rates and rates[0] != rates[1]:
            raise TomopointError(
                f"networks[{index}]: learning_rate is {rates[0]}, but {rates[1]} in its optimiser; keep one"
            )
        if rates[0] is not None and "optimiser" in own:
            own["optimiser"] = {**own["optimiser"], "learning_rate": rates[0]}
        networks.append({**network, **{name: merge(content.get(name) or {}, value) for name, value in own.items()}})
    return {**content, "networks": networks}


def _with_particles(content: Any, known: Sequence[Particle]) -> Any:
    """Complete the particles by those that are known: all of them, where a recipe says nothing."""
    if not isinstance(content, dict):
        return content
    return {**content, "particles": complete_particles(content.get("particles", [p.name for p in known]), known)}


def _find(name_or_path: str, beside: Path | None = None) -> Path:
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        path = path if beside is None else beside / path
        if not os.path.isfile(path):  # unlike Path.is_file, it takes names that are too long
            raise TomopointError(f"no such recipe file: {path}; give the path of a .yaml file, or a name such as demo")
        return path
    named = recipes_folder() / f"{name_or_path}.yaml"
    if not is_plain_name(name_or_path) or not named.is_file():
        known = ", ".join(sorted(p.stem for p in recipes_folder().glob("*.yaml")))
        raise TomopointError(
            f"unknown recipe {shown(name_or_path)}; there are {known}, or give the path of a .yaml file"
        )
    return named
