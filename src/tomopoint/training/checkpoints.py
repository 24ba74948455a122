"""Members on disk: one folder per fold and network, with weights and the record that makes them usable.

::

    <run>/recipe.yaml
    <run>/<fold>/<network>/weights.safetensors   the weights to use
                           member.json           MemberRecord; there only once the member is finished
                           metrics.csv           one row per epoch
                           last.safetensors      everything needed to go on after an interruption
                           candidates/           weights of the best epochs, while it is trained
"""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tomopoint.errors import TomopointError, reason_of
from tomopoint.evaluation.epochs import SCORE_OF
from tomopoint.files import require_file, sha256_of, whole_or_absent, write_atomically
from tomopoint.networks.build import build_network
from tomopoint.networks.config import NetworkConfig
from tomopoint.networks.point_network import PointNetwork
from tomopoint.pipeline import Normalisation
from tomopoint.strict_json import Malformed, build, read, reading

logger = logging.getLogger(__name__)

WEIGHTS = "weights.safetensors"
RECORD = "member.json"
CANDIDATES = "candidates"
RECIPE = "recipe.yaml"

COLUMNS = (
    *("epoch", "step", "learning_rate"),
    *("train_loss", "train_classification", "train_regression"),
    *("validation_loss", "validation_classification", "validation_regression"),
    *("score", "seconds"),
)
"""Of ``metrics.csv``; then :data:`SCORE_OF` with the name of each particle, where the official score is measured."""


@dataclass(frozen=True)
class MemberRecord:
    """What is known of a trained network.

    Attributes
    ----------
    fold
        Name of the fold.
    network
        Architecture and sizes, every value filled in.
    particles
        Names in channel order.
    stride
        Voxels per output cell.
    voxel_A
        Voxel size it was trained at, Angstrom.
    normalisation
        From raw values to network input.
    training_runs, validation_runs
        Names of runs; disjoint.
    data_root
        Folder of the project.
    data_sha256, recipe_sha256, weights_sha256
        What it was made from, and the weights file itself.
    recipe
        Name or path of the recipe as given.
    tomopoint
        Version that trained it.
    epochs, steps
        Trained, in all.
    kept
        Which weights these are, in words.
    seconds
        Training time, interruptions left out.
    device, precision
        Where and how it was trained.
    pretrained_sha256
        SHA-256 of the file of weights that it started from; None: fresh ones, or a record of earlier versions.
    layout
        Of maps in memory while it was trained; None in a record of earlier versions.
    """

    fold: str
    network: NetworkConfig
    particles: tuple[str, ...]
    stride: int
    voxel_A: float
    normalisation: Normalisation
    training_runs: tuple[str, ...]
    validation_runs: tuple[str, ...]
    data_root: str
    data_sha256: str
    recipe_sha256: str
    weights_sha256: str
    recipe: str
    tomopoint: str
    epochs: int
    steps: int
    kept: str
    seconds: float
    device: str
    precision: str
    pretrained_sha256: str | None = None
    layout: str | None = None

    def __post_init__(self) -> None:
        if self.stride < 1 or not 0 < self.voxel_A < inf or not self.particles:
            raise TomopointError(
                f"stride and voxel_A must be positive and particles be there, got {self.stride}, {self.voxel_A} and "
                f"{len(self.particles)} particles"
            )

    def save(self, folder: Path) -> None:
        """Write ``member.json``: from now on the member counts as finished."""
        content = {**asdict(self), "network": self.network.to_dict()}
        write_atomically(folder / RECORD, json.dumps(content, indent=2) + "\n")


def load_record(folder: Path) -> MemberRecord:
    """Read a member's record.

    Raises
    ------
    TomopointError
        Missing, or not what this version writes.
    """
    path = folder / RECORD
    with reading(path, TomopointError, "is damaged or of another version", "train the member again"):
        content = read(path)
        try:
            return build(MemberRecord, content)
        except TomopointError as error:  # a value out of range
            raise Malformed(str(error)) from error


def load_member(folder: Path) -> tuple[PointNetwork, MemberRecord]:
    """Return a trained network in eval mode, on the CPU, and its record.

    Raises
    ------
    TomopointError
        No finished member there, or the weights file is not the one that the record describes.
    """
    record = load_record(folder)
    path = folder / WEIGHTS
    if not path.is_file() or sha256_of(path) != record.weights_sha256:
        raise TomopointError(f"{path} is missing or not the file that {RECORD} describes; train the member again")
    try:
        network = build_network(record.network, len(record.particles), record.stride)
        network.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError, TomopointError) as error:
        raise TomopointError(
            f"{path} does not fit the network that {RECORD} describes ({reason_of(error)}); train the member again"
        ) from error
    return network.eval().requires_grad_(False), record


def find_members(training_folder: Path) -> list[Path]:
    """Return the folders of all finished members, sorted by fold and network; say which are not finished.

    Raises
    ------
    TomopointError
        There is none.
    """
    folders = sorted(path.parent for path in training_folder.glob(f"*/*/{RECORD}"))
    if not folders:
        raise TomopointError(
            f"{training_folder} holds no finished member (<fold>/<network>/{RECORD}); run `tomopoint train`"
        )
    begun = [path for path in sorted(training_folder.glob("fold*/*")) if path.is_dir() and path not in folders]
    if begun:
        names = ", ".join(str(path.relative_to(training_folder)) for path in begun)
        logger.warning("%s: %s not finished, left out; `tomopoint train` goes on with them", training_folder, names)
    return folders


def save_weights(weights: Mapping[str, Tensor], path: Path) -> str:
    """Write weights atomically as safetensors, on the CPU in float32; return the file's SHA-256."""
    with whole_or_absent(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, temporary)
    return sha256_of(path)


def mean_weights(paths: Sequence[Path]) -> dict[str, Tensor]:
    """Return the arithmetic mean of several weight files, added up in float64."""
    total: dict[str, Tensor] = {}
    for path in paths:
        try:
            require_file(path)
            weights = load_file(path)
        except (OSError, SafetensorError, ValueError) as error:
            raise TomopointError(
                f"{path} cannot be read ({reason_of(error)}); delete {path.parents[1]} to train this "
                "member from the start"
            ) from error
        for name, tensor in weights.items():
            total[name] = total[name] + tensor.double() if name in total else tensor.double()
    return {name: (tensor / len(paths)).float() for name, tensor in total.items()}


def write_metrics(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Write one line per epoch; what was not measured stays empty."""
    text = io.StringIO()
    per_class = dict.fromkeys(name for row in rows for name in row if name.startswith(SCORE_OF))
    writer = csv.DictWriter(text, [*COLUMNS, *per_class], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        whole = {name: int(row[name]) for name in ("epoch", "step")}
        writer.writerow({**{name: f"{value:.6g}" for name, value in row.items()}, **whole})
    write_atomically(path, text.getvalue())
