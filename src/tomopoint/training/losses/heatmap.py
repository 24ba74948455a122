"""Loss of the heatmap baseline: Gaussian peaks and the penalty-reduced focal loss of CenterNet.

Every particle paints a Gaussian of its own size into its class's channel, around the anchor of the cell that it lies
in, so that the peak reaches one there; where two overlap the higher value stands. With y the painted value, p the
score and N the number of particles the loss is (Zhou et al. 2019, arXiv 1904.07850, equation 1, after Law and Deng
2018)::

    -1/N  sum  (1 - p)^gamma log(p)                  in cells where y = 1
               (1 - y)^4 p^gamma log(1 - p)          in all others

so only the cells of particles are positives, and their neighbours are punished the less the nearer they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from tomopoint.training.losses.base import LossTerms, PointLoss, across_ranks, in_full_precision
from tomopoint.training.losses.cell_boxes import PointList, cell_boxes
from tomopoint.training.losses.ignore_regions import without_background
from tomopoint.training.losses.points import PointBatch

CUT_SIGMAS = 4.0
"""A peak is painted out to this many standard deviations, where it has fallen to 0.0003."""

PENALTY_EXPONENT = 4.0
"""Of one minus the painted value, in the weight of the cells beside a peak: CenterNet's beta."""


class HeatmapLoss(PointLoss):
    """Penalty-reduced focal loss towards Gaussian peaks, called as the detector's loss is.

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
            positive = target == 1
            score, gamma = torch.sigmoid(logits), self.options.focal_gamma
            weight = torch.where(positive, (1 - score) ** gamma, (1 - target) ** PENALTY_EXPONENT * score**gamma)
            # Uncertain picks (pseudo-labels) lie in the crop: neither a peak nor background.
            weight = without_background(weight, positive, border.where(within), self.stride)
            cross_entropy = F.binary_cross_entropy_with_logits(logits, positive.to(logits.dtype), reduction="none")
            n_particles, n_ranks = across_ranks(logits.new_tensor(float(len(listed.label))))
            loss = (weight * cross_entropy).sum() * n_ranks / n_particles.clamp_min(1.0)
            return LossTerms(loss, loss.detach(), torch.zeros_like(loss.detach()), len(listed.label))


@torch.no_grad()
def paint(points: PointList, shape: Sequence[int], stride: int, sigma_radii: float) -> Tensor:
    """Return the target map (B,C,d,h,w): at each cell the highest of the peaks of its class, in [0, 1].

    A peak is exactly 1 in the cell that its particle lies in, whose anchor is the nearest, and in no other.

    Parameters
    ----------
    points
        True particles; of those outside the map, what reaches into it is painted.
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
    at_anchor = replace(points, centre_zyx=(torch.floor(points.centre_zyx / stride) + 0.5) * stride)
    for near in cell_boxes(at_anchor, sigma_vox * CUT_SIGMAS, map_size, stride):
        peak = torch.exp(-near.squared_distance() / (2 * sigma_vox[near.point, None] ** 2))
        channel = points.entry[near.point] * n_classes + points.label[near.point]
        index = channel[:, None] * n_cells + near.cell
        target.view(-1).scatter_reduce_(0, index.flatten(), peak.flatten(), "amax")
    return target
