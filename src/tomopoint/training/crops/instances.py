"""What is done to single particles of a crop: pasted from elsewhere, mixed with another, erased (off by default).

The winner's write-up tried these three and found no gain on the leaderboard ("erasing particles from the input volume,
random copy-pasting particles from one study to another, doing mixup on the particle instances").

A particle from elsewhere comes as a ball: its radius and a margin, that fades out towards its surface. It is taken
from the reconstruction that the crop shows, and resampled as the crop was, so that scale, orientation of the missing
wedge and smoothness of the noise are those around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tomopoint.training.crops.crop import Crop
from tomopoint.training.crops.resample import CropTransform, Matrix, inside, resample
from tomopoint.training.crops.tomograms import TrainingTomogram
from tomopoint.training.losses.points import FIRST_BORDER_LABEL
from tomopoint.training.options.crops import PasteFrom

MAX_PASTED = 3
MARGIN_A = 50.0
"""A ball reaches so far beyond the particle's radius."""
EDGE_A = 30.0
"""A ball fades out over this length, so that no edge gives it away."""
MIXED_SHARE = (0.4, 0.6)
"""Share of the second of two particles that are mixed."""
MIXED_APART = (0.5, 1.0)
"""Distance of two particles that are mixed, in radii of the larger. At the same place the larger one's similarity would
win every cell in the assignment, and the smaller would be taught as absent."""


@dataclass(frozen=True)
class Instances:
    """Particles that crops can be given.

    Attributes
    ----------
    tomograms
        Runs that they are taken from; all of one voxel size.
    radii_vox
        Radius of each class.
    """

    tomograms: Sequence[TrainingTomogram]
    radii_vox: Sequence[float]

    def draw(self, crop: Crop, rng: np.random.Generator, source: PasteFrom = "any") -> Ball | None:
        """Take one particle, drawn class by class, as `crop` would show it; None where `source` has none."""
        filled = [run for run in self.tomograms if (run.labels >= 0).any() and _is_from(run.name, crop.run, source)]
        if not filled:
            return None
        run = filled[int(rng.integers(len(filled)))]
        label = int(rng.choice(np.unique(run.labels[run.labels >= 0])))
        chosen = run.centres_zyx[rng.choice(np.flatnonzero(run.labels == label))]
        radius_vox = self.radii_vox[label] * crop.scale
        fade_vox = EDGE_A * crop.scale / run.voxel_A
        # An even edge around a whole voxel: where the crop copies voxels, so does the ball.
        half = ceil(radius_vox + MARGIN_A * crop.scale / run.voxel_A)
        transform = CropTransform(crop.transform.matrix_zyx, np.rint(chosen), (2 * half,) * 3, crop.scale)
        centres = transform.to_crop(run.centres_zyx)
        near = np.linalg.norm(centres - half, axis=1) < half - fade_vox
        volume = resample(run.volumes_zyx[crop.tomo_type], transform)
        return Ball(volume, ball_weight(half, fade_vox), centres[near], run.labels[near], radius_vox)

    def radius_vox(self, label: int, scale: float) -> float:
        """Return the radius of a listed particle in a crop; of uncertain ones and of those outside it too."""
        return self.radii_vox[label if label >= 0 else FIRST_BORDER_LABEL - label] * scale


@dataclass(frozen=True)
class Ball:
    """A particle with its surroundings, in a cube of even edge.

    Attributes
    ----------
    volume_zyx, weight
        ``(n, n, n)`` float32: voxels, and how much of them counts.
    centres_zyx, labels
        All particles centred in the part that counts fully, ``(k, 3)`` voxels from the cube's corner; the chosen one
        lies within a voxel of the middle.
    radius_vox
        Of the chosen one.
    """

    volume_zyx: Tensor
    weight: Tensor
    centres_zyx: Matrix
    labels: npt.NDArray[np.int64]
    radius_vox: float

    @property
    def half(self) -> int:
        """Half the cube's edge, voxels."""
        return len(self.weight) // 2


def paste_particles(crop: Crop, rng: np.random.Generator, instances: Instances, source: PasteFrom) -> Crop:
    """Paste up to three particles where nothing is annotated that their balls would touch."""
    volume, size = crop.volume_zyx.clone(), np.array(crop.volume_zyx.shape)
    centres, labels = crop.centres_zyx, crop.labels
    for _ in range(int(rng.integers(1, MAX_PASTED + 1))):
        ball = instances.draw(crop, rng, source)
        if ball is None or (size < 2 * ball.half).any():
            continue
        corner = rng.integers(0, size - 2 * ball.half + 1)
        reach = [ball.half + instances.radius_vox(int(label), crop.scale) for label in labels]
        if (np.linalg.norm(centres - corner - ball.half, axis=1) < reach).any():
            continue
        volume[_box(corner, ball.half)].lerp_(ball.volume_zyx, ball.weight)
        centres, labels = np.concatenate([centres, ball.centres_zyx + corner]), np.concatenate([labels, ball.labels])
    return replace(crop, volume_zyx=volume, centres_zyx=centres, labels=labels)


