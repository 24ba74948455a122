"""What --data may be: every layout as real files, what it is called then, and what is refused because it is unclear."""

from __future__ import annotations

import json
import os
import pickle

import mrcfile
import numpy as np
import pytest
import zarr

from tomopoint.data.project import Project, Run
from tomopoint.data.reading import FACTORS, Reading
from tomopoint.data.sources.find import find_tomograms
from tomopoint.data.sources.run import FileRun
from tomopoint.data.sources.tree import Choice
from tomopoint.data.stores import write_tomogram
from tomopoint.data.tomograms import read_tomogram
from tomopoint.errors import DataError

SHAPE_ZYX = (8, 10, 12)
VOLUME = np.random.default_rng(0).normal(0, 1e-5, SHAPE_ZYX).astype(np.float32)
READING = Reading(10.0124, 0.02, "denoised")


def mrc(path, voxel_A=7.84, volume=VOLUME):
    path.parent.mkdir(parents=True, exist_ok=True)
    with mrcfile.new(path, overwrite=True) as made:
        made.set_data(volume)
        made.voxel_size = voxel_A
    return path


def store(path, voxel_A=7.84):
    write_tomogram(path, VOLUME, [voxel_A] * 3, levels=1)
    return path


def names(found):
    return [run.name for run in found.tomograms]


def find(data, split="test", **choice):
    return find_tomograms(data, split, Choice(**choice))


