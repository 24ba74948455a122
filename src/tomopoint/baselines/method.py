"""Method: what a detector and a segmenter of slices have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from tomopoint.baselines.found import Found
from tomopoint.baselines.recipe import BaselineRecipe
from tomopoint.training.crops.dataset import CropBatch

BATCH_SLICES = 4
"""Slices that are predicted at a time."""


class Method(Protocol):
    """How slices are learnt, and what is found in them."""

    def build(self) -> nn.Module:
        """Return a network with fresh weights."""
        ...

    def losses(self, network: nn.Module, batch: CropBatch) -> Mapping[str, Tensor]:
        """Return the parts of the loss, which are added up."""
        ...

    def find(self, networks: Sequence[nn.Module], volume_zyx: Tensor) -> Found:
        """Return what the average of some networks finds in a normalised volume ``(D, H, W)`` on their device."""
        ...


def build_method(recipe: BaselineRecipe, voxel_A: float, floor: float) -> Method:
    """Return the method of a recipe, for tomograms of this voxel size; nothing scored up to `floor` is needed."""
    from tomopoint.baselines.detector import SliceDetection
    from tomopoint.baselines.segmenter import SliceSegmentation

    radii_vox = sphere_radii_vox(recipe, voxel_A)
    if recipe.method == "detector":
        return SliceDetection(recipe.detector, recipe.crops.size_zyx[0], radii_vox, floor)
    return SliceSegmentation(recipe.segmenter, recipe.crops.size_zyx[0], radii_vox)


def sphere_radii_vox(recipe: BaselineRecipe, voxel_A: float) -> list[float]:
    """Return the radius of the sphere that stands for each particle, voxels."""
    return [particle.radius_A / voxel_A * recipe.radius_factor for particle in recipe.particles]


def stacks(volume_zyx: Tensor, n_slices: int) -> Iterator[tuple[int, Tensor]]:
    """Yield slices with their neighbours as channels, a few at a time: index of the first, ``(B, n_slices, H, W)``.

    Beyond the volume neighbours are zero, the mean of a normalised volume.
    """
    beyond = n_slices // 2
    padded = nn.functional.pad(volume_zyx.float(), (0, 0, 0, 0, beyond, beyond))
    windows = padded.unfold(0, n_slices, 1).permute(0, 3, 1, 2)  # (D, n_slices, H, W), a view
    for first in range(0, len(windows), BATCH_SLICES):
        yield first, windows[first : first + BATCH_SLICES].contiguous()


def channels_of(batch: CropBatch) -> Tensor:
    """Return crops with their slices as channels, ``(B, n_slices, H, W)``."""
    return torch.squeeze(batch.volume, 1)
