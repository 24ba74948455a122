"""Particles whose centre lies just outside a crop: neither found nor background.

A crop cuts particles at its faces. Where the centre is inside, its cells answer for the particle; where it lies less
than half a radius outside, the cells at the face are near enough to count as a hit in the whole tomogram, and
punishing them as background would contradict what the next crop teaches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tomopoint.training.losses.cell_boxes import PointList, cell_boxes
from tomopoint.training.losses.points import BORDER_RADII


@torch.no_grad()
def without_background(weight: Tensor, positive: Tensor, border: PointList, stride: int) -> Tensor:
    """Return `weight` with zeros at the cells near a particle outside the crop, in its class, unless assigned.

    Parameters
    ----------
    weight
        Shape (B,C,d,h,w), of every cell in a classification loss.
    positive
        Same shape, bool: cells assigned to a particle inside.
    border
        The particles outside, ``PointList.of(..., border=True)``.
    stride
        Voxels per cell.
    """
    if len(border.label) == 0:
        return weight
    near = torch.zeros(weight.shape, dtype=torch.bool, device=weight.device)
    _mark_near(near, border, stride)
    return weight.masked_fill(near & ~positive, 0.0)


def _mark_near(near: Tensor, border: PointList, stride: int) -> None:
    _, n_classes, depth, height, width = near.shape
    reach_vox = border.sigma_vox * BORDER_RADII
    n_cells = depth * height * width
    for box in cell_boxes(border, reach_vox, (depth, height, width), stride):
        inside = box.squared_distance() <= reach_vox[box.point, None] ** 2
        channel = border.entry[box.point] * n_classes + border.label[box.point]
        near.view(-1)[(channel[:, None] * n_cells + box.cell)[inside]] = True
