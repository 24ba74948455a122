"""Confident picks of unlabelled runs become training runs; uncertain ones are left alone."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from training_data import PARTICLES, VOXEL_A, make_run, write_project

from tomopoint.data.project import Project
from tomopoint.data.tables import write_pick_table
from tomopoint.data.tomograms import describe_tomogram
from tomopoint.errors import DataError
from tomopoint.pipeline import Member, Pipeline
from tomopoint.training.crops.dataset import NO_AUGMENTATION, CropDataset
from tomopoint.training.crops.pseudo_labels import PREFIX, PseudoLabels, describe_pseudo_runs, parse_pseudo_threshold
from tomopoint.training.crops.tomograms import read_tomograms
from tomopoint.training.losses.points import FIRST_BORDER_LABEL
from tomopoint.training.options.crops import CropOptions
from tomopoint.training.plan import make_plan
from tomopoint.training.recipe import Recipe

RECIPE = Recipe(particles=PARTICLES, folds="kfold-2", crops=CropOptions((96, 64, 64)))


@pytest.fixture
def project(tmp_path):
    """Two labelled runs, and two unlabelled of which one is a copy of a labelled run."""
    root = write_project(tmp_path / "project", n_runs=2)
    folder = "static/ExperimentRuns"
    shutil.copytree(root / "train" / folder / "TS_1", root / "test" / folder / "TS_1")
    shutil.copytree(root / "train" / folder / "TS_1", root / "test" / folder / "TS_9")
    return root


def write_picks_of(root, path, scores):
    """Write the picks of TS_1 for the runs TS_1 and TS_9, with these scores in turn."""
    run = make_run("TS_1", seed=1)
    xyz = run.centres_zyx[:, ::-1] * VOXEL_A
    rows = [
        {"experiment": name, "particle_type": PARTICLES[label].name, "x": x, "y": y, "z": z, "score": score}
        for name in ("TS_1", "TS_9")
        for label, (x, y, z), score in zip(run.labels, xyz, np.resize(scores, len(xyz)), strict=True)
    ]
    write_pick_table(pd.DataFrame(rows), path)
    return PseudoLabels(path, root)


def test_confident_picks_join_every_fold_and_copies_of_labelled_runs_do_not(project, tmp_path):
    options = write_picks_of(project, tmp_path / "picks.csv", [0.9, 0.3])
    plan = make_plan(RECIPE, "x", project, tmp_path / "run", None, options)
    assert plan.extra == (PREFIX + "TS_9",)
    run = read_tomograms(plan.records, RECIPE)[PREFIX + "TS_9"]
    truth = make_run("TS_1", seed=1)
    for sure in (True, False):
        chosen = run.labels >= 0 if sure else run.labels <= FIRST_BORDER_LABEL
        expected = truth.centres_zyx[0::2] if sure else truth.centres_zyx[1::2]
        # the pick table keeps three decimals of an Angstrom
        assert sorted(run.centres_zyx[chosen].tolist()) == pytest.approx(np.array(sorted(expected.tolist())), abs=1e-3)


def test_a_pick_on_a_face_of_the_tomogram_is_taken(project, tmp_path):
    options = write_picks_of(project, tmp_path / "picks.csv", [0.9])
    info = describe_tomogram(Project(project).run("TS_9", "test").tomogram_path())
    table = pd.read_csv(tmp_path / "picks.csv")
    # what decoding clips to the extent and the table rounds, here upwards
    table.loc[:, ["x", "y", "z"]] = np.ceil(np.array(info.shape_zyx[::-1]) * info.voxel_A * 1000) / 1000
    write_pick_table(table, tmp_path / "picks.csv")
    assert list(describe_pseudo_runs(options, RECIPE, ["TS_0", "TS_1"])) == [PREFIX + "TS_9"]


def test_crops_are_centred_on_confident_picks_only(project, tmp_path):
    options = write_picks_of(project, tmp_path / "picks.csv", [0.9, 0.3])
    plan = make_plan(RECIPE, "x", project, tmp_path / "run", None, options)
    run = read_tomograms(plan.records, RECIPE)[PREFIX + "TS_9"]
    dataset = CropDataset([run], CropOptions((16, 16, 16)), NO_AUGMENTATION, 0, radii_vox=[3, 6])
    assert len(dataset.sampler._probabilities) == (run.labels >= 0).sum()
    labels = np.concatenate([dataset[0, position].labels for position in range(20)])
    assert set(labels) <= {0, 1, FIRST_BORDER_LABEL, FIRST_BORDER_LABEL - 1}


def test_useless_tables_are_refused(project, tmp_path):
    low = write_picks_of(project, tmp_path / "low.csv", [0.1])
    with pytest.raises(DataError, match="pseudo-threshold"):
        describe_pseudo_runs(low, RECIPE, ["TS_0", "TS_1"])
    table = pd.read_csv(low.picks_path)
    table.drop(columns="score").to_csv(tmp_path / "plain.csv", index=False)
    with pytest.raises(DataError, match="no scores"):
        describe_pseudo_runs(PseudoLabels(tmp_path / "plain.csv", project), RECIPE, [])
    table.assign(particle_type="virus").to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(DataError, match="virus"):
        describe_pseudo_runs(PseudoLabels(tmp_path / "other.csv", project), RECIPE, [])


def test_each_particle_has_its_own_threshold(project, tmp_path):
    """Half the picks are scored 0.9, half 0.3: of the large ones all are learned, of the small ones the first half."""
    options = replace(write_picks_of(project, tmp_path / "picks.csv", [0.9, 0.3]), per_particle={"large": 0.2})
    record = describe_pseudo_runs(options, RECIPE, ["TS_0", "TS_1"])[PREFIX + "TS_9"]
    truth = make_run("TS_1", seed=1)
    n_small, n_large = (int((truth.labels == label).sum()) for label in (0, 1))
    n_sure = int((truth.labels[0::2] == 0).sum())
    assert (len(record.picks_xyz_A["small"]), len(record.uncertain_xyz_A["small"])) == (n_sure, n_small - n_sure)
    assert (len(record.picks_xyz_A["large"]), len(record.uncertain_xyz_A["large"])) == (n_large, 0)
    with pytest.raises(DataError, match="unknown particle virus; known are small, large"):
        describe_pseudo_runs(replace(options, per_particle={"virus": 0.3}), RECIPE, ["TS_1"])


def test_thresholds_are_read_as_one_or_by_particle(tmp_path):
    assert parse_pseudo_threshold("0.7") == (0.7, {})
    assert parse_pseudo_threshold("small=0.4,large=0.8") == (0.5, {"small": 0.4, "large": 0.8})
    (tmp_path / "thresholds.json").write_text('{"small": 0.25}')
    assert parse_pseudo_threshold(str(tmp_path / "thresholds.json")) == (0.5, {"small": 0.25})
    for wrong in ("high", "small=high", "1.5", "small=0", "small=0.3,small=0.4"):
        with pytest.raises(DataError, match="--pseudo-threshold"):
            parse_pseudo_threshold(wrong)


def pipeline_of(path, *validation_runs):
    """Write the pipeline.json that a prediction leaves, of networks that never saw these runs."""
    members = tuple(Member(f"fold{i}", "segresnet", runs, None, "0" * 64) for i, runs in enumerate(validation_runs))
    Pipeline(PARTICLES, VOXEL_A, members=members).save(path / "pipeline.json")


@pytest.mark.parametrize(
    ("folds", "said"),
    [
        ((("TS_0",), ("TS_1",)), "(fold0, fold1) were trained on TS_0, TS_1, which are held out"),
        ((("TS_0",),), "(fold0) were trained on TS_1, which"),
        (((),), "(fold0) were trained on TS_0, TS_1, which"),
        ((("TS_0", "TS_1"),), None),
        ((("other_1",), ("other_2",)), None),
    ],
    ids=["all folds", "one fold", "no run held out", "both held out", "of other data"],
)
def test_labels_of_networks_that_saw_held_out_runs_are_warned_of(folds, said, project, tmp_path, caplog):
    options = write_picks_of(project, tmp_path / "picks.csv", [0.9])
    pipeline_of(tmp_path, *folds)
    make_plan(RECIPE, "x", project, tmp_path / "run", None, options)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == (said is not None)
    assert said is None or said in warnings[0]


def test_only_the_folds_that_are_trained_matter(project, tmp_path, caplog):
    options = write_picks_of(project, tmp_path / "picks.csv", [0.9])
    pipeline_of(tmp_path, ("TS_0",))
    for fold in ("0", "1"):
        caplog.clear()
        plan = make_plan(RECIPE, "x", project, tmp_path / "run", fold, options)
        warned = any("pseudo-labels: networks" in record.getMessage() for record in caplog.records)
        assert warned == (plan.tasks[0].fold.validation_runs != ("TS_0",))


def test_picks_of_unknown_networks_are_said_to_be(project, tmp_path, caplog):
    options = write_picks_of(project, tmp_path / "picks.csv", [0.9])
    make_plan(RECIPE, "x", project, tmp_path / "run", None, options)
    assert "no pipeline.json beside" in caplog.text
