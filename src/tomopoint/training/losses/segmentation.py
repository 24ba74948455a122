"""Loss of segmentation networks: every cell is asked for its class, or for background.

The target is a single voxel per particle, the one its centre lies in, or a sphere around it. A cell of a map at stride
s belongs to a class if one of its voxels does (the adaptive max-pool of the volume's target); background is what no
class claims; where several classes claim a cell they share it. With mixup, two crops' targets are blended as the crops
were.

``cross-entropy``: the cross entropy of target t and softmax p, ``sum over classes of w * mean over cells of -t log p``,
with w of hundreds for particles and one for background (of a million cells a few hundred belong to a particle).
``tversky`` and ``dice``: of the overlap of p and t over the batch, per class, without background (MONAI's; Salehi et
al. 2017, arXiv 1706.05721). They want spheres: a single cell of a particle is no overlap to speak of.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.losses.dice import DiceLoss
from monai.losses.tversky import TverskyLoss
from torch import Tensor, nn

from tomopoint.training.losses.base import LossTerms, PointLoss, in_full_precision
from tomopoint.training.losses.cell_boxes import PointList, cell_boxes
from tomopoint.training.losses.ignore_regions import without_background
from tomopoint.training.losses.points import PointBatch
from tomopoint.training.options.losses import LossOptions, SegmentationOptions


class SegmentationLoss(PointLoss):
    """Weighted sum of one loss on one or several levels; the first level has the cells of `stride`, each the double."""

    def __init__(self, radii_vox: Sequence[float] | Tensor, stride: int, options: LossOptions | None = None) -> None:
        super().__init__(radii_vox, stride, options)
        self.overlap = build_overlap(self.options.segmentation)

    def forward(self, *given: Tensor | PointBatch) -> LossTerms:
        """Return the loss of a batch; all arithmetic in float32 (float64 where given), outside autocast.

        Parameters
        ----------
        given
            Logits (B,C+1,d,h,w) per level, finest first, background last; then the true particles of the B crops.
        """
        *levels, points = given
        assert isinstance(points, PointBatch)
        terms = []
        for index, (logits, weight) in enumerate(zip(levels, self.options.segmentation.level_weights, strict=True)):
            assert isinstance(logits, Tensor)
            with torch.autocast(logits.device.type, enabled=False):
                terms.append(weight * self._of_level(in_full_precision(logits), points, self.stride * 2**index))
        total = torch.stack(terms).sum()
        n_particles = int((points.labels >= 0).sum())
        return LossTerms(total, total.detach(), torch.zeros_like(total.detach()), n_particles)

    def _of_level(self, logits: Tensor, points: PointBatch, stride: int) -> Tensor:
        options = self.options.segmentation
        shape = (logits.shape[0], logits.shape[1] - 1, *logits.shape[2:])
        radii_vox = self.radii_vox.to(logits.dtype)
        target = target_map(PointList.of(points, radii_vox), shape, stride, options.sphere_radii)
        known = cells_that_count(points, radii_vox, target, stride)
        if points.mix is not None:
            target, known = points.mix.of(target), known * known[points.mix.partner]
        if self.overlap is not None:
            scores = torch.softmax(logits, dim=1)
            loss: Tensor = self.overlap((scores * known)[:, :-1], (target * known)[:, :-1])
            return loss
        entropy = -(target * torch.log_softmax(logits, dim=1) * known)
        weights = entropy.new_full((logits.shape[1],), options.particle_weight)
        weights[-1] = 1.0
        return (entropy.mean(dim=(0, 2, 3, 4)) * weights).sum()


def build_overlap(options: SegmentationOptions) -> nn.Module | None:
    """Return MONAI's loss of overlap, of scores and targets (B,C,d,h,w) without background; None for cross entropy."""
    if options.loss == "cross-entropy":
        return None
    if options.loss == "dice":
        return DiceLoss(batch=True)
    return TverskyLoss(alpha=1 - options.tversky_beta, beta=options.tversky_beta, batch=True)


@torch.no_grad()
def target_map(points: PointList, shape: Sequence[int], stride: int, sphere_radii: float = 0.0) -> Tensor:
    """Return the target (B,C+1,d,h,w) of classes and, last, background; every cell's sum is one.

    Parameters
    ----------
    points
        True particles.
    shape
        (B, C, d, h, w).
    stride
        Voxels per cell.
    sphere_radii
        Radius of the sphere that a particle claims, in radii of its class: the cells whose anchor lies in it, and in
        any case that of its centre. 0: that one alone.
    """
    n_batch, n_classes, depth, height, width = shape
    claimed = torch.zeros((n_batch, n_classes, depth * height * width), dtype=points.sigma_vox.dtype)
    claimed = claimed.to(points.sigma_vox.device)
    size = torch.tensor((depth, height, width), device=points.entry.device)
    # The voxel of a centre, then the cell of that voxel. A centre on the far face belongs to the last one.
    cell = (points.centre_zyx.floor() // stride).long().clamp_min(0).minimum(size - 1)
    claimed[points.entry, points.label, (cell[:, 0] * height + cell[:, 1]) * width + cell[:, 2]] = 1
    if sphere_radii:
        reach_vox = points.sigma_vox * sphere_radii
        for near in cell_boxes(points, reach_vox, (depth, height, width), stride):
            inside = near.squared_distance() <= reach_vox[near.point, None] ** 2
            entry, label = (of[near.point, None].expand_as(near.cell)[inside] for of in (points.entry, points.label))
            claimed[entry, label, near.cell[inside]] = 1
    background = 1 - claimed.amax(dim=1, keepdim=True)
    whole = torch.cat([claimed, background], dim=1)
    return (whole / whole.sum(dim=1, keepdim=True)).view(n_batch, n_classes + 1, depth, height, width)


@torch.no_grad()
def cells_that_count(points: PointBatch, radii_vox: Tensor, target: Tensor, stride: int) -> Tensor:
    """Return 0 at the cells near an uncertain pick (of pseudo-labels) that no particle claims, else 1; (B,1,d,h,w).

    A particle outside the crop needs nothing of the kind: of a single voxel's neighbours all are background.
    """
    uncertain = PointList.of(points, radii_vox, border=True)
    uncertain = uncertain.where(uncertain.lie_in([cells * stride for cells in target.shape[2:]]))
    weight = without_background(torch.ones_like(target[:, :-1]), target[:, :-1] > 0, uncertain, stride)
    return weight.amin(dim=1, keepdim=True).maximum(1 - target[:, -1:])
