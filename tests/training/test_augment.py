"""Mixup, copy-paste and erasing keep volume and particles consistent."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from training_data import VOXEL_A, make_run

from tomopoint.training.crops.augment import erase_cuboid, vary
from tomopoint.training.crops.crop import Crop
from tomopoint.training.crops.dataset import NO_AUGMENTATION, CropDataset
from tomopoint.training.crops.instances import (
    EDGE_A,
    MARGIN_A,
    MIXED_APART,
    Instances,
    erase_instances,
    mix_instances,
    paste_particles,
)
from tomopoint.training.crops.resample import CropTransform, rotation_matrix
from tomopoint.training.crops.tomograms import TrainingTomogram
from tomopoint.training.losses.points import FIRST_BORDER_LABEL
from tomopoint.training.options.crops import AugmentationOptions, CropOptions

RADII_VOX = (3.0, 6.0)
FLOAT32 = 1e-5
"""Values of about 10 that pass through one interpolation with weights of 0 and 1."""


def a_crop(volume, centres=(), labels=(), scale=1.0, matrix=None, run="nowhere", tomo_type="denoised"):
    size = tuple(volume.shape)
    transform = CropTransform((np.eye(3) if matrix is None else matrix) / scale, np.zeros(3), size, scale)
    centres = np.array(centres, dtype=np.float64).reshape(-1, 3)
    return Crop(volume, centres, np.array(labels, dtype=np.int64), transform, run, tomo_type, run)


def constant_run(name, **values):
    """A run whose every reconstruction has one value throughout, and one particle of class 0 in the middle."""
    volumes = {kind: torch.full((48, 48, 48), value).half() for kind, value in values.items()}
    return TrainingTomogram(name, volumes, np.full((1, 3), 24.0), np.zeros(1, dtype=np.int64), VOXEL_A)


def test_blend_keeps_the_noise_level_and_both_crops_particles():
    generator = torch.Generator().manual_seed(0)
    first, second = (a_crop(torch.randn(32, 32, 32, generator=generator), [[c] * 3], [c]) for c in (4, 9))
    mixed = first.blend(second, 0.4)
    # the sample deviation of 32768 values scatters by 0.004
    assert float(mixed.volume_zyx.std()) == pytest.approx(1, abs=0.02)
    assert mixed.labels.tolist() == [4, 9]


def test_pasted_particles_are_where_their_labels_say():
    run = make_run(shape=(64, 80, 80), n_particles=8)
    n_pasted = 0
    for seed in range(10):
        crop = paste_particles(
            a_crop(torch.zeros(64, 64, 64)), np.random.default_rng(seed), Instances([run], RADII_VOX), "any"
        )
        n_pasted += len(crop.labels)
        for centre in crop.centres_zyx:
            assert float(crop.volume_zyx[tuple(np.floor(centre).astype(int))]) < -2.5
    assert n_pasted > 5


@pytest.mark.parametrize("tomo_type", ["denoised", "wbp"])
def test_pasted_particles_come_from_the_crop_s_own_reconstruction(tomo_type):
    instances = Instances([constant_run("TS_1", wbp=2.0, denoised=5.0)], RADII_VOX)
    crop = paste_particles(
        a_crop(torch.zeros(32, 32, 32), tomo_type=tomo_type), np.random.default_rng(0), instances, "any"
    )
    at_centre = crop.volume_zyx[tuple(np.floor(crop.centres_zyx[0]).astype(int))]
    assert float(at_centre) == pytest.approx({"denoised": 5.0, "wbp": 2.0}[tomo_type], abs=FLOAT32)


@pytest.mark.parametrize(("source", "values"), [("any", {1.0, 2.0, 3.0}), ("other", {2.0, 3.0}), ("same", {1.0})])
def test_pasted_particles_come_from_the_runs_that_the_option_says(source, values):
    instances = Instances([constant_run(f"TS_{i}", denoised=float(i)) for i in (1, 2, 3)], RADII_VOX)
    seen = set()
    for seed in range(30):
        crop = paste_particles(
            a_crop(torch.zeros(32, 32, 32), run="TS_1"), np.random.default_rng(seed), instances, source
        )
        seen |= {round(float(crop.volume_zyx[tuple(np.floor(c).astype(int))])) for c in crop.centres_zyx}
    assert seen == values


def test_nothing_is_pasted_where_the_option_leaves_no_run():
    crop = a_crop(torch.zeros(32, 32, 32), run="TS_1")
    instances = Instances([constant_run("TS_1", denoised=1.0)], RADII_VOX)
    assert len(paste_particles(crop, np.random.default_rng(0), instances, "other").labels) == 0


def width_of(volume, centre):
    """Root mean square distance from `centre`, per axis, of what is darker than the surroundings; voxels."""
    axes = [torch.arange(n) + 0.5 - c for n, c in zip(volume.shape, centre, strict=True)]
    squared = axes[0][:, None, None] ** 2 + axes[1][:, None] ** 2 + axes[2] ** 2
    return float((squared * volume).sum() / volume.sum() / 3) ** 0.5


@pytest.mark.parametrize("scale", [0.8, 1.0, 1.25])
def test_pasted_particles_have_the_crop_s_scale(scale):
    """A Gaussian particle of 2 voxels is pasted into crops at three scales, and measured."""
    axis = torch.arange(48) + 0.5 - 24
    blob = torch.exp(-(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2) / (2 * 2.0**2))
    run = TrainingTomogram("TS_1", {"denoised": blob.half()}, np.full((1, 3), 24.0), np.zeros(1, dtype=int), VOXEL_A)
    size = 2 * int(np.ceil((RADII_VOX[0] + MARGIN_A / VOXEL_A) * scale)) + 1  # one ball fits
    crop = a_crop(torch.zeros(size, size, size), scale=scale, matrix=rotation_matrix(0.4, 0.0, 0.0))
    pasted = paste_particles(crop, np.random.default_rng(0), Instances([run], RADII_VOX), "any")
    # Interpolation adds about a quarter of a squared voxel, the ball's fading edge takes off a little.
    assert width_of(pasted.volume_zyx, pasted.centres_zyx[0]) == pytest.approx(2.0 * scale, rel=0.05)


def test_pasted_particles_have_the_crop_s_orientation():
    """A particle that rises along z falls along z in a crop that flips z: so does the missing wedge."""
    ramp = (torch.arange(48) - 24.0)[:, None, None].expand(48, 48, 48).contiguous()
    run = TrainingTomogram("TS_1", {"denoised": ramp.half()}, np.full((1, 3), 24.0), np.zeros(1, dtype=int), VOXEL_A)
    flipped = a_crop(torch.zeros(32, 32, 32), matrix=np.diag([-1.0, 1.0, 1.0]))
    pasted = paste_particles(flipped, np.random.default_rng(0), Instances([run], RADII_VOX), "any")
    z, y, x = np.floor(pasted.centres_zyx[0]).astype(int)
    assert float(pasted.volume_zyx[z + 2, y, x] - pasted.volume_zyx[z - 2, y, x]) == pytest.approx(-4, abs=FLOAT32)


def test_nothing_is_pasted_onto_a_particle_or_into_a_small_crop():
    run = make_run(shape=(64, 80, 80))
    instances = Instances([run], RADII_VOX)
    full = a_crop(torch.zeros(28, 28, 28), [[14.0] * 3, [8.0] * 3], [1, FIRST_BORDER_LABEL - 1])
    for seed in range(20):
        assert len(paste_particles(full, np.random.default_rng(seed), instances, "any").labels) == 2
    small = a_crop(torch.zeros(15, 15, 15))
    assert len(paste_particles(small, np.random.default_rng(0), instances, "any").labels) == 0


def test_a_pasted_ball_is_the_particle_and_a_margin():
    """Class 0 has 3 voxels of radius: outside radius and margin nothing changes, within all but the faded edge does."""
    instances = Instances([constant_run("TS_1", denoised=1.0)], RADII_VOX)
    crop = paste_particles(a_crop(torch.zeros(18, 18, 18)), np.random.default_rng(0), instances, "any")
    axes = [torch.arange(18) + 0.5 - c for c in crop.centres_zyx[0]]
    distance = (axes[0][:, None, None] ** 2 + axes[1][:, None] ** 2 + axes[2] ** 2).sqrt()
    half = 8  # 3 voxels and 50 A of 10.01 A, rounded up
    assert half == np.ceil(RADII_VOX[0] + MARGIN_A / VOXEL_A)
    assert float(crop.volume_zyx[distance >= half].max()) == 0
    assert float(crop.volume_zyx[distance <= half - EDGE_A / VOXEL_A].min()) == 1


def test_mixed_instances_share_their_voxels_at_one_noise_level():
    """Of two particles in noise, with shares s of 0.4 to 0.6: ((1 - s) a + s b) / sqrt((1 - s)^2 + s^2)."""
    instances = Instances([constant_run("TS_1", denoised=2.0)], RADII_VOX)
    crop = a_crop(torch.full((40, 40, 40), 1.0), [[20.0] * 3], [1])
    for seed in range(10):
        mixed = mix_instances(crop, np.random.default_rng(seed), 1.0, instances)
        assert mixed.labels.tolist() == [1, 0]
        assert np.array_equal(mixed.centres_zyx[0], crop.centres_zyx[0])
        apart = np.linalg.norm(mixed.centres_zyx[1] - mixed.centres_zyx[0])
        # Placed on whole voxels: up to half a voxel off along each axis.
        assert MIXED_APART[0] * RADII_VOX[1] - 0.9 < apart < MIXED_APART[1] * RADII_VOX[1] + 0.9
        value = float(mixed.volume_zyx[tuple(np.floor(mixed.centres_zyx[1]).astype(int))])
        possible = [((1 - s) * 1.0 + s * 2.0) / np.hypot(s, 1 - s) for s in (0.4, 0.5, 0.6)]
        assert min(possible) - FLOAT32 <= value <= max(possible) + FLOAT32
        assert float(mixed.volume_zyx[0, 0, 0]) == 1  # elsewhere nothing changes


def test_each_particle_is_mixed_with_its_own_probability():
    """All that is mixed: of 200 particles, 0.3 within four standard deviations; uncertain ones never."""
    instances = Instances([constant_run("TS_1", denoised=2.0)], RADII_VOX)
    rng = np.random.default_rng(0)
    n_mixed = 0
    for _ in range(25):
        crop = a_crop(torch.zeros(40, 40, 40), rng.uniform(10, 30, (9, 3)), [0] * 8 + [FIRST_BORDER_LABEL])
        mixed = mix_instances(crop, rng, 0.3, instances)
        n_mixed += len(mixed.labels) - 9
        assert mixed.labels[:9].tolist() == crop.labels.tolist()
    assert n_mixed == pytest.approx(60, abs=4 * (200 * 0.3 * 0.7) ** 0.5)
    uncertain = a_crop(torch.zeros(40, 40, 40), [[20.0] * 3], [FIRST_BORDER_LABEL])
    assert len(mix_instances(uncertain, rng, 1.0, instances).labels) == 1


def test_erased_instances_are_blank_to_their_radius_and_gone_with_what_is_in_them():
    run = constant_run("TS_1", denoised=1.0)
    centres = [[20.5] * 3, [24.0, 20.5, 20.5], [33.0] * 3, [20.5, 20.5, 28.0]]
    crop = a_crop(torch.rand(40, 40, 40), centres, [1, 0, FIRST_BORDER_LABEL, 0])
    axis = torch.arange(40) + 0.5 - 20.5
    distance = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt()

    class First:
        """Chooses the first particle only."""

        def random(self, n):
            return np.arange(n) * 1.0

    erased = erase_instances(crop, First(), 0.5, Instances([run], RADII_VOX))
    mean = float(crop.volume_zyx.mean())
    assert torch.allclose(erased.volume_zyx[distance <= 6], torch.tensor(mean), atol=FLOAT32)
    beyond = distance >= 6 + EDGE_A / VOXEL_A
    assert torch.equal(erased.volume_zyx[beyond], crop.volume_zyx[beyond])
    # Itself, and the one at 3.5 voxels; the others lie beyond its 6.
    assert erased.centres_zyx.tolist() == centres[2:]
    larger = replace(crop, transform=replace(crop.transform, scale=1.5))  # 9 voxels: the one at 7.5 goes too
    assert erase_instances(larger, First(), 0.5, Instances([run], RADII_VOX)).centres_zyx.tolist() == centres[2:3]


def test_each_particle_is_erased_with_its_own_probability():
    instances = Instances([constant_run("TS_1", denoised=1.0)], (0.5, 0.5))
    grid = np.stack(np.meshgrid(*[np.arange(2.0, 40, 6)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    crop = a_crop(torch.zeros(40, 40, 40), grid, [0] * len(grid))
    n_erased = len(grid) - len(erase_instances(crop, np.random.default_rng(0), 0.25, instances).labels)
    assert n_erased == pytest.approx(0.25 * len(grid), abs=4 * (len(grid) * 0.25 * 0.75) ** 0.5)
    uncertain = replace(crop, labels=np.full(len(grid), FIRST_BORDER_LABEL))
    assert len(erase_instances(uncertain, np.random.default_rng(0), 1.0, instances).labels) == len(grid)


def test_erasing_drops_exactly_the_particles_it_blanks():
    grid = np.stack(np.meshgrid(*[np.arange(0.5, 32)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    crop = a_crop(torch.ones(32, 32, 32), grid, [0] * len(grid))
    erased = erase_cuboid(crop, np.random.default_rng(0))
    kept = torch.zeros(32, 32, 32)
    kept[tuple(torch.from_numpy(np.floor(erased.centres_zyx).astype(int)).T)] = 1
    assert torch.equal(kept, erased.volume_zyx)
    assert 4**3 <= 32**3 - len(erased.labels) <= 8**3
    assert float(crop.volume_zyx.min()) == 1


def test_intensity_changes_are_bounded_and_off_by_default():
    crop = a_crop(torch.ones(8, 8, 8))
    assert torch.equal(vary(crop, np.random.default_rng(0), AugmentationOptions(), None).volume_zyx, crop.volume_zyx)
    options = AugmentationOptions(gain=0.2, shift=0.1)
    values = [float(vary(crop, np.random.default_rng(s), options, None).volume_zyx[0, 0, 0]) for s in range(200)]
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
    "copy_paste_from": ("any", "other"),
    "erase": (0.0, 1.0),
    "mixup_instances": (0.0, 1.0),
    "erase_instances": (0.0, 1.0),
}
"""Every augmentation option, off and on."""

NEEDS = {"rotation_degrees": {"resample_probability": 1.0}, "tilt_degrees": {"resample_probability": 1.0}}
NEEDS |= {"scale": {"resample_probability": 1.0}, "resample_probability": {"rotation_degrees": 30.0}}
NEEDS |= {"copy_paste_from": {"copy_paste": 1.0}}
NOTHING = {name: off for name, (off, _) in EFFECTIVE.items()}


OF_A_BATCH = {"batch_mixup"}
"""Drawn for whole batches, in the loop: tests/training/test_segmentation.py."""


@pytest.mark.parametrize("name", sorted({field.name for field in fields(AugmentationOptions)} - OF_A_BATCH))
def test_every_augmentation_option_changes_crops(name):
    """With all others off, so that nothing but its own effect can be seen; an option without an entry here fails."""
    runs = [make_run(f"TS_{seed}", (64, 128, 128), n_particles=2, seed=seed) for seed in (0, 1)]
    off, on = EFFECTIVE[name]
    crops = []
    for value in (off, on):
        options = AugmentationOptions(**{**NOTHING, **NEEDS.get(name, {}), name: value})
        dataset = CropDataset(
            runs, CropOptions((48, 48, 48), centred_fraction=0.5, jitter=0.2), options, 0, radii_vox=RADII_VOX
        )
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
