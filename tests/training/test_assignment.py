"""Task-aligned assignment in cases made by hand: padding, conflicts, reach, top-k, crops without particles."""

import math

import pytest
import torch

from tomopoint.errors import TomopointError
from tomopoint.training.losses.assignment import LevelMaps
from tomopoint.training.losses.assignment import assign as assign_levels
from tomopoint.training.losses.cell_boxes import PointList, cell_boxes
from tomopoint.training.losses.points import PADDING_LABEL, PointBatch, collate
from tomopoint.training.options.losses import AssignmentOptions

STRIDE = 2


def listed(centres, labels, radii, scale=1.0) -> PointList:
    batch = collate([(torch.tensor(centres, dtype=torch.float32).view(-1, 3), torch.tensor(labels), scale)])
    return PointList.of(batch, torch.tensor(radii, dtype=torch.float64))


def flat_maps(map_zyx=(6, 6, 6), n_classes=2, batch=1):
    """Every score one half, every offset zero: similarity then depends on the anchor alone."""
    logits = torch.zeros(batch, n_classes, *map_zyx, dtype=torch.float64)
    return logits, torch.zeros(batch, 3, *map_zyx, dtype=torch.float64)


def assign(logits, offsets, points, stride, options):
    """Assign the cells of one level."""
    (assigned,) = assign_levels([LevelMaps(logits, offsets, stride)], points, options)
    return assigned


def cell_of(z, y, x, map_zyx=(6, 6, 6)):
    return (z * map_zyx[1] + y) * map_zyx[2] + x


def test_the_best_cell_is_asked_for_its_similarity():
    points = listed([[5.3, 5.0, 4.8]], [1], [3.0, 4.0])
    got = assign(*flat_maps(), points, STRIDE, AssignmentOptions())
    assert len(got.target) == 13
    assert set(got.label.tolist()) == {1}
    best = int(got.target.argmax())
    assert int(got.cell[best]) == cell_of(2, 2, 2)
    distance2 = 0.3**2 + 0.2**2
    assert float(got.target[best]) == pytest.approx(math.exp(-distance2 / (2 * 4.0**2)), rel=1e-7)


def test_alignment_prefers_the_confident_cell_and_the_close_prediction():
    logits, offsets = flat_maps()
    points = listed([[5.0, 5.0, 5.0]], [0], [4.0, 4.0])
    logits[0, 0, 2, 2, 3] = 3.0  # a neighbour that is sure of class 0 ...
    logits[0, 1, 1, 2, 2] = 9.0  # ... and one that is surer, of another class
    offsets[0, 2, 2, 2, 3] = -2.0  # the first predicts the particle's very centre
    got = assign(logits, offsets, points, STRIDE, AssignmentOptions(topk=1))
    assert got.cell.tolist() == [cell_of(2, 2, 3)]
    assert float(got.target) == pytest.approx(1.0, rel=1e-7)


def test_offset_channels_are_z_y_x():
    logits, offsets = flat_maps()
    points = listed([[7.0, 5.0, 5.0]], [0], [4.0, 4.0])
    offsets[0, 0, 2, 2, 2] = 2.0
    offsets[0, 0, 3, 2, 2] = 1.0  # the nearest anchor now predicts a voxel off
    got = assign(logits, offsets, points, STRIDE, AssignmentOptions(topk=1))
    assert got.cell.tolist() == [cell_of(2, 2, 2)]


def test_padded_rows_never_win_wherever_they_lie():
    centres = torch.tensor([[[5.0, 5.0, 5.0], [1.0, 1.0, 1.0], [5.0, 5.0, 5.0]]])
    for fill in (0.0, -100.0, float("nan")):
        padded = centres.clone()
        padded[0, 1:] = torch.nan_to_num(padded[0, 1:]) if fill == 0.0 else fill
        batch = PointBatch(padded, torch.tensor([[1, PADDING_LABEL, PADDING_LABEL]]), torch.ones(1))
        points = PointList.of(batch, torch.tensor([3.0, 4.0], dtype=torch.float64))
        got = assign(*flat_maps(), points, STRIDE, AssignmentOptions())
        alone = assign(*flat_maps(), listed([[5.0, 5.0, 5.0]], [1], [3.0, 4.0]), STRIDE, AssignmentOptions())
        assert got.cell.tolist() == alone.cell.tolist()
        assert torch.equal(got.target, alone.target)
        assert set(got.label.tolist()) == {1}


