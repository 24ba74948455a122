"""What every loss shares: its options, the precision of its inputs and its normaliser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tomopoint.training.options.losses import LossOptions


@dataclass(frozen=True)
class LossTerms:
    """What a loss returns.

    Attributes
    ----------
    total
        Scalar to differentiate: the sum of the two terms. Where several processes train together it is multiplied
        by their number, because their gradients are averaged.
    classification, regression
        Its two terms, without gradient, for the log.
    n_positive
        Cells assigned to a particle in this process (heatmap: particles).
    """

    total: Tensor
    classification: Tensor
    regression: Tensor
    n_positive: int


class PointLoss(nn.Module):
    """A loss on maps at a stride, with a radius per class.

    Parameters
    ----------
    radii_vox
        Radius of each class, voxels; C of them.
    stride
        Voxels per output cell.
    options
        See :class:`~tomopoint.training.options.losses.LossOptions`.
    """

    radii_vox: Tensor

    def __init__(self, radii_vox: Sequence[float] | Tensor, stride: int, options: LossOptions | None = None) -> None:
        super().__init__()
        self.register_buffer("radii_vox", torch.as_tensor(radii_vox, dtype=torch.float64), persistent=False)
        self.stride = stride
        self.options = options or LossOptions()


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
