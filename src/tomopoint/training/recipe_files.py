"""Recipes on disk: found by name or path, read from YAML, refused with the option that is wrong."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from tomopoint.errors import TomopointError
from tomopoint.training.recipes import Recipe


def recipes_folder() -> Path:
    """Return the folder of the named recipes: ``recipes/`` of a checkout, or its copy in an installed package."""
    package = Path(__file__).parents[1]
    checkout = package.parents[1] / "recipes"
    return checkout if checkout.is_dir() and package.parent.name == "src" else package / "recipes"


def load_recipe(name_or_path: str) -> Recipe:
    """Read a recipe by name (``demo``) or from a YAML file.

    Raises
    ------
    TomopointError
        No such recipe, not YAML, an unknown option (the allowed ones are named), or a value out of range.
    """
    import yaml

    path = _find(name_or_path)
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TomopointError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    return recipe_from_dict({} if content is None else content, str(path))


def recipe_from_dict(content: Any, source: str) -> Recipe:
    """Build a recipe from parsed YAML; `source` names it in errors (see :func:`load_recipe`)."""
    from jsonargparse import ArgumentParser

    _refuse_unknown(Recipe, content, source)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Recipe, "recipe")
    try:
        recipe = parser.instantiate(parser.parse_object({"recipe": content})).recipe
    except TomopointError as error:
        raise TomopointError(f"{source}: {error}") from error
    except ArgumentError as error:
        reason = " ".join(str(error).replace("Parser key", "option").replace('"recipe.', '"').split())
        raise TomopointError(f"{source}: {reason}") from error
    assert isinstance(recipe, Recipe)
    return recipe


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


def _find(name_or_path: str) -> Path:
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise TomopointError(f"no such recipe file: {path}")
        return path
    named = recipes_folder() / f"{name_or_path}.yaml"
    if not named.is_file():
        known = ", ".join(sorted(p.stem for p in recipes_folder().glob("*.yaml")))
        raise TomopointError(f"unknown recipe {name_or_path!r}; there are {known}, or give the path of a .yaml file")
    return named


def _refuse_unknown(cls: type, content: Any, where: str) -> None:
    """Refuse any key that is no option, at any depth, naming the options there are."""
    if not isinstance(content, Mapping):
        raise TomopointError(f"{where}: expected options as 'name: value', got {content!r}")
    hints = get_type_hints(cls)
    known = [f.name for f in fields(cls)]
    for key, value in content.items():
        if key not in known:
            raise TomopointError(f"{where}: unknown option {key!r}; allowed here are {', '.join(known)}")
        hint = hints[key]
        if is_dataclass(hint) and isinstance(hint, type):
            _refuse_unknown(hint, value, f"{where}, {key}")
        element = get_args(hint)[0] if get_origin(hint) is tuple else None
        if isinstance(element, type) and is_dataclass(element) and isinstance(value, Sequence):
            for index, item in enumerate(value):
                _refuse_unknown(element, item, f"{where}, {key}[{index}]")
