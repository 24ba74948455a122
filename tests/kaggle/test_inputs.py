import json

import pytest

from tomopoint.errors import DataError
from tomopoint.kaggle.inputs import find_competition, find_engine_record, find_kit

MOUNTS = {
    "flat": {"kit": "my-kit", "competition": "czii", "engine": "my-engine"},
    "nested": {"kit": "datasets/me/my-kit", "competition": "competitions/czii", "engine": "notebooks/me/my-engine"},
}


def _mount_kit(folder, graph="a" * 64):
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"format": "tomopoint-kit", "onnx_sha256": graph}))


@pytest.mark.parametrize("layout", MOUNTS)
def test_all_inputs_are_found_in_both_layouts(tmp_path, layout):
    folders = {name: tmp_path / "input" / mount for name, mount in MOUNTS[layout].items()}
    _mount_kit(folders["kit"])
    (folders["competition"] / "test" / "static").mkdir(parents=True)
    (folders["competition"] / "sample_submission.csv").write_text("id\n")
    folders["engine"].mkdir(parents=True)
    (folders["engine"] / "engine.json").write_text("{}")
    assert find_kit(tmp_path) == folders["kit"]
    assert find_competition(tmp_path) == folders["competition"]
    assert find_engine_record(tmp_path) == folders["engine"] / "engine.json"


def test_a_kit_mounted_in_both_layouts_is_one(tmp_path):
    for layout in MOUNTS.values():
        _mount_kit(tmp_path / "input" / layout["kit"])
        competition = tmp_path / "input" / layout["competition"]
        (competition / "test" / "static").mkdir(parents=True)
        (competition / "sample_submission.csv").write_text("id\n")
        (tmp_path / "input" / layout["engine"]).mkdir(parents=True)
        (tmp_path / "input" / layout["engine"] / "engine.json").write_text("{}")
    nested = MOUNTS["nested"]
    assert find_kit(tmp_path) == tmp_path / "input" / nested["kit"]
    assert find_competition(tmp_path) == tmp_path / "input" / nested["competition"]
    assert find_engine_record(tmp_path) == tmp_path / "input" / nested["engine"] / "engine.json"


def test_another_datasets_manifest_is_no_kit(tmp_path):
    other = tmp_path / "input" / "other"
    other.mkdir(parents=True)
    (other / "manifest.json").write_text('{"name": "web app"}')
    with pytest.raises(DataError, match=r"tomopoint stage.*attached now: other"):
        find_kit(tmp_path)


def test_two_kits_are_not_chosen_between(tmp_path):
    _mount_kit(tmp_path / "input" / "a")
    _mount_kit(tmp_path / "input" / "datasets" / "me" / "b", graph="b" * 64)
    with pytest.raises(DataError, match=r"several tomopoint kits .*datasets/me/b, .*input/a\)"):
        find_kit(tmp_path)


def test_missing_inputs_say_what_to_attach(tmp_path):
    with pytest.raises(DataError, match=r"Add Input > Datasets.*nothing is mounted"):
        find_kit(tmp_path)
    with pytest.raises(DataError, match="Add Input > Competitions"):
        find_competition(tmp_path)
    assert find_engine_record(tmp_path) is None


def test_competition_data_without_a_sample_submission_are_found(tmp_path):
    (tmp_path / "input" / "czii" / "test" / "static").mkdir(parents=True)
    assert find_competition(tmp_path) == tmp_path / "input" / "czii"


def test_an_empty_competition_mount_is_not_taken(tmp_path):
    folder = tmp_path / "input" / "czii"
    folder.mkdir(parents=True)
    (folder / "sample_submission.csv").write_text("id\n")
    with pytest.raises(DataError, match="attached now: czii"):
        find_competition(tmp_path)
