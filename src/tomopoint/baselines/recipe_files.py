"""Recipes of baselines on disk: found by name or path, read from YAML, refused with the option that is wrong.

A file may start from another one and say what it changes::

    base: detector                # name or path (of a file beside this one)
    detector: {box: constant}
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tomopoint.baselines.recipe import BaselineRecipe
from tomopoint.data.particles import complete_particles
from tomopoint.errors import TomopointError, reason_of
from tomopoint.files import is_plain_name
from tomopoint.pipeline import COMPETITION_PARTICLES, Particle
from tomopoint.strict_json import Malformed, build, shown
from tomopoint.strict_yaml import read_yaml
from tomopoint.training.recipe_files import BASE, merge, recipes_folder

FOLDER = "baselines"
"""Of the named ones, in the folder of the recipes."""

_MAX_MESSAGE = 2000


def load_baseline(name_or_path: str, known: Sequence[Particle] = COMPETITION_PARTICLES) -> BaselineRecipe:
    """Read a recipe of a baseline by name (``detector``, ``segmenter``) or from a YAML file.

    Raises
    ------
    TomopointError
        No such recipe, not YAML, a `base` that goes round in a circle, an unknown option, or a value out of range.
    """
    path = _find(name_or_path, None)
    return baseline_from_dict(_read(path, ()), str(path), known)


def baseline_from_dict(content: Any, source: str, known: Sequence[Particle] = COMPETITION_PARTICLES) -> BaselineRecipe:
    """Build a recipe from parsed YAML; `known` are the particles of the project, `source` names it in errors."""
    if isinstance(content, Mapping) and "networks" in content:
        raise TomopointError(f"{source} is a recipe of 3-D networks; train it with `tomopoint train --recipe`")
    try:
        if isinstance(content, dict):
            stated = content.get("particles", [particle.name for particle in known])
            content = {**content, "particles": complete_particles(stated, known)}
        return build(BaselineRecipe, content, to_float=True)
    except (Malformed, TomopointError) as error:
        raise TomopointError(f"{source}: {reason_of(error, _MAX_MESSAGE)}") from error


def baseline_on_base(
    content: Any, source: str, beside: Path, known: Sequence[Particle] = COMPETITION_PARTICLES
) -> BaselineRecipe:
    """Build a recipe as from a file in the folder `beside` with this content, which may have a ``base``."""
    return baseline_from_dict(_on_base(content, source, beside, ()), source, known)


def _read(path: Path, above: tuple[Path, ...]) -> Any:
    """Return what a file holds on top of its base; `above` are the files that led here."""
    if path.resolve() in above:
        raise TomopointError(f"{path} leads back to itself; take `{BASE}` out of one of these files")
    content = read_yaml(path, f"`{BASE}` names a recipe to start from")
    return _on_base(content, str(path), path.parent, (*above, path.resolve()))


def _on_base(content: Any, source: str, beside: Path, above: tuple[Path, ...]) -> Any:
    if not isinstance(content, Mapping) or BASE not in content:
        return content
    base = content[BASE]
    if not isinstance(base, str):
        raise TomopointError(f"{source}: {BASE} must be the name or path of one recipe, got {shown(base)}")
    try:
        below = _read(_find(base, beside), above)
    except TomopointError as error:
        raise TomopointError(f"{source}, {BASE}: {error}") from error
    return merge(below, {key: value for key, value in content.items() if key != BASE})


def _find(name_or_path: str, beside: Path | None) -> Path:
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        path = path if beside is None else beside / path
        if not os.path.isfile(path):
            raise TomopointError(f"no such recipe file: {path}; give the path of a .yaml file, or a name")
        return path
    folder = recipes_folder() / FOLDER
    named = folder / f"{name_or_path}.yaml"
    if not is_plain_name(name_or_path) or not named.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise TomopointError(
            f"unknown baseline {shown(name_or_path)}; there are {known}, or give the path of a .yaml file"
        )
    return named
