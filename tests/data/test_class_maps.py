"""Class maps of somebody else: where they are found, what they have to say, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import zarr

from tomopoint.data.channels import parse_channels, particle_channels
from tomopoint.data.class_maps import find_class_maps, is_class_maps, place_of
from tomopoint.errors import DataError

NAMES = ("ribosome", "apo-ferritin")


def write(path, values=None, **attributes):
    values = np.zeros((2, 4, 5, 6), dtype=np.float32) if values is None else values
    array = zarr.create_array(store=str(path), shape=values.shape, dtype=values.dtype, chunks=values.shape)
    array[...] = values
    array.attrs.update(attributes)
    return path


def test_a_store_a_folder_of_stores_and_a_group_are_found(tmp_path):
    values = np.random.default_rng(0).random((2, 4, 5, 6)).astype(np.float32)
    single = write(tmp_path / "one" / "TS_1.zarr", values, channels=list(NAMES), stride=2, voxel_A=10)
    write(tmp_path / "one" / "TS_2.zarr")
    group = zarr.open_group(str(tmp_path / "maps.zarr"), mode="w")
    group.attrs.update(channels=list(NAMES), stride=1, voxel_A=7.5)
    write(tmp_path / "maps.zarr" / "TS_3", values)
    write(tmp_path / "maps.zarr" / "TS_4", values, stride=2)
    (own,) = find_class_maps(single)
    assert (own.run, own.shape_zyx, own.n_channels) == ("TS_1", (4, 5, 6), 2)
    assert (own.channels, own.stride, own.voxel_A) == (NAMES, 2, 10.0)
    np.testing.assert_array_equal(own.read(1), values[1])
    assert [maps.run for maps in find_class_maps(tmp_path / "one")] == ["TS_1", "TS_2"]
    first, second = find_class_maps(tmp_path / "maps.zarr")
    assert (first.run, first.channels, first.stride, first.voxel_A) == ("TS_3", NAMES, 1, 7.5)
    assert (second.run, second.stride) == ("TS_4", 2)  # what an array says goes before what the group says
    assert all(map(is_class_maps, (single, tmp_path / "one", tmp_path / "maps.zarr")))
    assert not is_class_maps(tmp_path / "one" / "TS_1.zarr" / "c")


def test_a_tomogram_tells_the_stride_or_refuses_the_maps(tmp_path):
    (maps,) = find_class_maps(write(tmp_path / "TS_1.zarr"))  # 4 x 5 x 6
    assert place_of(maps, (8, 9, 12), 10.0) == (2, 10.0)
    assert place_of(maps, (4, 5, 6), 10.0) == (1, 10.0)
    with pytest.raises(
        DataError, match="has maps of 4x5x6; the tomogram of TS_1 has 8x11x12 voxels, so that they need 8"
    ):
        place_of(maps, (8, 11, 12), 10.0)
    with pytest.raises(DataError, match="does not say stride and voxel_A"):
        place_of(maps, None, None)
    (said,) = find_class_maps(write(tmp_path / "TS_2.zarr", stride=1, voxel_A=8))
    assert place_of(said, None, None) == (1, 8.0)
    with pytest.raises(DataError, match="its attribute says stride 1; the tomogram"):
        place_of(said, (8, 10, 12), 10.0)


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (np.nan, "1 cells of channel 1 are NaN or infinite"),
        (np.inf, "1 cells of channel 1 are NaN or infinite"),
        (-3.0, "values of channel 1 go from -3 to 0, not from 0 to 1; store what comes out of the softmax"),
        (1.01, "values of channel 1 go from 0 to 1.01"),
    ],
)
def test_values_that_are_no_scores(bad, sentence, tmp_path):
    values = np.zeros((2, 4, 5, 6), dtype=np.float32)
    values[1, 2, 3, 4] = bad
    (maps,) = find_class_maps(write(tmp_path / "TS_1.zarr", values))
    assert not maps.read(0).any()
    with pytest.raises(DataError, match=sentence):
        maps.read(1)


def test_what_half_precision_leaves_is_cut_off(tmp_path):
    values = np.full((1, 2, 2, 2), 1.0005, dtype=np.float16)
    (maps,) = find_class_maps(write(tmp_path / "TS_1.zarr", values))
    assert maps.read(0).max() == 1.0
    assert maps.read(0).dtype == np.float32


@pytest.mark.parametrize(
    ("values", "attributes", "sentence"),
    [
        (np.zeros((4, 5, 6), np.float32), {}, r"has shape \(4, 5, 6\); class maps are \(C, d, h, w\)"),
        (np.zeros((2, 4, 5, 6), np.uint8), {}, "holds uint8; class maps are scores from 0 to 1"),
        (None, {"channels": "ribosome"}, "the attribute `channels` is 'ribosome'; it is a list of names"),
        (None, {"stride": 3}, "the attribute `stride` is 3; it is 1 or 2"),
        (None, {"voxel_A": -1}, "the attribute `voxel_A` is -1; it is a positive number"),
    ],
)
def test_stores_of_another_kind(values, attributes, sentence, tmp_path):
    with pytest.raises(DataError, match=sentence):
        find_class_maps(write(tmp_path / "TS_1.zarr", values, **attributes))


def test_links_out_of_the_store_and_damage_are_refused(tmp_path):
    (tmp_path / "TS_1.zarr").mkdir()
    (tmp_path / "TS_1.zarr" / "zarr.json").write_text("{")
    with pytest.raises(DataError, match="is no Zarr store"):
        find_class_maps(tmp_path / "TS_1.zarr")
    write(tmp_path / "TS_2.zarr")
    (tmp_path / "TS_2.zarr" / "other").symlink_to("/etc/passwd")
    with pytest.raises(DataError, match="is a link to /etc/passwd, which is not in the store"):
        find_class_maps(tmp_path / "TS_2.zarr")
    with pytest.raises(DataError, match="no such folder"):
        find_class_maps(tmp_path / "none")


def test_channels_are_particles_or_passed_over():
    assert particle_channels("x", ("background", "ribosome", "-"), 3, NAMES) == {"ribosome": 1}
    assert parse_channels(" background, ribosome ,-") == ("background", "ribosome", "-")
    assert parse_channels("") == ()
