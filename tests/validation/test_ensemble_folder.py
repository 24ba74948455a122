"""What may be deployed: the networks that were validated, together, with the Pipeline that validation wrote."""

import json
import shutil
from dataclasses import replace

import pytest
from validation_data import RECIPE_USED, RUNS, SEGRESNET, write_member

from tomopoint.errors import PipelineError, TomopointError
from tomopoint.pipeline import Pipeline
from tomopoint.training.checkpoints import RECIPE
from tomopoint.validation.command import validate
from tomopoint.validation.ensemble_folder import find_folders, load_ensemble
from tomopoint.validation.validated import load_validated

SMALL = {"window": "16,32,32", "overlap": "8,8,8"}


@pytest.fixture(scope="module")
def together(validated, project, tmp_path_factory):
    """Two training folders, calibrated as one average: the second's folds are others than the first's."""
    root = tmp_path_factory.mktemp("several")
    shutil.copytree(validated[0], root / "a", ignore=shutil.ignore_patterns("validation*", "pipeline.json"))
    RECIPE_USED.save(root / "b" / RECIPE)
    for index, run in enumerate(RUNS):
        write_member(root / "b", f"fold{index}", SEGRESNET, 50 + index, (run,), project)
    result = validate([root / "a", root / "b"], **SMALL)
    return root, result


def test_every_run_is_predicted_by_all_networks_of_all_folders_that_never_saw_it(together):
    root, _ = together
    ensemble = load_ensemble([root / "a", root / "b"])
    by_run = {run.name: [ensemble.fold_of(i) for i in run.members] for run in ensemble.held_out}
    assert by_run["TS_2"] == ["a/fold1", "a/fold1", "b/fold1"]
    assert by_run["TS_3"] == ["a/fold0", "a/fold0", "b/fold2"]
    assert ensemble.groups == {
        "a/fold0+b/fold0": ("TS_1",),
        "a/fold0+b/fold2": ("TS_3",),
        "a/fold1+b/fold1": ("TS_2",),
    }
    content = json.loads((root / "a+b" / "validation.json").read_text())
    assert {name: record["n_networks"] for name, record in content["predictions"].items()} == dict.fromkeys(RUNS, 3)


def test_the_ensemble_folder_and_its_training_folders_name_the_same(together):
    root, _ = together
    for given in ([root / "a", root / "b"], [root / "a+b"]):
        merged = load_validated(given)
        assert len(merged.networks) == len(merged.pipeline.members) == 7
        assert merged.pipeline == Pipeline.load(root / "a+b" / "pipeline.json")
        assert list(merged.architectures) == ["dynunet", "segresnet"]
        assert not any(network.training for network in merged.networks)


def test_the_order_in_which_training_folders_are_named_does_not_matter(together):
    root, _ = together
    assert load_validated([root / "b", root / "a"]).pipeline == load_validated([root / "a", root / "b"]).pipeline


def test_folders_of_one_name_are_told_apart(validated, project, tmp_path):
    first = shutil.copytree(validated[0], tmp_path / "x" / "first")
    RECIPE_USED.save(tmp_path / "y" / "first" / RECIPE)
    write_member(tmp_path / "y" / "first", "fold0", SEGRESNET, 90, ("TS_1",), project)
    ensemble = load_ensemble([first, tmp_path / "y" / "first"])
    assert list(ensemble.siblings) == ["x/first/dynunet", "x/first/segresnet", "y/first/segresnet"]
    assert ensemble.groups["x/first/fold0+y/first/fold0"] == ("TS_1",)


def test_an_ensemble_folder_belongs_to_its_training_folders(together, validated, project, tmp_path):
    shutil.copytree(together[0], tmp_path / "s")
    RECIPE_USED.save(tmp_path / "s" / "c" / RECIPE)
    write_member(tmp_path / "s" / "c", "fold0", SEGRESNET, 91, ("TS_1",), project)
    with pytest.raises(TomopointError, match="ensemble of other training folders"):
        validate([tmp_path / "s" / "a", tmp_path / "s" / "c"], out=tmp_path / "s" / "a+b", **SMALL)
    with pytest.raises(TomopointError, match="is one of the training folders"):
        validate([tmp_path / "s" / "a", tmp_path / "s" / "b"], out=tmp_path / "s" / "b", **SMALL)