def test_a_file_a_folder_and_a_pattern_of_mrc(tmp_path):
    for name in ("TS_2.rec", "TS_1.mrc", "TS_3.mrcs"):
        mrc(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("not a tomogram")
    (tmp_path / "in" / ".hidden.mrc").write_text("not one either")
    found = find(tmp_path / "in")
    assert names(found) == ["TS_1", "TS_2", "TS_3"]
    assert found.text == f"{tmp_path / 'in'}: 3 MRC files, voxels of 7.840 A"
    assert np.array_equal(found.tomograms[1].read("whatever").volume_zyx, VOLUME)
    assert names(find(tmp_path / "in" / "TS_2.rec")) == ["TS_2"]
    assert names(find(tmp_path / "in" / "TS_[12].*")) == ["TS_1", "TS_2"]
    assert names(find(tmp_path / "**" / "*.mrc*")) == ["TS_1", "TS_3"]
    assert not found.is_project
    assert not found.is_simulated
    assert pickle.loads(pickle.dumps(found.tomograms)) == found.tomograms


def test_stores_of_both_versions_and_both_units(tmp_path):
    """7.84 A is 0.784 nm: the voxel size is the same, whatever the version and the unit."""
    store(tmp_path / "TS_1.zarr")
    for name, version, unit, scale in (("TS_2.ome.zarr", 2, "nanometer", 0.784), ("TS_3.zarr", 3, "nanometer", 0.784)):
        group = zarr.open_group(str(tmp_path / name), mode="w", zarr_format=version)
        array = group.create_array("0", shape=SHAPE_ZYX, chunks=(8, 8, 8), dtype="float32")
        array[...] = VOLUME
        transforms = [{"type": "scale", "scale": [scale] * 3}, {"type": "translation", "translation": [scale / 2] * 3}]
        multiscales = [
            {
                "axes": [{"name": axis, "type": "space", "unit": unit} for axis in "zyx"],
                "datasets": [{"path": "0", "coordinateTransformations": transforms}],
            }
        ]
        ome = {"multiscales": multiscales, "version": "0.5"}
        group.attrs.update({"ome": ome} if version == 3 else {"multiscales": multiscales})
    found = find(tmp_path)
    assert names(found) == ["TS_1", "TS_2", "TS_3"]
    assert found.text == f"{tmp_path}: 3 OME-Zarr stores, voxels of 7.840 A"
    for run in found.tomograms:
        assert np.array_equal(run.read("").volume_zyx, VOLUME)
    assert names(find(tmp_path / "TS_2.ome.zarr")) == ["TS_2"]


def test_voxels_in_another_unit_are_refused(tmp_path):
    path = store(tmp_path / "TS_1.zarr")
    attributes = json.loads((path / ".zattrs").read_text())
    for axis in attributes["multiscales"][0]["axes"]:
        axis["unit"] = "micrometer"
    (path / ".zattrs").write_text(json.dumps(attributes))
    with pytest.raises(DataError, match="the axes are in micrometer; expected angstrom or nanometer"):
        find(tmp_path)


def test_a_stated_voxel_size_goes_before_the_files(tmp_path):
    mrc(tmp_path / "TS_1.mrc", 0.0)
    with pytest.raises(DataError, match="state it with --voxel-size"):
        find(tmp_path)
    found = find_tomograms(tmp_path, "test", stated_A=13.48)
    assert found.text.endswith("1 MRC files, voxels of 13.480 A as stated")
    assert found.tomograms[0].read("").voxel_A == 13.48
    store(tmp_path / "zarr" / "TS_1.zarr")
    (found,) = find_tomograms(tmp_path / "zarr", "test", stated_A=13.48).tomograms
    assert (found.read("").voxel_A, found.describe("").voxel_A) == (13.48, 13.48)
    with pytest.raises(DataError, match=r"--voxel-size must lie in \[0.1, 1000\] Angstrom, got 0"):
        find_tomograms(tmp_path, "test", stated_A=0.0)


def test_one_bad_file_is_told_and_costs_no_other(tmp_path):
    mrc(tmp_path / "TS_1.mrc")
    os.truncate(mrc(tmp_path / "TS_2.mrc"), 1100)
    assert find(tmp_path).text.endswith("2 MRC files, voxels of 7.840 A; 1 cannot be read")


def test_two_files_of_one_name_are_refused_with_both(tmp_path):
    one, other = mrc(tmp_path / "a" / "TS_1.mrc"), mrc(tmp_path / "b" / "TS_1.rec")
    with pytest.raises(DataError, match=f"{one} and {other} would both be the run TS_1"):
        find(tmp_path / "*" / "TS_1.*")


def test_two_formats_at_once_are_refused(tmp_path):
    mrc(tmp_path / "TS_1.mrc")
    store(tmp_path / "TS_2.zarr")
    with pytest.raises(DataError, match=r"1 MRC files and 1 OME-Zarr stores; name one kind"):
        find(tmp_path)


@pytest.mark.parametrize(
    ("what", "message"),
    [("nowhere", "no such folder"), ("*.mrc", "no file matches"), ("empty", "holds no runs"), ("a.tif", "is neither")],
)
def test_nothing_there_is_said_with_what_is_taken(tmp_path, what, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.tif").write_bytes(b"II")
    with pytest.raises(DataError, match=rf"{message}.*--data takes"):
        find(tmp_path / what)


def test_names_that_cannot_be_files_are_refused(tmp_path):
    mrc(tmp_path / "TS\n1.mrc")
    with pytest.raises(DataError, match="the name must be a plain name"):
        find(tmp_path)


def test_options_of_trees_are_refused_for_files(tmp_path):
    mrc(tmp_path / "TS_1.mrc")
    with pytest.raises(DataError, match="--tomo-type chooses among the tomograms of a run"):
        find(tmp_path, tomo_type="wbp")
    with pytest.raises(DataError, match="--voxel-spacing chooses"):
        find(tmp_path, voxel_spacing=7.84)


def tree(root):
    """Two runs with two spacings and two reconstructions; the second lacks one."""
    for run in ("TS_1", "TS_2"):
        store(root / run / "VoxelSpacing7.840" / "wbp.zarr")
        store(root / run / "VoxelSpacing7.840" / "denoised.zarr")
        store(root / run / "VoxelSpacing13.480" / "wbp.zarr", 13.48)
        store(root / run / "VoxelSpacing13.480" / "wbp_membrane_features.zarr", 13.48)
    mrc(root / "TS_1" / "VoxelSpacing13.480" / "isonet.mrc", 13.48)


@pytest.mark.parametrize("place", ["", "ExperimentRuns", "static/ExperimentRuns"])
def test_runs_with_voxel_spacings(tmp_path, place):
    tree(tmp_path / place)
    with pytest.raises(DataError, match=r"several voxel spacings; choose one with --voxel-spacing: 13.480, 7.840"):
        find(tmp_path)
    with pytest.raises(DataError, match=r"no voxel spacing of 10; choose one with --voxel-spacing: 13.480, 7.840"):
        find(tmp_path, voxel_spacing=10.0)
    with pytest.raises(DataError, match=r"several reconstructions .* choose one with --tomo-type: denoised, wbp"):
        find(tmp_path, voxel_spacing=7.84)
    assert find(tmp_path, voxel_spacing=7.84, usual="denoised").tomo_type == "denoised"
    found = find(tmp_path, voxel_spacing=7.84, tomo_type="wbp")
    assert names(found) == ["TS_1", "TS_2"]
    assert [run.path.name for run in found.tomograms] == ["wbp.zarr"] * 2
    lacking = find(tmp_path, voxel_spacing=13.48, tomo_type="isonet")
    assert names(lacking) == ["TS_1"]
    assert "1 runs have no such tomogram and are left out: TS_2" in lacking.text
    with pytest.raises(DataError, match="no reconstruction called ctf"):
        find(tmp_path, voxel_spacing=13.48, tomo_type="ctf")


def test_the_folders_of_one_run(tmp_path):
    tree(tmp_path)
    run = tmp_path / "TS_1"
    assert names(find(run, voxel_spacing=7.84, tomo_type="wbp")) == ["TS_1"]
    assert names(find(run / "VoxelSpacing7.840", tomo_type="wbp")) == ["TS_1"]
    assert names(find(run / "VoxelSpacing7.840" / "wbp.zarr")) == ["TS_1"]


def copick(root, **roots):
    content = {"name": "lab", "pickable_objects": [], "user_id": "me", "session_id": "0", **roots}
    (root / "config.json").write_text(json.dumps(content))


def test_a_copick_project(tmp_path):
    tree(tmp_path / "static" / "ExperimentRuns")
    store(tmp_path / "overlay" / "ExperimentRuns" / "TS_3" / "VoxelSpacing7.840" / "wbp.zarr")
    copick(tmp_path, static_root=f"local://{tmp_path}/static", overlay_root="overlay", config_type="filesystem")
    for data in (tmp_path, tmp_path / "config.json"):
        found = find(data, voxel_spacing=7.84, tomo_type="wbp")
        assert names(found) == ["TS_1", "TS_2", "TS_3"]
        assert "runs in a copick project, VoxelSpacing7.840, wbp, voxels of 7.840 A" in found.text
        with pytest.raises(DataError, match="choose one with --voxel-spacing"):
            find(data)
    store(tmp_path / "overlay" / "ExperimentRuns" / "TS_1" / "VoxelSpacing7.840" / "wbp.zarr")
    with pytest.raises(DataError, match="are both the wbp tomogram of TS_1; remove one"):
        find(tmp_path, voxel_spacing=7.84, tomo_type="wbp")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"overlay_root": "s3://bucket/overlay"}, "s3://bucket/overlay is not on this machine"),
        ({"overlay_root": "nowhere"}, "has a folder ExperimentRuns; correct its roots"),
        ({"overlay_root": "x", "config_type": "cryoet_data_portal"}, "only filesystem is read"),
        ({"overlay_root": 3}, "is no copick configuration"),
    ],
)
def test_a_copick_project_that_cannot_be_read(tmp_path, content, message):
    copick(tmp_path, **content)
    with pytest.raises(DataError, match=message):
        find(tmp_path)


