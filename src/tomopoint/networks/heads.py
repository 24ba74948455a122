"""What reads class logits and offsets from a feature map."""

from __future__ import annotations

import torch
from torch import Tensor, nn

START_LOGIT = -4.0
"""Bias of the last classification layer: every cell starts at a score of 0.018, so that the many empty cells do not
dominate the first steps (the prior of Lin et al. 2017, Focal Loss)."""


class PointHead(nn.Module):
    """Classification and offset branches; each is twice conv 3x3x3, SiLU, instance norm, then a 1x1x1 convolution.

    The last layers start at zero weight, with :data:`START_LOGIT` and zero as biases. Offsets pass through
    ``tanh * stride``: a cell can point a whole stride beyond its anchor, thus past every edge of its own cell.

    Parameters
    ----------
    features
        Channels of the feature map.
    n_classes
        Channels of the class logits.
    class_width, offset_width
        Channels inside the branches.
    stride
        Input voxels per cell.
    """

    def __init__(self, features: int, n_classes: int, class_width: int, offset_width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.classify = branch(features, class_width, n_classes, START_LOGIT)
        self.offset = branch(features, offset_width, 3, 0.0)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return class_logits (B,C,d,h,w) and offsets_vox (B,3,d,h,w), channels z, y, x."""
        return self.classify(features), torch.tanh(self.offset(features)) * self.stride


class HeatmapHead(nn.Module):
    """Classification branch of :class:`PointHead` alone; offsets are zero."""

    def __init__(self, features: int, n_classes: int, class_width: int) -> None:
        super().__init__()
        self.classify = branch(features, class_width, n_classes, START_LOGIT)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return class_logits (B,C,d,h,w) and offsets_vox (B,3,d,h,w) of zeros."""
        logits = self.classify(features)
        return logits, logits.new_zeros((logits.shape[0], 3, *logits.shape[2:]))


def branch(features: int, width: int, channels: int, bias: float) -> nn.Sequential:
    """Return one branch of a head, its last layer at zero weight and `bias`."""
    last = nn.Conv3d(width, channels, kernel_size=1)
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, bias)  # type: ignore[arg-type]
    return nn.Sequential(
        nn.Conv3d(features, width, kernel_size=3, padding=1),
        nn.SiLU(),
        nn.InstanceNorm3d(width),
        nn.Conv3d(width, width, kernel_size=3, padding=1),
        nn.SiLU(),
        nn.InstanceNorm3d(width),
        last,
    )
