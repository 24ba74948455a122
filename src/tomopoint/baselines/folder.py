"""The folder of a baseline, and what is known of its networks.

::

    <folder>/recipe.yaml, data.json              as in a training folder
             <fold>/weights.safetensors          the weights to use
                    network.json                 NetworkRecord; there only once the network is trained
                    metrics.csv, last.safetensors
             validation/, validation.json, pipeline.json    as `tomopoint validate` leaves them
             picks/                              of other runs: picks.csv, submission.csv, pipeline.json, parts/
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from tomopoint.baselines.method import Method
from tomopoint.baselines.recipe import BaselineRecipe
from tomopoint.data.folds import Fold
from tomopoint.errors import TomopointError, reason_of
from tomopoint.files import sha256_of, write_atomically
from tomopoint.strict_json import build, read, reading
from tomopoint.training.checkpoints import RECIPE, WEIGHTS
from tomopoint.training.crops.tomograms import RunRecord
from tomopoint.training.plan import DATA, TrainedOn
from tomopoint.training.recipe_files import differences

RECORD = "network.json"
PICKS = "picks"


@dataclass(frozen=True)
class NetworkRecord:
    """What is known of the trained network of a fold.

    Attributes
    ----------
    fold
        Its name.
    training_runs, validation_runs
        Names of runs; disjoint.
    data_root
        Folder of the project.
    voxel_A
        Voxel size it was trained at, Angstrom.
    steps, seconds
        Trained, interruptions left out.
    weights_sha256, pretrained_sha256
        Of the weights, and of those that it started from.
    """

    fold: str
    training_runs: tuple[str, ...]
    validation_runs: tuple[str, ...]
    data_root: str
    voxel_A: float
    steps: int
    seconds: float
    weights_sha256: str
    pretrained_sha256: str | None = None

    def save(self, folder: Path) -> None:
        """Write ``network.json``: from now on the network counts as trained."""
        write_atomically(folder / RECORD, json.dumps(asdict(self), indent=2) + "\n")


def load_record(folder: Path) -> NetworkRecord:
    """Read the record of a fold; TomopointError where it is missing or damaged."""
    path = folder / RECORD
    with reading(path, TomopointError, "is damaged", "remove the fold's folder, and it is trained again"):
        return build(NetworkRecord, read(path))


def load_weights(network: nn.Module, folder: Path, record: NetworkRecord) -> None:
    """Load the weights of a fold.

    Raises
    ------
    TomopointError
        They are not those of the record, or of a network of another shape.
    """
    path = folder / WEIGHTS
    if not path.is_file() or sha256_of(path) != record.weights_sha256:
        raise TomopointError(f"{path} is missing or not the file that {RECORD} describes; train the fold again")
    try:
        network.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        raise TomopointError(
            f"{path} does not fit the network of the recipe ({reason_of(error)}); method, sizes, slices and number of "
            "particles must be the same"
        ) from error


def load_network(method: Method, folder: Path) -> nn.Module:
    """Return the trained network of a fold, in eval mode on the CPU."""
    network = method.build()
    load_weights(network, folder, load_record(folder))
    return network.eval().requires_grad_(False)


def open_baseline_folder(out: Path, recipe: BaselineRecipe, data_root: Path, records: Mapping[str, RunRecord]) -> None:
    """Make the folder, or refuse one of another recipe or of other data.

    Raises
    ------
    TomopointError
        Naming the options or runs that differ.
    """
    from tomopoint.baselines.recipe_files import load_baseline

    recipe_path, data_path = out / RECIPE, out / DATA
    if recipe_path.exists():
        changed = differences(load_baseline(str(recipe_path), recipe.particles).to_dict(), recipe.to_dict())
        if changed:
            raise TomopointError(
                f"{out} was made with another recipe: {', '.join(changed)} differ; choose another --out, or go on with "
                f"its own: tomopoint baseline {recipe_path}"
            )
    digests = {name: record.digest for name, record in records.items()}
    earlier: Mapping[str, str] = {}
    if data_path.exists():
        with reading(data_path, TomopointError, "is damaged", "restore it, or choose another --out"):
            earlier = build(TrainedOn, read(data_path)).runs
    changed = [name for name, digest in digests.items() if earlier.get(name, digest) != digest]
    if changed:
        raise TomopointError(
            f"{out} was made with other data: picks or tomogram of {', '.join(changed)} changed since; choose another "
            "--out, or remove that folder"
        )
    recipe.save(recipe_path)
    content = {"data_root": str(data_root.resolve()), "runs": {**earlier, **digests}}
    write_atomically(data_path, json.dumps(content, indent=2) + "\n")


def seed_of(recipe: BaselineRecipe, fold: Fold) -> int:
    """Return the seed of a fold, derived from the recipe's."""
    return int.from_bytes(hashlib.sha256(f"{recipe.seed} {fold.name}".encode()).digest()[:4])
