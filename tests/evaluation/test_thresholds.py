"""Threshold curves equal the official score at every threshold; the choice is the centre of the plateau."""

import numpy as np
import pandas as pd
import pytest

from tomopoint.data.tables import passing
from tomopoint.evaluation.residual import estimate_residual, shifted
from tomopoint.evaluation.score import score_picks, truth_table
from tomopoint.evaluation.thresholds import (
    Curve,
    choose,
    choose_thresholds,
    count_thresholds,
    sweep,
    threshold_grid,
)
from tomopoint.pipeline import COMPETITION_PARTICLES, Particle

NAMES = [particle.name for particle in COMPETITION_PARTICLES]
SIZE_XYZ_A = (2000.0, 2000.0, 1000.0)
ROUNDING = 1e-12  # the same counts through the same formula


def random_case(seed, jitter_A=20.0):
    """Two runs, crowded enough that picks reach several centres and centres several picks."""
    rng = np.random.default_rng(seed)
    truth = {
        run: {name: rng.uniform(0, SIZE_XYZ_A, (rng.integers(0, 40), 3)) for name in NAMES} for run in ("TS_1", "TS_2")
    }
    true = truth_table(truth)
    near = true.sample(frac=1.2, replace=True, random_state=seed)
    near[["x", "y", "z"]] += rng.normal(0, jitter_A, (len(near), 3))
    far = true.sample(frac=1.0, random_state=seed)
    far[["x", "y", "z"]] = rng.uniform(0, SIZE_XYZ_A, (len(far), 3))
    near["score"], far["score"] = rng.beta(4, 2, len(near)), rng.beta(2, 4, len(far))
    picks = pd.concat([near, far], ignore_index=True)
    return truth, picks.loc[picks["score"] >= 0.05].reset_index(drop=True)


@pytest.mark.parametrize("seed", range(3))
def test_curve_equals_the_official_score_at_every_threshold(seed):
    truth, picks = random_case(seed)
    grid = threshold_grid(0.05)[::15]
    curves = sweep(truth, picks, COMPETITION_PARTICLES, grid)
    for index, threshold in enumerate(grid):
        official = score_picks(truth, passing(picks, dict.fromkeys(NAMES, threshold)))
        for name in NAMES:
            assert curves[name].f_beta[index] == pytest.approx(official.per_class[name].f_beta, abs=ROUNDING)
            assert curves[name].precision[index] == pytest.approx(official.per_class[name].precision, abs=ROUNDING)
            assert curves[name].recall[index] == pytest.approx(official.per_class[name].recall, abs=ROUNDING)


def test_a_score_equal_to_the_threshold_passes():
    truth = {"TS_1": {"ribosome": np.zeros((1, 3))}}
    picks = pd.DataFrame(
        [("TS_1", "ribosome", 0.0, 0.0, 0.0, 0.25)], columns=["experiment", "particle_type", *"xyz", "score"]
    )
    curve = sweep(truth, picks, COMPETITION_PARTICLES, np.array([0.2, 0.25, 0.3]))["ribosome"]
    assert curve.tp.tolist() == [1, 1, 0]
    assert len(passing(picks, {"ribosome": 0.25})) == 1


def test_picks_of_other_runs_do_not_enter_the_curve():
    truth, picks = random_case(0)
    grid = threshold_grid(0.05)
    alone = sweep({"TS_1": truth["TS_1"]}, picks, COMPETITION_PARTICLES, grid)
    own = sweep({"TS_1": truth["TS_1"]}, picks.loc[picks["experiment"] == "TS_1"], COMPETITION_PARTICLES, grid)
    assert all((alone[name].n_picks == own[name].n_picks).all() for name in NAMES)


def curve_of_recall(recall):
    """A curve without false positives, whose recall is given in percent at thresholds 0.1, 0.2, ..."""
    tp = np.asarray(recall, dtype=np.int64)
    grid = np.round(0.1 * np.arange(1, len(tp) + 1), 6)
    return Curve("ribosome", grid, tp, np.maximum(tp, 1), 100)


def test_the_centre_of_the_plateau_is_chosen_not_a_lone_peak():
    noisy = choose(curve_of_recall([60, 99, 60, 99, 99, 99, 99, 99, 40]), fallback=0.5)
    assert noisy.threshold == 0.6  # 0.4 to 0.8 is the widest stretch
    assert (noisy.flat_low, noisy.flat_high) == (0.4, 0.8)
    assert noisy.f_beta == noisy.best_f_beta
    peaked = choose(curve_of_recall([50, 60, 90, 60, 50, 40, 30, 20, 10]), fallback=0.5)
    assert (peaked.threshold, peaked.flat_low, peaked.flat_high) == (0.3, 0.3, 0.3)


