"""Loss of the heatmap baseline: Gaussian peaks and a reduced focal loss.

Every particle paints a Gaussian of its own size into its class's channel; where two overlap the higher value
stands. The loss is a binary cross entropy towards the painted value, with the weight of the reduced focal loss
(Sergievskiy and Ponamarev 2019, arXiv 1903.01347) in its form for soft targets (quality focal loss, Li et al. 2020):
with ``d = |target - score|`` the weight is ``(d / 0.5) ** gamma`` below 0.5 and one above, so that cells which are
badly wrong keep their full weight. The sum is divided by the summed targets.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tomopoint.training.losses.base import LossTerms, PointLoss, across_ranks, in_full_precision
from tomopoint.training.losses.cell_boxes import PointList, cell_boxes
from tomopoint.training.losses.ignore_regions import without_background
from tomopoint.training.losses.points import PointBatch

CUT_SIGMAS = 4.0
"""A peak is painted out to this many standard deviations, where it has fallen to 0.0003."""

REDUCED_BELOW = 0.5
"""Deviation of score and target above which a cell keeps its full weight: the threshold of the paper."""


class HeatmapLoss(PointLoss):
    """Reduced focal loss towards Gaussian peaks, called as the detector's loss is.

    Of the options, `heatmap_sigma` and `focal_gamma` are used.
    """

    def forward(self, logits: Tensor, offsets_vox: Tensor, points: PointBatch) -> LossTerms:
        """Return the loss of a batch; `offsets_vox` (zeros, in the baseline) does not enter it.

        Shapes as in :meth:`DetectionLoss.forward <tomopoint.training.losses.detection.DetectionLoss.forward>`.
        """
        with torch.autocast(logits.device.type, enabled=False):
            logits = in_full_precision(logits)
            listed = PointList.of(points, self.radii_vox.to(logits.dtype))
            border = PointList.of(points, self.radii_vox.to(logits.dtype), border=True)
            within = border.lie_in([cells * self.stride for cells in logits.shape[2:]])
            target, beyond = (
                paint(some, logits.shape, self.stride, self.options.heatmap_sigma)
                for some in (listed, border.where(~within))
            )
            target = torch.maximum(target, beyond)  # the part of a peak that reaches into the crop
            deviation = (target - torch.sigmoid(logits)).abs()
            weight = (deviation / REDUCED_BELOW).clamp_max(1.0) ** self.options.focal_gamma
            # Uncertain picks (pseudo-labels) lie in the crop: neither a peak nor background.
            weight = without_background(weight, target >= REDUCED_BELOW, border.where(within), self.stride)
            loss = (weight * F.binary_cross_entropy_with_logits(logits, target, reduction="none")).sum()
            total_target, n_ranks = across_ranks(target.sum())
            loss = loss * n_ranks / total_target.clamp_min(1.0)
            return LossTerms(loss, loss.detach(), torch.zeros_like(loss.detach()), len(listed.label))


@torch.no_grad()
def paint(points: PointList, shape: Sequence[int], stride: int, sigma_radii: float) -> Tensor:
    """Return the target map (B,C,d,h,w): at each cell the highest of the peaks of its class, in [0, 1].

    Parameters
    ----------
    points
        True particles.
    shape
        (B, C, d, h, w).
    stride
        Voxels per cell.
    sigma_radii
        Standard deviation of a peak, in radii of its particle.
    """
    _, n_classes, *map_zyx = shape
    n_cells = map_zyx[0] * map_zyx[1] * map_zyx[2]
    sigma_vox = points.sigma_vox * sigma_radii
    target = torch.zeros(tuple(shape), dtype=sigma_vox.dtype, device=sigma_vox.device)
    map_size = (map_zyx[0], map_zyx[1], map_zyx[2])
    for near in cell_boxes(points, sigma_vox * CUT_SIGMAS, map_size, stride):
        peak = torch.exp(-near.squared_distance() / (2 * sigma_vox[near.point, None] ** 2))
        channel = points.entry[near.point] * n_classes + points.label[near.point]
        index = channel[:, None] * n_cells + near.cell
        target.view(-1).scatter_reduce_(0, index.flatten(), peak.flatten(), "amax")
    return target
