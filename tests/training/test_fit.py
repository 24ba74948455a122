"""Training through the command: resuming, refusing, failing, averaging. Tiny networks on tiny volumes."""

import csv
import json
import logging
import os
import pickle
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import AveragedModel
from training_data import PARTICLES, VOXEL_A, make_run, write_project

from tomopoint.data.folds import Fold
from tomopoint.data.picks import write_picks
from tomopoint.data.project import Project
from tomopoint.data.stores import write_tomogram
from tomopoint.data.tomograms import read_tomogram
from tomopoint.errors import DataError, TomopointError
from tomopoint.evaluation.epochs import read_epoch_scores
from tomopoint.locks import LOCK, locked
from tomopoint.training import fit
from tomopoint.training.checkpoints import CANDIDATES, MemberRecord, find_members, load_member
from tomopoint.training.command import train
from tomopoint.training.fit import MemberTask, Validation
from tomopoint.training.last_checkpoint import LAST
from tomopoint.training.official_score import HeldOutScore, official_score
from tomopoint.training.optimisation import Clock
from tomopoint.training.plan import make_plan
from tomopoint.training.progress import TrainingProgress
from tomopoint.training.recipe_files import load_recipe

STORED = Path(__file__).parent / "stored"
ROUNDING = 1e-6
"""Weights of about 1 in float32, averaged in another order: a few of their 6e-8 steps."""

GRADIENT_ROUNDING = 1e-4
"""Sums of thousands of float32 terms in another order, and the 1e-6 that torch adds to a norm before it divides."""

LEARNT = 0.8
"""What may remain of the first epoch's loss after some dozen steps. Left were 0.33 to 0.34 with AVX-512, AVX2 and SSE
instructions and with one and two threads, whose later losses differ by some percent."""

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


def kill_after(monkeypatch, last_step):
    """End training once so many optimiser steps are done."""
    original = TrainingProgress.after_step

    def dying(self, step, share, loss):
        if step == last_step:
            raise Killed
        original(self, step, share, loss)

    monkeypatch.setattr(TrainingProgress, "after_step", dying)


def checkpoint_of(path):
    """Return tensors and header of a checkpoint."""
    with safe_open(path, framework="pt") as file:
        return load_file(path), file.metadata()


@pytest.mark.parametrize(
    ("averaging", "step", "network", "optimiser"),
    [
        ("ema", 6, SEGRESNET, {}),
        ("ema", 8, SEGRESNET, {}),
        ("swa", 10, SEGRESNET, {}),
        ("none", 3, SEGRESNET, {}),
        ("ema", 6, DYNUNET, {}),
        ("ema", 8, SEGRESNET, {"name": "sgd", "nesterov": True, "schedule": "one-cycle"}),
        ("none", 8, SEGRESNET, {"name": "sgd", "momentum": 0.0, "schedule": "step", "period": 1, "factor": 0.5}),
        ("none", 10, SEGRESNET, {"name": "radam", "schedule": "plateau", "period": 1, "factor": 0.5}),
        ("none", 8, SEGRESNET, {"name": "adamw-schedulefree", "schedule": "constant"}),
    ],
    ids=[
        *("between epochs", "within an epoch", "swa", "no average", "channels last"),
        *("sgd, one-cycle", "sgd without momentum, step", "radam, plateau", "schedule-free"),
    ],
)
def test_resumed_run_equals_an_uninterrupted_one(data, tmp_path, monkeypatch, averaging, step, network, optimiser):
    """Weights agree bit by bit: crops, dropout, optimiser, schedule and averages all go on where they were."""
    if optimiser.get("name") == "adamw-schedulefree":
        pytest.importorskip("schedulefree", reason="pip install schedulefree")
    # With so much to improve by, no validation is better than the first, and a plateau shows.
    fit = {"averaging": averaging, "keep_best": 0, "min_improvement": 1000.0}
    recipe = recipe_file(tmp_path, networks=[network], fit=fit, optimiser={"accumulate": 2, **optimiser})
    run_train(data, tmp_path / "whole", recipe)
    with monkeypatch.context() as patch:
        kill_after(patch, step)
        with pytest.raises(Killed):
            run_train(data, tmp_path / "parts", recipe)
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
    if optimiser.get("schedule") == "plateau":
        assert [float(row["learning_rate"]) for row in tables[0]] == pytest.approx([0.01, 0.01, 0.01, 0.005])


