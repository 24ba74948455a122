"""Spheres cut by slices: sizes by hand, and masks voxel by voxel."""

import pytest
import torch

from tomopoint.baselines.disks import Disks, cut, paint
from tomopoint.training.losses.points import collate


def points_at(centres_zyx, labels, scale=1.0):
    return collate([(torch.tensor(centres_zyx), torch.tensor(labels), scale)])


def test_a_sphere_is_cut_in_a_disk_of_pythagoras_radius_and_a_constant_box_keeps_its_own():
    points = points_at([[5.5, 20.0, 30.0]], [1])
    for height, half in ((5.5, 5.0), (8.5, 4.0), (1.5, 3.0)):  # 3, 4, 5
        disks = cut(points, 0, height, [9.0, 5.0], "sphere")
        assert disks.half_widths.tolist() == pytest.approx([half])
        assert disks.centres_yx.tolist() == [[20.0, 30.0]]
        assert disks.labels.tolist() == [1]
        assert cut(points, 0, height, [9.0, 5.0], "constant").half_widths.tolist() == [5.0]
    for height in (10.5, 0.5, 12.0):  # touched at most
        assert len(cut(points, 0, height, [9.0, 5.0], "constant").labels) == 0


def test_spheres_grow_with_the_crop_and_those_listed_beyond_its_border_count_as_their_class():
    points = points_at([[-2.0, 4.0, 4.0], [-2.0, 9.0, 9.0]], [-2 - 1, 0], scale=2.0)
    disks = cut(points, 0, 1.5, [1.0, 3.0], "constant")
    assert disks.labels.tolist() == [1]
    assert disks.half_widths.tolist() == [6.0]


def test_padding_is_no_particle():
    batch = collate(
        [(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), 1.0), (torch.ones(2, 3), torch.ones(2), 1.0)]
    )
    assert len(cut(batch, 0, 0.5, [50.0, 50.0], "sphere").labels) == 0
    assert len(cut(batch, 1, 0.5, [50.0, 50.0], "sphere").labels) == 2


def test_masks_hold_the_voxels_whose_middle_lies_in_a_disk_smaller_ones_on_top():
    disks = Disks(torch.tensor([[4.0, 6.0], [4.0, 6.0]]), torch.tensor([1.0, 3.5]), torch.tensor([0, 2]))
    mask = paint(disks, (9, 12))
    for y in range(9):
        for x in range(12):
            away = (y + 0.5 - 4) ** 2 + (x + 0.5 - 6) ** 2
            assert mask[y, x] == (1 if away < 1 else 3 if away < 3.5**2 else 0)
