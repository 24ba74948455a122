"""`tomopoint baseline` from a project to picks: it learns, goes on, starts from weights, and is read by others."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from safetensors.torch import load_file
from training_data import PARTICLES, VOXEL_A

import tomopoint.baselines.fit as fit
from tomopoint.baselines.command import baseline
from tomopoint.data.tables import read_pick_table
from tomopoint.errors import TomopointError
from tomopoint.evaluation.command import report, score
from tomopoint.evaluation.history import read_validation
from tomopoint.pipeline import Pipeline

LEARNT = {"detector": 0.8, "segmenter": 0.6}
"""Simulated out-of-fold F4 of the large particles: 120 steps reach 0.97 and 0.77."""
METHODS = sorted(LEARNT)


@pytest.fixture(scope="session")
def tested(data):
    """Return the project with the training run TS_0 as a test run, too."""
    for part in ("static", "overlay"):
        source = data / "train" / part / "ExperimentRuns" / "TS_0"
        place = data / ("test" if part == "static" else "truth") / part / "ExperimentRuns" / "TS_0"
        shutil.copytree(source, place, dirs_exist_ok=True)
    return data


@pytest.fixture(scope="session", params=METHODS)
def trained(request, tested, recipes, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / request.param
    return request.param, out, baseline(str(recipes[request.param]), data=tested, out=out, predict=tested, device="cpu")


def test_it_finds_particles_of_runs_that_it_never_saw(trained):
    method, out, result = trained
    assert result.figures["per_class_left_out"]["large"]["f_beta"] > LEARNT[method]
    assert sorted(result.figures["predictions"]) == ["TS_0", "TS_1", "TS_2"]
    for name in ("TS_0", "TS_1", "TS_2"):
        fold = result.figures["predictions"][name]["group"]
        record = json.loads((out / fold / "network.json").read_text())
        assert name in record["validation_runs"]
        assert name not in record["training_runs"]
    assert result.figures["per_class"]["large"]["localisation_A"] < 2 * VOXEL_A


def test_what_it_leaves_is_read_like_any_other(trained, tested):
    method, out, result = trained
    picks = read_pick_table(out / "picks" / "picks.csv")
    submission = read_pick_table(out / "picks" / "submission.csv")
    pipeline = Pipeline.load(out / "picks" / "pipeline.json")
    assert pipeline.thresholds == {name: item["threshold"] for name, item in result.figures["thresholds"].items()}
    least = picks["particle_type"].map(pipeline.thresholds)
    assert len(submission) == (picks["score"] >= least).sum() > 0
    assert picks["score"].between(0.05, 1).all()
    # Nothing nearer than the particle's suppression.
    for particle in PARTICLES:
        places = picks.loc[picks["particle_type"] == particle.name, ["x", "y", "z"]].to_numpy()
        away = np.linalg.norm(places[:, None] - places[None], axis=-1) + np.eye(len(places)) * 1e9
        assert away.min() >= particle.suppression_A - 0.01
    assert read_validation(out) is not None
    judged = score(out / "picks" / "submission.csv", truth=tested / "truth" / "overlay").figures
    assert judged["per_class"]["large"]["f_beta"] > LEARNT[method]  # two of three networks have seen it
    page = out / "report.html"
    report(data=tested, submission=[out / "picks" / "submission.csv"], trained=out, out=page)
    assert "Threshold curves" in page.read_text()


def test_what_is_finished_is_not_made_again(trained, tested, recipes):
    method, out, _ = trained
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    parts = {path: path.stat().st_mtime_ns for path in out.rglob("TS_*.csv")}
    again = baseline(str(recipes[method]), data=tested, out=out, predict=tested, device="cpu")
    assert again.figures["trained"] == []
    assert {path: path.stat().st_mtime_ns for path in (*before, *parts)} == {**before, **parts}
    with pytest.raises(TomopointError, match=r"made with another recipe: fit\.steps differ"):
        baseline(str(recipes[method]), data=tested, out=out, steps=50, device="cpu")


class Stopped(Exception):
    """Instead of Ctrl-C."""


@pytest.mark.parametrize("method", METHODS)
def test_an_interrupted_training_goes_on_to_the_same_weights(method, data, recipes, tmp_path, monkeypatch):
    words = {"data": data, "folds": "1", "steps": 40, "device": "cpu"}
    baseline(str(recipes[method]), out=tmp_path / "whole", **words)
    save = fit.save_checkpoint

    def save_and_stop(*given):
        save(*given)
        raise Stopped

    monkeypatch.setattr(fit, "save_checkpoint", save_and_stop)
    with pytest.raises(Stopped):
        baseline(str(recipes[method]), out=tmp_path / "parts", **words)
    monkeypatch.setattr(fit, "save_checkpoint", save)
    assert not (tmp_path / "parts" / "fold1" / "network.json").exists()
    baseline(str(recipes[method]), out=tmp_path / "parts", **words)

    first, second = (load_file(tmp_path / name / "fold1" / "weights.safetensors") for name in ("whole", "parts"))
    assert {name for name in first if not first[name].equal(second[name])} == set()
    rows = pd.read_csv(tmp_path / "parts" / "fold1" / "metrics.csv")
    assert rows["step"].tolist() == [30, 40]
    other = baseline(str(recipes[method]), out=tmp_path / "seed", seed=1, **words)
    assert other.ok
    third = load_file(tmp_path / "seed" / "fold1" / "weights.safetensors")
    assert not all(first[name].equal(third[name]) for name in first)


def test_it_goes_on_from_earlier_weights_unless_they_have_seen_the_held_out_runs(trained, tested, recipes, tmp_path):
    method, out, _ = trained
    path = tmp_path / "on.yaml"

    def on(**content):
        path.write_text(yaml.safe_dump({"base": str(recipes[method]), "pretrained": str(out), **content}))
        return str(path)

    words = {"data": tested, "device": "cpu", "folds": "0"}
    slow = {"fit": {"learning_rate": 1e-9, "weight_decay": 0.0}}
    baseline(on(**slow), out=tmp_path / "on", steps=1, **words)
    first, second = (load_file(folder / "fold0" / "weights.safetensors") for folder in (out, tmp_path / "on"))
    weights = [name for name in first if "running" not in name and "num_batches" not in name]
    assert max(float((first[name].float() - second[name].float()).abs().max()) for name in weights) < 1e-6
    with pytest.raises(TomopointError, match="trained on TS_0, which it holds out"):
        baseline(on(folds=[["TS_1"], ["TS_0"]]), out=tmp_path / "seen", data=tested, folds="1", device="cpu")
    with pytest.raises(TomopointError, match="holds no trained fold0"):
        baseline(on(pretrained=str(tmp_path)), out=tmp_path / "none", **words)


def test_folds_that_hold_nothing_out_are_refused(data, recipes, tmp_path):
    path = tmp_path / "all.yaml"
    path.write_text(yaml.safe_dump({"base": str(recipes["detector"]), "folds": "all"}))
    with pytest.raises(TomopointError, match="fold0 holds no run out"):
        baseline(str(path), data=data, out=tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()