def test_a_cell_claimed_twice_goes_to_the_higher_similarity():
    logits, offsets = flat_maps()
    points = listed([[5.0, 5.0, 5.4], [5.0, 5.0, 5.9]], [0, 1], [4.0, 4.0])
    got = assign(logits, offsets, points, STRIDE, AssignmentOptions(topk=1))
    assert got.cell.tolist() == [cell_of(2, 2, 2)]
    assert got.label.tolist() == [0]
    # One anchor, one particle; with more claims both particles keep cells, and no cell is kept twice.
    many = assign(logits, offsets, points, STRIDE, AssignmentOptions(topk=13))
    assert len(set(many.cell.tolist())) == len(many.cell)
    assert set(many.label.tolist()) == {0, 1}


def test_a_larger_particle_wins_a_contested_cell_by_similarity_not_by_distance():
    points = listed([[5.0, 5.0, 6.0], [5.0, 5.0, 7.6]], [0, 1], [1.0, 9.0])
    got = assign(*flat_maps(), points, STRIDE, AssignmentOptions(topk=13))
    contested = got.label[got.cell == cell_of(2, 2, 2)]
    assert contested.tolist() == [1]  # exp(-1/2) against exp(-2.6^2 / 162)


def test_two_particles_at_one_place_share_no_cell():
    points = listed([[5.0, 5.0, 5.0], [5.0, 5.0, 5.0]], [0, 0], [4.0, 4.0])
    got = assign(*flat_maps(), points, STRIDE, AssignmentOptions())
    assert len(got.cell) == 13
    assert set(got.point.tolist()) == {0}


