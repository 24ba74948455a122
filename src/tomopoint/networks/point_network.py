"""PointNetwork: the one contract every network honours.

``network(volume (B,1,D,H,W)) -> scores (B,C,D/s,H/s,W/s) in (0,1), offsets_vox (B,3,D/s,H/s,W/s)``, at stride ``s``;
offset channels are z, y, x, in voxels of the input. The centre predicted by cell ``i`` is ``(i + 0.5) * s + offset``.
A network that predicts no offsets (heatmap, segmentation) gives zeros, and says so.
"""

from __future__ import annotations

from torch import Tensor, nn

from tomopoint.networks.backbone import Backbone
from tomopoint.networks.config import check_size
from tomopoint.networks.heads import Head


class PointNetwork(nn.Module):
    """A backbone that makes a feature map at `stride`, and a head that reads scores and offsets from it.

    Parameters
    ----------
    backbone
        (B,1,D,H,W) -> (B,F,D/stride,H/stride,W/stride), and coarser maps where the head reads some.
    head
        Reads what its loss takes from the map, and makes scores and offsets of that.
    n_classes
        C.
    stride
        Input voxels per output cell, along every axis.

    Attributes
    ----------
    kind
        What its scores are, one of :data:`~tomopoint.pipeline.KINDS`.
    """

    def __init__(self, backbone: Backbone, head: Head, n_classes: int, stride: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.n_classes = n_classes
        self.stride = stride
        self.divisor = backbone.divisor
        self.needs_context = backbone.needs_context
        self.predicts_offsets = head.predicts_offsets

    def logits(self, volume: Tensor) -> tuple[Tensor, ...]:
        """Return what its loss takes, in the autocast type where autocast is on.

        Parameters
        ----------
        volume
            Shape (B,1,D,H,W), axes z, y, x, normalised; D, H, W multiples of :attr:`divisor`.

        Returns
        -------
        outputs
            Detection, heatmap: class logits (B,C,D/stride,H/stride,W/stride), and offsets in voxels
            (B,3,D/stride,H/stride,W/stride), channels z, y, x, within +-stride; of further levels both again, each
            level at twice the stride of the one before. Segmentation: per level, finest first, logits (B,C+1,d,h,w) of
            classes and, last, background.

        Raises
        ------
        TomopointError
            The size is not legal; the message says the size to pad to.
        """
        check_size(volume.shape, self.divisor, self.needs_context)
        outputs: tuple[Tensor, ...] = self.head(self.backbone(volume))
        return outputs

    def forward(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """Return (scores, offsets_vox), both float32: what the head makes of :meth:`logits`."""
        return self.head.scores_and_offsets(*self.logits(volume))
