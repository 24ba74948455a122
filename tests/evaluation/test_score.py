"""The official metric: hand-computed edge cases, and agreement with a re-derivation by plain loops."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tomopoint.errors import DataError
from tomopoint.evaluation.score import f_beta_of, score_picks, truth_table
from tomopoint.pipeline import COMPETITION_PARTICLES

RADII_A = {
    "apo-ferritin": 60,
    "beta-amylase": 65,
    "beta-galactosidase": 90,
    "ribosome": 150,
    "thyroglobulin": 130,
    "virus-like-particle": 135,
}
WEIGHTS = {
    "apo-ferritin": 1,
    "beta-amylase": 0,
    "beta-galactosidase": 2,
    "ribosome": 1,
    "thyroglobulin": 2,
    "virus-like-particle": 1,
}
ROUNDING = 1e-12  # both sides compute in float64 and differ in the order of a few operations only


def table(*rows):
    return pd.DataFrame(rows, columns=["experiment", "particle_type", "x", "y", "z"])


def score_by_loops(truth, submission):
    """The metric as its description reads, point by point."""
    runs = {row[0] for row in truth}
    kept = [row for row in submission if row[0] in runs]
    total = 0.0
    for kind in {row[1] for row in truth}:
        tp = fp = fn = 0
        for run in runs:
            references = [row[2:] for row in truth if row[:2] == (run, kind)]
            candidates = [row[2:] for row in kept if row[:2] == (run, kind)]
            found = sum(any(math.dist(r, c) <= 0.5 * RADII_A[kind] for c in candidates) for r in references)
            tp, fp, fn = tp + found, fp + len(candidates) - found, fn + len(references) - found
        precision = tp / (tp + fp) if tp + fp else 0.0
        recall = tp / (tp + fn) if tp + fn else 0.0
        if precision + recall > 0:
            total += WEIGHTS[kind] * 17 * precision * recall / (16 * precision + recall)
    return total / 7


# A coarse lattice makes ties, shared references and distances of exactly the radius frequent.
ROWS = st.tuples(
    st.sampled_from(["TS_1", "TS_2", "TS_3"]),
    st.sampled_from(sorted(RADII_A)),
    st.integers(0, 8).map(lambda i: 15.0 * i),
    st.integers(0, 8).map(lambda i: 15.0 * i),
    st.sampled_from([0.0, 32.5, 67.5]),
)


@given(
    truth=st.lists(ROWS, min_size=1, max_size=40, unique_by=lambda row: (row[0], *row[2:])),
    submission=st.lists(ROWS, max_size=60),
)
@settings(max_examples=150, deadline=None)
def test_equals_the_metric_written_as_loops(truth, submission):
    result = score_picks(table(*truth), table(*submission))
    assert result.score == pytest.approx(score_by_loops(truth, submission), abs=ROUNDING)
    for run in result.runs:
        own = [row for row in truth if row[0] == run]
        assert result.of_runs([run]).score == pytest.approx(score_by_loops(own, submission), abs=ROUNDING)


def test_radii_and_weights_are_the_competition_s():
    assert {p.name: p.radius_A for p in COMPETITION_PARTICLES} == RADII_A
    assert {p.name: p.weight for p in COMPETITION_PARTICLES} == WEIGHTS


def test_perfect_picks_of_all_kinds_score_one():
    truth = table(*(("TS_1", name, 100.0 * i, 0.0, 0.0) for i, name in enumerate(RADII_A)))
    assert score_picks(truth, truth).score == 1.0


def test_denominator_is_seven_even_when_only_one_kind_exists():
    truth = table(("TS_1", "ribosome", 1.0, 2.0, 3.0))
    assert score_picks(truth, truth).score == pytest.approx(1 / 7)


@pytest.mark.parametrize(("distance_A", "tp"), [(75.0, 1), (75.0 + 1e-7, 0)])
def test_distance_of_exactly_half_the_radius_counts(distance_A, tp):
    truth = table(("TS_1", "ribosome", 0.0, 0.0, 0.0))
    result = score_picks(truth, table(("TS_1", "ribosome", 0.0, 0.0, distance_A)))
    assert (result.per_class["ribosome"].tp, result.per_class["ribosome"].fn) == (tp, 1 - tp)


def test_one_pick_between_two_centres_finds_both_and_makes_fp_negative():
    truth = table(("TS_1", "apo-ferritin", 0.0, 0.0, 0.0), ("TS_1", "apo-ferritin", 29.5, 0.0, 0.0))
    item = score_picks(truth, table(("TS_1", "apo-ferritin", 14.0, 0.0, 0.0))).per_class["apo-ferritin"]
    assert (item.tp, item.fp, item.fn) == (2, -1, 0)
    assert (item.precision, item.recall) == (2.0, 1.0)
    assert item.f_beta == pytest.approx(17 * 2 / 33)  # 1.0303
    assert item.localisation_A == pytest.approx((14.0 + 15.5) / 2)


def test_second_pick_on_a_found_centre_is_a_false_positive():
    truth = table(("TS_1", "thyroglobulin", 0.0, 0.0, 0.0))
    twice = table(("TS_1", "thyroglobulin", 0.0, 0.0, 0.0), ("TS_1", "thyroglobulin", 10.0, 0.0, 0.0))
    item = score_picks(truth, twice).per_class["thyroglobulin"]
    assert (item.tp, item.fp, item.fn) == (1, 1, 0)
    assert item.f_beta == pytest.approx(17 * 0.5 / 9)


def test_equal_rows_in_the_submission_are_legal_and_count_as_false_positives():
    truth = table(("TS_1", "ribosome", 0.0, 0.0, 0.0))
    item = score_picks(truth, pd.concat([truth] * 3)).per_class["ribosome"]
    assert (item.tp, item.fp, item.fn) == (1, 2, 0)


def test_counts_are_summed_over_runs_before_f_beta():
    truth = table(*(("TS_1", "ribosome", 200.0 * i, 0.0, 0.0) for i in range(3)), ("TS_2", "ribosome", 0.0, 0.0, 0.0))
    result = score_picks(truth, truth.iloc[:3])
    assert result.per_class["ribosome"].recall == 0.75
    assert result.score == pytest.approx(17 * 0.75 / 16.75 / 7)  # the mean over runs would give 1 / 14
    assert result.of_runs(["TS_1"]).score == pytest.approx(1 / 7)
    assert result.of_runs(["TS_2"]).score == 0.0


def test_picks_of_a_kind_without_centres_in_the_run_are_false_positives():
    truth = table(("TS_1", "ribosome", 0.0, 0.0, 0.0), ("TS_2", "virus-like-particle", 0.0, 0.0, 0.0))
    result = score_picks(truth, pd.concat([truth, table(("TS_2", "ribosome", 0.0, 0.0, 0.0))]))
    assert (result.per_class["ribosome"].tp, result.per_class["ribosome"].fp) == (1, 1)


def test_kind_absent_from_the_whole_truth_is_ignored():
    truth = table(("TS_1", "ribosome", 0.0, 0.0, 0.0))
    extra = table(*(("TS_1", "apo-ferritin", 10.0 * i, 0.0, 0.0) for i in range(50)))
    result = score_picks(truth, pd.concat([truth, extra]))
    assert result.score == pytest.approx(1 / 7)
    assert result.per_class["apo-ferritin"].fp == 0


def test_beta_amylase_is_free():
    truth = table(("TS_1", "ribosome", 0.0, 0.0, 0.0), ("TS_1", "beta-amylase", 500.0, 0.0, 0.0))
    extra = table(*(("TS_1", "beta-amylase", 10.0 * i, 0.0, 0.0) for i in range(50)))
    assert score_picks(truth, pd.concat([truth.iloc[:1], extra])).score == pytest.approx(1 / 7)


def test_runs_that_the_truth_does_not_hold_are_dropped_with_their_unknown_particles():
    truth = table(("TS_1", "ribosome", 0.0, 0.0, 0.0))
    other = table(("TS_9", "ribosome", 0.0, 0.0, 0.0), ("TS_9", "membrane", math.nan, 0.0, 0.0))
    assert score_picks(truth, pd.concat([truth, other])).score == pytest.approx(1 / 7)


def test_unknown_particle_in_a_scored_run_is_refused():
    truth = table(("TS_1", "ribosome", 0.0, 0.0, 0.0))
    with pytest.raises(DataError, match="unrecognised particle types: membrane"):
        score_picks(truth, table(("TS_1", "membrane", 0.0, 0.0, 0.0)))


def test_point_given_twice_in_the_truth_is_refused_also_across_kinds():
    truth = table(("TS_1", "ribosome", 1.0, 2.0, 3.0), ("TS_1", "apo-ferritin", 1.0, 2.0, 3.0))
    with pytest.raises(DataError, match="twice"):
        score_picks(truth, truth)
    apart = table(("TS_1", "ribosome", 1.0, 2.0, 3.0), ("TS_2", "ribosome", 1.0, 2.0, 3.0))
    assert score_picks(apart, apart).score == pytest.approx(1 / 7)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_coordinate_that_is_not_finite_is_refused(value):
    truth = table(("TS_1", "ribosome", 0.0, 0.0, 0.0))
    with pytest.raises(DataError, match="ribosome in TS_1"):
        score_picks(truth, table(("TS_1", "ribosome", 0.0, value, 0.0)))


def test_empty_submission_scores_zero_and_empty_truth_is_refused():
    truth = table(("TS_1", "ribosome", 0.0, 0.0, 0.0))
    result = score_picks(truth, table())
    assert (result.score, result.per_class["ribosome"].fn) == (0.0, 1)
    assert result.per_class["ribosome"].localisation_A is None
    with pytest.raises(DataError, match="nothing to score"):
        score_picks(table(), truth)


def test_mapping_and_table_are_the_same_truth():
    mapping = {"TS_1": {"ribosome": np.array([[1.0, 2.0, 3.0]]), "apo-ferritin": np.zeros((0, 3))}}
    assert truth_table(mapping).to_dict("list") == {
        "experiment": ["TS_1"],
        "particle_type": ["ribosome"],
        "x": [1.0],
        "y": [2.0],
        "z": [3.0],
    }
    assert score_picks(mapping, truth_table(mapping)).score == pytest.approx(1 / 7)


def test_extra_columns_and_row_order_do_not_matter():
    rng = np.random.default_rng(0)
    rows = [("TS_1", "ribosome", *rng.uniform(0, 900, 3)) for _ in range(30)]
    truth = table(*rows)
    noisy = truth.assign(score=rng.uniform(size=30), x=truth["x"] + rng.normal(0, 50, 30))
    shuffled = noisy.sample(frac=1.0, random_state=1)
    assert score_picks(truth, noisy).per_class == score_picks(truth, shuffled).per_class


@pytest.mark.parametrize(("precision", "f4"), [(0.9, 0.900), (0.5, 0.860), (0.3, 0.805), (0.2, 0.746)])
def test_f_beta_at_recall_nine_tenths(precision, f4):
    tp = 900
    assert f_beta_of(tp, tp / precision - tp, 100) == pytest.approx(f4, abs=5e-4)  # published to three decimals
