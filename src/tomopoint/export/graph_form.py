"""The form in which networks are exported: group norms from other operators, and half precision where that is wanted.

The exporter writes a group norm as a reshape to (B,G,N), instance norm, reshape, multiplication, addition. In ONNX
Runtime's CUDA provider each of the last two is a pass over memory of its own, and TensorRT's parser puts further
reshapes around three axes. Here: a reshape that keeps five axes, instance norm, and one batch norm of known statistics,
which is scale and shift in one operator. docs/engines.md has the forms that were compared.

TensorRT 11 has no fp16 switch any more, so types are decided here. Between convolutions everything is bound by memory,
so activations are float16 too: kept in float32 they, and the casts around every convolution, cost twice the traffic and
more. Norms read and write float16 and keep their statistics in float32 in every runtime (TensorRT by default, cuDNN
below ONNX Runtime's CUDA provider always). The sigmoid, views and averages are float32, as are the graph's ports.

A Turing GPU's tensor cores multiply eight channels of a group at a time. TensorRT-RTX fills a group of one up with
zeros, constants of seven times the input's size: a plan of 5.2 GB for one EfficientNet of 34 MB. So convolutions of
each channel by itself become groups of eight there, with zeros in the weights instead.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from tomopoint.networks.point_network import PointNetwork

GROUP = 8
"""Channels of a group of what was a depth-wise convolution."""


def graph_form(module: nn.Module, precision: str) -> nn.Module:
    """Return the form in which a network, or an ensemble, is exported; `module` stays as it is.

    Parameters
    ----------
    module
        Honours the contract.
    precision
        ``"fp16"``, see :func:`with_half_networks`, or ``"fp32"``.
    """
    form = with_graph_norms(module)
    return with_half_networks(with_groups_of_eight(form)) if precision == "fp16" else form


class GroupNormInFive(nn.Module):
    """What a :class:`torch.nn.GroupNorm` with scale and shift computes on (B,C,D,H,W), from other operators."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.num_groups, self.eps = norm.num_groups, norm.eps
        self.weight, self.bias = norm.weight, norm.bias
        # Mean and variance of what instance norm has made. With eps the variance is one, so weight and bias act alone;
        # float16 rounds it to one by itself.
        self.register_buffer("mean", torch.zeros(norm.num_channels))
        self.register_buffer("variance", torch.full((norm.num_channels,), 1 - norm.eps))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B,C,D,H,W), normalised over each group of channels, scaled and shifted per channel."""
        batch, channels, depth, height, width = x.shape
        groups = x.reshape(batch, self.num_groups, channels // self.num_groups * depth, height, width)
        normal = functional.instance_norm(groups, eps=self.eps).reshape(x.shape)
        mean, variance = self.get_buffer("mean"), self.get_buffer("variance")
        return functional.batch_norm(normal, mean, variance, self.weight, self.bias, training=False, eps=self.eps)


def with_graph_norms(module: nn.Module) -> nn.Module:
    """Return a copy of `module` in eval mode with its group norms in the graph's form; the two share their weights."""
    return _with_parts(
        module, {p: GroupNormInFive(p) for p in module.modules() if isinstance(p, nn.GroupNorm) and p.affine}
    )


def with_groups_of_eight(module: nn.Module) -> nn.Module:
    """Return a copy of `module` in eval mode with depth-wise convolutions in groups of eight channels.

    They compute the same. Those whose channels eight does not divide stay as they are. All other weights are shared.
    """
    return _with_parts(
        module,
        {
            p: _in_groups_of_eight(p)
            for p in module.modules()
            if isinstance(p, nn.Conv3d) and 1 < p.groups == p.in_channels == p.out_channels and p.groups % GROUP == 0
        },
    )


def _in_groups_of_eight(conv: nn.Conv3d) -> nn.Conv3d:
    channels, _, *kernel = conv.weight.shape
    weight = conv.weight.new_zeros(channels, GROUP, *kernel)
    every = torch.arange(channels)
    weight[every, every % GROUP] = conv.weight.detach()[:, 0]
    grouped = copy.copy(conv)
    grouped._parameters = {**conv._parameters, "weight": nn.Parameter(weight, requires_grad=False)}
    grouped.groups = channels // GROUP
    return grouped


def _with_parts(module: nn.Module, parts: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """Return a copy of `module` in eval mode with other parts in place of some; it shares all other weights."""
    weights = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    replaced = {id(part): new for part, new in parts.items()}
    result: nn.Module = copy.deepcopy(module, {**weights, **replaced})  # what the memo holds is taken, not copied
    return result.eval()


class HalfNetwork(PointNetwork):
    """A copy of a network whose backbone and head work in float16; voxels come and answers go in float32."""

    def __init__(self, network: PointNetwork) -> None:
        backbone, head = copy.deepcopy(network.backbone).half(), copy.deepcopy(network.head).half()
        super().__init__(backbone, head, network.n_classes, network.stride)

    def logits(self, volume: Tensor) -> tuple[Tensor, ...]:
        """Cast the volume, and be a :class:`PointNetwork`, whose head casts back before its sigmoid or softmax."""
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
