"""Segmentation networks beside detectors, and networks that hold nothing out: whose offsets, scores and peaks."""

import json
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from validation_data import RECIPE_USED, SEGRESNET, write_member

from tomopoint.data.project import Project
from tomopoint.data.tables import read_pick_table
from tomopoint.data.tomograms import read_tomogram
from tomopoint.inference.predict import predict_tomogram, predict_volume
from tomopoint.pipeline import Pipeline
from tomopoint.training.checkpoints import RECIPE
from tomopoint.training.recipe import NetworkRecipe
from tomopoint.validation import weights
from tomopoint.validation.command import validate
from tomopoint.validation.ensemble_folder import load_ensemble
from tomopoint.validation.out_of_fold import engine_of, pipeline_of
from tomopoint.validation.validated import load_validated

UNET = NetworkRecipe("unet", filters=(4, 8))
SMALL = {"window": "16,32,32", "overlap": "8,8,8"}
TABLE_ROUNDING = 1e-3
MAP_TOLERANCE = 1e-5
"""As in test_weights."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory, project):
    """A detector on two folds; a segmentation network on the same folds, and one that saw every run."""
    root = tmp_path_factory.mktemp("kinds")
    for name, network in (("points", SEGRESNET), ("cells", UNET), ("full", UNET)):
        replace(RECIPE_USED, networks=(network,)).save(root / name / RECIPE)
    for number, (fold, held_out) in enumerate({"fold0": ("TS_1", "TS_3"), "fold1": ("TS_2",)}.items()):
        write_member(root / "points", fold, SEGRESNET, number, held_out, project)
        write_member(root / "cells", fold, UNET, 10 + number, held_out, project)
    write_member(root / "full", "fold0", UNET, 20, (), project)
    return root


def test_an_average_of_segmentation_networks_refines_its_peaks(folders, project):
    validate([folders / "cells"], **SMALL)
    pipeline = Pipeline.load(folders / "cells" / "pipeline.json")
    assert pipeline.decoding.refine_peaks
    assert [member.kind for member in pipeline.members] == ["segmentation"] * 2
    assert load_validated([folders / "cells"]).pipeline == pipeline
    written = read_pick_table(folders / "cells" / "validation" / "TS_2.csv")
    cells = written[[*"xyz"]].to_numpy() / pipeline.voxel_A / 2 - 0.5
    assert len(written) > 20
    assert np.mean(np.abs(cells - np.rint(cells)) > 0.01) > 0.5  # of unrefined peaks all lie in the middle of cells


def test_beside_detectors_peaks_are_theirs(folders, project):
    ensemble = load_ensemble([folders / "points", folders / "cells"])
    validate([folders / "points", folders / "cells"], **SMALL)
    pipeline = Pipeline.load(ensemble.folder / "pipeline.json")
    assert not pipeline.decoding.refine_peaks
    assert {member.network: member.kind for member in pipeline.members} == {
        "segresnet": "detection",
        "unet": "segmentation",
    }
    assert all(member.score is not None for member in pipeline.members)
    # Of one run the offsets of the average are those of the detector that never saw it.
    run = next(run for run in ensemble.held_out if run.name == "TS_2")
    tomogram = read_tomogram(Project(project).run("TS_2", "train").tomogram_path())
    maps = {}
    for members in (run.members, [i for i in run.members if ensemble.networks[i].predicts_offsets]):
        own = pipeline_of(members, pipeline)
        with closing(engine_of(ensemble, members, own, "cpu")) as engine:
            maps[len(members)] = predict_volume(tomogram.volume_zyx, engine, own)
    np.testing.assert_allclose(maps[2].offsets, maps[1].offsets, atol=MAP_TOLERANCE)
    assert np.abs(maps[1].offsets).max() > 0.1
    assert np.abs(maps[2].scores - maps[1].scores).max() > 0.01
    # Shares are judged on maps averaged by the same rule.
    siblings = {title: [i for i in members if i in run.members] for title, members in ensemble.siblings.items()}
    own_maps = {}
    for title, members in siblings.items():
        own = pipeline_of(members, replace(pipeline, score_maps=()))
        with closing(engine_of(ensemble, members, own, "cpu")) as engine:
            own_maps[title] = predict_volume(tomogram.volume_zyx, engine, own)
    kinds = {title: ensemble.members[member].kind for title, (member,) in siblings.items()}
    got = weights.averaged(own_maps, dict.fromkeys(kinds, 1.0), kinds, replace(pipeline, score_maps=()))
    np.testing.assert_allclose(got.scores, maps[2].scores, atol=MAP_TOLERANCE)
    np.testing.assert_allclose(got.offsets, maps[2].offsets, atol=MAP_TOLERANCE)


def test_networks_that_saw_every_run_are_averaged_without_a_score(folders, project):
    """Thresholds are those of the average of the others, and the result says so; the graph holds all of them."""
    given = [folders / "points", folders / "full"]
    result = validate(given, **SMALL)
    assert "1 of 3 networks hold no run out and have no score (full/fold0/unet)" in result.text
    assert result.figures["without_score"] == ["full/fold0/unet"]
    ensemble = load_ensemble(given)
    pipeline = Pipeline.load(ensemble.folder / "pipeline.json")
    assert [member.score is None for member in pipeline.members] == [
        member.kind == "segmentation" for member in pipeline.members
    ]
    assert [member.validation_runs for member in pipeline.members if member.score is None] == [()]
    assert len(load_validated(given).networks) == 3
    content = json.loads((ensemble.folder / "validation.json").read_text())
    assert {record["n_networks"] for record in content["predictions"].values()} == {1}
    run = next(run for run in ensemble.held_out if run.name == "TS_2")
    own = pipeline_of(
        run.members, replace(pipeline, decoding=replace(pipeline.decoding, residual_xyz_A=(0.0, 0.0, 0.0)))
    )
    tomogram = read_tomogram(Project(project).run("TS_2", "train").tomogram_path())
    with closing(engine_of(ensemble, run.members, own, "cpu")) as engine:
        expected = predict_tomogram(tomogram, engine, own)
    written = read_pick_table(ensemble.folder / "validation" / "TS_2.csv")
    np.testing.assert_allclose(written[[*"xyz", "score"]], expected[[*"xyz", "score"]], atol=TABLE_ROUNDING)


def test_a_kind_without_a_score_gets_the_mean_of_the_shares_that_were_chosen(folders):
    ensemble = load_ensemble([folders / "points", folders / "cells", folders / "full"])
    assert weights.judged_siblings(ensemble) == ["points/segresnet", "cells/unet"]
    shares = {"points/segresnet": (3.0,) * 6, "cells/unet": (1.0,) * 6}
    members = weights.with_weights(ensemble.members, ensemble.siblings, shares)
    by_title = dict(zip([ensemble.titles[o] for o in ensemble.origins], members, strict=True))
    assert {title: member.weight for title, member in by_title.items()} == {"points/": 3.0, "cells/": 1.0, "full/": 2.0}
