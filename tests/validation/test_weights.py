"""Shares of networks: what an average of maps is, and that noise does not choose."""

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


SAME_KIND = dict.fromkeys("ab", "detection")


def test_equal_shares_come_first_and_none_twice():
    assert weights.candidate_shares(["a"], {"a": "detection"}) == [{"a": 1.0}]
    two = weights.candidate_shares(["a", "b"], SAME_KIND)
    assert two[0] == {"a": 1.0, "b": 1.0}
    ratios = sorted(round(shares["a"] / shares["b"], 3) for shares in two)
    assert ratios == [0.333, 0.5, 1.0, 2.0, 3.0]  # a third of a is three times b: once
    three = ["a", "b", "c"]
    assert len(weights.candidate_shares(three, dict.fromkeys(three, "detection"))) == 13
    # Of two kinds the one that has two sets is also moved as a whole: a sixth of c is six times the others, and so on.
    blend = weights.candidate_shares(three, {"a": "detection", "b": "detection", "c": "segmentation"})
    assert len(blend) == 13
    assert {"a": 3.0, "b": 3.0, "c": 1.0} in blend
    four = weights.candidate_shares([*three, "d"], {**SAME_KIND, "c": "segmentation", "d": "segmentation"})
    assert {"a": 2.0, "b": 2.0, "c": 1.0, "d": 1.0} in four
    assert len(four) == 17 + 4


def test_an_average_of_siblings_is_the_graph_that_such_weights_make(validated, project):
    """Maps are averaged after merging, the graph averages within windows: the same, because both are linear."""
    ensemble = load_ensemble([validated[0]])
    base = load_validated([validated[0]]).pipeline
    shares = {"dynunet": 3.0, "segresnet": 1.0}
    of_classes = {name: (share,) * len(base.particles) for name, share in shares.items()}
    weighted = replace(base, members=with_weights(base.members, ensemble.siblings, of_classes))
    assert all(member.class_weights == () for member in weighted.members)
    assert [member.weight for member in weighted.members] == [3.0, 1.0, 3.0, 1.0]
    run = ensemble.held_out[0]
    tomogram = read_tomogram(Project(project).run(run.name, "train").tomogram_path())
    whole = pipeline_of(run.members, weighted)
    expected = predict_volume(tomogram.volume_zyx, engine_of(ensemble, run.members, whole, "cpu"), whole)
    maps = {}
    for kind, members in ensemble.siblings.items():
        own = pipeline_of([i for i in members if i in run.members], base)
        engine = engine_of(ensemble, [i for i in members if i in run.members], own, "cpu")
        maps[kind] = predict_volume(tomogram.volume_zyx, engine, own)
    got = weights.averaged(maps, shares, dict.fromkeys(maps, "detection"), base)
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
CANDIDATES = weights.candidate_shares(["a", "b"], SAME_KIND)


def _choose(truth, found_by, pipeline, others=None):
    """Picks of every candidate find so much; with `others`, of all particles but the ribosome so much."""
    picks = [_picks(truth, found, 20, np.random.default_rng(10 + i)) for i, found in enumerate(found_by)]
    if others is not None:
        rest = [_picks(truth, found, 20, np.random.default_rng(30 + i)) for i, found in enumerate(others)]
        picks = [
            pd.concat(
                [mine.loc[mine["particle_type"] == "ribosome"], theirs.loc[theirs["particle_type"] != "ribosome"]]
            )
            for mine, theirs in zip(picks, rest, strict=True)
        ]
    return weights._choose(CANDIDATES, picks, truth, GROUPS, pipeline, CalibrationOptions())


def test_shares_that_find_more_everywhere_are_taken(truth, validated):
    pipeline = Pipeline.load(validated[0] / "pipeline.json")
    choice = _choose(truth, [0.6, 0.6, 0.6, 0.95, 0.6], pipeline)
    wanted = np.log(CANDIDATES[3]["a"] / CANDIDATES[3]["b"])
    moved = np.log(np.divide(choice.shares["a"], choice.shares["b"])) / wanted
    assert (moved > 0.8).all()  # of the way from equal shares
    assert (moved < 1).all()  # never quite certain
    assert "chosen out of fold" in choice.reason


