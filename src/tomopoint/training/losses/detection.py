"""Loss of the detector: varifocal classification and point similarity, on the cells that the assignment chose.

It is the sum of a classification and a localisation term, both divided by the summed target
scores: varifocal loss (Zhang et al. 2021) towards the target scores of the task-aligned assignment, and one minus
the point similarity of predicted and true centre, weighted by the target score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from tomopoint.training.losses.assignment import Assignment, LevelMaps, assign
from tomopoint.training.losses.base import LossTerms, PointLoss, across_ranks, in_full_precision
from tomopoint.training.losses.cell_boxes import PointList
from tomopoint.training.losses.ignore_regions import without_background
from tomopoint.training.losses.points import PointBatch


class DetectionLoss(PointLoss):
    """Assignment, classification and localisation loss of the detector."""

    def forward(self, *outputs_and_points: Tensor | PointBatch) -> LossTerms:
        """Return the loss of a batch; all arithmetic in float32 (float64 where given), outside autocast.

        Parameters
        ----------
        outputs_and_points
            Of each level, finest first, class logits (B,C,d,h,w) and offsets (B,3,d,h,w), channels z, y, x, voxels;
            then the true particles of the B crops, a PointBatch. Crops without any are legal.
        """
        *outputs, points = outputs_and_points
        assert isinstance(points, PointBatch)
        with torch.autocast(points.labels.device.type, enabled=False):
            maps = [in_full_precision(output) for output in outputs if isinstance(output, Tensor)]
            levels = [
                LevelMaps(logits, offsets_vox, self.stride * 2**level)
                for level, (logits, offsets_vox) in enumerate(zip(maps[::2], maps[1::2], strict=True))
            ]
            radii_vox = self.radii_vox.to(maps[0].dtype)
            listed, border = PointList.of(points, radii_vox), PointList.of(points, radii_vox, border=True)
            detached = [
                replace(one, logits=one.logits.detach(), offsets_vox=one.offsets_vox.detach()) for one in levels
            ]
            assigned = assign(detached, listed, self.options.assignment)
            total_target, n_ranks = across_ranks(torch.stack([one.target.sum() for one in assigned]).sum())
            share = n_ranks / total_target.clamp_min(1.0)
            pairs = list(zip(levels, assigned, strict=True))
            classification = torch.stack([self._classification(*pair, border) for pair in pairs]).sum() * share
            regression = torch.stack([self._regression(level, listed, one) for level, one in pairs]).sum() * share
            return LossTerms(
                total=classification + regression,
                classification=classification.detach(),
                regression=regression.detach(),
                n_positive=sum(len(one.target) for one in assigned),
            )

    def _classification(self, level: LevelMaps, assigned: Assignment, border: PointList) -> Tensor:
        """Return the summed classification loss; cells near a particle just outside the crop are left out."""
        logits = level.logits
        flat = logits.flatten(2)
        where = (assigned.entry, assigned.label, assigned.cell)
        target = torch.zeros_like(flat).index_put(where, assigned.target)
        positive = torch.zeros_like(flat, dtype=torch.bool).index_put(where, torch.tensor(True, device=flat.device))
        if self.options.classification == "varifocal":
            weight = torch.where(positive, target, self.options.focal_alpha * torch.sigmoid(flat) ** self._gamma)
        else:
            target = positive.to(flat.dtype) * (1 - self.options.label_smoothing)
            weight = (torch.sigmoid(flat) - target).abs() ** self._gamma
        maps = logits.shape
        weight = without_background(weight.view(maps), positive.view(maps), border, level.stride).view_as(flat)
        loss = (weight * F.binary_cross_entropy_with_logits(flat, target, reduction="none")).sum()
        if self.options.cross_entropy_weight:
            of_cell = flat[assigned.entry, :, assigned.cell]
            smoothing = self.options.label_smoothing
            cross_entropy = F.cross_entropy(of_cell, assigned.label, reduction="none", label_smoothing=smoothing)
            loss = loss + self.options.cross_entropy_weight * (cross_entropy * assigned.target).sum()
        return loss

    @property
    def _gamma(self) -> float:
        return self.options.focal_gamma

    def _regression(self, level: LevelMaps, points: PointList, assigned: Assignment) -> Tensor:
        """Return the summed localisation loss; zero, with a gradient of zero, where nothing is assigned."""
        predicted = anchors_zyx(assigned.cell, level.map_zyx, level.stride)
        predicted = predicted + level.offsets_vox.flatten(2)[assigned.entry, :, assigned.cell]
        true = points.centre_zyx[assigned.point]
        squared = ((predicted - true) ** 2).sum(dim=1)
        similarity = torch.exp(-squared / (2 * points.sigma_vox[assigned.point] ** 2))
        loss = ((1 - similarity) * assigned.target).sum()
        if self.options.l1_weight:
            distance = F.smooth_l1_loss(predicted, true, reduction="none").sum(dim=1)
            loss = loss + self.options.l1_weight * (distance * assigned.target).sum()
        return loss


def anchors_zyx(cell: Tensor, map_zyx: Sequence[int], stride: int) -> Tensor:
    """Return the anchors (P,3), voxels, of cells given by flat index (P,) in a map of `map_zyx` cells."""
    _, height, width = map_zyx
    indices = (cell // (height * width), cell // width % height, cell % width)
    return (torch.stack(indices, dim=1) + 0.5) * stride
