"""PointNetwork: the one contract every network honours.

``network(volume (B,1,D,H,W)) -> scores (B,C,D/s,H/s,W/s) in (0,1), offsets_vox (B,3,D/s,H/s,W/s)``, at stride ``s``;
offset channels are z, y, x, in voxels of the input. The centre predicted by cell ``i`` is ``(i + 0.5) * s + offset``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tomopoint.networks.backbone import Backbone
from tomopoint.networks.config import check_size
from tomopoint.pipeline import MemberKind


class PointNetwork(nn.Module):
    """A backbone that makes a feature map at `stride`, and a head that reads class logits and offsets from it.

    Parameters
    ----------
    backbone
        (B,1,D,H,W) -> (B,F,D/stride,H/stride,W/stride).
    head
        Module (B,F,d,h,w) -> (class_logits (B,C,d,h,w), offsets_vox (B,3,d,h,w)).
    n_classes
        C.
    stride
        Input voxels per output cell, along every axis.

    Attributes
    ----------
    kind
        What its scores are, one of :data:`~tomopoint.pipeline.KINDS`.
    """

    kind: MemberKind = "detection"

    def __init__(self, backbone: Backbone, head: nn.Module, n_classes: int, stride: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.n_classes = n_classes
        self.stride = stride
        self.divisor = backbone.divisor
        self.needs_context = backbone.needs_context

    def logits(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """Return class logits and offsets, as training needs them.

        Parameters
        ----------
        volume
            Shape (B,1,D,H,W), axes z, y, x, normalised; D, H, W multiples of :attr:`divisor`.

        Returns
        -------
        class_logits
            Shape (B,C,D/stride,H/stride,W/stride). In the autocast type where autocast is on.
        offsets_vox
            Shape (B,3,D/stride,H/stride,W/stride), channels z, y, x, within +-stride.

        Raises
        ------
        TomopointError
            The size is not legal; the message says the size to pad to.
        """
        check_size(volume.shape, self.divisor, self.needs_context)
        class_logits, offsets_vox = self.head(self.backbone(volume))
        return class_logits, offsets_vox

    def forward(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """Return (scores, offsets_vox), both float32: :meth:`logits` with a sigmoid taken in float32.

        float16 rounds a sigmoid near one to a few steps, which would tie the best candidates.
        """
        class_logits, offsets_vox = self.logits(volume)
        return torch.sigmoid(class_logits.float()), offsets_vox.float()
