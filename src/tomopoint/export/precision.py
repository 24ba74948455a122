"""Half precision, stated in the graph itself: networks in float16, what is made of their outputs in float32.

TensorRT 11 has no fp16 switch any more, so types are decided here. Between convolutions everything is bound by memory,
so activations are float16 too: kept in float32 they, and the casts around every convolution, cost twice the traffic and
more. Norms read and write float16 and keep their statistics in float32 in every runtime (TensorRT by default, cuDNN
below ONNX Runtime's CUDA provider always). The sigmoid, views and averages are float32, as are the graph's ports.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from tomopoint.networks.point_network import PointNetwork


class HalfNetwork(PointNetwork):
    """A copy of a network whose backbone and head work in float16; voxels come and answers go in float32."""

    def __init__(self, network: PointNetwork) -> None:
        backbone, head = copy.deepcopy(network.backbone).half(), copy.deepcopy(network.head).half()
        super().__init__(backbone, head, network.n_classes, network.stride)

    def logits(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """Cast the volume, and be a :class:`PointNetwork`, whose ``forward`` casts back before its sigmoid."""
        return super().logits(volume.to(torch.float16))


def with_half_networks(module: nn.Module) -> nn.Module:
    """Return a copy of `module` in eval mode whose networks compute in float16; `module` stays as it is.

    Parameters
    ----------
    module
        A network, or one that holds some, such as an ensemble. One that it holds twice stays one, so that its weights
        are stored once.
    """
    if isinstance(module, PointNetwork):
        return HalfNetwork(module).eval()
    networks = {id(part): HalfNetwork(part) for part in module.modules() if isinstance(part, PointNetwork)}
    result: nn.Module = copy.deepcopy(module, dict(networks))  # found in the memo, a network is taken, not copied
    return result.eval()
