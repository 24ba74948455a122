"""Scores on one scale: ranks, and precisions where there is truth."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tomopoint.errors import DataError
from tomopoint.fusion.scales import as_they_are, calibrated, fit_maps, fit_precision, ranked, right_picks
from tomopoint.pipeline import Particle

SPHERE = Particle("sphere", 100.0, 1.0, 0.25, 120.0)


def picks(*rows):
    """Rows of run, x, score."""
    table = pd.DataFrame([(run, "sphere", x, 0.0, 0.0, s) for run, x, s in rows])
    table.columns = ["experiment", "particle_type", "x", "y", "z", "score"]
    return table


def test_the_map_is_the_share_that_is_right_per_block():
    """Wrong below 0.5, right above: 6 wrong ones and a pick that is right by half, then the same reversed."""
    scores = np.array([0.1, 0.2, 0.3, 0.4, 0.45, 0.48, 0.6, 0.7, 0.8, 0.9, 0.92, 0.95])
    right = scores > 0.5
    own = fit_precision(scores, right)
    share = 7 / 14
    assert own.precisions == pytest.approx((share / 7, (6 + share) / 7))
    low = (0.1 + scores[:6].sum()) / 7  # the lowest score counts twice
    high = (0.95 + scores[6:].sum()) / 7
    assert own.scores == pytest.approx((low, high))
    assert own((low + high) / 2) == pytest.approx((share / 7 + (6 + share) / 7) / 2)
    assert own([-5.0, 7.0]) == pytest.approx([share / 7, (6 + share) / 7])
    assert (own.n_picks, own.n_right) == (12, 6)


@given(st.lists(st.tuples(st.integers(-50, 50), st.booleans()), max_size=40))
def test_maps_rise_and_are_never_certain(rows):
    scores, right = np.array([s / 7 for s, _ in rows]), np.array([r for _, r in rows], dtype=bool)
    own = fit_precision(scores, right)
    assert (np.diff(own.scores) > 0).all()
    assert (np.diff(own.precisions) >= 0).all()
    assert 0 < min(own.precisions) <= max(own.precisions) < 1
    # Whatever the scale: another unit, another origin, the same precisions.
    np.testing.assert_allclose(fit_precision(3 * scores - 1, right)(3 * scores - 1), own(scores), atol=1e-9)


def test_of_picks_that_reach_one_centre_only_the_best_is_right():
    truth = np.array([[0.0, 0, 0], [1000.0, 0, 0]])
    points = np.array([[10.0, 0, 0], [20, 0, 0], [51, 0, 0], [1000, 0, 0]])
    assert right_picks(truth, points, np.array([0.3, 0.8, 0.9, 0.1]), 50.0).tolist() == [False, True, False, True]
    assert right_picks(truth[:0], points, np.ones(4), 50.0).tolist() == [False] * 4


def test_only_the_given_runs_are_learnt_from():
    table = picks(("A", 0, 0.9), ("A", 500, 0.2), ("B", 0, 0.9), ("B", 500, 0.2))
    truth = {"A": {"sphere": np.zeros((1, 3))}, "B": {"sphere": np.array([[500.0, 0, 0]])}}
    first = fit_maps(table, truth, [SPHERE], ["A"])["sphere"]
    second = fit_maps(table, truth, [SPHERE], ["B"])["sphere"]
    assert first(0.9) > 0.7 > 0.3 > first(0.2)
    assert second(0.9) == pytest.approx(second(0.2)) == pytest.approx(0.5)
    assert (first.n_picks, first.n_right) == (2, 1)


def test_calibrated_scores_weigh_right_picks_17_times():
    table = picks(("A", 0, 3.0), ("A", 500, -2.0))
    truth = {"A": {"sphere": np.zeros((1, 3))}}
    maps = fit_maps(table, truth, [SPHERE], ["A"])
    (own,) = calibrated([table], [maps])
    p = maps["sphere"](table["score"])
    assert p == pytest.approx([1.5 / 2, 0.5 / 2])
    assert own["score"].tolist() == pytest.approx([17 * 0.75 / 13, 17 * 0.25 / 5])


def test_a_class_without_a_true_centre_is_ranked():
    table, other = picks(("A", 0, 3.0), ("A", 500, -2.0)), picks(("A", 0, 0.5))
    truth = {"A": {"sphere": np.zeros((0, 3))}}
    maps = [fit_maps(t, truth, [SPHERE], ["A"]) for t in (table, other)]
    assert maps == [{}, {}]
    for got, expected in zip(calibrated([table, other], maps), ranked([table, other]), strict=True):
        pd.testing.assert_frame_equal(got, expected)


def test_ranks_make_equal_places_equal():
    """The best of a short list is worth the best of a long one, however many runs either has."""
    long = picks(("A", 0, 9.0), ("A", 300, 8.0), ("A", 600, 7.0), ("A", 900, 7.0))
    short = picks(("A", 0, 0.3))
    twice = picks(("A", 0, 0.9), ("A", 300, 0.8), ("B", 0, 0.7), ("B", 300, 0.6))
    of_short, of_long, of_twice = (t["score"].tolist() for t in ranked([short, long, twice]))
    assert of_long == pytest.approx([1 - 0.5 / 4, 1 - 1.5 / 4, 1 - 3 / 4, 1 - 3 / 4])
    assert of_short == pytest.approx([1 - 0.5 / 4])
    assert of_twice == pytest.approx([1 - 0.25 / 4, 1 - 0.75 / 4, 1 - 1.25 / 4, 1 - 1.75 / 4])


@pytest.mark.parametrize("scores", [(-0.1, 0.5), (0.5, 1.2)])
def test_scores_beyond_0_and_1_are_not_averaged_as_they_are(scores):
    table = picks(*(("A", 300 * i, s) for i, s in enumerate(scores)))
    with pytest.raises(
        DataError, match=r"the scores of theirs\.csv go from .* give --truth to calibrate them, or --sc"
    ):
        as_they_are(table, "theirs.csv")
