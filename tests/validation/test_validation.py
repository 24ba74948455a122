"""Validation: each run by the networks that never saw it, through the submission's code; nothing is done twice."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from validation_data import DYNUNET, NETWORKS, RECIPE_USED, RUNS, VOXEL_A, write_member

from tomopoint.data.project import Project
from tomopoint.data.tables import PICK_COLUMNS, passing, read_pick_table
from tomopoint.data.tomograms import read_tomogram
from tomopoint.errors import TomopointError
from tomopoint.evaluation.residual import shifted
from tomopoint.evaluation.score import score_picks
from tomopoint.inference.engines.torch import TorchEngine
from tomopoint.inference.predict import predict_tomogram
from tomopoint.networks.ensemble import Ensemble
from tomopoint.pipeline import Pipeline, Tiling
from tomopoint.training.checkpoints import RECIPE, find_members, load_member
from tomopoint.validation.command import validate
from tomopoint.validation.ensemble_folder import load_ensemble
from tomopoint.validation.result import parse_thresholds

TABLE_ROUNDING = 1e-3  # pick tables hold 3 decimals of an Angstrom; 5 of a score


def test_picks_are_those_of_the_average_of_the_networks_that_never_saw_the_run(validated, project):
    folder, _ = validated
    pipeline = Pipeline.load(folder / "pipeline.json")
    for run, fold in (("TS_1", "fold0"), ("TS_2", "fold1")):
        networks = [load_member(path)[0] for path in find_members(folder) if path.parent.name == fold]
        engine = TorchEngine(Ensemble(networks), pipeline.tiling.window_zyx)
        store = Project(project).run(run, "train").tomogram_path()
        unmoved = replace(pipeline, decoding=replace(pipeline.decoding, residual_xyz_A=(0.0, 0.0, 0.0)))
        expected = predict_tomogram(read_tomogram(store), engine, unmoved)
        written = read_pick_table(folder / "validation" / f"{run}.csv")
        assert len(written) == len(expected) > 20
        assert (written["particle_type"] == expected["particle_type"]).all()
        np.testing.assert_allclose(written[[*"xyz", "score"]], expected[[*"xyz", "score"]], atol=TABLE_ROUNDING)


def test_pipeline_holds_thresholds_members_and_the_score_that_follows_from_them(validated, project):
    folder, result = validated
    pipeline = Pipeline.load(folder / "pipeline.json")
    assert pipeline.tiling == Tiling((16, 32, 32), (8, 8, 8))
    assert pipeline.voxel_A == pytest.approx(VOXEL_A)
    assert [(m.fold, m.network) for m in pipeline.members] == [
        (fold, name) for fold in ("fold0", "fold1") for name in ("dynunet", "segresnet")
    ]
    truth = load_ensemble([folder]).read_truth(Project(project))
    tables = [read_pick_table(folder / "validation" / f"{run}.csv") for run in RUNS]
    picks = pd.concat(tables, ignore_index=True).loc[:, list(PICK_COLUMNS)]
    kept = passing(shifted(picks, pipeline.decoding.residual_xyz_A), {p.name: p.threshold for p in pipeline.particles})
    score = score_picks(truth, kept, pipeline.particles)
    assert result.figures["score"] == pytest.approx(score.score)
    assert pipeline.members[0].score == pytest.approx(score.of_runs(["TS_1", "TS_3"]).score)
    content = json.loads((folder / "validation.json").read_text())
    assert content["pipeline_sha256"] == pipeline.digest
    assert content["per_group"]["fold1"]["runs"] == ["TS_2"]
    assert not content["simulated"]


def test_only_runs_whose_networks_changed_are_predicted_again(validated, project, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(validated[0], folder)
    before = {run: (folder / "validation" / f"{run}.csv").stat().st_mtime_ns for run in RUNS}
    write_member(folder, "fold1", NETWORKS[0], 99, ("TS_2",), project)
    validate([folder], window="16,32,32", overlap="8,8,8")
    after = {run: (folder / "validation" / f"{run}.csv").stat().st_mtime_ns for run in RUNS}
    assert {run for run in RUNS if after[run] != before[run]} == {"TS_2"}
    validate([folder], window="16,32,32", overlap="0,0,0")
    assert all((folder / "validation" / f"{run}.csv").stat().st_mtime_ns != after[run] for run in RUNS)


def test_a_run_in_two_folds_is_predicted_by_the_networks_of_both(project, tmp_path):
    RECIPE_USED.save(tmp_path / RECIPE)
    for fold, held_out in {"fold0": ("TS_1", "TS_2"), "fold1": ("TS_2", "TS_3")}.items():
        write_member(tmp_path, fold, DYNUNET, int(fold[-1]), held_out, project)
    ensemble = load_ensemble([tmp_path])
    assert {run.name: run.members for run in ensemble.held_out} == {"TS_1": (0,), "TS_2": (0, 1), "TS_3": (1,)}
    assert ensemble.groups == {"fold0": ("TS_1",), "fold0+fold1": ("TS_2",), "fold1": ("TS_3",)}


def test_networks_that_hold_nothing_out_take_the_thresholds_of_another_run(validated, project, tmp_path):
    RECIPE_USED.save(tmp_path / RECIPE)
    write_member(tmp_path, "fold0", NETWORKS[1], 0, (), project)
    with pytest.raises(TomopointError, match="holds a run out"):
        validate([tmp_path])
    with pytest.raises(TomopointError, match="--weights out-of-fold needs picks"):
        validate([tmp_path], thresholds=str(validated[0] / "pipeline.json"), weights="out-of-fold")
    validate([tmp_path], thresholds=str(validated[0] / "pipeline.json"))
    ours, other = Pipeline.load(tmp_path / "pipeline.json"), Pipeline.load(validated[0] / "pipeline.json")
    assert ours.particles == other.particles
    assert ours.decoding == other.decoding
    assert [member.score for member in ours.members] == [None]


def test_adopted_thresholds_leave_no_scores_of_other_ones(validated, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(validated[0], folder)
    validate([folder], thresholds=str(validated[0] / "pipeline.json"))
    assert not (folder / "validation.json").exists()


@pytest.mark.parametrize(
    ("options", "merge"),
    [({}, "mean"), ({"view_merge": "gmean"}, "mean"), ({"views": "4"}, "max"), ({"views": "flip_x"}, "mean")]
    + [({"views": "2", "view_merge": merge}, merge) for merge in ("mean", "gmean")],
)
def test_several_views_are_merged_by_their_maximum_unless_told_otherwise(validated, tmp_path, options, merge):
    folder = tmp_path / "copy"
    shutil.copytree(validated[0], folder)
    validate([folder], thresholds=str(validated[0] / "pipeline.json"), **options)
    assert Pipeline.load(folder / "pipeline.json").view_merge == merge


def test_counts_choose_as_many_picks_as_asked(validated, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(validated[0], folder)
    figures = validate([folder], window="16,32,32", overlap="8,8,8", thresholds="counts:1").figures
    assert figures["method"] == "counts"
    assert figures["picks_per_run"]["ribosome"] <= 6.0


def test_options_are_read_or_refused():
    assert parse_thresholds("counts:1.5").picks_per_particle == 1.5
    assert (parse_thresholds("curve:0.5").method, parse_thresholds("curve:0.5").score_loss) == ("curve", 0.5)
    assert parse_thresholds("curve").score_loss == 0.0
    for text in ("best", "counts:x", "counts:-1", "counts:", "curve:1", "curve:-0.1", "curve:nan"):
        with pytest.raises(TomopointError, match="--thresholds"):
            parse_thresholds(text)


def test_no_such_training_folder(tmp_path):
    with pytest.raises(TomopointError, match="no such training folder"):
        validate([tmp_path / "nowhere"])
