"""PointBatch: the true particles of a batch of crops, padded to one length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tomopoint.training.crops.mixup import Mix

PADDING_LABEL = -1

FIRST_BORDER_LABEL = -2
"""A particle of class c whose centre lies just outside the crop is listed with the label -2 - c."""

BORDER_RADII = 0.5
"""A pick within this share of a particle's radius counts as found (the official metric), so cells that near to a
particle outside the crop are no background either: no loss is taken there."""


@dataclass(frozen=True)
class PointBatch:
    """True particles of B crops.

    Attributes
    ----------
    centres_zyx
        Shape (B,N,3), float32, voxels in the crop's frame: origin at the crop's corner, voxel ``i`` spans
        ``[i, i + 1)``.
    labels
        Shape (B,N), int64: the class; -1 where the row is padding, of which nothing else is read; -2 - class where
        the centre lies just outside the crop (see :mod:`tomopoint.training.losses.ignore_regions`).
    scale
        Shape (B,), float32: factor by which augmentation enlarged the crop's contents; radii grow with it.
    mix
        How the crops were blended after their particles were listed; None: they were not.
    """

    centres_zyx: Tensor
    labels: Tensor
    scale: Tensor
    mix: Mix | None = None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PointBatch:
        """Return a copy on `device`."""
        tensors = (self.centres_zyx, self.labels, self.scale)
        centres_zyx, labels, scale = (tensor.to(device, non_blocking=non_blocking) for tensor in tensors)
        return PointBatch(centres_zyx, labels, scale, None if self.mix is None else self.mix.to(device, non_blocking))

    def pin_memory(self) -> PointBatch:
        """Return a copy in page-locked memory; a DataLoader calls this."""
        return PointBatch(self.centres_zyx.pin_memory(), self.labels.pin_memory(), self.scale.pin_memory())


def collate(crops: Sequence[tuple[Tensor, Tensor, float]]) -> PointBatch:
    """Pad the particles of several crops to one PointBatch; a crop may have none.

    Parameters
    ----------
    crops
        Per crop: centres_zyx (n,3) in voxels, labels (n,), and the augmentation's scale.
    """
    longest = max((len(labels) for _, labels, _ in crops), default=0)
    centres_zyx = torch.zeros(len(crops), longest, 3)
    padded_labels = torch.full((len(crops), longest), PADDING_LABEL, dtype=torch.int64)
    for row, (centres, labels, _) in enumerate(crops):
        n = len(labels)
        if n:
            centres_zyx[row, :n] = torch.as_tensor(centres, dtype=torch.float32)
            padded_labels[row, :n] = torch.as_tensor(labels, dtype=torch.int64)
    scale = torch.tensor([float(scale) for _, _, scale in crops])
    return PointBatch(centres_zyx, padded_labels, scale)
