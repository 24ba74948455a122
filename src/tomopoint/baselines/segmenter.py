"""A segmenter of slices: MONAI's U-Net in two dimensions, and connected components over the stacked slices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from monai.networks.nets.unet import UNet
from scipy import ndimage
from torch import Tensor, nn

from tomopoint.baselines.disks import cut, paint
from tomopoint.baselines.found import Found
from tomopoint.baselines.method import channels_of, stacks
from tomopoint.baselines.recipe import SegmenterOptions
from tomopoint.training.crops.dataset import CropBatch


class SliceSegmentation:
    """Classes of voxels in slices, joined over z; a :class:`~tomopoint.baselines.method.Method`.

    Parameters
    ----------
    options
        Of the recipe.
    n_slices
        Neighbouring slices, the channels.
    radii_vox
        Of the sphere of every class.
    """

    def __init__(self, options: SegmenterOptions, n_slices: int, radii_vox: Sequence[float]) -> None:
        self.options = options
        self.n_slices = n_slices
        self.radii_vox = radii_vox
        self._weights = torch.tensor([1.0, *[options.particle_weight] * len(radii_vox)])

    def build(self) -> nn.Module:
        """Return a U-Net with fresh weights: background, then the classes."""
        channels = self.options.channels
        network: nn.Module = UNet(
            2, self.n_slices, 1 + len(self.radii_vox), channels, (2,) * (len(channels) - 1), num_res_units=1
        )
        return network

    def losses(self, network: nn.Module, batch: CropBatch) -> Mapping[str, Tensor]:
        """Return the weighted cross entropy: a mean over voxels, each with the weight of its true class."""
        images = channels_of(batch)
        height, width = images.shape[-2:]
        masks = [
            paint(cut(batch.points, index, self.n_slices / 2, self.radii_vox, "sphere"), (height, width))
            for index in range(len(images))
        ]
        weights = self._weights.to(images.device)
        found = nn.functional.cross_entropy(network(images).float(), torch.stack(masks), weight=weights)
        return {"classification": found}

    def find(self, networks: Sequence[nn.Module], volume_zyx: Tensor) -> Found:
        """Return the points of connected components."""
        depth, height, width = volume_zyx.shape
        divisor = 1 << (len(self.options.channels) - 1)
        probabilities = np.zeros((len(self.radii_vox), depth, height, width), dtype=np.float16)
        with torch.inference_mode():
            for first, images in stacks(volume_zyx, self.n_slices):
                padded = nn.functional.pad(images, (0, -width % divisor, 0, -height % divisor))
                own = torch.stack([network.eval()(padded).float().softmax(dim=1) for network in networks]).mean(dim=0)
                classes = own[:, 1:, :height, :width].transpose(0, 1)
                probabilities[:, first : first + len(images)] = classes.half().cpu().numpy()
        return join_components(probabilities, self.options, self.radii_vox)


def join_components(
    probabilities: npt.NDArray[np.float16], options: SegmenterOptions, radii_vox: Sequence[float]
) -> Found:
    """Return the centroids of connected components.

    Parameters
    ----------
    probabilities
        ``(C, D, H, W)``, of every class.
    options
        From which probability on voxels are joined, and how components are filtered and scored.
    radii_vox
        Of the sphere of every class.
    """
    parts = []
    for label, radius in enumerate(radii_vox):
        own = probabilities[label].astype(np.float32)
        sphere = 4 / 3 * math.pi * radius**3
        components, n = ndimage.label(own >= options.level)
        sizes = np.bincount(components.ravel(), minlength=n + 1)[1:]
        kept = 1 + np.flatnonzero(sizes >= options.smallest * sphere)
        if len(kept):
            centres = np.array(ndimage.center_of_mass(own, components, kept)) + 0.5  # middles of voxels
            share = -np.expm1(-sizes[kept - 1] / (options.saturation * sphere))
            scores = np.asarray(ndimage.mean(own, components, kept), dtype=np.float64) * share
            parts.append(Found(centres, np.full(len(kept), label, dtype=np.int64), scores))
    return Found.joined(parts)
