"""Where crops are taken, and what a dataset of them holds."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from training_data import make_run

from tomopoint.errors import DataError
from tomopoint.training.crops.dataset import NO_AUGMENTATION, CropDataset, EpochSampler, collate_crops
from tomopoint.training.crops.sampler import OVERHANG, CropSampler
from tomopoint.training.options.crops import AugmentationOptions, CropOptions

SIZE = (16, 24, 32)
SHAPE = (40, 70, 160)
N = 4000
EVEN = 0.05
"""Shares over 4000 draws scatter by less than 0.01; a swapped axis shifts them by more than 0.1."""


def draws(options, runs, n=N):
    sampler = CropSampler(runs, options)
    return [sampler.draw(i, np.random.default_rng((1, i))) for i in range(n)]


def test_random_crops_cover_each_axis_of_a_long_volume_evenly():
    """The winner drew z from the length of x (winner's code, random crops): most crops were empty."""
    centres = np.array([o.centre_zyx for o in draws(CropOptions(SIZE, centred_fraction=0), [make_run(shape=SHAPE)])])
    low = np.array(SIZE) * (0.5 - OVERHANG)
    high = np.array(SHAPE) - low
    assert (centres >= low).all()
    assert (centres <= high).all()
    for axis in range(3):
        counts, _ = np.histogram(centres[:, axis], bins=4, range=(low[axis], high[axis]))
        assert counts / N == pytest.approx([0.25] * 4, abs=EVEN)


def test_centred_crops_hold_their_particle_and_balance_classes():
    run = make_run(shape=SHAPE, n_particles=40)
    dataset = CropDataset([run], CropOptions(SIZE, centred_fraction=1, jitter=0.35), NO_AUGMENTATION, 0)
    assert all(len(dataset[0, i].labels) > 0 for i in range(100))
    sampler = dataset.sampler
    probabilities = sampler._probabilities
    assert probabilities[run.labels == 0].sum() == pytest.approx(0.5)
    plain = CropSampler([run], CropOptions(SIZE, class_balance=0))
    assert plain._probabilities == pytest.approx(np.full(40, 1 / 40))


def test_centred_and_random_crops_alternate_within_every_batch():
    run = make_run(shape=SHAPE)
    offsets = [
        np.linalg.norm(run.centres_zyx - origin.centre_zyx, axis=1).min()
        for origin in draws(CropOptions((8, 8, 8), centred_fraction=0.5, jitter=0.0), [run], 20)
    ]
    assert all(offset < 1e-9 for offset in offsets[1::2])
    assert sum(offset < 1e-9 for offset in offsets[::2]) == 0


def test_jitter_spreads_the_particle_over_the_crop():
    run = make_run(shape=(80, 80, 80), n_particles=4, seed=3)
    run.centres_zyx[:] = 40.0
    options = CropOptions((20, 20, 20), centred_fraction=1, jitter=0.4)
    shifts = np.array([origin.centre_zyx - 40 for origin in draws(options, [run], 500)])
    assert np.abs(shifts).max() == pytest.approx(8, abs=0.2)
    assert np.abs(shifts.mean(axis=0)).max() < 0.6


def test_volume_smaller_than_the_crop_is_centred_and_padded():
    run = make_run(shape=(10, 48, 48))
    crop = CropDataset([run], CropOptions((16, 16, 16), centred_fraction=0), NO_AUGMENTATION, 0)[0, 0]
    assert tuple(crop.volume_zyx.shape) == (16, 16, 16)
    assert float(crop.volume_zyx[:3].abs().max()) == 0
    assert float(crop.volume_zyx[-3:].abs().max()) == 0
    # noise is never exactly zero: where one plane is padding in y or x, all planes are
    assert torch.equal(crop.volume_zyx[3] == 0, crop.volume_zyx[12] == 0)
    assert float((crop.volume_zyx[3:13] != 0).float().mean()) > 0.7


def test_crops_show_the_volume_where_their_labels_say():
    """The darkest voxel near a label is the blob's centre, in plain and in augmented crops."""
    run = make_run(shape=SHAPE, n_particles=6, seed=2)
    for options in (NO_AUGMENTATION, AugmentationOptions()):
        dataset = CropDataset([run], CropOptions(SIZE, centred_fraction=1), options, 0)
        for position in range(10):
            crop = dataset[0, position]
            for centre in crop.centres_zyx:
                voxel = np.clip(np.floor(centre).astype(int), 0, np.array(SIZE) - 1)
                assert float(crop.volume_zyx[tuple(voxel)]) < -2.5


def test_epoch_and_position_decide_everything():
    runs = [make_run("TS_0"), make_run("TS_1", seed=1)]
    single = AugmentationOptions(copy_paste=0.5, mixup_instances=0.5, erase_instances=0.5)
    every = replace(single, mixup=0.5, erase=0.5, noise=0.2, gain=0.1, shift=0.1)
    first, again, other = (
        CropDataset(runs, CropOptions((16, 16, 16)), every, seed, radii_vox=[3, 6]) for seed in (7, 7, 8)
    )
    _ = [first[0, i] for i in range(5)]
    assert torch.equal(first[3, 2].volume_zyx, again[3, 2].volume_zyx)
    assert np.array_equal(first[3, 2].centres_zyx, again[3, 2].centres_zyx)
    assert not torch.equal(first[3, 2].volume_zyx, first[4, 2].volume_zyx)
    assert not torch.equal(first[3, 2].volume_zyx, other[3, 2].volume_zyx)
    with pytest.raises(ValueError, match="radii_vox"):
        CropDataset(runs, CropOptions((16, 16, 16)), every, 7)


def test_processes_share_an_epoch_without_overlap():
    samplers = [EpochSampler(4, rank, 3) for rank in range(3)]
    for sampler in samplers:
        sampler.epoch = 5
    keys = [key for sampler in samplers for key in sampler]
    assert sorted(keys) == [(5, position) for position in range(12)]


def test_batch_pads_points_and_names_origins():
    dataset = CropDataset([make_run()], CropOptions((16, 16, 16), centred_fraction=1), NO_AUGMENTATION, 0)
    batch = collate_crops([dataset[0, 0], dataset[0, 1]])
    assert tuple(batch.volume.shape) == (2, 1, 16, 16, 16)
    assert (batch.points.labels >= 0).sum() == len(dataset[0, 0].labels) + len(dataset[0, 1].labels)
    assert all("TS_0" in origin for origin in batch.origins)


def test_runs_without_particles_cannot_centre_crops():
    empty = make_run(n_particles=0)
    with pytest.raises(DataError, match="TS_0"):
        CropSampler([empty], CropOptions((16, 16, 16)))
    CropSampler([empty], CropOptions((16, 16, 16), centred_fraction=0))