@pytest.fixture
def interrupted(data, tmp_path, monkeypatch):
    """A run that was killed in its second epoch; its recipe and its checkpoint."""
    recipe = recipe_file(tmp_path, fit={"epochs": 2, "keep_best": 0, "max_minutes": 60.0})
    with monkeypatch.context() as patch:
        kill_after(patch, 4)
        with pytest.raises(Killed):
            run_train(data, tmp_path / "run", recipe)
    return tmp_path / "run", recipe, tmp_path / "run" / "fold0" / "segresnet" / LAST


class Payload:
    """An object whose unpickling writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_checkpoint_cannot_run_code(data, tmp_path, interrupted):
    run, recipe, last = interrupted
    torch.save({"network": Payload(tmp_path / "owned")}, last)
    result = run_train(data, run, recipe)
    assert not (tmp_path / "owned").exists()
    assert not result.ok
    reason = result.figures["failed"]["fold0/segresnet"]
    assert f"{LAST} is damaged" in reason
    assert "delete it to train this member from the start" in reason


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[: len(raw) // 2],
        lambda raw: b"",
        lambda raw: b"no checkpoint",
        lambda raw: raw[:8] + bytes(1000) + raw[1008:],
    ],
)
def test_a_damaged_checkpoint_is_one_sentence(data, interrupted, damage):
    run, recipe, last = interrupted
    last.write_bytes(damage(last.read_bytes()))
    reason = run_train(data, run, recipe).figures["failed"]["fold0/segresnet"]
    assert LAST in reason
    assert "delete it to train this member from the start" in reason


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"epoch": "two"}, "epoch must be a whole number, got 'two'"),
        ({"best": [[0.5, "../../weights.safetensors"]]}, "'../../weights.safetensors' is no candidate"),
        ({"power": 3}, "unknown field power"),
    ],
)
def test_a_checkpoint_of_other_content_is_refused(data, interrupted, changes, what):
    run, recipe, last = interrupted
    tensors, header = checkpoint_of(last)
    ((name, state),) = header.items()
    save_file(tensors, last, {name: json.dumps({**json.loads(state), **changes})})
    assert what in run_train(data, run, recipe).figures["failed"]["fold0/segresnet"]
    save_file({"weights": torch.zeros(3)}, last, header)
    assert "is damaged" in run_train(data, run, recipe).figures["failed"]["fold0/segresnet"]
    save_file(tensors, last)
    assert "is damaged" in run_train(data, run, recipe).figures["failed"]["fold0/segresnet"]


def test_a_resumed_run_keeps_its_own_clock(data, interrupted):
    """The time of an earlier process counts once, the pause after it never."""
    run, recipe, last = interrupted
    tensors, header = checkpoint_of(last)
    ((name, state),) = header.items()
    save_file(tensors, last, {name: json.dumps({**json.loads(state), "seconds": 1000.0})})
    start = time.monotonic()
    assert run_train(data, run, recipe).ok
    passed = time.monotonic() - start
    assert 1000.0 <= load_member(last.parent)[1].seconds <= 1000.1 + passed  # the record is rounded to tenths


def test_the_recipe_s_precision_is_computed_in(data, tmp_path, monkeypatch):
    """The convolutions of training and of validation, in the number type that was asked for."""
    types = []
    original = torch.nn.Conv3d.forward

    def looking(self, volume):
        result = original(self, volume)
        types.append((self.training, result.dtype))
        return result

    monkeypatch.setattr(torch.nn.Conv3d, "forward", looking)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        types.clear()
        recipe = recipe_file(tmp_path, fit={"epochs": 1, "steps_per_epoch": 1, "precision": precision})
        assert run_train(data, tmp_path / precision, recipe).ok
        assert set(types) == {(True, dtype), (False, dtype)}


@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
def test_every_step_takes_the_clipped_mean_gradient_at_its_own_rate(clip_norm, data, tmp_path, monkeypatch):
    """Gradients and rates at the optimiser's door, against those of the same batches and weights by hand."""
    seen, taken = [], []
    original_loss, original_step = fit.loss_of, torch.optim.AdamW.step

    def seeing(fabric, network, loss, batch):
        seen.append((network.module, loss, batch))
        return original_loss(fabric, network, loss, batch)

    def taking(self, closure=None):
        network = seen[-1][0]
        gradients = {name: parameter.grad.clone() for name, parameter in network.named_parameters()}
        taken.append((self.param_groups[0]["lr"], copy_of(network), gradients))
        return original_step(self, closure)

    monkeypatch.setattr(fit, "loss_of", seeing)
    monkeypatch.setattr(torch.optim.AdamW, "step", taking)
    recipe = recipe_file(
        tmp_path,
        networks=[{**SEGRESNET, "dropout": 0.0}],
        optimiser={"accumulate": 2, "clip_norm": clip_norm, "warmup_steps": 2},
        fit={"epochs": 1, "averaging": "none", "keep_best": 0, "validation_crops": 0},
    )
    assert run_train(data, tmp_path / "run", recipe).ok
    # Two steps of warm-up from a thousandth of 0.01, then the top of the cosine.
    assert [rate for rate, _, _ in taken] == pytest.approx([0.01 * 0.001, 0.01 * (0.001 + 0.999 / 2), 0.01])
    norms = []
    for number, (_, weights, gradients) in enumerate(taken):
        network, loss, _ = seen[2 * number]
        network.load_state_dict(weights)
        network.zero_grad()
        for _, _, batch in seen[2 * number : 2 * number + 2]:
            loss(*network.logits(batch.volume), batch.points).total.backward()
        mean = {name: parameter.grad / 2 for name, parameter in network.named_parameters()}
        norms.append(float(torch.stack([gradient.norm() for gradient in mean.values()]).norm()))
        scale = min(1.0, clip_norm / norms[-1]) if clip_norm else 1.0
        for name, gradient in mean.items():
            torch.testing.assert_close(gradients[name], gradient * scale, rtol=GRADIENT_ROUNDING, atol=ROUNDING)
    assert max(norms) > 0.5  # else nothing was clipped


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
        # Noise that overflows: a constant, however large, is what a norm of exact sums takes away.
        augmentation={"gain": 0.0, "noise": 3e38},
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
    original = fit.loss_of

    def failing(fabric, network, loss, batch):
        if next(network.parameters()).shape[0] == 4:
            raise RuntimeError("out of memory")
        return original(fabric, network, loss, batch)

    monkeypatch.setattr(fit, "loss_of", failing)
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
    assert min(losses[3:]) < LEARNT * losses[0]
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


