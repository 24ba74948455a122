"""What reads class logits, and offsets, from feature maps, and how scores are made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor, nn

START_LOGIT = -4.0
"""Logit of the score that every cell starts at, 0.018, so that the many empty cells do not dominate the first steps
(the prior of Lin et al. 2017, Focal Loss)."""


SMALLEST_WEIGHT = 1e-12
"""Added before division: cells where no level sees anything have some offset, and not NaN."""


class Head(nn.Module):
    """A head: its ``forward`` takes the backbone's feature maps and returns what its loss takes, logits first.

    Attributes
    ----------
    predicts_offsets
        Whether its offsets say something. Else they are zeros, which an average of networks leaves out.
    has_background
        Whether the class layers have one channel more than there are classes: the last one, background.
    """

    predicts_offsets: ClassVar[bool] = True
    has_background: ClassVar[bool] = False

    @property
    def class_layers(self) -> tuple[str, ...]:
        """Names of the layers that have one output channel per class."""
        raise NotImplementedError

    def scores_and_offsets(self, logits: Tensor, offsets_vox: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores (B,C,d,h,w) and offsets (B,3,d,h,w), both float32, from what ``forward`` returned.

        float16 rounds a sigmoid near one to a few steps, which would tie the best candidates.
        """
        return torch.sigmoid(logits.float()), offsets_vox.float()


class PointHead(Head):
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

    @property
    def class_layers(self) -> tuple[str, ...]:
        """The last layer of the classification branch."""
        return (f"classify.{len(self.classify) - 1}",)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return class_logits (B,C,d,h,w) and offsets_vox (B,3,d,h,w), channels z, y, x."""
        return self.classify(features), torch.tanh(self.offset(features)) * self.stride


class LevelsHead(Head):
    """A :class:`PointHead` on each of several maps; the finest map's cells say what the best level says at their place.

    A particle is claimed by the cells of any level that suit it, so a cell of twice the stride may know what none of
    the eight within it knows. Each of these takes the coarse cell's score where that is higher, class by class; its
    centre is the mean of both levels', by the squares of their best scores. (Taking one or the other would let centres
    jump where both are as sure, and rounding would decide between them.) Decoding leaves one of the eight.

    Parameters
    ----------
    heads
        Finest first, each at twice the stride of the one before.
    """

    def __init__(self, heads: Sequence[PointHead]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(heads)

    @property
    def class_layers(self) -> tuple[str, ...]:
        """The last layer of each classification branch."""
        return tuple(f"levels.{level}.{name}" for level, head in enumerate(self._heads) for name in head.class_layers)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return class logits and offsets of every level, one after the other, finest first."""
        pairs = (head(features) for head, features in zip(self._heads, maps, strict=True))
        return tuple(output for pair in pairs for output in pair)

    def scores_and_offsets(self, *outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores (B,C,d,h,w) and offsets (B,3,d,h,w) at the finest level's cells, both float32."""
        best, offsets_vox = super().scores_and_offsets(*outputs[:2])
        weight = best.amax(dim=1, keepdim=True).square()
        weighted, total = weight * offsets_vox, weight
        for level in range(1, len(self.levels)):
            scores, offsets_vox = super().scores_and_offsets(*outputs[2 * level : 2 * level + 2])
            scores, offsets_vox = spread(scores, 2**level), spread(offsets_vox, 2**level, self._heads[0].stride)
            weight = scores.amax(dim=1, keepdim=True).square()
            weighted, total = weighted + weight * offsets_vox, total + weight
            best = torch.maximum(best, scores)
        return best, weighted / (total + SMALLEST_WEIGHT)

    @property
    def _heads(self) -> list[PointHead]:
        return [head for head in self.levels if isinstance(head, PointHead)]


class HeatmapHead(Head):
    """Classification branch of :class:`PointHead` alone; offsets are zero."""

    predicts_offsets = False

    def __init__(self, features: int, n_classes: int, class_width: int) -> None:
        super().__init__()
        self.classify = branch(features, class_width, n_classes, START_LOGIT)

    @property
    def class_layers(self) -> tuple[str, ...]:
        """The last layer of the classification branch."""
        return (f"classify.{len(self.classify) - 1}",)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return class_logits (B,C,d,h,w) and offsets_vox (B,3,d,h,w) of zeros."""
        logits = self.classify(features)
        return logits, no_offsets(logits)


class SegmentationHead(Head):
    """A 3x3x3 convolution to classes and background on the feature map of every level; scores are the finest's softmax.

    Weights start at zero and biases so that every class starts at the score of :data:`START_LOGIT` in every cell: a
    class weighted by hundreds against background would else spend its first steps on the prior alone.

    Parameters
    ----------
    features
        Channels of each level's feature map, finest first.
    n_classes
        C; there are C + 1 channels, background last.
    """

    predicts_offsets = False
    has_background = True

    def __init__(self, features: Sequence[int], n_classes: int) -> None:
        super().__init__()
        self.outputs = nn.ModuleList(nn.Conv3d(width, n_classes + 1, 3, padding=1) for width in features)
        # e^b = 1 / score - n_classes, classes at zero: each then has that score, as far as there are few enough.
        background = math.log(max(1.0, 1.0 + math.exp(-START_LOGIT) - n_classes))
        for layer in self.outputs:
            assert isinstance(layer, nn.Conv3d)
            assert layer.bias is not None
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
            nn.init.constant_(layer.bias[-1:], background)

    @property
    def class_layers(self) -> tuple[str, ...]:
        """All of its layers."""
        return tuple(f"outputs.{level}" for level in range(len(self.outputs)))

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return logits (B,C+1,d,h,w) of every level, finest first, background last among the channels."""
        return tuple(layer(features) for layer, features in zip(self.outputs, maps, strict=True))

    def scores_and_offsets(self, logits: Tensor, *coarser: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores (B,C,d,h,w) of the finest level and offsets (B,3,d,h,w) of zeros, both float32."""
        scores = torch.softmax(logits.float(), dim=1)[:, :-1]
        return scores, no_offsets(scores)


def spread(maps: Tensor, factor: int, stride: int = 0) -> Tensor:
    """Return maps (B,C,d,h,w) at the cells of a map that is `factor` times finer: each cell's value in all within it.

    Parameters
    ----------
    maps
        Scores; or offsets, channels z, y, x, where `stride` is given.
    factor
        Fine cells per coarse cell, along every axis.
    stride
        Voxels per fine cell, for offsets: counted from a fine cell's anchor they are others, by the way from there to
        the coarse cell's. 0: not offsets.
    """
    batch, channels, depth, height, width = maps.shape
    blocks = maps.reshape(batch, channels, depth, 1, height, 1, width, 1)
    if stride:
        steps = [(factor - 1) / 2 - step for step in range(factor)]
        ways = [[steps[place[axis]] * stride for place in product(range(factor), repeat=3)] for axis in range(3)]
        to_anchor = torch.tensor(ways, dtype=maps.dtype, device=maps.device)
        blocks = blocks + to_anchor.reshape(1, 3, 1, factor, 1, factor, 1, factor)
    else:
        blocks = blocks.expand(batch, channels, depth, factor, height, factor, width, factor)
    return blocks.reshape(batch, channels, depth * factor, height * factor, width * factor)


def no_offsets(maps: Tensor) -> Tensor:
    """Return zeros (B,3,d,h,w) beside maps (B,C,d,h,w)."""
    return maps.new_zeros((maps.shape[0], 3, *maps.shape[2:]))


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
