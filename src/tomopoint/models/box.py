"""Models by name: NAME.onnx of this folder, with NAME.md, its model card, and NAME.json, how it was made.

Imports nothing heavy: the kernel path may.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tomopoint.errors import EngineError, TomopointError
from tomopoint.strict_json import build, read, reading

SUFFIX = ".onnx"

NEVER_SEEN_A_REAL_ONE = (
    "It was trained on simulated tomograms only and has never seen a real one: its scores are simulated, and what it "
    "finds in real tomograms has to be looked at"
)
"""Said wherever a model of the box is offered."""


def box_folder() -> Path:
    """Return the folder that holds the models of this package."""
    return Path(__file__).parent


def box_models() -> dict[str, Path]:
    """Return the graphs of the box by name."""
    return {path.stem: path for path in sorted(box_folder().glob(f"*{SUFFIX}"))}


def is_in_box(path: Path) -> bool:
    """Tell whether a graph is one of the box, by whatever path it was given."""
    return path.parent.resolve() == box_folder().resolve()


def find_model(name_or_path: Path, otherwise: str = "the path of a graph that `tomopoint export` wrote") -> Path:
    """Return the path that somebody means: the graph of that name in the box, else a path that exists.

    So what the package's own recipes and commands name is what they get, whatever lies in the folder they run in; a
    file of such a name is given by its whole path.

    Parameters
    ----------
    name_or_path
        As given on a command line or in a recipe.
    otherwise
        What may be given instead of a name of the box, for the message.

    Raises
    ------
    EngineError
        Neither; lists the names.
    """
    models = box_models()
    if str(name_or_path) in models:
        return models[str(name_or_path)]
    if os.path.exists(name_or_path):  # unlike Path.exists, it takes names that are too long
        return name_or_path
    names = f"one of {', '.join(models)}, which come with the package" if models else "a name (this package has none)"
    raise EngineError(f"no model {name_or_path}; give {otherwise}, or {names}")


@dataclass(frozen=True)
class ModelRecord:
    """What NAME.json holds: how a model was made, so that anybody can make it again.

    Attributes
    ----------
    onnx_sha256
        Of NAME.onnx.
    commands
        The command lines that made it, in order.
    recipe
        The training recipe.
    seeds
        By what they are of: training data, weights, the data that it was scored on.
    simulated_scores
        Official F4 by what it was measured on, e.g. own world, other world. All of them simulated.
    """

    onnx_sha256: str
    commands: tuple[str, ...]
    recipe: str
    seeds: Mapping[str, int]
    simulated_scores: Mapping[str, float]


def load_record(model: Path) -> ModelRecord:
    """Read how a model of the box was made.

    Raises
    ------
    TomopointError
        Missing, or not such a record.
    """
    path = model.with_suffix(".json")
    with reading(path, TomopointError, "is no record of a model", "restore it, or remove the model"):
        return build(ModelRecord, read(path))


def card_of(model: Path) -> Path | None:
    """Return the model card beside a graph, NAME.md; None where there is none."""
    card = model.with_suffix(".md")
    return card if card.is_file() else None