class Scores:
    """Stands for the official score: says what it is told to, and keeps the weights that it was asked about."""

    def __init__(self, *values):
        self.values = list(values)
        self.weights = []

    def __call__(self, network, held_out, recipe):
        self.weights.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        value = self.values[len(self.weights) - 1]
        return HeldOutScore(value, {"small": value / 2, "large": value})


@pytest.fixture
def scored(data, tmp_path, monkeypatch):
    """Train one member whose epochs score as told; return weights, record, metrics and what was scored."""

    def run(*values, **fit):
        scores = Scores(*values)
        monkeypatch.setattr("tomopoint.training.fit.official_score", scores)
        recipe = recipe_file(tmp_path, fit={"score_every": 1, "steps_per_epoch": 2, **fit})
        assert run_train(data, tmp_path / "run", recipe).ok
        folder = tmp_path / "run" / "fold0" / "segresnet"
        return load_file(folder / "weights.safetensors"), load_member(folder)[1], rows(folder / "metrics.csv"), scores

    return run


def assert_mean_of(weights, several):
    for name, tensor in weights.items():
        mean = torch.stack([one[name].double() for one in several]).mean(dim=0)
        torch.testing.assert_close(tensor.double(), mean, rtol=0, atol=ROUNDING)
    assert any(not torch.equal(several[0][name], several[-1][name]) for name in weights)


