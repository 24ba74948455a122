"""What every loss does with its inputs and its normaliser."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def in_full_precision(tensor: Tensor) -> Tensor:
    """Return `tensor` in float32; float64 stays, so that formulas can be checked in it."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def across_ranks(value: Tensor) -> tuple[Tensor, int]:
    """Return the sum of a scalar over all training processes, and their number.

    Gradients are averaged over processes, so a loss divided by this sum must be multiplied by their number.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return value, 1
    total = value.detach().clone()
    dist.all_reduce(total)
    return total, dist.get_world_size()
