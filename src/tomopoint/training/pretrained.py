"""Weights that a member starts with: found by what `pretrained` names, checked before anything is trained, loaded.

`pretrained` names, and a name of the box goes before a path:

* a model of the box (``small``), or a graph that `tomopoint export` wrote;
* a training folder, one member's folder, or the ``weights.safetensors`` in it;
* foreign weights, which are loaded into the backbone as far as names and shapes fit.

A graph cannot be gone on from where its networks have batch norms, which the exporter makes part of convolutions.

Of several networks one of the same architecture is taken: one that never saw what the fold holds out, the one of the
same fold and title if it is there; else the best scored, else the first. Weights that are known to have seen held-out
runs of the same project are refused: their score and thresholds would be those of runs they know. A graph does not say
what its networks were trained on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from tomopoint.errors import TomopointError
from tomopoint.files import sha256_of
from tomopoint.inference.engines.graph_metadata import NETWORKS_KEY, pipeline_in, read_metadata
from tomopoint.models.box import find_model
from tomopoint.networks.build import load_backbone
from tomopoint.networks.config import NetworkConfig
from tomopoint.networks.graph_weights import GraphNetworks, GraphWeights
from tomopoint.networks.point_network import PointNetwork
from tomopoint.networks.transfer import TrainedNetwork, differences, transfer
from tomopoint.training.checkpoints import RECORD, WEIGHTS, find_members, load_member, load_record

logger = logging.getLogger(__name__)

OTHERWISE = "a weights file, a training folder or a graph (paths are taken from where the command runs)"


@dataclass(frozen=True)
class Candidate:
    """A network that a member could start from.

    Attributes
    ----------
    file
        Whose bytes hold its weights.
    fold, title
        Its place in the training that made it.
    config, stride
        Its architecture.
    score
        Official score on the runs it never saw, where that is known.
    training_runs, data_root
        What it was trained on; empty where that is not known, as of a graph.
    read
        Returns its weights.
    """

    file: Path
    fold: str
    title: str
    config: NetworkConfig
    stride: int
    score: float | None
    read: Callable[[], TrainedNetwork]
    training_runs: tuple[str, ...] = ()
    data_root: str = ""


@dataclass(frozen=True)
class Pretrained:
    """The weights that one member starts with.

    Attributes
    ----------
    given
        What the recipe names.
    file
        The file that holds them.
    candidate
        The network in it; None for foreign weights.
    """

    given: str
    file: Path
    candidate: Candidate | None

    @property
    def sha256(self) -> str:
        """SHA-256 of the file: a member is the one that was asked for only if it started from these bytes."""
        return sha256_of(self.file)

    def has_seen(self, runs: Collection[str], data_root: Path) -> list[str]:
        """Return those of a project's runs that the network was trained on, as far as that is known."""
        if self.candidate is None or Path(self.candidate.data_root).resolve() != data_root.resolve():
            return []
        return sorted(set(self.candidate.training_runs) & set(runs))

    def load_into(self, network: PointNetwork, config: NetworkConfig, particles: Sequence[str]) -> None:
        """Start a fresh network from these weights, and say in one line what was taken."""
        if self.candidate is None:
            report = load_backbone(network, self.file)
            logger.info("pretrained %s: %s; the head starts fresh", self.given, report.text)
            return
        try:
            taken = transfer(network, config, particles, self.candidate.read())
        except TomopointError as error:
            raise TomopointError(f"pretrained {self.given}: {error}") from error
        place = f"{self.candidate.fold}/{self.candidate.title}"
        logger.info("pretrained %s (%s): %s", self.given, place, taken.text)


def find_pretrained(
    given: str, network: NetworkConfig, stride: int, fold: str, held_out: Collection[str] = ()
) -> Pretrained:
    """Find the weights that a network starts with, without reading them.

    Parameters
    ----------
    given
        What the recipe names.
    network, stride
        The network that is to be trained, and the voxels per cell of its maps.
    fold, held_out
        Name of the fold that it is trained on, and the runs that it holds out.

    Raises
    ------
    TomopointError
        Nothing there, a graph that is not of `tomopoint export`, or no network of this architecture; says in which
        sizes they differ.
    """
    path = find_model(Path(given), OTHERWISE)
    if path.suffix == ".onnx" and network.has_batch_norm:
        raise TomopointError(
            f"pretrained {given} is a graph, in which the batch norms of a {network.name} have become part of its "
            f"convolutions, so that network {network.title!r} cannot go on from it; give the training folder"
        )
    candidates = networks_in(path)
    if candidates is None:
        return Pretrained(given, path, None)

    def unlike(candidate: Candidate) -> list[str]:
        stride_differs = [f"stride is {candidate.stride} there and {stride} here"] * (candidate.stride != stride)
        return differences(candidate.config, network) + stride_differs

    alike = [candidate for candidate in candidates if not unlike(candidate)]
    if not alike:
        nearest = min(candidates, key=lambda candidate: len(unlike(candidate)))
        others = "" if len(candidates) == 1 else f", nor do its {len(candidates) - 1} other networks"
        raise TomopointError(
            f"pretrained {given} does not fit network {network.title!r}: {'; '.join(unlike(nearest))}{others}. Set the "
            "sizes of the network to those, or give other weights"
        )
    best = max(
        alike,
        key=lambda candidate: (
            set(candidate.training_runs).isdisjoint(held_out),
            (candidate.fold, candidate.title) == (fold, network.title),
            -1.0 if candidate.score is None else candidate.score,
        ),
    )  # of equals the first
    return Pretrained(given, best.file, best)


def networks_in(path: Path) -> list[Candidate] | None:
    """Return the networks that a graph, a training folder or a member's folder holds; None for foreign weights."""
    if path.is_dir():
        folders = [path] if (path / RECORD).is_file() else find_members(path)
        return [_of_member(folder) for folder in folders]
    if path.suffix == ".onnx":
        return _of_graph(path)
    if path.name == WEIGHTS and (path.parent / RECORD).is_file():
        return [_of_member(path.parent)]
    return None


def _of_member(folder: Path) -> Candidate:
    record = load_record(folder)

    def read() -> TrainedNetwork:
        network, _ = load_member(folder)
        return TrainedNetwork(record.network, record.particles, record.stride, network.state_dict())

    return Candidate(
        folder / WEIGHTS,
        record.fold,
        record.network.title,
        record.network,
        record.stride,
        None,
        read,
        record.training_runs,
        record.data_root,
    )


def _of_graph(path: Path) -> list[Candidate]:
    metadata = read_metadata(path)
    pipeline = pipeline_in(metadata, path)
    if NETWORKS_KEY not in metadata:
        raise TomopointError(
            f"{path} does not say which networks it holds; export it again with this version of tomopoint, or give the "
            "training folder"
        )
    networks = GraphNetworks.from_json(metadata[NETWORKS_KEY], path)
    if len(networks.architectures) != len(pipeline.members):
        raise TomopointError(
            f"{path} holds {len(networks.architectures)} networks and its Pipeline names {len(pipeline.members)}; "
            "export it again"
        )
    weights = GraphWeights(path, networks, pipeline.particle_names, pipeline.stride)

    def reader(index: int) -> Callable[[], TrainedNetwork]:
        return lambda: weights.read(index)

    return [
        Candidate(path, member.fold, member.network, config, pipeline.stride, member.score, reader(index))
        for index, (member, config) in enumerate(zip(pipeline.members, networks.architectures, strict=True))
    ]
