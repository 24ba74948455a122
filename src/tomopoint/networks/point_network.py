"""PointNetwork: the one contract every network honours.

``network(volume (B,1,D,H,W)) -> scores (B,C,D/s,H/s,W/s) in (0,1), offsets_vox (B,3,D/s,H/s,W/s)``, at stride ``s``;
offset channels are z, y, x, in voxels of the input. The centre predicted by cell ``i`` is ``(i + 0.5) * s + offset``.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod

import torch
from torch import Tensor, nn

from tomopoint.errors import TomopointError
from tomopoint.networks.backbone import Backbone


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
    """

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


def check_size(shape: Sequence[int], divisor: int, needs_context: bool = False) -> None:
    """Refuse a volume that is not (B,1,D,H,W) with D, H, W multiples of `divisor`; say the size to pad to.

    Symbolic sizes, as in an export with dynamic axes, are let through: they have no value to check.
    """
    if len(shape) != 5:
        raise TomopointError(f"a network takes a volume of shape (B,1,D,H,W), got {len(shape)} axes: {tuple(shape)}")
    size_zyx = tuple(shape[2:])
    if not all(isinstance(n, int) for n in size_zyx):
        return
    if shape[1] != 1:
        raise TomopointError(f"a network takes one channel, (B,1,D,H,W), got {shape[1]} channels: {tuple(shape)}")
    target = [max(1, ceil(n / divisor)) * divisor for n in size_zyx]
    if needs_context and prod(target) == divisor**3:
        target[-1] = 2 * divisor
    if tuple(target) != size_zyx:
        raise TomopointError(
            f"volume of {_text(size_zyx)} voxels (z, y, x): this network takes multiples of {divisor}"
            f"{', more than one of them along some axis' if needs_context else ''}; pad it to {_text(target)}"
        )


def _text(size: Sequence[int]) -> str:
    return "x".join(str(n) for n in size)
