"""Mixup, copy-paste and erasing keep volume and particles consistent."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from training_data import make_run

from tomopoint.training.crops.augment import PATCH_A, Crop, erase_cuboid, paste_particles, vary
from tomopoint.training.crops.dataset import NO_AUGMENTATION, CropDataset
from tomopoint.training.recipe import AugmentationOptions, CropOptions


def empty_crop(size=(64, 64, 64)):
    return Crop(torch.zeros(size), np.zeros((0, 3)), np.zeros(0, dtype=np.int64), 1.0, "nowhere")


def test_blend_keeps_the_noise_level_and_both_crops_particles():
    generator = torch.Generator().manual_seed(0)
    first, second = (
        Crop(torch.randn(32, 32, 32, generator=generator), np.full((1, 3), c), np.array([c]), 1.0, str(c))
        for c in (4, 9)
    )
    mixed = first.blend(second, 0.4)
    # the sample deviation of 32768 values scatters by 0.004
    assert float(mixed.volume_zyx.std()) == pytest.approx(1, abs=0.02)
    assert mixed.labels.tolist() == [4, 9]


def test_pasted_particles_are_where_their_labels_say():
    run = make_run(shape=(64, 80, 80), n_particles=8)
    n_pasted = 0
    for seed in range(10):
        crop = paste_particles(empty_crop(), np.random.default_rng(seed), [run])
        n_pasted += len(crop.labels)
        for centre in crop.centres_zyx:
            assert float(crop.volume_zyx[tuple(np.floor(centre).astype(int))]) < -2.5
    assert n_pasted > 5


def test_nothing_is_pasted_onto_a_particle_or_into_a_small_crop():
    run = make_run(shape=(64, 80, 80))
    full = Crop(torch.zeros(round(PATCH_A / run.voxel_A), 44, 44), np.full((1, 3), 20.0), np.array([0]), 1.0, "here")
    assert len(paste_particles(full, np.random.default_rng(0), [run]).labels) == 1
    assert len(paste_particles(empty_crop((16, 16, 16)), np.random.default_rng(0), [run]).labels) == 0


def test_erasing_drops_exactly_the_particles_it_blanks():
    grid = np.stack(np.meshgrid(*[np.arange(0.5, 32)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    crop = Crop(torch.ones(32, 32, 32), grid, np.zeros(len(grid), dtype=np.int64), 1.0, "here")
    erased = erase_cuboid(crop, np.random.default_rng(0))
    kept = torch.zeros(32, 32, 32)
    kept[tuple(torch.from_numpy(np.floor(erased.centres_zyx).astype(int)).T)] = 1
    assert torch.equal(kept, erased.volume_zyx)
    assert 4**3 <= 32**3 - len(erased.labels) <= 8**3
    assert float(crop.volume_zyx.min()) == 1


def test_intensity_changes_are_bounded_and_off_by_default():
    crop = Crop(torch.ones(8, 8, 8), np.zeros((0, 3)), np.zeros(0, dtype=np.int64), 1.0, "here")
    assert torch.equal(vary(crop, np.random.default_rng(0), AugmentationOptions(), []).volume_zyx, crop.volume_zyx)
    options = AugmentationOptions(gain=0.2, shift=0.1)
    values = [float(vary(crop, np.random.default_rng(s), options, []).volume_zyx[0, 0, 0]) for s in range(200)]
    assert 0.7 <= min(values) < 0.8
    assert 1.2 < max(values) <= 1.3


EFFECTIVE = {
    "rotation_degrees": (0.0, 30.0),
    "tilt_degrees": (0.0, 10.0),
    "scale": (0.0, 0.1),
    "resample_probability": (0.0, 1.0),
    "flips": (False, True),
    "quarter_turns": (False, True),
    "gain": (0.0, 0.2),
    "shift": (0.0, 0.2),
    "noise": (0.0, 0.5),
    "mixup": (0.0, 1.0),
    "copy_paste": (0.0, 1.0),
    "erase": (0.0, 1.0),
}
"""Every augmentation option, off and on."""

NEEDS = {"rotation_degrees": {"resample_probability": 1.0}, "tilt_degrees": {"resample_probability": 1.0}}
NEEDS |= {"scale": {"resample_probability": 1.0}, "resample_probability": {"rotation_degrees": 30.0}}
NOTHING = {name: off for name, (off, _) in EFFECTIVE.items()}


@pytest.mark.parametrize("name", [field.name for field in fields(AugmentationOptions)])
def test_every_augmentation_option_changes_crops(name):
    """With all others off, so that nothing but its own effect can be seen; an option without an entry here fails."""
    run = make_run(shape=(64, 128, 128), n_particles=2)
    off, on = EFFECTIVE[name]
    crops = []
    for value in (off, on):
        options = AugmentationOptions(**{**NOTHING, **NEEDS.get(name, {}), name: value})
        dataset = CropDataset([run], CropOptions((48, 48, 48), centred_fraction=0.5, jitter=0.2), options, 0)
        crops.append([dataset[0, position] for position in range(8)])
    n_changed = sum(not torch.allclose(a.volume_zyx, b.volume_zyx) for a, b in zip(*crops, strict=True))
    assert n_changed >= 2


def test_mixup_shares_one_scale():
    run = make_run(shape=(64, 64, 64), n_particles=20)
    options = AugmentationOptions(mixup=1.0)
    mixed = CropDataset([run], CropOptions((32, 32, 32), centred_fraction=1), options, 0)[0, 0]
    alone = CropDataset([run], CropOptions((32, 32, 32), centred_fraction=1), AugmentationOptions(), 0)[0, 0]
    assert mixed.scale == alone.scale
    assert "mixed with" in mixed.origin
    assert np.array_equal(mixed.centres_zyx[: len(alone.labels)], alone.centres_zyx)
    assert CropDataset([run], CropOptions((32, 32, 32)), NO_AUGMENTATION, 0)[0, 0].scale == 1