def test_patience_ends_a_member(scored):
    _, record, _, _ = scored(0.5, 0.5, 0.4, 0.9, epochs=4, patience=2, keep_best=0)
    assert record.epochs == 3  # the first counts; the two after it are no better


def test_an_improvement_below_the_least_one_does_not_count(scored):
    _, record, _, _ = scored(0.1, 0.2, 0.3, 0.9, epochs=4, patience=2, min_improvement=0.25, keep_best=0)
    assert record.epochs == 3


@pytest.mark.parametrize("averaging", ["ema", "none"])
def test_the_mean_of_the_best_epochs_is_kept_where_it_scores_better(scored, averaging):
    # The sixth value is that of the mean of epochs 1, 3 and 4.
    weights, record, _, scores = scored(0.1, 0.5, 0.2, 0.7, 0.6, 0.71, epochs=5, keep_best=3, averaging=averaging)
    assert_mean_of(weights, [scores.weights[i] for i in (1, 3, 4)])
    assert record.kept == "mean of 3 epochs (epoch0003, epoch0004, epoch0001)"
    assert_mean_of(scores.weights[5], [scores.weights[i] for i in (1, 3, 4)])


def test_the_best_epoch_is_kept_where_the_mean_scores_no_better(scored):
    weights, record, _, scores = scored(0.1, 0.5, 0.2, 0.7, 0.6, 0.7, epochs=5, keep_best=3)
    assert all(torch.equal(weights[name], scores.weights[3][name]) for name in weights)
    assert record.kept == "best epoch (epoch0003)"


def test_the_mean_of_the_best_epochs_is_kept_in_any_case_if_the_recipe_says_so(scored):
    weights, record, _, scores = scored(
        0.1, 0.5, 0.2, 0.7, 0.6, 0.0, epochs=5, keep_best=3, averaging="none", mean_of_best="always"
    )
    assert_mean_of(weights, [scores.weights[i] for i in (1, 3, 4)])
    assert record.kept.startswith("mean of 3 epochs")


def test_the_score_of_every_class_is_kept_for_every_epoch(scored, tmp_path):
    _, _, table, _ = scored(0.2, 0.6, epochs=2, keep_best=1)
    assert [(row["score"], row["score/small"], row["score/large"]) for row in table] == [
        ("0.2", "0.1", "0.2"),
        ("0.6", "0.3", "0.6"),
    ]
    curves = read_epoch_scores(tmp_path / "run")["fold0/segresnet"]
    assert curves["score/small"].tolist() == [0.1, 0.3]


def test_schedule_free_training_keeps_and_scores_its_average(data, tmp_path, monkeypatch):
    """What is validated and stored is the mean x, not the point y where gradients are taken."""
    free = pytest.importorskip("schedulefree", reason="pip install schedulefree").AdamWScheduleFree
    modes, original = [], fit.Validation.losses

    def looking(self, network):
        modes.append([group["train_mode"] for group in made[-1].param_groups])
        return original(self, network)

    made, build = [], fit.build_optimiser
    monkeypatch.setattr(fit, "build_optimiser", lambda *given: made.append(build(*given)) or made[-1])
    monkeypatch.setattr(fit.Validation, "losses", looking)
    optimiser = {"name": "adamw-schedulefree", "schedule": "constant"}
    recipe = recipe_file(tmp_path, optimiser=optimiser, fit={"averaging": "none", "epochs": 2, "keep_best": 0})
    assert run_train(data, tmp_path / "run", recipe).ok
    assert isinstance(made[0], free)
    assert [any(mode) for mode in modes] == [False, False]
    kept = load_file(tmp_path / "run" / "fold0" / "segresnet" / "weights.safetensors")
    stored, _ = checkpoint_of(tmp_path / "run" / "fold0" / "segresnet" / LAST)
    assert all(torch.equal(kept[name], stored[f"network.{name}"]) for name in kept)
    assert any(not torch.equal(kept[name], stored[f"optimiser.{name}.z"]) for name in kept)