def test_only_thresholds_may_be_changed_by_hand(validated, tmp_path):
    folder = shutil.copytree(validated[0], tmp_path / "copy")
    pipeline = Pipeline.load(folder / "pipeline.json")
    changed = pipeline.with_thresholds({"ribosome": 0.31})
    changed.save(folder / "pipeline.json")
    assert load_validated([folder]).pipeline == changed
    replace(pipeline, views=("identity", "flip_x")).save(folder / "pipeline.json")
    with pytest.raises(PipelineError, match="changed by hand since it was validated; only thresholds may be"):
        load_validated([folder])


def test_an_ensemble_folder_may_move_with_its_training_folders(together, tmp_path):
    shutil.copytree(together[0], tmp_path / "elsewhere")
    assert find_folders([tmp_path / "elsewhere" / "a+b"])[1][1].resolve() == tmp_path / "elsewhere" / "b"


def test_networks_that_were_validated_apart_are_not_deployed_together(validated, together, tmp_path):
    for name in "ab":
        shutil.copytree(together[0] / name, tmp_path / name)
        validate([tmp_path / name], **SMALL)
    with pytest.raises(PipelineError, match=r"never validated together; run `tomopoint validate .*a .*b` first"):
        load_validated([tmp_path / "a", tmp_path / "b"])


def test_a_network_trained_after_validation_is_refused(validated, project, tmp_path):
    folder = shutil.copytree(validated[0], tmp_path / "copy")
    write_member(folder, "fold2", SEGRESNET, 70, (), project)
    with pytest.raises(PipelineError, match=r"fold2/segresnet.*trained after.*tomopoint validate"):
        load_validated([folder])


def test_a_lost_network_is_refused(validated, tmp_path):
    folder = shutil.copytree(validated[0], tmp_path / "copy")
    (folder / "fold1" / "dynunet" / "member.json").unlink()
    with pytest.raises(PipelineError, match="fold1/dynunet"):
        load_validated([folder])


def test_another_class_order_is_refused(validated, tmp_path):
    folder = shutil.copytree(validated[0], tmp_path / "copy")
    pipeline = Pipeline.load(folder / "pipeline.json")
    replace(pipeline, particles=pipeline.particles[::-1]).save(folder / "pipeline.json")
    (folder / "validation.json").unlink()  # as where thresholds were taken from another run
    with pytest.raises(PipelineError, match="in another order"):
        load_validated([folder])


def test_a_folder_that_is_not_validated_is_refused(validated, tmp_path):
    folder = shutil.copytree(validated[0], tmp_path / "copy")
    (folder / "pipeline.json").unlink()
    with pytest.raises(PipelineError, match="tomopoint validate"):
        load_validated([folder])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"voxel_A": 12.0}, "voxel size"),
        ({"particles": [particle.name for particle in RECIPE_USED.particles[::-1]]}, "particles"),
        ({"normalisation": {"method": "standardise", "quantiles": [0.0, 1.0], "clip_sd": 5.0}}, "normalisation"),
    ],
)
def test_networks_that_cannot_be_averaged_are_refused(validated, tmp_path, change, named):
    folder = shutil.copytree(validated[0], tmp_path / "copy")
    path = folder / "fold1" / "segresnet" / "member.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(TomopointError, match=rf"fold1/segresnet differs from the first network in {named}"):
        load_ensemble([folder])


def test_a_folder_or_network_named_twice_is_refused(validated, tmp_path):
    folder = validated[0]
    with pytest.raises(TomopointError, match="averaged twice"):
        load_ensemble([folder, folder])
    copy = shutil.copytree(folder, tmp_path / "copy")
    with pytest.raises(TomopointError, match="averaged twice; name every network once"):
        load_ensemble([folder, copy])


def test_a_lost_training_folder_is_named(together, tmp_path):
    shutil.copytree(together[0] / "a+b", tmp_path / "a+b")
    with pytest.raises(TomopointError, match=r"ensemble.json names .*a, which is not there"):
        load_validated([tmp_path / "a+b"])
    with pytest.raises(TomopointError, match="no such training folder"):
        load_ensemble([tmp_path / "nowhere"])
