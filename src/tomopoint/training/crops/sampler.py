"""Which crops are taken: anywhere in a volume, or around a particle of a chosen class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tomopoint.errors import DataError
from tomopoint.training.crops.tomograms import TrainingTomogram
from tomopoint.training.options.crops import CropOptions

OVERHANG = 1 / 8
"""A crop may reach beyond the volume by this share of its size: so the outermost voxels are seen too, while at most
a few percent of what the network sees is padding."""


@dataclass(frozen=True)
class CropOrigin:
    """Where a crop comes from.

    Attributes
    ----------
    run
        Index of the run.
    tomo_type
        Reconstruction type.
    centre_zyx
        ``(3,)`` float64, centre of the crop in voxels of the run's volume.
    """

    run: int
    tomo_type: str
    centre_zyx: npt.NDArray[np.float64]


class Sampler(Protocol):
    """Anything that chooses crops."""

    def draw(self, position: int, rng: np.random.Generator) -> CropOrigin:
        """Return the origin of the crop at `position` of an epoch."""
        ...


class CropSampler:
    """Chooses random and particle-centred crops, see :class:`~tomopoint.training.options.crops.CropOptions`.

    The two kinds alternate by position, not by chance, so that every batch holds its share of each.

    Raises
    ------
    DataError
        Particle-centred crops are wanted and the runs have no particle.
    """

    def __init__(self, tomograms: Sequence[TrainingTomogram], options: CropOptions) -> None:
        self.tomograms = tomograms
        self.options = options
        certain = [run.labels >= 0 for run in tomograms]
        self._run_of_particle = np.repeat(np.arange(len(tomograms)), [int(chosen.sum()) for chosen in certain])
        self._centres_zyx = np.concatenate([run.centres_zyx[c] for run, c in zip(tomograms, certain, strict=True)])
        labels = np.concatenate([run.labels[c] for run, c in zip(tomograms, certain, strict=True)])
        if options.centred_fraction > 0 and len(labels) == 0:
            raise DataError(f"the runs {', '.join(run.name for run in tomograms)} have no picks to centre crops on")
        counts = np.bincount(labels)
        # A class's share is count^(1-b); each of its particles gets an equal part of that: count^(-b).
        weights = counts[labels] ** -float(options.class_balance) if len(labels) else np.zeros(0)
        self._probabilities = weights / weights.sum() if len(labels) else weights

    def is_centred(self, position: int) -> bool:
        """Whether the crop at `position` of an epoch shows a chosen particle."""
        fraction = self.options.centred_fraction
        return int((position + 1) * fraction) > int(position * fraction)

    def draw(self, position: int, rng: np.random.Generator) -> CropOrigin:
        """Return the origin of the crop at `position`; equal `rng` states give equal crops."""
        tomo_type = self.options.tomo_types[int(rng.integers(len(self.options.tomo_types)))]
        if not self.is_centred(position):
            run = int(rng.integers(len(self.tomograms)))
            return CropOrigin(run, tomo_type, rng.uniform(*self._centre_range(run)))
        particle = int(rng.choice(len(self._probabilities), p=self._probabilities))
        run = int(self._run_of_particle[particle])
        reach_zyx = self.options.jitter * np.array(self.options.size_zyx)
        wanted = self._centres_zyx[particle] + rng.uniform(-reach_zyx, reach_zyx)
        # Moving a crop back towards the volume never loses the particle: the volume holds it.
        return CropOrigin(run, tomo_type, np.clip(wanted, *self._centre_range(run)))

    def _centre_range(self, run: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return lowest and highest allowed centre; the middle, twice, along an axis shorter than the crop."""
        shape = np.array(self.tomograms[run].shape_zyx, dtype=np.float64)
        half = np.array(self.options.size_zyx) * (0.5 - OVERHANG)
        low = np.minimum(half, shape / 2)
        return low, shape - low
