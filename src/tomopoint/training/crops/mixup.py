"""Mixup of a batch (Zhang et al. 2018, arXiv 1710.09412): every crop is blended with another crop of the batch.

Unlike the mixup of :mod:`~tomopoint.training.crops.augment`, which puts the particles of two crops into one, for a loss
on points, this one hands its shares on: targets that are maps are blended by them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mix:
    """Which crops of a batch are blended, and how much of each stays.

    Attributes
    ----------
    share
        Shape (B,), float32: of the crop itself; the rest is its partner's.
    partner
        Shape (B,), int64: index of the other crop.
    """

    share: Tensor
    partner: Tensor

    @classmethod
    def draw(cls, n_crops: int, concentration: float) -> Mix:
        """Draw shares from Beta(concentration, concentration) and partners by a permutation.

        Drawn from torch's own generator on the CPU, which the training loop seeds by epoch, as it does for dropout.
        """
        both = torch.full((n_crops,), concentration)
        return cls(torch.distributions.Beta(both, both).sample(), torch.randperm(n_crops))

    def of(self, values: Tensor) -> Tensor:
        """Return volumes or maps (B,...) of the batch, blended."""
        share = self.share.to(values.dtype).view(-1, *[1] * (values.ndim - 1))
        return share * values + (1 - share) * values[self.partner]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Mix:
        """Return a copy on `device`."""
        return Mix(self.share.to(device, non_blocking=non_blocking), self.partner.to(device, non_blocking=non_blocking))