def test_only_cells_within_reach_are_candidates():
    radius = 1.5
    points = listed([[6.0, 6.0, 6.0]], [0], [radius])
    options = AssignmentOptions(topk=1000)
    assert options.reach_sigmas == pytest.approx(2.448, abs=5e-4)
    got = assign(*flat_maps(n_classes=1), points, STRIDE, options)
    anchors = [2 * i + 1 for i in range(6)]
    within = [
        cell_of(z // 2, y // 2, x // 2)
        for z in anchors
        for y in anchors
        for x in anchors
        if math.exp(-((z - 6) ** 2 + (y - 6) ** 2 + (x - 6) ** 2) / (2 * radius**2)) > 0.05
    ]
    assert 0 < len(within) < 6**3
    assert sorted(got.cell.tolist()) == sorted(within)


def test_the_scale_of_an_augmented_crop_enlarges_the_radius():
    options = AssignmentOptions(topk=1000)
    plain = assign(*flat_maps(), listed([[6.0, 6.0, 6.0]], [0], [1.5, 1.5]), STRIDE, options)
    scaled = assign(*flat_maps(), listed([[6.0, 6.0, 6.0]], [0], [1.0, 1.0], scale=1.5), STRIDE, options)
    assert sorted(plain.cell.tolist()) == sorted(scaled.cell.tolist())


def test_a_batch_without_particles_assigns_nothing():
    got = assign(*flat_maps(), listed([], [], [3.0, 4.0]), STRIDE, AssignmentOptions())
    assert len(got.cell) == len(got.target) == 0


@pytest.mark.parametrize("reach_vox", [0.9, 1.0, 3.0, 6.7, 40.0])
def test_neighbourhoods_hold_every_cell_within_reach(reach_vox):
    map_zyx = (4, 9, 6)
    generator = torch.Generator().manual_seed(0)
    centres = torch.rand(20, 3, generator=generator) * torch.tensor([10.0, 20.0, 14.0]) - 1  # some outside
    points = listed(centres.tolist(), [0] * 20, [1.0])
    axes = [(torch.arange(n) + 0.5) * STRIDE for n in map_zyx]
    anchors = torch.cartesian_prod(*axes).double()
    for near in cell_boxes(points, torch.full((20,), reach_vox), map_zyx, STRIDE):
        for row, point in enumerate(near.point.tolist()):
            squared = ((anchors - points.centre_zyx[point]) ** 2).sum(1)
            within = set(torch.nonzero(squared < reach_vox**2).flatten().tolist())
            assert within <= set(near.cell[row].tolist())
            torch.testing.assert_close(near.squared_distance()[row], squared[near.cell[row]])


def test_the_result_does_not_depend_on_how_many_cells_are_handled_at_once(monkeypatch):
    torch.manual_seed(0)
    logits, offsets = torch.randn(1, 2, 6, 6, 6), torch.randn(1, 3, 6, 6, 6)
    points = listed((torch.rand(9, 3) * 12).tolist(), [0, 1, 0, 1, 1, 1, 0, 1, 0], [3.0, 4.0])
    whole = assign(logits, offsets, points, STRIDE, AssignmentOptions())
    monkeypatch.setattr("tomopoint.training.losses.cell_boxes.MAX_CELLS", 1)
    parts = assign(logits, offsets, points, STRIDE, AssignmentOptions())
    assert torch.equal(whole.cell, parts.cell)
    torch.testing.assert_close(whole.target, parts.target)


def test_collate_pads_and_keeps_empty_crops():
    batch = collate([(torch.ones(2, 3), torch.tensor([3, 1]), 1.1), (torch.zeros(0, 3), torch.zeros(0), 0.9)])
    assert batch.centres_zyx.shape == (2, 2, 3)
    assert batch.labels.tolist() == [[3, 1], [-1, -1]]
    assert batch.scale.tolist() == pytest.approx([1.1, 0.9])
    assert batch.to("cpu").labels.dtype == torch.int64


@pytest.mark.parametrize("options", [{"topk": 0}, {"min_anchor_similarity": 0.0}, {"alpha": -1.0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(TomopointError):
        AssignmentOptions(**options)


def test_cells_of_two_strides_are_claimed_together():
    """By hand: alignment is u^6 / 2 with equal scores, so the nearest anchors win, of whichever stride."""
    fine, coarse = flat_maps((6, 6, 6)), flat_maps((3, 3, 3))
    # The anchor of coarse cell (1, 1, 1) at (6, 6, 6); the fine ones around lie at 5 and 7.
    points = listed([[6.0, 6.0, 6.0]], [1], [3.0, 4.0])
    levels = [LevelMaps(*fine, 2), LevelMaps(*coarse, 4)]
    of_fine, of_coarse = assign_levels(levels, points, AssignmentOptions(topk=9))
    assert of_coarse.cell.tolist() == [cell_of(1, 1, 1, (3, 3, 3))]
    assert of_coarse.target.tolist() == pytest.approx([1.0])  # its best cell is asked for its similarity, which is one
    assert sorted(of_fine.cell.tolist()) == [cell_of(z, y, x) for z in (2, 3) for y in (2, 3) for x in (2, 3)]
    u = math.exp(-3 / (2 * 4.0**2))
    assert of_fine.target.tolist() == pytest.approx([u**6] * 8)
    # topk counts over both: of one claim only the coarse cell is left.
    of_fine, of_coarse = assign_levels(levels, points, AssignmentOptions(topk=1))
    assert (len(of_fine.cell), len(of_coarse.cell)) == (0, 1)


def test_levels_without_particles_are_assigned_nothing():
    levels = [LevelMaps(*flat_maps((6, 6, 6)), 2), LevelMaps(*flat_maps((3, 3, 3)), 4)]
    for assigned in assign_levels(levels, listed([], [], [3.0, 4.0]), AssignmentOptions()):
        assert len(assigned.cell) == len(assigned.target) == 0


def test_a_level_alone_is_assigned_as_before_and_a_useless_one_changes_nothing():
    torch.manual_seed(3)
    logits, offsets = torch.randn(2, 2, 8, 8, 8, dtype=torch.float64), torch.randn(2, 3, 8, 8, 8, dtype=torch.float64)
    centres = [[4.2, 5.1, 6.3], [9.0, 9.5, 3.0], [8.0, 3.0, 12.0]]
    batch = collate([(torch.tensor(centres), torch.tensor([0, 1, 1]), 1.0)] * 2)
    points = PointList.of(batch, torch.tensor([3.0, 4.0], dtype=torch.float64))
    alone = assign(logits, offsets, points, 2, AssignmentOptions())
    never = torch.full((2, 2, 4, 4, 4), -200.0, dtype=torch.float64)  # a score of nought aligns with nothing
    both = assign_levels(
        [LevelMaps(logits, offsets, 2), LevelMaps(never, torch.zeros(2, 3, 4, 4, 4, dtype=torch.float64), 4)],
        points,
        AssignmentOptions(),
    )
    for name in ("entry", "cell", "label", "point"):
        assert torch.equal(getattr(both[0], name), getattr(alone, name))
    assert torch.allclose(both[0].target, alone.target)
