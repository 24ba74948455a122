"""Crops as a dataset in which (epoch, position) decides everything, and batches of them.

No generator is carried along: the crop at a position of an epoch is the same whatever came before it, in whichever
process it is made. That is what makes a resumed training equal to an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils import data

from tomopoint.training.crops.augment import vary
from tomopoint.training.crops.crop import Crop
from tomopoint.training.crops.instances import Instances
from tomopoint.training.crops.mixup import Mix
from tomopoint.training.crops.resample import Matrix, draw_transform, inside, resample
from tomopoint.training.crops.sampler import CropSampler, Sampler
from tomopoint.training.crops.tomograms import TrainingTomogram
from tomopoint.training.losses.points import BORDER_RADII, FIRST_BORDER_LABEL, PointBatch, collate
from tomopoint.training.options.crops import AugmentationOptions, CropOptions

NO_AUGMENTATION = AugmentationOptions(resample_probability=0.0, flips=False, quarter_turns=False)

MIXUP_EPOCH_OFFSET = 1 << 32
"""Second crops of a mixup are drawn from epochs so far away that no first crop equals them."""


@dataclass(frozen=True)
class CropBatch:
    """A batch of crops.

    Attributes
    ----------
    volume
        ``(B, 1, D, H, W)`` float32, normalised.
    points
        The particles in the crops.
    origins
        Where each crop was taken, in words: it names the culprit when a loss is not finite.
    """

    volume: Tensor
    points: PointBatch
    origins: tuple[str, ...]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> CropBatch:
        """Return a copy on `device`."""
        volume = self.volume.to(device, non_blocking=non_blocking)
        return CropBatch(volume, self.points.to(device, non_blocking), self.origins)

    def blended(self, concentration: float) -> CropBatch:
        """Return a batch whose crops are blended with each other, see :class:`~tomopoint.training.crops.mixup.Mix`."""
        mix = Mix.draw(len(self.volume), concentration)
        return CropBatch(mix.of(self.volume), replace(self.points, mix=mix), self.origins)

    def pin_memory(self) -> CropBatch:
        """Return a copy in page-locked memory; a DataLoader calls this."""
        return CropBatch(self.volume.pin_memory(), self.points.pin_memory(), self.origins)


class CropDataset(data.Dataset[Crop]):
    """Crops of some tomograms; indexed by (epoch, position).

    Parameters
    ----------
    tomograms
        Where crops are taken.
    crops
        Their size and places.
    augmentation
        How they are varied.
    seed
        Everything random derives from it, the epoch and the position.
    sampler
        What chooses places; by default :class:`~tomopoint.training.crops.sampler.CropSampler`.
    radii_vox
        Radius of each class. With them, particles centred less than half a radius outside a crop are listed too,
        with border labels (:mod:`tomopoint.training.losses.ignore_regions`). What is done to single particles
        (`copy_paste`, `mixup_instances`, `erase_instances`) needs them.
    """

    def __init__(
        self,
        tomograms: Sequence[TrainingTomogram],
        crops: CropOptions,
        augmentation: AugmentationOptions,
        seed: int,
        sampler: Sampler | None = None,
        radii_vox: Sequence[float] | None = None,
    ) -> None:
        self.tomograms = tomograms
        self.border_vox = None if radii_vox is None else BORDER_RADII * np.array(radii_vox)
        self.crops = crops
        self.augmentation = augmentation
        self.seed = seed
        self.sampler = sampler or CropSampler(tomograms, crops)
        self.instances = None if radii_vox is None else Instances(tomograms, radii_vox)
        if augmentation.changes_instances and radii_vox is None:
            raise ValueError("copy_paste, mixup_instances and erase_instances need radii_vox")

    def __getitem__(self, key: tuple[int, int]) -> Crop:
        """Return the crop at (epoch, position)."""
        epoch, position = key
        rng = np.random.default_rng((self.seed, epoch, position))
        crop = self._cut(position, rng)
        options = self.augmentation
        if options.mixup and rng.random() < options.mixup:
            second = np.random.default_rng((self.seed, epoch + MIXUP_EPOCH_OFFSET, position))
            crop = crop.blend(self._cut(position, second, crop.scale), share=rng.uniform(0.4, 0.6))
        return vary(crop, rng, options, self.instances)

    def _cut(self, position: int, rng: np.random.Generator, scale: float | None = None) -> Crop:
        """Take one crop with its particles; the one resampling of the volume happens here.

        A particle is kept where its centre lies in the crop: it has a cell of its own there.
        """
        origin = self.sampler.draw(position, rng)
        run = self.tomograms[origin.run]
        transform = draw_transform(rng, self.augmentation, origin.centre_zyx, self.crops.size_zyx, scale)
        centres_zyx = transform.to_crop(run.centres_zyx)
        kept, labels = self._listed(centres_zyx, run.labels, transform.scale)
        place = ", ".join(f"{value:.1f}" for value in transform.centre_zyx)
        return Crop(
            volume_zyx=resample(run.volumes_zyx[origin.tomo_type], transform),
            centres_zyx=centres_zyx[kept],
            labels=labels[kept],
            transform=transform,
            run=run.name,
            tomo_type=origin.tomo_type,
            origin=f"{run.name} ({origin.tomo_type}) at z, y, x = {place} voxels",
        )

    def _listed(
        self, centres_zyx: Matrix, labels: npt.NDArray[np.int64], scale: float
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
        """Return which particles belong to a crop, and their labels: of those just outside, the border label."""
        size = self.crops.size_zyx
        kept = inside(centres_zyx, size)
        if self.border_vox is None:
            return kept, labels
        beyond_vox = np.maximum(-centres_zyx, centres_zyx - np.array(size)).clip(0)
        border_labels = np.where(labels >= 0, FIRST_BORDER_LABEL - labels, labels)
        reach_vox = self.border_vox[FIRST_BORDER_LABEL - border_labels] * scale
        near = ~kept & (np.linalg.norm(beyond_vox, axis=1) < reach_vox)
        return kept | near, np.where(near, border_labels, labels)


class EpochSampler(data.Sampler[tuple[int, int]]):
    """Positions 0 .. n-1 of the current epoch, split over processes; the loop sets `epoch`.

    Parameters
    ----------
    n_positions
        Crops per epoch and process.
    rank, n_ranks
        This process, and how many train together.
    """

    def __init__(self, n_positions: int, rank: int = 0, n_ranks: int = 1) -> None:
        self.n_positions = n_positions
        self.rank = rank
        self.n_ranks = n_ranks
        self.epoch = 0

    def __len__(self) -> int:
        """Crops per epoch and process."""
        return self.n_positions

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield (epoch, position)."""
        for index in range(self.n_positions):
            yield self.epoch, index * self.n_ranks + self.rank


def collate_crops(crops: Sequence[Crop]) -> CropBatch:
    """Stack crops to a batch."""
    volume = torch.stack([crop.volume_zyx for crop in crops])[:, None]
    points = collate([(torch.from_numpy(c.centres_zyx), torch.from_numpy(c.labels), c.scale) for c in crops])
    return CropBatch(volume, points, tuple(crop.origin for crop in crops))


def fixed_batches(
    tomograms: Sequence[TrainingTomogram], crops: CropOptions, n_crops: int, batch_size: int, radii_vox: Sequence[float]
) -> list[CropBatch]:
    """Return the same few crops every time, not augmented: what the validation loss is measured on."""
    plain = replace(crops, tomo_types=crops.tomo_types[:1])
    dataset = CropDataset(tomograms, plain, NO_AUGMENTATION, seed=0, radii_vox=radii_vox)
    taken = [dataset[0, position] for position in range(n_crops)]
    return [collate_crops(taken[start : start + batch_size]) for start in range(0, n_crops, batch_size)]
