"""Half precision where it pays and nowhere else, stated in the graph itself.

TensorRT 11 has no fp16 switch any more and T4s are known to go wrong where norms run in float16, so types are decided
here: convolutions in float16 (they are nearly all of the arithmetic), everything between them in float32.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

_CONVOLUTIONS = (nn.Conv3d, nn.ConvTranspose3d)


class HalfConvolution(nn.Module):
    """A convolution with float16 weights between two casts: float32 in, float32 out."""

    def __init__(self, convolution: nn.Module) -> None:
        super().__init__()
        self.convolution = copy.deepcopy(convolution).half()

    def forward(self, features: Tensor) -> Tensor:
        """Cast, convolve, cast back."""
        result: Tensor = self.convolution(features.to(torch.float16)).to(torch.float32)
        return result


def with_half_convolutions(module: nn.Module) -> nn.Module:
    """Return a copy of `module` in eval mode whose 3-D convolutions compute in float16; `module` stays as it is.

    Normalisation, activations, sums, the sigmoid and the average over networks stay in float32, as do the inputs and
    outputs of the whole.
    """
    result = copy.deepcopy(module).eval()
    if isinstance(result, _CONVOLUTIONS):
        return HalfConvolution(result)
    _replace_convolutions(result, {})
    return result


def _replace_convolutions(module: nn.Module, done: dict[nn.Module, HalfConvolution]) -> None:
    """Swap convolutions in place; one that is used twice stays one, so its weights are stored once."""
    for name, child in module.named_children():
        if isinstance(child, _CONVOLUTIONS):
            setattr(module, name, done.setdefault(child, HalfConvolution(child)))
        else:
            _replace_convolutions(child, done)
