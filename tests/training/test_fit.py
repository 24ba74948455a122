"""Training through the command: members, resuming, refusing, failing. Tiny networks on tiny volumes."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from training_data import PARTICLES, VOXEL_A, write_project

from tomopoint.data.picks import write_picks
from tomopoint.data.project import Project
from tomopoint.data.tomograms import read_tomogram, write_tomogram
from tomopoint.errors import DataError, TomopointError
from tomopoint.training.checkpoints import MemberRecord, find_members, load_member
from tomopoint.training.command import train
from tomopoint.training.detector import DetectorModule
from tomopoint.training.epochs import EpochEnd

SEGRESNET = {
    "name": "segresnet",
    "init_filters": 4,
    "blocks_down": [1, 1, 1],
    "norm_groups": 2,
    "class_width": 4,
    "offset_width": 4,
    "dropout": 0.2,
}
DYNUNET = {"name": "dynunet", "filters": [4, 4, 8], "features": 4, "class_width": 4, "offset_width": 4}
RECIPE = {
    "networks": [SEGRESNET],
    "folds": "kfold-3",
    "particles": [vars(particle) for particle in PARTICLES],
    "crops": {"size_zyx": [16, 16, 16]},
    "augmentation": {"resample_probability": 0.5},
    "optimiser": {"learning_rate": 0.01, "warmup_steps": 2},
    "fit": {
        "epochs": 4,
        "steps_per_epoch": 3,
        "batch_size": 2,
        "precision": "fp32",
        "ema_decay": 0.9,
        "keep_best": 2,
        "validation_crops": 2,
    },
}


def recipe_file(folder, **changes):
    """Write RECIPE with options of its parts changed: ``fit={"epochs": 2}``."""
    content = {**RECIPE}
    for name, value in changes.items():
        content[name] = {**content.get(name, {}), **value} if isinstance(value, dict) else value
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def run_train(data, out, recipe, **options):
    return train(data=data, out=out, recipe=recipe, **{"folds": "0", "device": "cpu", "curves": "none", **options})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_project(tmp_path_factory.mktemp("project"))


def rows(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_every_network_is_trained_on_every_chosen_fold(data, tmp_path):
    heatmap = {"name": "heatmap", "init_filters": 4, "blocks_down": [1, 1, 1], "norm_groups": 2, "class_width": 4}
    recipe = recipe_file(tmp_path, networks=[SEGRESNET, heatmap], fit={"epochs": 1, "steps_per_epoch": 2})
    result = run_train(data, tmp_path / "run", recipe, folds="0,2", curves="tensorboard")
    assert result.ok
    members = find_members(tmp_path / "run")
    names = [str(path.relative_to(tmp_path / "run")) for path in members]
    assert names == ["fold0/heatmap", "fold0/segresnet", "fold2/heatmap", "fold2/segresnet"]
    network, record = load_member(members[1])
    assert not network.training
    assert record.particles == ("small", "large")
    assert record.validation_runs == ("TS_0",)
    assert record.training_runs == ("TS_1", "TS_2")
    assert (record.stride, record.epochs, record.steps) == (2, 1, 2)
    assert record.voxel_A == pytest.approx(VOXEL_A)
    scores, offsets = network(torch.randn(1, 1, 16, 16, 16))
    assert (tuple(scores.shape), tuple(offsets.shape)) == ((1, 2, 8, 8, 8), (1, 3, 8, 8, 8))
    assert len(rows(members[0] / "metrics.csv")) == 1
    assert list((members[0] / "tensorboard").glob("events*"))
    assert yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())["fit"]["epochs"] == 1

    before = (members[0] / "weights.safetensors").stat().st_mtime_ns
    again = run_train(data, tmp_path / "run", recipe, folds="0,1,2")
    assert sorted(again.figures["skipped"]) == ["fold0/heatmap", "fold0/segresnet", "fold2/heatmap", "fold2/segresnet"]
    assert again.figures["trained"] == ["fold1/segresnet", "fold1/heatmap"]
    assert (members[0] / "weights.safetensors").stat().st_mtime_ns == before


class Killed(BaseException):
    """Stands for a kill: nothing in the code under test handles it."""


@pytest.mark.parametrize(
    ("averaging", "step", "network"),
    [("ema", 6, SEGRESNET), ("ema", 8, SEGRESNET), ("swa", 10, SEGRESNET), ("none", 3, SEGRESNET), ("ema", 6, DYNUNET)],
    ids=["between epochs", "within an epoch", "swa", "no average", "channels last"],
)
def test_resumed_run_equals_an_uninterrupted_one(data, tmp_path, monkeypatch, averaging, step, network):
    """Weights agree bit by bit: crops, dropout, optimiser, schedule and averages all go on where they were."""
    recipe = recipe_file(
        tmp_path, networks=[network], fit={"averaging": averaging, "keep_best": 0}, optimiser={"accumulate": 2}
    )
    run_train(data, tmp_path / "whole", recipe)
    original = DetectorModule.training_step

    def dying_step(self, batch, index):
        if self.global_step == step:
            raise Killed
        return original(self, batch, index)

    monkeypatch.setattr(DetectorModule, "training_step", dying_step)
    with pytest.raises(Killed):
        run_train(data, tmp_path / "parts", recipe)
    monkeypatch.setattr(DetectorModule, "training_step", original)
    assert run_train(data, tmp_path / "parts", recipe).ok
    whole, parts = (
        load_file(tmp_path / run / "fold0" / network["name"] / "weights.safetensors") for run in ("whole", "parts")
    )
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    tables = [rows(tmp_path / run / "fold0" / network["name"] / "metrics.csv") for run in ("whole", "parts")]
    for table in tables:
        for row in table:
            del row["seconds"]
    assert tables[0] == tables[1]


def test_loader_processes_give_the_same_weights(data, tmp_path):
    recipe = recipe_file(tmp_path, fit={"epochs": 2})
    for workers in (0, 2):
        run_train(data, tmp_path / f"w{workers}", recipe, workers=workers)
    first, second = (
        load_file(tmp_path / f"w{workers}" / "fold0" / "segresnet" / "weights.safetensors") for workers in (0, 2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_other_recipe_or_other_data_is_refused(data, tmp_path):
    project = tmp_path / "project"
    shutil.copytree(data, project)
    recipe = recipe_file(tmp_path, fit={"epochs": 1, "steps_per_epoch": 1})
    run_train(project, tmp_path / "run", recipe)
    with pytest.raises(TomopointError, match=r"another recipe: seed differ"):
        run_train(project, tmp_path / "run", recipe, seed=5)
    picks = project / "train/overlay/ExperimentRuns/TS_1/Picks/small.json"
    write_picks(picks, "TS_1", "small", np.full((1, 3), 50.0))
    with pytest.raises(TomopointError, match=r"other data: .*TS_1"):
        run_train(project, tmp_path / "run", recipe)


def test_another_tomogram_of_the_same_shape_is_refused(data, tmp_path):
    project = tmp_path / "project"
    shutil.copytree(data, project)
    recipe = recipe_file(tmp_path, fit={"epochs": 1, "steps_per_epoch": 1})
    run_train(project, tmp_path / "run", recipe)
    store = Project(project).run("TS_2", "train").tomogram_path()
    write_tomogram(store, np.round(read_tomogram(store).volume_zyx, 6), levels=1)
    with pytest.raises(TomopointError, match=r"other data: .*TS_2"):
        run_train(project, tmp_path / "run", recipe)


def test_run_without_picks_is_refused_before_the_first_step(data, tmp_path):
    project = tmp_path / "project"
    shutil.copytree(data, project)
    recipe = recipe_file(tmp_path)
    picks = project / "train/overlay/ExperimentRuns/TS_2/Picks"
    for path in picks.glob("*.json"):
        write_picks(path, "TS_2", path.stem, np.zeros((0, 3)))
    with pytest.raises(DataError, match=r"TS_2.*not one pick"):
        run_train(project, tmp_path / "run", recipe)
    shutil.rmtree(picks)
    with pytest.raises(DataError, match=r"TS_2.*no picks"):
        run_train(project, tmp_path / "run", recipe)
    assert not (tmp_path / "run").exists()


def test_pick_outside_the_tomogram_is_refused(data, tmp_path):
    project = tmp_path / "project"
    shutil.copytree(data, project)
    picks = project / "train/overlay/ExperimentRuns/TS_1/Picks/small.json"
    write_picks(picks, "TS_1", "small", np.array([[100.0, 100.0, 5000.0]]))
    with pytest.raises(DataError, match=r"small\.json: point 0 .*outside"):
        run_train(project, tmp_path / "run", recipe_file(tmp_path))


def test_loss_that_is_not_finite_stops_one_member_and_names_the_crop(data, tmp_path):
    other = {**SEGRESNET, "label": "wide", "init_filters": 6}
    recipe = recipe_file(
        tmp_path,
        networks=[SEGRESNET, other],
        augmentation={"gain": 0.0, "shift": 1e30},
        fit={"epochs": 1, "keep_best": 0},
    )
    result = run_train(data, tmp_path / "run", recipe)
    assert not result.ok
    assert set(result.figures["failed"]) == {"fold0/segresnet", "fold0/wide"}
    reason = result.figures["failed"]["fold0/segresnet"]
    assert "not finite" in reason
    assert "TS_1 (denoised) at z, y, x" in reason or "TS_2 (denoised) at z, y, x" in reason
    json.dumps(result.figures)


def test_a_failing_member_leaves_the_others(data, tmp_path, monkeypatch, caplog):
    other = {**SEGRESNET, "label": "wide", "init_filters": 6}
    recipe = recipe_file(tmp_path, networks=[SEGRESNET, other], fit={"epochs": 1, "steps_per_epoch": 1})
    original = DetectorModule.training_step

    def failing_step(self, batch, index):
        if next(self.network.parameters()).shape[0] == 4:
            raise RuntimeError("out of memory")
        return original(self, batch, index)

    monkeypatch.setattr(DetectorModule, "training_step", failing_step)
    result = run_train(data, tmp_path / "run", recipe)
    assert not result.ok
    assert result.figures["trained"] == ["fold0/wide"]
    assert "out of memory" in result.figures["failed"]["fold0/segresnet"]
    caplog.clear()
    assert [path.name for path in find_members(tmp_path / "run")] == ["wide"]
    assert "fold0/segresnet not finished" in caplog.text


def test_training_lowers_the_validation_loss_and_keeps_the_best(data, tmp_path):
    recipe = recipe_file(tmp_path, fit={"epochs": 6, "steps_per_epoch": 10, "keep_best": 3})
    run_train(data, tmp_path / "run", recipe)
    folder = tmp_path / "run" / "fold0" / "segresnet"
    losses = [float(row["validation_loss"]) for row in rows(folder / "metrics.csv")]
    assert min(losses[3:]) < 0.8 * losses[0]
    record = load_member(folder)[1]
    best = int(np.argmin(losses))
    assert f"epoch{best:04d}" in record.kept
    assert not (folder / "candidates").exists()


def test_a_kill_before_the_member_is_recorded_costs_nothing(data, tmp_path, monkeypatch):
    recipe = recipe_file(tmp_path, fit={"epochs": 3, "keep_best": 2})
    original = MemberRecord.save

    def dying_save(self, folder):
        raise Killed

    monkeypatch.setattr(MemberRecord, "save", dying_save)
    with pytest.raises(Killed):
        run_train(data, tmp_path / "run", recipe)
    monkeypatch.setattr(MemberRecord, "save", original)
    assert run_train(data, tmp_path / "run", recipe).ok
    assert load_member(tmp_path / "run" / "fold0" / "segresnet")[1].epochs == 3


def test_a_network_may_have_its_own_learning_rate(data, tmp_path):
    other = {**SEGRESNET, "label": "slow", "learning_rate": 0.001}
    recipe = recipe_file(tmp_path, networks=[SEGRESNET, other], fit={"epochs": 1, "steps_per_epoch": 2})
    run_train(data, tmp_path / "run", recipe)
    first, second = (rows(tmp_path / "run/fold0" / name / "metrics.csv")[0] for name in ("segresnet", "slow"))
    assert float(first["learning_rate"]) == pytest.approx(10 * float(second["learning_rate"]))


def test_a_time_limit_is_refused_for_several_processes(data, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    recipe = recipe_file(tmp_path, fit={"max_minutes": 1.0})
    with pytest.raises(TomopointError, match="own clock"):
        run_train(data, tmp_path / "run", recipe)


def test_patience_ends_a_member(data, tmp_path):
    recipe = recipe_file(
        tmp_path, fit={"epochs": 30, "steps_per_epoch": 1, "patience": 2}, optimiser={"learning_rate": 1e-12}
    )
    run_train(data, tmp_path / "run", recipe)
    record = load_member(tmp_path / "run" / "fold0" / "segresnet")[1]
    assert record.epochs < 30


def test_an_improvement_below_the_least_one_does_not_count(data, tmp_path):
    fit = {"epochs": 8, "steps_per_epoch": 10, "patience": 2, "min_improvement": 100.0}
    run_train(data, tmp_path / "run", recipe_file(tmp_path, fit=fit))
    folder = tmp_path / "run" / "fold0" / "segresnet"
    losses = [float(row["validation_loss"]) for row in rows(folder / "metrics.csv")]
    assert len(losses) == 3  # the first counts, the two after it do not
    assert losses[2] < losses[0]


def test_a_kill_before_the_checkpoint_is_saved_loses_no_candidate(data, tmp_path, monkeypatch):
    recipe = recipe_file(tmp_path, fit={"epochs": 4, "steps_per_epoch": 10, "keep_best": 1})
    original = EpochEnd._save_last

    def dying_save(self, trainer):
        if trainer.current_epoch == 2:
            raise Killed
        original(self, trainer)

    monkeypatch.setattr(EpochEnd, "_save_last", dying_save)
    with pytest.raises(Killed):
        run_train(data, tmp_path / "run", recipe)
    candidates = tmp_path / "run" / "fold0" / "segresnet" / "candidates"
    assert {path.stem for path in candidates.iterdir()} >= {"epoch0001"}
    monkeypatch.setattr(EpochEnd, "_save_last", original)
    assert run_train(data, tmp_path / "run", recipe).ok


def test_time_limit_ends_a_member_with_the_learning_rate_at_its_end(data, tmp_path):
    recipe = recipe_file(tmp_path, fit={"epochs": 100000, "max_minutes": 0.03, "keep_best": 0})
    assert run_train(data, tmp_path / "run", recipe).ok
    table = rows(tmp_path / "run" / "fold0" / "segresnet" / "metrics.csv")
    assert len(table) < 10000
    assert float(table[-1]["learning_rate"]) < 0.05 * 0.01


def test_damaged_members_are_refused(data, tmp_path):
    recipe = recipe_file(tmp_path, fit={"epochs": 1, "steps_per_epoch": 1})
    run_train(data, tmp_path / "run", recipe)
    folder = tmp_path / "run" / "fold0" / "segresnet"
    (folder / "weights.safetensors").write_bytes(b"short")
    with pytest.raises(TomopointError, match=r"weights\.safetensors"):
        load_member(folder)
    (folder / "member.json").write_text("{}")
    with pytest.raises(TomopointError, match=r"member\.json"):
        load_member(folder)
    with pytest.raises(TomopointError, match="no finished member"):
        find_members(tmp_path / "empty")


def test_all_scheme_trains_without_validation(data, tmp_path):
    recipe = recipe_file(tmp_path, folds="all", fit={"epochs": 1, "steps_per_epoch": 1})
    assert run_train(data, tmp_path / "run", recipe).ok
    record = load_member(tmp_path / "run" / "fold0" / "segresnet")[1]
    assert record.validation_runs == ()
    assert len(record.training_runs) == 3
    assert rows(tmp_path / "run" / "fold0" / "segresnet" / "metrics.csv")[0]["validation_loss"] == ""


def test_official_score_ranks_the_epochs(data, tmp_path):
    recipe = recipe_file(tmp_path, fit={"epochs": 3, "steps_per_epoch": 2, "score_every": 2, "keep_best": 1})
    assert run_train(data, tmp_path / "run", recipe).ok
    folder = tmp_path / "run" / "fold0" / "segresnet"
    table = rows(folder / "metrics.csv")
    assert [row["score"] == "" for row in table] == [True, False, True]
    assert 0 <= float(table[1]["score"]) <= 1
    assert "epoch0001" in load_member(folder)[1].kept