def test_a_project_stays_one(tmp_path):
    store(Run("TS_1", "test", tmp_path).tomogram_path(), 10.0124)
    found = find(tmp_path)
    assert found.is_project
    assert found.tomograms == (Run("TS_1", "test", tmp_path),)
    assert found.tomo_type is None
    assert [run.way for run in found.tomograms] == [None]
    read_as = found.read_as(READING)
    assert read_as.tomograms == (FileRun("TS_1", Run("TS_1", "test", tmp_path).tomogram_path(), None, READING),)
    with pytest.raises(DataError, match="has no run 'TS_9'; it has TS_1"):
        found.named("TS_9")
    with pytest.raises(DataError, match="holds no runs"):
        found.runs("train")
    stated = find_tomograms(tmp_path, "test", Choice(usual="denoised"), 13.48)
    assert stated.is_project
    assert [run.describe("").voxel_A for run in stated.runs("test")] == [13.48]
    chosen = find(tmp_path, voxel_spacing=10.0)
    assert (names(chosen), chosen.is_project) == (["TS_1"], False)


def test_a_projects_tomograms_may_lie_in_another_folder_or_be_mrc(tmp_path):
    """So training, validation and reports read them, too."""
    run = Run("TS_1", "train", tmp_path)
    folder = run.tomogram_path().parent.parent
    mrc(folder / "VoxelSpacing7.840" / "denoised.mrc")
    assert Project(tmp_path).run("TS_1", "train").tomogram_path() == folder / "VoxelSpacing7.840" / "denoised.mrc"
    assert np.array_equal(read_tomogram(run.tomogram_path()).volume_zyx, VOLUME)
    store(folder / "VoxelSpacing13.480" / "denoised.zarr", 13.48)
    with pytest.raises(DataError, match=r"VoxelSpacing13.480.*VoxelSpacing7.840.* are all denoised tomograms of TS_1"):
        run.tomogram_path()
    usual = store(folder / "VoxelSpacing10.000" / "denoised.zarr", 10.0124)
    assert run.tomogram_path() == usual


@pytest.mark.parametrize("factor", [FACTORS[0] * 0.99, FACTORS[1] * 1.01])
def test_voxels_too_far_from_the_graphs_are_refused(tmp_path, factor):
    path = mrc(tmp_path / "TS_1.mrc", factor * READING.voxel_A)
    (run,) = find(path).read_as(READING).tomograms
    for what in (run.read, run.describe):
        with pytest.raises(DataError, match=r"2 to 20 A are resampled .* state it with --voxel-size"):
            what("")


def test_resampled_runs_describe_what_will_be_read(tmp_path):
    path = mrc(tmp_path / "TS_1.mrc", 13.48)
    (run,) = find(path).read_as(READING).tomograms
    info, tomogram = run.describe(""), run.read("")
    assert info.shape_zyx == tomogram.volume_zyx.shape == (10, 13, 16)
    assert info.voxel_A == tomogram.voxel_A == READING.voxel_A
    assert run.way == "resample auto to 10.0124 A, invert auto"
    tiny = mrc(tmp_path / "TS_2.mrc", 3.0, np.random.default_rng(0).normal(size=(2, 20, 20)).astype(np.float32))
    (run,) = find(tiny).read_as(READING).tomograms
    with pytest.raises(DataError, match=r"less than one of 10.012 A along an axis"):
        run.read("")
