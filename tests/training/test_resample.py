"""Volume and particles move by one matrix: measured on rendered blobs, by their centres of mass."""

import numpy as np
import pytest
import torch

from tomopoint.training.crops.resample import CropTransform, draw_transform, inside, resample, rotation_matrix
from tomopoint.training.options.crops import AugmentationOptions

SIZE = (32, 36, 40)
SHAPE = (70, 80, 90)
SIGMA_VOX = 2.0
RESIDUAL_VOX = 0.05
"""Asked for by the project: mean signed distance of particle and label after any augmentation."""

NOTHING = {"rotation_degrees": 0.0, "tilt_degrees": 0.0, "scale": 0.0, "flips": False, "quarter_turns": False}
CASES = {
    "plain": {**NOTHING, "resample_probability": 0.0},
    "flips": {**NOTHING, "resample_probability": 0.0, "flips": True},
    "quarter turns": {**NOTHING, "resample_probability": 0.0, "quarter_turns": True},
    "flips and turns": {**NOTHING, "resample_probability": 0.0, "quarter_turns": True, "flips": True},
    "shift by part of a voxel": NOTHING,
    "rotation": {**NOTHING, "rotation_degrees": 180.0},
    "tilt": {**NOTHING, "tilt_degrees": 10.0},
    "scale": {**NOTHING, "scale": 0.05},
    "all": {},
}


def gaussian(shape, centre_zyx, sigma=SIGMA_VOX):
    """Render a blob by integrating no voxel: its value at each voxel's centre, i + 0.5."""
    axes = [np.exp(-((np.arange(n) + 0.5 - c) ** 2) / (2 * sigma**2)) for n, c in zip(shape, centre_zyx, strict=True)]
    return torch.from_numpy(axes[0][:, None, None] * axes[1][:, None] * axes[2]).float()


def centre_of_mass(volume):
    total = volume.sum()
    axes = [torch.arange(n) + 0.5 for n in volume.shape]
    sums = (volume.sum((1, 2)), volume.sum((0, 2)), volume.sum((0, 1)))
    return np.array([float((a * s).sum() / total) for a, s in zip(axes, sums, strict=True)])


@pytest.mark.parametrize("name", CASES)
def test_particle_and_label_stay_together(name):
    options = AugmentationOptions(**CASES[name])
    residuals = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        crop_centre = np.array(SHAPE) / 2 + rng.uniform(-3, 3, 3)
        particle = crop_centre + rng.uniform(-4, 4, 3)
        transform = draw_transform(rng, options, crop_centre, SIZE)
        crop = resample(gaussian(SHAPE, particle), transform)
        assert tuple(crop.shape) == SIZE
        residuals.append(centre_of_mass(crop) - transform.to_crop(particle[None])[0])
    assert np.abs(np.mean(residuals, axis=0)).max() < RESIDUAL_VOX
    assert np.abs(residuals).max() < RESIDUAL_VOX


def test_flip_maps_p_to_n_minus_p():
    flip = CropTransform(np.diag([1.0, 1.0, -1.0]), np.array(SIZE) / 2, SIZE)
    point = np.array([[3.0, 5.25, 7.5]])
    assert flip.to_crop(point) == pytest.approx(np.array([[3.0, 5.25, SIZE[2] - 7.5]]))
    volume = torch.rand(SIZE)
    assert torch.equal(resample(volume, flip), volume.flip(2))


def test_quarter_turn_equals_rot90():
    size = (8, 12, 12)
    volume = torch.rand(size)
    turn = CropTransform(np.rint(rotation_matrix(np.pi / 2, 0, 0)), np.array(size) / 2, size)
    found = resample(volume, turn)
    assert torch.equal(found, torch.rot90(volume, 1, (1, 2))) or torch.equal(found, torch.rot90(volume, -1, (1, 2)))


def test_interpolation_agrees_with_copying():
    transform = CropTransform(np.diag([-1.0, 1.0, -1.0]), np.array([20.0, 30.0, 31.0]), (16, 20, 18))
    volume = torch.rand(40, 60, 62)
    nearly = CropTransform(transform.matrix_zyx * (1 + 1e-9), transform.centre_zyx, transform.size_zyx)
    assert not nearly.copies_voxels
    # float32 grid coordinates of a box of 20 voxels are good to about 1e-6 of it
    assert torch.allclose(resample(volume, transform), resample(volume, nearly), atol=1e-4)


def test_enlarging_moves_points_apart_and_scales_radii():
    options = AugmentationOptions(**{**NOTHING, "scale": 0.05})
    centre = np.array(SHAPE) / 2
    transform = draw_transform(np.random.default_rng(1), options, centre, SIZE)
    moved = transform.to_crop(centre + np.array([[0.0, 0, 0], [10.0, 0, 0]]))
    assert np.linalg.norm(moved[1] - moved[0]) == pytest.approx(10 * transform.scale)
    assert 0.95 <= transform.scale <= 1.05
    assert transform.scale != 1


def test_a_given_scale_holds_though_crops_are_rarely_resampled():
    """The second crop of a mixup has the scale of the first, whose radii its particles take."""
    options = AugmentationOptions(**{**NOTHING, "scale": 0.05, "resample_probability": 0.0})
    centre = np.array(SHAPE) / 2
    assert draw_transform(np.random.default_rng(1), options, centre, SIZE, scale=1.03).scale == 1.03
    assert draw_transform(np.random.default_rng(1), options, centre, SIZE, scale=1.0).copies_voxels


def test_outside_the_volume_is_the_mean():
    for matrix in (np.eye(3), rotation_matrix(0.3, 0.1, 0.05)):
        crop = resample(torch.ones(20, 20, 20), CropTransform(matrix, np.zeros(3), (16, 16, 16)))
        assert float(crop[0, 0, 0]) == 0
        assert float(crop[13, 13, 13]) == 1


def test_inside_is_half_open():
    points = np.array([[0.0, 0, 0], [4.0, 1, 1], [3.999, 1, 1], [-0.01, 1, 1]])
    assert inside(points, (4, 4, 4)).tolist() == [True, False, True, False]
    assert inside(points, (4, 4, 4), margin_vox=0.5).all()
