"""Projects, folds and normalisation."""

from __future__ import annotations

import numpy as np
import pytest

from tomopoint.data.folds import make_folds, parse_fold_selection
from tomopoint.data.normalisation import normalise
from tomopoint.data.project import Project
from tomopoint.errors import DataError
from tomopoint.pipeline import Normalisation

RUNS = ["TS_5_4", "TS_69_2", "TS_6_4", "TS_6_6", "TS_73_6", "TS_86_3", "TS_99_9"]

FLOAT32_ROUNDING = 1e-5
"""Of values up to a few standard deviations."""


def test_runs_come_from_disk_sorted(tmp_path):
    for name in ("TS_9_1", "TS_10_1", ".cache"):
        (tmp_path / "test/static/ExperimentRuns" / name).mkdir(parents=True)
    (tmp_path / "test/static/ExperimentRuns/notes.txt").write_text("")
    runs = Project(tmp_path).runs("test")
    assert [run.name for run in runs] == ["TS_10_1", "TS_9_1"]
    expected = tmp_path / "test/static/ExperimentRuns/TS_9_1/VoxelSpacing10.000/wbp.zarr"
    assert runs[1].tomogram_path("wbp") == expected
    with pytest.raises(DataError, match=r"no test run 'TS_1_1'; it has TS_10_1, TS_9_1"):
        Project(tmp_path).run("TS_1_1", "test")


def test_missing_root_and_split(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        Project(tmp_path / "none").runs("train")
    with pytest.raises(DataError, match="holds no runs"):
        Project(tmp_path).runs("train")


def test_kfold_holds_every_run_out_once():
    folds = make_folds(RUNS[::-1], "kfold-3")
    held_out = [run for fold in folds for run in fold.validation_runs]
    assert sorted(held_out) == RUNS
    for fold in folds:
        assert not set(fold.training_runs) & set(fold.validation_runs)
        assert len(fold.training_runs) + len(fold.validation_runs) == 7


def test_pairs_are_the_winners_seven_and_five_of_them_his_folds():
    pairs = [fold.validation_runs for fold in make_folds(RUNS, "pairs")]
    assert len(pairs) == 7
    assert pairs[0] == ("TS_5_4", "TS_69_2")
    assert pairs[2] == ("TS_6_4", "TS_6_6")
    assert pairs[6] == ("TS_99_9", "TS_5_4")
    five = make_folds(RUNS, "pairs-5")
    assert [fold.validation_runs for fold in five] == pairs[:5]
    assert {len(fold.training_runs) for fold in five} == {5}
    # fewer runs than folds: as many folds as runs
    assert [fold.validation_runs for fold in make_folds(RUNS[:3], "pairs-5")] == [
        fold.validation_runs for fold in make_folds(RUNS[:3], "pairs")
    ]
    assert make_folds(RUNS, "winner") == make_folds(RUNS, "pairs")  # in stored recipes


def test_other_schemes():
    assert [f.validation_runs for f in make_folds(RUNS, "leave-one-out")] == [(r,) for r in RUNS]
    assert make_folds(RUNS, "all")[0].training_runs == tuple(RUNS)
    assert make_folds(RUNS, [["TS_6_4"]])[0].validation_runs == ("TS_6_4",)


@pytest.mark.parametrize("scheme", ["kfold-1", "kfold-x", "random", "kfold-8", "pairs-0", "pairs-", [["TS_0_0"]]])
def test_schemes_that_do_not_fit(scheme):
    with pytest.raises(DataError):
        make_folds(RUNS, scheme)


def test_fold_selection():
    folds = {fold.name: fold for fold in make_folds(RUNS, "kfold-3")}
    assert parse_fold_selection("0, fold2", folds) == ["fold0", "fold2"]
    assert parse_fold_selection("1,fold1,0", folds) == ["fold1", "fold0"]
    with pytest.raises(DataError, match="fold0, fold1, fold2"):
        parse_fold_selection("3", folds)


def test_normalise_tiny_values_and_outliers():
    """1e-5 values come out with mean 0 and sd 1; a bead of 1000 sd neither changes the scale nor survives."""
    volume = np.random.default_rng(0).normal(3e-7, 6e-6, (40, 40, 40)).astype(np.float32)
    plain = normalise(volume, Normalisation(quantiles=(0.0, 1.0)))
    assert plain.dtype == np.float32
    # 64,000 samples: the mean's standard error is 0.004.
    assert abs(plain.mean()) < 1e-3
    assert abs(plain.std() - 1) < 1e-3
    volume[0, 0, 0] = 6e-3
    with_bead = normalise(volume, Normalisation())
    assert with_bead.max() == 12.0
    assert abs(with_bead[1:].std() - 1) < 0.02


@pytest.mark.parametrize("quantiles", [(0.001, 0.999), (0.0, 1.0), (0.25, 0.3)])
def test_normalise_in_place_is_the_formula(quantiles):
    """In float64, by numpy's own quantiles; the result lies where it was asked for."""
    volume = np.random.default_rng(1).normal(3e-7, 6e-6, (11, 12, 13)).astype(np.float32)
    exact = volume.astype(np.float64)
    clipped = np.clip(exact, *np.quantile(exact, quantiles))
    expected = np.clip((exact - clipped.mean()) / clipped.std(), -2.0, 2.0)
    room = np.zeros((11, 14, 13), np.float32)
    for out in (None, room[:, :12], volume):
        result = normalise(volume, Normalisation(quantiles=quantiles, clip_sd=2.0), out=out)
        assert out is None or result is out
        np.testing.assert_allclose(result, expected, atol=FLOAT32_ROUNDING)


def test_normalise_refuses_a_constant_volume():
    with pytest.raises(DataError, match="constant"):
        normalise(np.full((8, 8, 8), 1e-5, np.float32), Normalisation())
