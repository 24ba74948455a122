"""Validation: each run by the networks that never saw it, through the submission's code; nothing is done twice."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from tomopoint.data.picks import write_picks
from tomopoint.data.project import Project
from tomopoint.data.tables import PICK_COLUMNS, passing, read_pick_table
from tomopoint.data.tomograms import read_tomogram, write_tomogram
from tomopoint.errors import PipelineError, TomopointError
from tomopoint.evaluation.residual import shifted
from tomopoint.evaluation.score import score_picks
from tomopoint.inference.engines.torch import TorchEngine
from tomopoint.inference.predict import predict_tomogram
from tomopoint.networks.build import build_network
from tomopoint.networks.config import NetworkConfig
from tomopoint.networks.ensemble import Ensemble
from tomopoint.pipeline import Pipeline, Tiling
from tomopoint.training.checkpoints import RECIPE, WEIGHTS, MemberRecord, find_members, load_member, save_weights
from tomopoint.training.recipes import Recipe
from tomopoint.training.trained import load_trained_run, read_held_out_truth
from tomopoint.training.validate_command import validate
from tomopoint.training.validate_steps import parse_thresholds
from tomopoint.training.validation import PredictionOptions, choose_tiling

RUNS = ("TS_1", "TS_2", "TS_3")
SHAPE_ZYX = (20, 40, 36)
VOXEL_A = 10.0124
NETWORKS = (
    NetworkConfig("segresnet", init_filters=8, blocks_down=(1, 1, 1), class_width=8, offset_width=8),
    NetworkConfig("dynunet", filters=(4, 8, 8), features=8, class_width=8, offset_width=8),
)
RECIPE_USED = Recipe(networks=NETWORKS, folds="kfold-2")
TABLE_ROUNDING = 1e-3  # pick tables hold 3 decimals of an Angstrom; 5 of a score


def write_member(folder, fold, network, seed, validation_runs, root):
    torch.manual_seed(seed)
    module = build_network(network, len(RECIPE_USED.particles), 2)
    with torch.no_grad():
        for name, values in module.named_parameters():
            # Fresh heads say 0.02 everywhere: steeper weights and no prior give maxima above the floor.
            if name.startswith("head") and values.ndim > 1:
                values.normal_(0.0, 0.5)
    record = MemberRecord(
        fold=fold,
        network=network.resolved(),
        particles=tuple(p.name for p in RECIPE_USED.particles),
        stride=2,
        voxel_A=VOXEL_A,
        normalisation=RECIPE_USED.normalisation,
        training_runs=tuple(name for name in RUNS if name not in validation_runs),
        validation_runs=validation_runs,
        data_root=str(root),
        data_sha256="0",
        recipe_sha256="0",
        weights_sha256=save_weights(module.state_dict(), folder / fold / network.title / WEIGHTS),
        recipe="test",
        tomopoint="0",
        epochs=1,
        steps=1,
        kept="all",
        seconds=0.0,
        device="cpu",
        precision="fp32",
    )
    record.save(folder / fold / network.title)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    rng = np.random.default_rng(0)
    for name in RUNS:
        run = root / "train" / "static" / "ExperimentRuns" / name / "VoxelSpacing10.000" / "denoised.zarr"
        write_tomogram(run, rng.normal(0, 1e-5, SHAPE_ZYX).astype(np.float32), (VOXEL_A,) * 3, levels=1)
        size_xyz_A = np.array(SHAPE_ZYX[::-1]) * VOXEL_A
        for particle in ("ribosome", "thyroglobulin"):
            picks = root / "train" / "overlay" / "ExperimentRuns" / name / "Picks" / f"{particle}.json"
            write_picks(picks, name, particle, rng.uniform(0, 1, (6, 3)) * size_xyz_A)
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory, project):
    folder = tmp_path_factory.mktemp("runs") / "small"
    RECIPE_USED.save(folder / RECIPE)
    for index, (fold, held_out) in enumerate({"fold0": ("TS_1", "TS_3"), "fold1": ("TS_2",)}.items()):
        for number, network in enumerate(NETWORKS):
            write_member(folder, fold, network, 10 * index + number, held_out, project)
    return folder


@pytest.fixture(scope="module")
def validated(trained):
    return trained, validate(trained, window="16,32,32", overlap="8,8,8")


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
    truth = read_held_out_truth(load_trained_run(folder), Project(project))
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
    validate(folder, window="16,32,32", overlap="8,8,8")
    after = {run: (folder / "validation" / f"{run}.csv").stat().st_mtime_ns for run in RUNS}
    assert {run for run in RUNS if after[run] != before[run]} == {"TS_2"}
    validate(folder, window="16,32,32", overlap="0,0,0")
    assert all((folder / "validation" / f"{run}.csv").stat().st_mtime_ns != after[run] for run in RUNS)


def test_a_run_in_two_folds_is_predicted_by_the_networks_of_both(project, tmp_path):
    RECIPE_USED.save(tmp_path / RECIPE)
    for fold, held_out in {"fold0": ("TS_1", "TS_2"), "fold1": ("TS_2", "TS_3")}.items():
        write_member(tmp_path, fold, NETWORKS[1], 0, held_out, project)
    trained = load_trained_run(tmp_path)
    assert {run.name: run.members for run in trained.held_out} == {"TS_1": (0,), "TS_2": (0, 1), "TS_3": (1,)}
    assert trained.groups == {"fold0": ("TS_1",), "fold0+fold1": ("TS_2",), "fold1": ("TS_3",)}


def test_networks_that_hold_nothing_out_take_the_thresholds_of_another_run(validated, project, tmp_path):
    RECIPE_USED.save(tmp_path / RECIPE)
    write_member(tmp_path, "fold0", NETWORKS[1], 0, (), project)
    with pytest.raises(TomopointError, match="holds a run out"):
        validate(tmp_path)
    validate(tmp_path, thresholds=str(validated[0] / "pipeline.json"))
    ours, other = Pipeline.load(tmp_path / "pipeline.json"), Pipeline.load(validated[0] / "pipeline.json")
    assert ours.particles == other.particles
    assert ours.decoding == other.decoding
    assert [member.score for member in ours.members] == [None]


def test_adopted_thresholds_leave_no_scores_of_other_ones(validated, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(validated[0], folder)
    validate(folder, thresholds=str(validated[0] / "pipeline.json"))
    assert not (folder / "validation.json").exists()


def test_counts_choose_as_many_picks_as_asked(validated, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(validated[0], folder)
    figures = validate(folder, window="16,32,32", overlap="8,8,8", thresholds="counts:1").figures
    assert figures["method"] == "counts"
    assert figures["picks_per_run"]["ribosome"] <= 6.0


def test_windows_fit_the_data_and_the_networks():
    large = choose_tiling([(184, 630, 630)], 32, PredictionOptions())
    assert (large.window_zyx, large.overlap_zyx) == ((192, 128, 128), (64, 64, 64))
    small = choose_tiling([(20, 50, 300), (24, 40, 200)], 8, PredictionOptions())
    assert (small.window_zyx, small.overlap_zyx) == ((24, 56, 128), (12, 28, 64))
    with pytest.raises(TomopointError, match="multiples of 16"):
        choose_tiling([(20, 50, 300)], 16, PredictionOptions(window_zyx=(24, 32, 32)))
    with pytest.raises(PipelineError, match="smaller than"):
        choose_tiling([(20, 50, 300)], 8, PredictionOptions(overlap_zyx=(24, 8, 8)))


def test_options_are_read_or_refused():
    assert parse_thresholds("counts:1.5").picks_per_particle == 1.5
    for text in ("best", "counts:x", "counts:-1"):
        with pytest.raises(TomopointError, match="--thresholds"):
            parse_thresholds(text)


def test_no_such_run_folder(tmp_path):
    with pytest.raises(TomopointError, match="no such run folder"):
        validate(tmp_path / "nowhere")
