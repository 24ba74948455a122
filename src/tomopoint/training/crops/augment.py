"""What is done to a crop after it was cut: single particles, a blanked cuboid, intensity changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from tomopoint.training.crops.crop import Crop
from tomopoint.training.crops.instances import Instances, erase_instances, mix_instances, paste_particles
from tomopoint.training.crops.resample import inside
from tomopoint.training.options.crops import AugmentationOptions


def vary(crop: Crop, rng: np.random.Generator, options: AugmentationOptions, instances: Instances | None) -> Crop:
    """Apply what is done to single particles, erasing and intensity changes as drawn.

    `instances` are what particles are pasted from and mixed with, and know their sizes; needed for these only.
    """
    if instances is not None:
        if options.copy_paste and rng.random() < options.copy_paste:
            crop = paste_particles(crop, rng, instances, options.copy_paste_from)
        if options.mixup_instances:
            crop = mix_instances(crop, rng, options.mixup_instances, instances)
        if options.erase_instances:
            crop = erase_instances(crop, rng, options.erase_instances, instances)
    if options.erase and rng.random() < options.erase:
        crop = erase_cuboid(crop, rng)
    volume = crop.volume_zyx
    if options.gain or options.shift:
        volume = volume * (1 + rng.uniform(-options.gain, options.gain)) + rng.uniform(-options.shift, options.shift)
    if options.noise:
        white = torch.from_numpy(rng.standard_normal(tuple(volume.shape), dtype=np.float32))
        volume = volume + rng.uniform(0, options.noise) * white
    return replace(crop, volume_zyx=volume)


def erase_cuboid(crop: Crop, rng: np.random.Generator) -> Crop:
    """Set a cuboid of an eighth to a quarter of the crop's edges to 0 and drop the particles centred in it."""
    size = np.array(crop.volume_zyx.shape)
    edges = np.maximum(1, (size * rng.uniform(1 / 8, 1 / 4, size=3)).astype(int))
    corner = rng.integers(0, size - edges + 1)
    volume = crop.volume_zyx.clone()
    volume[tuple(slice(a, a + n) for a, n in zip(corner, edges, strict=True))] = 0
    kept = ~inside(crop.centres_zyx - corner, edges.tolist())
    return replace(crop, volume_zyx=volume, centres_zyx=crop.centres_zyx[kept], labels=crop.labels[kept])