def test_choice_loses_at_most_the_plateau_and_flatness_one_percent():
    truth, picks = random_case(4)
    curves = sweep(truth, picks, COMPETITION_PARTICLES, threshold_grid(0.05))
    for name, choice in choose_thresholds(curves, COMPETITION_PARTICLES).items():
        assert choice.f_beta >= (1 - max(0.02, 1 / curves[name].n_truth)) * choice.best_f_beta
        grid = curves[name].thresholds
        inside = (grid >= choice.flat_low) & (grid <= choice.flat_high)
        assert curves[name].f_beta[inside].min() >= 0.99 * choice.f_beta


def test_a_loss_of_scores_lowers_thresholds_and_is_what_scoring_such_picks_gives():
    truth, picks = random_case(4)
    grid = threshold_grid(0.05)
    curve = sweep(truth, picks, COMPETITION_PARTICLES, grid)["ribosome"]
    # The same picks with scores that are lower by 0 to 40 %, each table scored alone.
    losses = np.linspace(0, 0.4, 21)
    lower = [picks.assign(score=picks["score"] * (1 - loss)) for loss in losses]
    scored = [sweep(truth, table, COMPETITION_PARTICLES, grid)["ribosome"].f_beta for table in lower]
    expected, inner = np.mean(scored, axis=0), grid < 0.95 * 0.6
    choice = choose(curve, 0.5, score_loss=0.4)
    at = np.searchsorted(grid, choice.threshold - 1e-9)
    # Off by the curve's steps between two thresholds of the grid, at each of 21 losses.
    assert expected[at] >= expected[inner].max() - 0.03 - max(0.02, 1 / curve.n_truth)
    assert choice.f_beta == curve.f_beta[at]
    assert choice.threshold < choose(curve, 0.5).threshold

    steep = curve_of_recall([90, 90, 90, 90, 90, 90, 90, 90, 0])
    assert choose(steep, 0.5).threshold == 0.4  # the middle of 0.1 to 0.8
    assert choose(steep, 0.5, score_loss=0.5).threshold == 0.2  # of 0.1 to 0.4, which pass when halved


def test_a_class_without_particles_keeps_its_threshold():
    silent = Curve("beta-amylase", np.array([0.1, 0.2]), np.zeros(2, np.int64), np.array([5, 3]), 0)
    assert choose(silent, fallback=0.5).threshold == 0.5
    assert not choose(silent, fallback=0.5).from_curve
    particle = Particle("beta-amylase", 65.0, 0.0, 0.5, 150.0)
    assert count_thresholds({"beta-amylase": silent}, [particle], 2.0)["beta-amylase"].threshold == 0.5


def test_count_thresholds_keep_the_expected_number_of_picks():
    truth, picks = random_case(5)
    curves = sweep(truth, picks, COMPETITION_PARTICLES, threshold_grid(0.05))
    chosen = count_thresholds(curves, COMPETITION_PARTICLES, 1.5)
    kept = passing(picks, {name: choice.threshold for name, choice in chosen.items()})["particle_type"].value_counts()
    for name in NAMES:
        allowed = 1.5 * curves[name].n_truth
        looser = picks.loc[(picks["particle_type"] == name) & (picks["score"] >= chosen[name].threshold - 0.005)]
        assert kept[name] <= allowed < len(looser)


def test_residual_is_recovered_and_only_significant_axes_are_corrected():
    rng = np.random.default_rng(7)
    truth = {"TS_1": {"ribosome": rng.uniform(0, 20000.0, (400, 3))}}
    picks = truth_table(truth)
    noise = rng.normal(0, 6.0, (400, 3))
    picks[["x", "y", "z"]] += noise - noise.mean(axis=0) + [4.0, 0.0, -0.3]
    residual = estimate_residual(truth, picks, COMPETITION_PARTICLES)
    assert residual.n == 400
    assert residual.mean_xyz_A == pytest.approx((4.0, 0.0, -0.3), abs=1e-9)
    assert residual.error_xyz_A == pytest.approx((0.3, 0.3, 0.3), rel=0.15)  # 6 / sqrt(400), of a sample of 400
    assert residual.correction_xyz_A == (residual.mean_xyz_A[0], 0.0, 0.0)
    again = estimate_residual(truth, shifted(picks, residual.correction_xyz_A), COMPETITION_PARTICLES)
    assert again.mean_xyz_A[0] == pytest.approx(0.0, abs=1e-9)


def test_without_matches_nothing_is_corrected():
    truth = {"TS_1": {"ribosome": np.zeros((1, 3))}}
    nothing = pd.DataFrame(columns=["experiment", "particle_type", *"xyz"])
    assert estimate_residual(truth, nothing, COMPETITION_PARTICLES).correction_xyz_A == (0.0, 0.0, 0.0)
