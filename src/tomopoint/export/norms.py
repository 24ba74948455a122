"""Group norm in the form that a graph should hold.

The exporter writes it as a reshape to (B,G,N), instance norm, reshape, multiplication, addition. In ONNX Runtime's CUDA
provider each of the last two is a pass over memory of its own, and TensorRT's parser puts further reshapes around three
axes. Here: a reshape that keeps five axes, instance norm, and one batch norm of known statistics, which is scale and
shift in one operator. docs/engines.md has the forms that were compared.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional


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
    weights = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    norms = {id(p): GroupNormInFive(p) for p in module.modules() if isinstance(p, nn.GroupNorm) and p.affine}
    result: nn.Module = copy.deepcopy(module, {**weights, **norms})  # what the memo holds is taken, not copied
    return result.eval()