def mix_instances(crop: Crop, rng: np.random.Generator, probability: float, instances: Instances) -> Crop:
    """Blend another particle into each particle of the crop with this `probability`; both are listed.

    Where two are blended, noise keeps its level (see :meth:`Crop.blend`): with share s of the second, the sum of two
    independent volumes is divided by ``sqrt((1 - s)^2 + s^2)``.
    """
    volume, size = crop.volume_zyx.clone(), np.array(crop.volume_zyx.shape)
    centres, labels = [crop.centres_zyx], [crop.labels]
    for centre, label in zip(crop.centres_zyx, crop.labels, strict=True):
        if label < 0 or rng.random() >= probability:
            continue
        ball = instances.draw(crop, rng)
        if ball is None:
            continue
        direction = rng.standard_normal(3)
        larger = max(instances.radius_vox(int(label), crop.scale), ball.radius_vox)
        apart = rng.uniform(*MIXED_APART) * larger / np.linalg.norm(direction)
        corner = np.rint(centre + apart * direction).astype(int) - ball.half
        if not inside(np.array([corner + ball.half]), size.tolist())[0]:
            continue  # the other one would lie outside the crop
        low, high = np.maximum(corner, 0), np.minimum(corner + 2 * ball.half, size)
        target = volume[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        part = tuple(slice(a - c, b - c) for a, b, c in zip(low, high, corner, strict=True))
        share = float(rng.uniform(*MIXED_SHARE)) * ball.weight[part]
        target.lerp_(ball.volume_zyx[part], share).div_(torch.hypot(share, 1 - share))
        moved = ball.centres_zyx + corner
        within = inside(moved, size.tolist())
        centres.append(moved[within])
        labels.append(ball.labels[within])
    return replace(crop, volume_zyx=volume, centres_zyx=np.concatenate(centres), labels=np.concatenate(labels))


def erase_instances(crop: Crop, rng: np.random.Generator, probability: float, instances: Instances) -> Crop:
    """Erase each particle with this `probability`: its ball takes the crop's mean, all that is centred in it goes.

    The ball is blank within the particle's radius and fades out over :data:`EDGE_A` beyond it.
    """
    volume, size = crop.volume_zyx.clone(), np.array(crop.volume_zyx.shape)
    mean = float(volume.mean())
    kept = np.ones(len(crop.labels), dtype=bool)
    fade_vox = EDGE_A * crop.scale / instances.tomograms[0].voxel_A
    for index in np.flatnonzero((crop.labels >= 0) & (rng.random(len(crop.labels)) < probability)):
        centre, radius = crop.centres_zyx[index], instances.radius_vox(int(crop.labels[index]), crop.scale)
        low = np.maximum(np.floor(centre - radius - fade_vox), 0).astype(int)
        high = np.minimum(np.ceil(centre + radius + fade_vox), size).astype(int)
        axes = [torch.arange(a, b) + 0.5 - c for a, b, c in zip(low, high, centre, strict=True)]
        weight = ((radius + fade_vox - _distance(*axes)) / fade_vox).clamp(0, 1)
        target = volume[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        target.lerp_(torch.full_like(target, mean), weight.to(target.dtype))
        kept &= np.linalg.norm(crop.centres_zyx - centre, axis=1) >= radius
        kept[index] = False
    return replace(crop, volume_zyx=volume, centres_zyx=crop.centres_zyx[kept], labels=crop.labels[kept])


def ball_weight(half: int, fade_vox: float) -> Tensor:
    """Return ``(n, n, n)``, n = 2 half: 1 in a ball, falling to 0 at the faces over `fade_vox` voxels."""
    axis = torch.arange(2 * half) + 0.5 - half
    return ((half - _distance(axis, axis, axis)) / fade_vox).clamp(0, 1)


def _distance(z: Tensor, y: Tensor, x: Tensor) -> Tensor:
    return (z[:, None, None] ** 2 + y[:, None] ** 2 + x**2).sqrt()


def _box(corner: npt.NDArray[np.int64], half: int) -> tuple[slice, ...]:
    return tuple(slice(int(a), int(a) + 2 * half) for a in corner)


def _is_from(run: str, crop_run: str, source: PasteFrom) -> bool:
    return source == "any" or (run == crop_run) == (source == "same")
