"""A crop with its particles."""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot

import numpy as np
import numpy.typing as npt
from torch import Tensor

from tomopoint.training.crops.resample import CropTransform, Matrix


@dataclass(frozen=True)
class Crop:
    """One crop with its particles.

    Attributes
    ----------
    volume_zyx
        ``(D, H, W)`` float32, normalised.
    centres_zyx
        ``(n, 3)`` float64, voxels from the crop's corner.
    labels
        ``(n,)`` int64; negative for particles just outside and for uncertain ones, see
        :mod:`tomopoint.training.losses.ignore_regions`.
    transform
        How its voxels were taken: what is put into it later is seen in the same orientation and at the same scale.
    run, tomo_type
        Run and reconstruction that it was taken from.
    origin
        The same with the place, in words.
    """

    volume_zyx: Tensor
    centres_zyx: Matrix
    labels: npt.NDArray[np.int64]
    transform: CropTransform
    run: str
    tomo_type: str
    origin: str

    @property
    def scale(self) -> float:
        """Enlargement of the contents."""
        return self.transform.scale

    def blend(self, other: Crop, share: float) -> Crop:
        """Return ``share`` of this crop and the rest of `other`, at the noise level of one (mixup).

        Both crops have a standard deviation of about 1; the sum of two independent ones is divided by its own.
        """
        volume = (share * self.volume_zyx + (1 - share) * other.volume_zyx) / hypot(share, 1 - share)
        return Crop(
            volume_zyx=volume,
            centres_zyx=np.concatenate([self.centres_zyx, other.centres_zyx]),
            labels=np.concatenate([self.labels, other.labels]),
            transform=self.transform,
            run=self.run,
            tomo_type=self.tomo_type,
            origin=f"{self.origin}, mixed with {other.origin}",
        )
