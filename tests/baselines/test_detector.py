"""The detector of slices: which cell answers for which box, what it is asked, and how losses are counted."""

from dataclasses import replace

import pytest
import torch

from tomopoint.baselines.detector import AveragedRetinaNet, CentreMatcher, SliceDetection
from tomopoint.baselines.method import stacks
from tomopoint.baselines.recipe import DetectorOptions
from tomopoint.training.crops.dataset import CropBatch
from tomopoint.training.losses.points import collate

SMALL = DetectorOptions(channels=(8, 8, 16, 16), features=16, radius_factor=1.0)


def squares(n=8):
    """Return the squares of n x n cells of 4 voxels, whose middles lie at 2, 6, 10 ..."""
    middles = torch.cartesian_prod(*(torch.arange(n) * 4.0 + 2,) * 2)
    return torch.cat([middles - 8, middles + 8], dim=1)


def matched(boxes, reach_vox=6.0):
    matches = CentreMatcher(reach_vox).compute_matches(torch.tensor(boxes), squares(), [64], 1)[1]
    return {(index // 8, index % 8): int(box) for index, box in enumerate(matches) if box >= 0}


def test_cells_near_the_centre_answer_for_a_box():
    # Centre at (14, 14), the middle of cell (3, 3); cells within 6 voxels: 3 x 3 of them.
    assert matched([[4.0, 4.0, 24.0, 24.0]]) == {(y, x): 0 for y in (2, 3, 4) for x in (2, 3, 4)}
    # A box of 2 x 2 voxels is learnt by the nearest cell alone, also where that lies outside of it.
    assert matched([[14.0, 14.0, 16.0, 16.0]]) == {(3, 3): 0}


def test_of_several_boxes_a_cell_takes_the_smallest():
    # The second is centred in cell (4, 4) and reaches one cell from there.
    found = matched([[4.0, 4.0, 24.0, 24.0], [14.0, 14.0, 22.0, 22.0]])
    second = {(y, x) for y in (3, 4, 5) for x in (3, 4, 5)}
    assert {cell for cell, box in found.items() if box == 1} == second
    assert {cell for cell, box in found.items() if box == 0} == {(y, x) for y in (2, 3, 4) for x in (2, 3, 4)} - second


def batch_of(centres_zyx, labels, size=(3, 32, 32)):
    points = collate([(torch.tensor(centres_zyx).reshape(-1, 3), torch.tensor(labels, dtype=torch.int64), 1.0)])
    return CropBatch(torch.zeros(1, 1, *size), points, ("here",))


def test_boxes_are_those_of_the_middle_slice_centred_in_the_crop():
    centres = [[1.5, 10.0, 12.0], [5.5, 20.0, 20.0], [1.5, -1.0, 16.0], [1.5, 16.0, 16.0]]
    batch = batch_of(centres, [0, 0, -2 - 0, 1])
    target = SliceDetection(SMALL, 3, [5.0, 1.9], 0.05)._target(batch, 0)
    expected = [[5.0, 7.0, 15.0, 17.0], [17.0, 17.0, 23.0, 23.0]]  # at height 4 of 5 the disk has radius 3
    torch.testing.assert_close(target["boxes"], torch.tensor(expected))
    assert target["labels"].tolist() == [0, 0]  # the last one's edges are shorter than 4 voxels


@pytest.mark.parametrize("loss", ["focal", "bce"])
def test_losses_are_sums_over_cells_per_learnt_cell(loss):
    torch.manual_seed(0)
    method = SliceDetection(replace(SMALL, loss=loss), 3, [5.0, 5.0], 0.05)
    detector = method.build()
    batch = batch_of([[1.5, 14.0, 14.0]], [1])
    found = method.losses(detector, batch)

    # By hand: 64 cells of two classes, nine of which have class 1.
    logits = detector.network(batch.volume[:, 0])["classification"][0][0]
    truth = torch.zeros(2, 8, 8)
    truth[1, 2:5, 2:5] = 1
    p = torch.sigmoid(logits)
    right = torch.where(truth > 0, p, 1 - p)
    weight = torch.where(truth > 0, 0.25, 0.75) * (1 - right) ** 2 if loss == "focal" else 1.0
    torch.testing.assert_close(found["classification"], (weight * -right.log()).sum() / 9, rtol=1e-4, atol=1e-6)
    assert float(found["regression"].detach()) > 0


def test_a_crop_without_particles_is_background_alone():
    method = SliceDetection(SMALL, 3, [5.0], 0.05)
    found = method.losses(method.build(), batch_of([], []))
    assert float(found["regression"]) == 0
    assert float(found["classification"].detach()) > 0


def test_the_average_of_two_networks_is_between_them():
    method = SliceDetection(SMALL, 3, [5.0], 0.05)
    first, second = (method.build().eval().network for _ in range(2))
    images = torch.randn(1, 3, 32, 32)
    mean = AveragedRetinaNet([first, second])(images)
    for name in ("classification", "box_regression"):
        torch.testing.assert_close(mean[name][0], (first(images)[name][0] + second(images)[name][0]) / 2)


def test_stacks_show_every_slice_between_its_neighbours():
    volume = torch.arange(6.0)[:, None, None].expand(6, 2, 2)
    found = {
        first + place: own[:, 0, 0].tolist() for first, images in stacks(volume, 3) for place, own in enumerate(images)
    }
    assert found == {0: [0, 0, 1], 1: [0, 1, 2], 2: [1, 2, 3], 3: [2, 3, 4], 4: [3, 4, 5], 5: [4, 5, 0]}
