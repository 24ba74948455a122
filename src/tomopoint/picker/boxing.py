"""Put a picker into the box of models that come with the package: ``python -m tomopoint.picker.boxing FOLDER NAME``.

`make weights` does it with what it has just trained.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

from tomopoint.errors import TomopointError
from tomopoint.files import sha256_of, whole_or_absent, write_atomically
from tomopoint.models.box import SUFFIX, ModelRecord, box_folder
from tomopoint.picker.steps import CARD_FIGURES
from tomopoint.strict_json import read, reading


def put_in_box(folder: Path, name: str) -> Path:
    """Copy a finished picker's graph and model card into the box, and write how it was made.

    Parameters
    ----------
    folder
        What `tomopoint picker` wrote.
    name
        By which commands will find the model.

    Returns
    -------
    Path
        The graph in the box.

    Raises
    ------
    TomopointError
        The picker is not finished, or its graph is not the one that its card describes.
    """
    figures = folder / CARD_FIGURES
    with reading(figures, TomopointError, "is no model card", "let `tomopoint picker` finish first"):
        card = read(figures)
    graph = folder / card["graph"]
    if sha256_of(graph) != card["graph_sha256"]:
        raise TomopointError(f"{graph} is not the graph that {figures} describes; run `tomopoint picker` again")
    record = ModelRecord(
        onnx_sha256=card["graph_sha256"],
        commands=(card["made_of"]["command"], *card["commands"]),
        recipe="picker",
        seeds={"tomograms, weights and crops": card["made_of"]["seed"]},
        simulated_scores={"own world": card["own_world"]["score"], "other world": card["other_world"]["score"]},
    )
    boxed: Path = box_folder() / f"{name}{SUFFIX}"
    text = figures.with_suffix(".md").read_text()
    text = text.replace(card["predict"], f"tomopoint predict --data ROOT --model {name} --out picks")
    write_atomically(boxed.with_suffix(".md"), text.replace(f"`{graph.name}`", f"`{boxed.name}`"))
    write_atomically(boxed.with_suffix(".json"), json.dumps(asdict(record), indent=2) + "\n")
    # The graph last: a model is there once its card and its record are.
    with whole_or_absent(boxed) as temporary:
        shutil.copyfile(graph, temporary)
    return boxed


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        print(f"{put_in_box(Path(sys.argv[1]), sys.argv[2])}: tomopoint models")  # noqa: T201
    except TomopointError as error:
        sys.exit(str(error))
