"""Spheres cut by a slice: what a network of slices is asked about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tomopoint.training.losses.points import FIRST_BORDER_LABEL, PADDING_LABEL, PointBatch


@dataclass(frozen=True)
class Disks:
    """The particles that one slice cuts.

    Attributes
    ----------
    centres_yx
        ``(N, 2)`` float32, voxels of the crop.
    half_widths
        ``(N,)`` float32, voxels: radius of the disk, or of the sphere where boxes are constant.
    labels
        ``(N,)`` int64, class.
    """

    centres_yx: Tensor
    half_widths: Tensor
    labels: Tensor

    def of(self, chosen: Tensor) -> Disks:
        """Return those that a mask or indices choose."""
        return Disks(self.centres_yx[chosen], self.half_widths[chosen], self.labels[chosen])


def cut(
    points: PointBatch, crop: int, plane_z: float, radii_vox: Sequence[float], box: Literal["sphere", "constant"]
) -> Disks:
    """Cut the spheres of one crop by a plane.

    A sphere of radius R around z0 is cut where ``|z - z0| < R``, in a disk of radius ``sqrt(R^2 - (z - z0)^2)``.

    Parameters
    ----------
    points
        Particles of a batch; those listed as beyond the border count as well.
    crop
        Index of the crop in the batch.
    plane_z
        Height of the plane in the crop, voxels: the middle of slice i lies at ``i + 0.5``.
    radii_vox
        Of the spheres, per class; they grow with the crop's scale.
    box
        ``sphere``: half-widths of the disks; ``constant``: the radius of the sphere, wherever it is cut.
    """
    labels = points.labels[crop]
    listed = labels != PADDING_LABEL
    labels, centres_zyx = labels[listed], points.centres_zyx[crop][listed]
    labels = torch.where(labels <= FIRST_BORDER_LABEL, FIRST_BORDER_LABEL - labels, labels)
    radii = torch.tensor(radii_vox, dtype=torch.float32, device=labels.device)[labels] * points.scale[crop]
    squared = radii.square() - (centres_zyx[:, 0] - plane_z).square()
    half_widths = radii if box == "constant" else squared.clamp(min=0).sqrt()
    return Disks(centres_zyx[:, 1:], half_widths, labels).of(squared > 0)


def paint(disks: Disks, shape_yx: tuple[int, int]) -> Tensor:
    """Return a mask ``(H, W)`` int64: 0 background, 1 + class where the middle of a voxel lies in a disk.

    Smaller disks are painted over larger ones.
    """
    mask = torch.zeros(shape_yx, dtype=torch.int64, device=disks.labels.device)
    ys, xs = (torch.arange(size, device=mask.device) + 0.5 for size in shape_yx)
    for index in torch.argsort(disks.half_widths, descending=True).tolist():
        y, x = disks.centres_yx[index]
        inside = (ys[:, None] - y).square() + (xs[None] - x).square() < disks.half_widths[index].square()
        mask[inside] = disks.labels[index] + 1
    return mask
