"""The networks inside an exported graph: written down at export, taken out again to be trained further.

The exporter keeps the names that PyTorch gives to weights, ``networks.<member>.<name>``, but stores equal tensors once,
under one of their names, and leaves a bias of zeros out. So a graph says in its metadata which architectures it holds,
and where the weights are that it does not hold under their own name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tomopoint.errors import TomopointError, reason_of
from tomopoint.networks.build import build_network
from tomopoint.networks.config import NetworkConfig
from tomopoint.networks.transfer import TrainedNetwork
from tomopoint.strict_json import Malformed, build, parse, reading

_NOT_ARCHITECTURE = ("pretrained", "learning_rate", "label")


@dataclass(frozen=True)
class GraphNetworks:
    """What a graph says of its networks.

    Attributes
    ----------
    architectures
        Of each member, in the order of the Pipeline's.
    stored_as
        Names of weights that are not in the graph under their own name, and the name of the equal tensor that is.
    constants
        Names of weights that are not in it at all, and the one value that all of their numbers have.
    """

    architectures: tuple[NetworkConfig, ...]
    stored_as: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of_graph(
        cls,
        architectures: Sequence[NetworkConfig],
        weights: Mapping[str, Tensor],
        stored: Mapping[str, npt.NDArray[Any]],
    ) -> GraphNetworks:
        """Look for every weight in a graph.

        Parameters
        ----------
        architectures
            Of each member.
        weights
            State dict of the module that was exported.
        stored
            The graph's initialisers by name.
        """
        by_value = {_value_of(array): name for name, array in stored.items()}
        stored_as, constants = {}, {}
        for name in weights.keys() - stored.keys():
            array = weights[name].detach().cpu().numpy()
            if (value := _value_of(array)) in by_value:
                stored_as[name] = by_value[value]
            elif array.min() == array.max():
                constants[name] = float(array.flat[0])
        return cls(tuple(architectures), stored_as, constants)

    def to_json(self) -> str:
        """Return the text that goes into the metadata: sizes, and nothing of how the networks were trained."""
        kept = [f.name for f in fields(NetworkConfig) if f.name not in _NOT_ARCHITECTURE]
        sizes = [config.resolved().to_dict() for config in self.architectures]
        plain = [{name: size[name] for name in kept if size[name] is not None} for size in sizes]
        places = {"stored_as": dict(self.stored_as), "constants": dict(self.constants)}
        return json.dumps({"architectures": plain, **places}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, source: Path) -> GraphNetworks:
        """Read the text written by :meth:`to_json`; TomopointError where it is not that."""
        with reading(f"the metadata of {source}", TomopointError, "are damaged", "export the graph again"):
            try:
                return build(cls, parse(text))
            except TomopointError as error:  # a size out of range
                raise Malformed(str(error)) from error


def _value_of(array: npt.NDArray[Any]) -> tuple[object, ...]:
    return array.shape, array.dtype.str, hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest()


class GraphWeights:
    """Reads networks out of a graph.

    Parameters
    ----------
    path
        The graph.
    networks
        What its metadata say of them.
    particles, stride
        Of its Pipeline.
    """

    def __init__(self, path: Path, networks: GraphNetworks, particles: tuple[str, ...], stride: int) -> None:
        self.path = path
        self.networks = networks
        self.particles = particles
        self.stride = stride

    @cached_property
    def _stored(self) -> Mapping[str, Any]:
        import onnx

        try:  # weights beside the file, as ONNX allows, could be any file of this machine
            model = onnx.load(self.path, load_external_data=False)
        except Exception as error:  # protobuf's errors have no base that is public
            raise TomopointError(f"{self.path} is not an ONNX file ({reason_of(error)}); export it again") from error
        return {tensor.name: tensor for tensor in model.graph.initializer}

    def read(self, index: int) -> TrainedNetwork:
        """Return member number `index`; in a graph of precision fp16 its weights are rounded to that.

        Raises
        ------
        TomopointError
            The graph is damaged, or lacks weights that its architecture has, such as batch norms.
        """
        from onnx import numpy_helper

        config = self.networks.architectures[index]
        if config.has_batch_norm:
            raise TomopointError(
                f"{self.path}: the batch norms of network {index}, a {config.name}, have become part of its "
                "convolutions, so its weights cannot be read back; take them from the training folder"
            )
        with torch.device("meta"):
            names = build_network(config, len(self.particles), self.stride).state_dict()
        weights: dict[str, Tensor] = {}
        for name, own in names.items():
            full = f"networks.{index}.{name}"
            if full in self.networks.constants:
                weights[name] = torch.full(own.shape, self.networks.constants[full])
                continue
            stored = self._stored.get(self.networks.stored_as.get(full, full))
            try:
                tensor = None if stored is None else torch.from_numpy(numpy_helper.to_array(stored).copy())
            except Exception as error:  # numpy_helper's own are of many kinds
                raise TomopointError(
                    f"{self.path} holds no readable {full} ({reason_of(error)}); export it again"
                ) from error
            if (
                tensor is None
                or tensor.shape != own.shape
                or not tensor.is_floating_point()
                or not tensor.isfinite().all()
            ):
                raise TomopointError(
                    f"{self.path} does not hold the weights {full} that its architecture has; export it again"
                )
            weights[name] = tensor.float()
        return TrainedNetwork(config, self.particles, self.stride, weights)
