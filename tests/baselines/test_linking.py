"""Boxes of slices, linked into points."""

import math

import numpy as np
import pytest

from tomopoint.baselines.linking import SliceBoxes, link_boxes, overlap_of
from tomopoint.baselines.recipe import LinkOptions


def boxes_of(rows):
    """Rows of slice, centre y, centre x, half-width, label, score."""
    z, y, x, half, labels, scores = np.array(rows, dtype=np.float64).reshape(-1, 6).T
    corners = np.column_stack([y - half, x - half, y + half, x + half])
    return SliceBoxes(z.astype(np.int64), corners, labels.astype(np.int64), scores)


def sphere(centre_zyx, radius, label=0, score=0.9):
    z0, y, x = centre_zyx
    slices = [z for z in range(200) if abs(z + 0.5 - z0) < radius]
    return [(z, y, x, math.sqrt(radius**2 - (z + 0.5 - z0) ** 2), label, score) for z in slices]


def test_spheres_come_back_at_their_centres_with_scores_that_saturate():
    rows = sphere((20.0, 30.0, 40.0), 6.0) + sphere((21.0, 30.0, 62.0), 6.0) + sphere((20.0, 31.0, 41.0), 9.0, label=1)
    shuffled = np.random.default_rng(0).permutation(len(rows))
    found = link_boxes(boxes_of([rows[index] for index in shuffled]), LinkOptions(), [12.0, 18.0])
    order = np.lexsort((found.points_zyx_vox[:, 2], found.labels))
    expected = [[20.0, 30.0, 40.0], [21.0, 30.0, 62.0], [20.0, 31.0, 41.0]]
    np.testing.assert_allclose(found.points_zyx_vox[order], expected, atol=1e-9)
    assert found.labels[order].tolist() == [0, 0, 1]
    assert found.scores[order] == pytest.approx([0.9 * (1 - math.exp(-12 / 3))] * 2 + [0.9 * (1 - math.exp(-18 / 4.5))])


def test_the_centre_is_weighted_by_score_and_the_score_trimmed():
    rows = [
        (10, 5.0, 5.0, 4.0, 0, 0.1),
        (11, 5.0, 6.0, 4.0, 0, 0.4),
        (12, 5.0, 5.0, 4.0, 0, 0.4),
        (13, 5, 5, 4, 0, 0.8),
    ]
    found = link_boxes(boxes_of(rows), LinkOptions(saturation=1.0), [4.0])
    assert found.points_zyx_vox[0, 2] == pytest.approx((0.1 * 5 + 0.4 * 6 + 0.4 * 5 + 0.8 * 5) / 1.7)
    assert found.points_zyx_vox[0, 0] == pytest.approx((0.1 * 10.5 + 0.4 * 11.5 + 0.4 * 12.5 + 0.8 * 13.5) / 1.7)
    assert found.scores == pytest.approx([0.4 * (1 - math.exp(-1))])


@pytest.mark.parametrize(("gap", "n_points"), [(0, 2), (1, 1)])
def test_a_missing_slice_is_bridged_where_a_gap_is_allowed(gap, n_points):
    rows = [row for row in sphere((20.0, 30.0, 30.0), 6.0) if row[0] != 20]
    assert len(link_boxes(boxes_of(rows), LinkOptions(gap=gap), [12.0]).labels) == n_points


def test_particles_above_each_other_are_cut_apart_and_neighbours_do_not_share_a_box():
    rows = [(z, 30.0, 30.0, 6.0, 0, 0.5) for z in range(24)]
    found = link_boxes(boxes_of(rows), LinkOptions(longest=1.0), [12.0])
    assert sorted(found.points_zyx_vox[:, 0]) == [6.0, 18.0]
    # Each of two overlapping chains goes on with the box that makes both overlaps large together.
    rows = [(z, 30.0, 30.0 + 4 * side, 6.0, 0, 0.5) for z in range(6) for side in (0, 1)]
    found = link_boxes(boxes_of(rows), LinkOptions(), [12.0])
    assert sorted(found.points_zyx_vox[:, 2]) == [30.0, 34.0]


def test_no_box_is_no_point():
    assert len(link_boxes(boxes_of([]), LinkOptions(), [12.0, 4.0]).labels) == 0


def test_overlap_is_the_intersection_over_the_union():
    first, second = np.array([[0.0, 0, 4, 4]]), np.array([[2.0, 0, 6, 4], [4.0, 4, 5, 5], [0.0, 0, 4, 4]])
    np.testing.assert_allclose(overlap_of(first, second), [[8 / 24, 0, 1]])
