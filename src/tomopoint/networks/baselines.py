"""The heatmap baseline's head: a Gaussian peak on every particle, found by its local maximum alone.

It honours the same contract as the detector (offsets are zero everywhere), so that the same training, validation
and export serve it; its loss is `training.heatmap_loss`.
"""

from __future__ import annotations

from torch import Tensor, nn

from tomopoint.networks.heads import START_LOGIT, branch


class HeatmapHead(nn.Module):
    """Classification branch of :class:`~tomopoint.networks.heads.PointHead` alone; offsets are zero."""

    def __init__(self, features: int, n_classes: int, class_width: int) -> None:
        super().__init__()
        self.classify = branch(features, class_width, n_classes, START_LOGIT)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return class_logits (B,C,d,h,w) and offsets_vox (B,3,d,h,w) of zeros."""
        logits = self.classify(features)
        return logits, logits.new_zeros((logits.shape[0], 3, *logits.shape[2:]))
