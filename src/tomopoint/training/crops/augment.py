"""What is done to a crop after it was cut: intensity changes, and mixup, copy-paste and erasing (off by default)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import hypot

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tomopoint.training.crops.resample import CropTransform, Matrix, inside, resample
from tomopoint.training.crops.tomograms import TrainingTomogram
from tomopoint.training.recipe import AugmentationOptions

MAX_PASTED = 3
PATCH_A = 400.0
"""Edge of a pasted patch: the competition's largest particle (150 A radius) with a margin of 50 A."""
EDGE_A = 30.0
"""A pasted ball fades out over this length, so that no edge gives it away."""


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
        ``(n,)`` int64; negative for particles just outside, see :mod:`tomopoint.training.losses.ignore_regions`.
    scale
        Enlargement of the contents.
    origin
        Where it was taken, in words.
    """

    volume_zyx: Tensor
    centres_zyx: Matrix
    labels: npt.NDArray[np.int64]
    scale: float
    origin: str

    def blend(self, other: Crop, share: float) -> Crop:
        """Return ``share`` of this crop and the rest of `other`, at the noise level of one (mixup).

        Both crops have a standard deviation of about 1; the sum of two independent ones is divided by its own.
        """
        volume = (share * self.volume_zyx + (1 - share) * other.volume_zyx) / hypot(share, 1 - share)
        return Crop(
            volume_zyx=volume,
            centres_zyx=np.concatenate([self.centres_zyx, other.centres_zyx]),
            labels=np.concatenate([self.labels, other.labels]),
            scale=self.scale,
            origin=f"{self.origin}, mixed with {other.origin}",
        )


def vary(
    crop: Crop, rng: np.random.Generator, options: AugmentationOptions, tomograms: Sequence[TrainingTomogram]
) -> Crop:
    """Apply copy-paste, erasing and intensity changes as drawn; `tomograms` are where pasted particles come from."""
    if options.copy_paste and rng.random() < options.copy_paste:
        crop = paste_particles(crop, rng, tomograms)
    if options.erase and rng.random() < options.erase:
        crop = erase_cuboid(crop, rng)
    volume = crop.volume_zyx
    if options.gain or options.shift:
        volume = volume * (1 + rng.uniform(-options.gain, options.gain)) + rng.uniform(-options.shift, options.shift)
    if options.noise:
        white = torch.from_numpy(rng.standard_normal(tuple(volume.shape), dtype=np.float32))
        volume = volume + rng.uniform(0, options.noise) * white
    return replace(crop, volume_zyx=volume)


def paste_particles(crop: Crop, rng: np.random.Generator, tomograms: Sequence[TrainingTomogram]) -> Crop:
    """Paste up to three particles, drawn class by class, where nothing is annotated within a patch.

    The patch is copied voxel by voxel, so the particle's centre moves by whole voxels only.
    """
    volume = crop.volume_zyx.clone()
    centres, labels = list(crop.centres_zyx), list(crop.labels)
    size = np.array(volume.shape)
    # All tomograms of a training have one voxel size. An even edge, so that the patch lies on whole voxels.
    edge = 2 * round(PATCH_A / tomograms[0].voxel_A / 2)
    if (size < edge).any():
        return crop
    for _ in range(int(rng.integers(1, MAX_PASTED + 1))):
        corner = rng.integers(0, size - edge + 1)
        middle = corner + edge / 2
        if any(np.linalg.norm(centre - middle) < edge for centre in centres):
            continue
        patch, patch_centres, patch_labels = _draw_patch(rng, tomograms, edge)
        target = volume[tuple(slice(a, a + edge) for a in corner)]
        target.lerp_(patch, _ball(edge, EDGE_A / tomograms[0].voxel_A))
        centres.extend(patch_centres + corner)
        labels.extend(patch_labels)
    return replace(
        crop,
        volume_zyx=volume,
        centres_zyx=np.array(centres, dtype=np.float64).reshape(-1, 3),
        labels=np.array(labels, dtype=np.int64),
    )


def erase_cuboid(crop: Crop, rng: np.random.Generator) -> Crop:
    """Set a cuboid of an eighth to a quarter of the crop's edges to 0 and drop the particles centred in it."""
    size = np.array(crop.volume_zyx.shape)
    edges = np.maximum(1, (size * rng.uniform(1 / 8, 1 / 4, size=3)).astype(int))
    corner = rng.integers(0, size - edges + 1)
    volume = crop.volume_zyx.clone()
    volume[tuple(slice(a, a + n) for a, n in zip(corner, edges, strict=True))] = 0
    kept = ~inside(crop.centres_zyx - corner, edges.tolist())
    return replace(crop, volume_zyx=volume, centres_zyx=crop.centres_zyx[kept], labels=crop.labels[kept])


def _draw_patch(
    rng: np.random.Generator, tomograms: Sequence[TrainingTomogram], edge: int
) -> tuple[Tensor, Matrix, npt.NDArray[np.int64]]:
    """Cut a patch around a particle; return it with all particles in its ball.

    The chosen one lies within half a voxel of the middle.
    """
    filled = [run for run in tomograms if (run.labels >= 0).any()]
    run = filled[int(rng.integers(len(filled)))]
    label = rng.choice(np.unique(run.labels[run.labels >= 0]))
    chosen = run.centres_zyx[rng.choice(np.flatnonzero(run.labels == label))]
    size = (edge,) * 3
    transform = CropTransform(np.eye(3), np.rint(chosen), size)
    centres = transform.to_crop(run.centres_zyx)
    near = np.linalg.norm(centres - edge / 2, axis=1) < edge / 2 - EDGE_A / run.voxel_A
    return resample(next(iter(run.volumes_zyx.values())), transform), centres[near], run.labels[near]


def _ball(edge: int, fade: float) -> Tensor:
    """Return the weight of a patch: 1 in a ball, falling to 0 at the patch's faces over `fade` voxels."""
    axis = torch.arange(edge) + 0.5 - edge / 2
    distance = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt()
    return ((edge / 2 - distance) / fade).clamp(0, 1)
