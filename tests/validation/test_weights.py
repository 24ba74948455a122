"""Shares of the kinds of networks: what an average of maps is, and that noise does not choose."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from validation_data import NETWORKS, RECIPE_USED, write_member

from tomopoint.data.project import Project
from tomopoint.data.tables import PICK_COLUMNS
from tomopoint.data.tomograms import read_tomogram
from tomopoint.errors import TomopointError
from tomopoint.evaluation.calibration import CalibrationOptions
from tomopoint.inference.decode import decode_maps
from tomopoint.inference.predict import predict_tomogram, predict_volume
from tomopoint.pipeline import Pipeline
from tomopoint.training.checkpoints import RECIPE
from tomopoint.validation import weights
from tomopoint.validation.command import validate
from tomopoint.validation.ensemble_folder import load_ensemble
from tomopoint.validation.out_of_fold import engine_of, pipeline_of
from tomopoint.validation.validated import load_validated
from tomopoint.validation.weights import with_weights

SMALL = {"window": "16,32,32", "overlap": "8,8,8"}
MAP_TOLERANCE = 1e-5
"""The same sums of float32 scores below one, in another order."""


def test_equal_shares_come_first_and_none_twice():
    assert weights.candidate_shares(["a"]) == [{"a": 1.0}]
    two = weights.candidate_shares(["a", "b"])
    assert two[0] == {"a": 1.0, "b": 1.0}
    ratios = sorted(round(shares["a"] / shares["b"], 3) for shares in two)
    assert ratios == [0.333, 0.5, 1.0, 2.0, 3.0]  # a third of a is three times b: once
    assert len(weights.candidate_shares(["a", "b", "c"])) == 13


def test_an_average_of_kinds_is_the_graph_that_such_weights_make(validated, project):
    """Maps are averaged after merging, the graph averages within windows: the same, because both are linear."""
    ensemble = load_ensemble([validated[0]])
    base = load_validated([validated[0]]).pipeline
    shares = {"dynunet": 3.0, "segresnet": 1.0}
    weighted = replace(base, members=with_weights(base.members, ensemble.kinds, shares))
    assert [member.weight for member in weighted.members] == [3.0, 1.0, 3.0, 1.0]
    run = ensemble.held_out[0]
    tomogram = read_tomogram(Project(project).run(run.name, "train").tomogram_path())
    whole = pipeline_of(run.members, weighted)
    expected = predict_volume(tomogram.volume_zyx, engine_of(ensemble, run.members, whole, "cpu"), whole)
    maps = {}
    for kind, members in ensemble.kinds.items():
        own = pipeline_of([i for i in members if i in run.members], base)
        engine = engine_of(ensemble, [i for i in members if i in run.members], own, "cpu")
        maps[kind] = predict_volume(tomogram.volume_zyx, engine, own)
    got = weights.averaged(maps, shares)
    np.testing.assert_allclose(got.scores, expected.scores, atol=MAP_TOLERANCE)
    np.testing.assert_allclose(got.offsets, expected.offsets, atol=MAP_TOLERANCE)


def _picks(truth, found, noise, rng):
    """Picks of a detector that finds a share of the particles with high scores and adds wrong ones with low scores."""
    rows = []
    for run, particles in truth.items():
        for name, points in particles.items():
            for point in points[rng.random(len(points)) < found]:
                rows.append((run, name, *point, rng.uniform(0.5, 0.9)))
            for point in rng.uniform(0, 6000, (noise, 3)):
                rows.append((run, name, *point, rng.uniform(0.1, 0.6)))
    return pd.DataFrame(rows, columns=list(PICK_COLUMNS))


@pytest.fixture(scope="module")
def truth():
    rng = np.random.default_rng(3)
    names = [particle.name for particle in RECIPE_USED.particles]
    return {f"TS_{run}": {name: rng.uniform(0, 6000, (20, 3)) for name in names} for run in range(6)}


GROUPS = {f"fold{index}": (f"TS_{2 * index}", f"TS_{2 * index + 1}") for index in range(3)}
CANDIDATES = weights.candidate_shares(["a", "b"])


def _choose(truth, found_by, pipeline):
    picks = [_picks(truth, found, 20, np.random.default_rng(10 + i)) for i, found in enumerate(found_by)]
    return weights._choose(CANDIDATES, picks, truth, GROUPS, pipeline, CalibrationOptions())


def test_shares_that_find_more_everywhere_are_taken(truth, validated):
    pipeline = Pipeline.load(validated[0] / "pipeline.json")
    choice = _choose(truth, [0.6, 0.6, 0.6, 0.95, 0.6], pipeline)
    assert choice.shares == CANDIDATES[3]
    assert choice.chosen_score > choice.equal_score + choice.gain_error
    assert "chosen out of fold" in choice.reason


def test_candidates_that_differ_by_chance_only_leave_equal_shares(truth, validated):
    pipeline = Pipeline.load(validated[0] / "pipeline.json")
    choice = _choose(truth, [0.8] * 5, pipeline)
    assert choice.shares == {"a": 1.0, "b": 1.0}
    assert "equal shares" in choice.reason


def test_chosen_weights_are_in_the_pipeline_and_nothing_is_predicted_twice(validated, tmp_path, monkeypatch):
    folder = shutil.copytree(validated[0], tmp_path / "copy")
    fixed = {"dynunet": 2.0, "segresnet": 1.0}
    real = weights._choose
    monkeypatch.setattr(weights, "_choose", lambda *given: replace(real(*given), shares=fixed))
    validate([folder], weights="out-of-fold", **SMALL)
    pipeline = Pipeline.load(folder / "pipeline.json")
    assert {member.network: member.weight for member in pipeline.members} == fixed
    content = json.loads((folder / "validation.json").read_text())
    assert content["weights"]["shares"] == fixed
    assert len(content["weights"]["candidates"]) == 5
    ensemble = load_ensemble([folder])
    store = ensemble.project(None).run("TS_2", "train").tomogram_path()
    own = pipeline_of(ensemble.held_out[1].members, pipeline)
    unmoved = replace(own, decoding=replace(own.decoding, residual_xyz_A=(0.0, 0.0, 0.0)))
    expected = predict_tomogram(read_tomogram(store), engine_of(ensemble, (2, 3), own, "cpu"), unmoved)
    assert len(pd.read_csv(folder / "validation" / "TS_2.csv")) == len(expected)
    # Shares are judged on picks of the same networks: those that never saw the run, and no other.
    equal = replace(unmoved, members=tuple(replace(member, weight=1.0) for member in own.members))
    unseen = predict_tomogram(read_tomogram(store), engine_of(ensemble, (2, 3), equal, "cpu"), equal)
    judged = pd.read_csv(folder / "validation" / "weights" / "TS_2-0.csv")
    np.testing.assert_allclose(judged["score"], unseen["score"], atol=MAP_TOLERANCE)
    # The second call reads every table back: without networks it would fail where it had to predict.
    monkeypatch.setattr(weights, "predict_volume", None)
    validate([folder], weights="out-of-fold", **SMALL)


def test_decoding_an_average_of_one_kind_is_that_kinds_own(validated, project):
    ensemble = load_ensemble([validated[0]])
    pipeline = load_validated([validated[0]]).pipeline
    tomogram = read_tomogram(Project(project).run("TS_2", "train").tomogram_path())
    own = pipeline_of((2,), pipeline)
    maps = predict_volume(tomogram.volume_zyx, engine_of(ensemble, (2,), own, "cpu"), own)
    one = decode_maps(weights.averaged({"a": maps}, {"a": 5.0}), own, tomogram.voxel_A)
    pd.testing.assert_frame_equal(one, decode_maps(maps, own, tomogram.voxel_A), atol=MAP_TOLERANCE)


def test_shares_need_two_kinds_and_two_folds(project, tmp_path):
    RECIPE_USED.save(tmp_path / "a" / RECIPE)
    write_member(tmp_path / "a", "fold0", NETWORKS[0], 0, ("TS_1",), project)
    with pytest.raises(TomopointError, match="all networks are of one kind, segresnet"):
        validate([tmp_path / "a"], weights="out-of-fold", **SMALL)
    write_member(tmp_path / "a", "fold0", NETWORKS[1], 0, ("TS_1",), project)
    with pytest.raises(TomopointError, match="two or more folds"):
        validate([tmp_path / "a"], weights="out-of-fold", **SMALL)