def copy_of(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def test_swa_keeps_the_mean_of_the_last_quarter_of_the_epochs(data, tmp_path, monkeypatch):
    ends = []
    original = fit.save_checkpoint

    def remembering(path, state, network, average, optimiser):
        ends.append(copy_of(network))
        original(path, state, network, average, optimiser)

    monkeypatch.setattr(fit, "save_checkpoint", remembering)
    recipe = recipe_file(tmp_path, fit={"averaging": "swa", "epochs": 8, "steps_per_epoch": 2, "keep_best": 0})
    assert run_train(data, tmp_path / "run", recipe).ok
    folder = tmp_path / "run" / "fold0" / "segresnet"
    assert len(ends) == 8
    assert_mean_of(load_file(folder / "weights.safetensors"), ends[5:])  # 6 of 8 epochs are three quarters
    assert load_member(folder)[1].kept == "last epoch, mean of 3 epoch ends"


def test_ema_keeps_the_moving_average_of_every_step(data, tmp_path, monkeypatch):
    steps = []
    original = AveragedModel.update_parameters

    def remembering(self, model):
        steps.append(copy_of(model))
        original(self, model)

    monkeypatch.setattr(AveragedModel, "update_parameters", remembering)
    recipe = recipe_file(tmp_path, fit={"epochs": 2, "keep_best": 0})
    assert run_train(data, tmp_path / "run", recipe).ok
    folder = tmp_path / "run" / "fold0" / "segresnet"
    expected = {name: tensor.double() for name, tensor in steps[0].items()}
    for n, weights in enumerate(steps[1:], start=1):
        decay = min(0.9, (1 + n) / (10 + n))
        expected = {name: decay * mean + (1 - decay) * weights[name] for name, mean in expected.items()}
    kept = load_file(folder / "weights.safetensors")
    for name, tensor in kept.items():
        torch.testing.assert_close(tensor.double(), expected[name], rtol=0, atol=ROUNDING)
    assert any(not torch.equal(kept[name], steps[-1][name]) for name in kept)
    assert load_member(folder)[1].kept == "last epoch, moving average (decay 0.9)"


def test_a_run_that_ends_before_anything_was_averaged_does_not_say_so(scored):
    _, record, _, _ = scored(0.5, 0.5, epochs=20, patience=1, keep_best=0, averaging="swa")
    assert record.kept == "last epoch"


def test_a_kill_before_the_checkpoint_is_saved_loses_no_candidate(data, tmp_path, monkeypatch):
    """Every candidate that the checkpoint on disk counts on is there, though a later epoch was better."""
    recipe = recipe_file(tmp_path, fit={"epochs": 4, "steps_per_epoch": 2, "keep_best": 1})
    original = fit.save_checkpoint
    monkeypatch.setattr(Validation, "value", lambda self, row: row["epoch"])  # every epoch better than the last

    def dying(path, state, *rest):
        if state.epoch == 3:
            raise Killed
        original(path, state, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(fit, "save_checkpoint", dying)
        with pytest.raises(Killed):
            run_train(data, tmp_path / "run", recipe)
    folder = tmp_path / "run" / "fold0" / "segresnet"
    ((_, state),) = checkpoint_of(folder / LAST)[1].items()
    assert json.loads(state)["best"] == [[1.0, "epoch0001.safetensors"]]
    assert (folder / CANDIDATES / "epoch0001.safetensors").exists()
    assert run_train(data, tmp_path / "run", recipe).ok
    assert load_member(folder)[1].kept == "best epoch (epoch0003)"


def test_time_limit_ends_a_member_with_the_learning_rate_at_its_end(data, tmp_path, monkeypatch):
    looks = []

    def passing(clock):
        looks.append(clock)
        return clock.earlier_s + 0.05 * len(looks)  # a twentieth of a second goes by from one look to the next

    monkeypatch.setattr(Clock, "seconds", property(passing))
    recipe = recipe_file(tmp_path, fit={"epochs": 100000, "max_minutes": 0.03, "keep_best": 0})
    assert run_train(data, tmp_path / "run", recipe).ok
    table = rows(tmp_path / "run" / "fold0" / "segresnet" / "metrics.csv")
    assert 1 < len(table) < 36  # 1.8 s are 36 looks, and every epoch takes several
    # The rate ends at a hundredth of its peak of 0.01; the last look was a little before the end of the time.
    assert float(table[-1]["learning_rate"]) < 0.05 * 0.01


def test_a_warm_up_that_outlasts_the_run_is_said(data, tmp_path, caplog):
    long = {**SEGRESNET, "label": "long", "fit": {"steps_per_epoch": 6}}
    recipe = recipe_file(
        tmp_path,
        networks=[SEGRESNET, long],
        fit={"epochs": 1, "steps_per_epoch": 2},
        optimiser={"warmup_steps": 5, "learning_rate": 0.25},
    )
    run_train(data, tmp_path / "run", recipe)
    said = [r.getMessage() for r in caplog.records if "warm-up" in r.getMessage()]
    assert len(said) == 1
    assert said[0].startswith(
        "segresnet: warm-up takes 5 steps and the whole training has 2: learning_rate 0.25 is never"
    )


def test_options_that_the_runs_cannot_serve_are_refused_before_they_are_read(data, tmp_path):
    two = write_project(tmp_path / "two", n_runs=2)
    paste = {"copy_paste": 0.5, "copy_paste_from": "other"}
    with pytest.raises(TomopointError, match=r"fold0/segresnet: copy_paste_from is other, .* one run alone"):
        run_train(two, tmp_path / "run", recipe_file(tmp_path, folds="kfold-2", augmentation=paste))
    with pytest.raises(TomopointError, match=r"'plateau' waits for validations, but this fold holds no run out"):
        run_train(data, tmp_path / "run", recipe_file(tmp_path, folds="all", optimiser={"schedule": "plateau"}))


class Darkness(torch.nn.Module):
    """Finds whatever is dark, and takes it for both kinds of particle."""

    divisor = 2
    predicts_offsets = True  # zeros, and right

    def __init__(self):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.tensor(-4.0))

    def forward(self, volume):
        scores = torch.sigmoid(self.bias - torch.nn.functional.avg_pool3d(volume, 2))
        return scores.expand(-1, 2, -1, -1, -1), torch.zeros(scores.shape[0], 3, *scores.shape[2:])


@pytest.mark.parametrize("weights", [(1.0, 3.0), (0.0, 2.0)])
def test_the_weights_of_the_particles_decide_what_ranks_epochs(weights, tmp_path):
    particles = [{**vars(p), "weight": weight} for p, weight in zip(PARTICLES, weights, strict=True)]
    recipe = load_recipe(recipe_file(tmp_path, particles=particles))
    score = official_score(Darkness(), [make_run(shape=(48, 64, 64), n_particles=12)], recipe)
    small, large = score.per_class["small"], score.per_class["large"]
    assert min(small, large) > 0.5
    assert small != large  # the large ones are darker, so a threshold keeps these alone
    assert score.value == pytest.approx((weights[0] * small + weights[1] * large) / sum(weights))


def test_every_network_is_trained_with_its_own_options(data, tmp_path):
    own = {**SEGRESNET, "label": "own", "fit": {"epochs": 3, "steps_per_epoch": 1}, "optimiser": {"warmup_steps": 0}}
    recipe = recipe_file(tmp_path, networks=[SEGRESNET, own], fit={"epochs": 1, "averaging": "none"})
    assert run_train(data, tmp_path / "run", recipe).ok
    records = [load_member(tmp_path / "run" / "fold0" / name)[1] for name in ("segresnet", "own")]
    assert [(record.epochs, record.steps) for record in records] == [(1, 3), (3, 3)]
    content = json.loads((tmp_path / "run" / "fold0" / "own" / "member.json").read_text())
    assert "fit" not in content["network"]  # the record describes the network, the recipe its training


@pytest.mark.parametrize(
    ("part", "options"),
    [
        ("augmentation", {"noise": 1.0}),
        ("loss", {"l1_weight": 1.0}),
        ("optimiser", {"warmup_steps": 0}),
        ("fit", {"batch_size": 1}),
    ],
)
def test_options_of_one_network_train_it_as_those_of_the_recipe_do(part, options, data, tmp_path):
    def weights(name, network, **changes):
        length = {"epochs": 1, "steps_per_epoch": 2, "validation_crops": 0, **changes.pop("fit", {})}
        recipe = recipe_file(tmp_path, networks=[{**SEGRESNET, **network}], fit=length, **changes)
        assert run_train(data, tmp_path / name, recipe).ok
        return load_file(tmp_path / name / "fold0" / "segresnet" / "weights.safetensors")

    own, common = weights("own", {part: options}), weights("common", {}, **{part: options})
    neither = weights("neither", {})
    assert all(torch.equal(own[name], common[name]) for name in own)
    assert any(not torch.equal(own[name], neither[name]) for name in own)


@pytest.mark.parametrize("folder", sorted(STORED.iterdir()), ids=lambda folder: folder.name)
def test_finished_members_of_earlier_versions_are_kept(folder, data, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(folder, run)
    mine = tmp_path / "mine.yaml"
    shutil.copy(folder / "recipe.yaml", mine)
    # The test's data are compressed by whatever zarr is installed: their digest is of today.
    probe = make_plan(load_recipe(str(mine)), "mine", data, run, "0")
    for task in probe.tasks:
        path = task.folder / "member.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "data_sha256": probe.data_sha256(task)}))
    result = run_train(data, run, str(mine))
    assert result.figures["skipped"] == ["fold0/segresnet", "fold0/dynunet"]
    assert result.figures["trained"] == []
    content = yaml.safe_load(mine.read_text())
    content["fit"]["mean_of_best"] = "always"
    mine.write_text(yaml.safe_dump(content))
    with pytest.raises(TomopointError, match=r"fit\.mean_of_best differ; .*--recipe .*recipe\.yaml"):
        run_train(data, run, str(mine))


def test_the_log_says_how_much_there_is_to_do_and_how_far_it_is(data, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    recipe = recipe_file(tmp_path, fit={"epochs": 2, "steps_per_epoch": 22, "validation_crops": 0})
    run_train(data, tmp_path / "run", recipe, folds="0,1")
    said = [record.getMessage() for record in caplog.records]
    first = next(i for i, text in enumerate(said) if text.startswith("2 of 2 networks to train"))
    assert "2 x segresnet (2 epochs of 22 steps of 2 crops); 88 steps in all" in said[first]
    timed = next(i for i, text in enumerate(said) if "fold0/segresnet is member 1 of 2" in text)
    epoch = next(i for i, text in enumerate(said) if text.startswith("fold0/segresnet epoch 1 of 2, step 22: loss"))
    assert first < timed < epoch  # from bare steps, before the first epoch is over
    assert re.search(r", \d+ s, about \d+ (s|min) left$", said[epoch])
    last = next(text for text in said if text.startswith("fold0/segresnet epoch 2 of 2, step 44: loss"))
    assert "left" not in last
    assert any("fold1/segresnet is member 2 of 2" in text and "with validation" in text for text in said)


def test_a_member_that_another_process_trains_is_left_to_it(data, tmp_path):
    recipe = recipe_file(tmp_path, fit={"epochs": 1, "steps_per_epoch": 1})
    folder = tmp_path / "run" / "fold0" / "segresnet"
    folder.mkdir(parents=True)
    with locked(folder / LOCK):
        result = run_train(data, tmp_path / "run", recipe)
    assert not result.ok
    assert f"another process trains fold0/segresnet in {folder}: process {os.getpid()} on" in result.text
    assert [path.name for path in folder.iterdir()] == []
    assert run_train(data, tmp_path / "run", recipe).ok
    assert not (folder / LOCK).exists()


def test_a_task_with_found_weights_can_be_sent_to_another_process(tmp_path):
    task = MemberTask(Fold("fold0", ("TS_0",), ("TS_1",)), 0, 0, load_recipe("demo"), tmp_path)
    assert task.pretrained is not None
    again = pickle.loads(pickle.dumps(task))
    assert again == task
    assert again.pretrained.sha256 == task.pretrained.sha256


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
    # Both classes weigh one.
    mean = (float(table[1]["score/small"]) + float(table[1]["score/large"])) / 2
    assert float(table[1]["score"]) == pytest.approx(mean, abs=1e-5)
    assert table[0]["score/small"] == table[2]["score/large"] == ""
    assert "epoch0001" in load_member(folder)[1].kept
