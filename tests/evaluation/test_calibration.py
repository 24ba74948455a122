"""Calibration: honest scores come from other groups' thresholds, and the residual is corrected before choosing."""

import json

import numpy as np
import pandas as pd
import pytest

from tomopoint.data.tables import passing
from tomopoint.evaluation.calibration import CalibrationOptions, calibrate
from tomopoint.evaluation.score import score_picks, truth_table
from tomopoint.pipeline import COMPETITION_PARTICLES

GROUPS = {"fold0": ("TS_1", "TS_2"), "fold1": ("TS_3",)}
SIZE_XYZ_A = (4000.0, 4000.0, 1500.0)
SHIFT_XYZ_A = np.array([12.0, 0.0, 0.0])


@pytest.fixture(scope="module")
def case():
    """Picks whose scores run lower in the second group, all of them shifted along x."""
    rng = np.random.default_rng(3)
    names = [particle.name for particle in COMPETITION_PARTICLES]
    truth = {run: {name: rng.uniform(0, SIZE_XYZ_A, (15, 3)) for name in names} for run in ("TS_1", "TS_2", "TS_3")}
    true = truth_table(truth)
    near, far = true.copy(), pd.concat([true, true])
    near[[*"xyz"]] += rng.normal(0, 4.0, (len(near), 3)) + SHIFT_XYZ_A
    far[[*"xyz"]] = rng.uniform(0, SIZE_XYZ_A, (len(far), 3))
    near["score"], far["score"] = rng.uniform(0.4, 0.9, len(near)), rng.uniform(0.06, 0.5, len(far))
    picks = pd.concat([near, far], ignore_index=True)
    lower = (picks["experiment"] == "TS_3").to_numpy()
    picks.loc[lower, "score"] = 0.06 + 0.6 * (picks.loc[lower, "score"] - 0.06)
    return truth, picks, calibrate(truth, picks, GROUPS, COMPETITION_PARTICLES, CalibrationOptions())


def test_the_shift_is_found_and_taken_out_before_scoring(case):
    truth, picks, result = case
    x, y, z = result.residual.correction_xyz_A
    assert x == pytest.approx(12.0, abs=1.0)  # 270 picks of sd 4 A: 0.24 A of standard error
    assert (y, z) == (0.0, 0.0)
    moved = picks.assign(x=picks["x"] - x)
    assert result.score.score == score_picks(truth, passing(moved, result.thresholds)).score


def test_left_out_uses_the_thresholds_of_the_other_group(case):
    truth, picks, result = case
    moved = picks.assign(x=picks["x"] - result.residual.correction_xyz_A[0])
    parts = {name: {run: truth[run] for run in runs} for name, runs in GROUPS.items()}
    options = CalibrationOptions()
    # Calibrating one group alone gives the thresholds that the other group must have been scored with.
    alone = {
        name: calibrate(part, moved, {name: GROUPS[name]}, COMPETITION_PARTICLES, options)
        for name, part in parts.items()
    }
    assert alone["fold0"].left_out is None
    other = {"fold0": "fold1", "fold1": "fold0"}
    for name, runs in GROUPS.items():
        own = moved.loc[moved["experiment"].isin(runs)]
        expected = score_picks(parts[name], passing(own, alone[other[name]].thresholds)).score
        assert result.left_out.of_runs(runs).score == pytest.approx(expected)
    assert result.left_out.score < result.score.score  # scores of the groups differ, so thresholds do not carry over


def test_everything_is_plain_json(case):
    _, _, result = case
    content = json.loads(json.dumps(result.to_dict()))
    assert content["per_group"]["fold0"]["runs"] == ["TS_1", "TS_2"]
    assert len(content["curves"]["ribosome"]["f_beta"]) == len(content["per_group"]["fold1"]["curves"]["ribosome"])
    ribosome = content["per_class"]["ribosome"]
    assert content["picks_per_run"]["ribosome"] * 3 == pytest.approx(ribosome["tp"] + ribosome["fp"])


def test_a_particle_whose_curve_still_rises_at_the_floor_is_named(case):
    truth, picks, result = case
    assert result.best_at_floor == []
    weak = (picks["particle_type"] == "thyroglobulin").to_numpy()
    scores = picks["score"].mask(weak, 0.05 + 0.01 * picks["score"])
    again = calibrate(truth, picks.assign(score=scores), GROUPS, COMPETITION_PARTICLES, CalibrationOptions())
    assert again.best_at_floor == ["thyroglobulin"]