def test_each_particle_chooses_for_itself(truth, validated):
    pipeline = Pipeline.load(validated[0] / "pipeline.json")
    choice = _choose(truth, [0.6, 0.6, 0.6, 0.95, 0.6], pipeline, others=[0.95, 0.6, 0.6, 0.6, 0.6])
    at = pipeline.particle_names.index("ribosome")
    assert choice.shares["a"][at] / choice.shares["b"][at] == pytest.approx(CANDIDATES[3]["a"], rel=0.3)
    others = [share for i, share in enumerate(choice.shares["a"]) if i != at]
    assert others == [1.0] * len(others)
    assert choice.reason.startswith("chosen out of fold: ribosome +")
    assert choice.reason.endswith("; equal shares for the others")


@pytest.mark.parametrize("n_particles", [3, 20])
def test_candidates_that_differ_by_chance_only_leave_shares_near_equal(truth, validated, n_particles):
    """Of particles that nothing distinguishes most keep equal shares, and no luck moves the mean of them far."""
    few = {run: {name: xyz[:n_particles] for name, xyz in points.items()} for run, points in truth.items()}
    pipeline = Pipeline.load(validated[0] / "pipeline.json")
    choice = _choose(few, [0.8] * 5, pipeline)
    taken = [particle.taken for particle in choice.particles.values()]
    assert np.mean(np.array(taken) == 0) >= 0.5
    assert max(np.abs(np.log(choice.shares["a"])).mean(), np.abs(np.log(choice.shares["b"])).mean()) < np.log(3) / 4


def test_a_user_may_give_shares_of_kinds_sets_and_particles(validated):
    ensemble = load_ensemble([validated[0]])
    names = [particle.name for particle in ensemble.particles]
    given = weights.parse_weights("detection=2, dynunet=3,dynunet:ribosome=0.5", ensemble)
    assert given["segresnet"] == (2.0,) * len(names)
    assert given["dynunet"] == tuple(0.5 if name == "ribosome" else 3.0 for name in names)
    members = with_weights(ensemble.members, ensemble.siblings, given)
    assert [member.class_weights for member in members] == [given["dynunet"], given["segresnet"]] * 2
    assert members[0].weight == pytest.approx(np.mean(given["dynunet"]))  # of offsets, which are of no particle
    for text in ("unet=2", "dynunet", "dynunet=0", "dynunet=x", "dynunet:ribosom=2", "best"):
        with pytest.raises(TomopointError, match=r"names are detection, dynunet, segresnet, particles apo-ferritin"):
            weights.parse_weights(text, ensemble)


def test_chosen_weights_are_in_the_pipeline_and_nothing_is_predicted_twice(validated, tmp_path, monkeypatch):
    folder = shutil.copytree(validated[0], tmp_path / "copy")
    n_particles = len(RECIPE_USED.particles)
    fixed = {"dynunet": (2.0,) * n_particles, "segresnet": (1.0,) * n_particles}
    real = weights._choose
    monkeypatch.setattr(weights, "_choose", lambda *given: replace(real(*given), shares=fixed))
    validate([folder], weights="out-of-fold", **SMALL)
    pipeline = Pipeline.load(folder / "pipeline.json")
    assert {member.network: member.weight for member in pipeline.members} == {"dynunet": 2.0, "segresnet": 1.0}
    content = json.loads((folder / "validation.json").read_text())
    assert content["weights"]["shares"] == {name: list(own) for name, own in fixed.items()}
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


def test_decoding_an_average_of_one_set_is_that_sets_own(validated, project):
    ensemble = load_ensemble([validated[0]])
    pipeline = load_validated([validated[0]]).pipeline
    tomogram = read_tomogram(Project(project).run("TS_2", "train").tomogram_path())
    own = pipeline_of((2,), pipeline)
    maps = predict_volume(tomogram.volume_zyx, engine_of(ensemble, (2,), own, "cpu"), own)
    one = decode_maps(weights.averaged({"a": maps}, {"a": 5.0}, {"a": "detection"}, own), own, tomogram.voxel_A)
    pd.testing.assert_frame_equal(one, decode_maps(maps, own, tomogram.voxel_A), atol=MAP_TOLERANCE)


def test_shares_need_two_sets_and_two_folds(project, tmp_path):
    RECIPE_USED.save(tmp_path / "a" / RECIPE)
    write_member(tmp_path / "a", "fold0", NETWORKS[0], 0, ("TS_1",), project)
    with pytest.raises(TomopointError, match="all networks differ in their fold only, segresnet"):
        validate([tmp_path / "a"], weights="out-of-fold", **SMALL)
    write_member(tmp_path / "a", "fold0", NETWORKS[1], 0, ("TS_1",), project)
    with pytest.raises(TomopointError, match="two or more folds"):
        validate([tmp_path / "a"], weights="out-of-fold", **SMALL)
