"""Levels of resolution: what they hold, and that no more of a file is read than is looked at."""

from __future__ import annotations

from dataclasses import replace

import mrcfile
import numpy as np
import pytest
import zarr
from view_data import VOLUME, VOXEL_A

from tomopoint.data.mrc import open_mrc
from tomopoint.data.stores import write_tomogram
from tomopoint.errors import DataError
from tomopoint.view.pyramid import SHOWN_QUANTILES, contrast_limits, open_pyramid

pytest.importorskip("dask.array", reason="dask comes with napari: pip install 'tomopoint[view]'")


def test_contrast_is_that_of_the_whole_within_what_a_sample_tells():
    volume = np.random.default_rng(1).normal(3e-5, 1e-5, (64, 300, 600)).astype(np.float32)
    assert contrast_limits(volume) == pytest.approx(np.quantile(volume, SHOWN_QUANTILES), abs=2e-7)
    assert contrast_limits(np.zeros((4, 4, 4))) == (0.0, 1.0)
    with_nan = volume.copy()
    with_nan[:, :100] = np.nan
    assert contrast_limits(with_nan) == pytest.approx(np.quantile(volume, SHOWN_QUANTILES), abs=2e-7)


def test_levels_of_an_mrc_file_are_means_of_eight_voxels(tmp_path):
    volume = np.random.default_rng(1).normal(size=(21, 100, 600)).astype(np.float32)
    with mrcfile.new(tmp_path / "TS_1.mrc") as file:
        file.set_data(volume)
        file.voxel_size = 7.84
    pyramid = open_pyramid(tmp_path / "TS_1.mrc")
    assert [level.shape for level in pyramid.levels] == [(21, 100, 600), (10, 50, 300), (5, 25, 150)]
    assert pyramid.voxel_A == pytest.approx(7.84)
    assert np.array_equal(np.asarray(pyramid.levels[0]), volume)
    expected = volume[:20].reshape(10, 2, 50, 2, 300, 2).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(pyramid.levels[1], expected, atol=1e-6)


class Recorded:
    """An array that writes down which planes of it are read."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.ndim = array, array.shape, array.dtype, array.ndim
        self.planes = set()

    def __getitem__(self, index):
        self.planes |= set(range(*index[0].indices(self.shape[0])))
        return self.array[index]


def test_no_more_of_a_file_is_read_than_is_looked_at(tmp_path, monkeypatch):
    """A plane of the coarsest level lies in the second of three blocks of eight planes; nothing else is touched."""
    volume = np.random.default_rng(1).normal(size=(24, 20, 600)).astype(np.float32)
    with mrcfile.new(tmp_path / "TS_1.mrc") as file:
        file.set_data(volume)
        file.voxel_size = 7.84
    opened = open_mrc(tmp_path / "TS_1.mrc")
    recorded = Recorded(opened.voxels_zyx)
    monkeypatch.setattr("tomopoint.view.pyramid.open_mrc", lambda path, voxel_A: replace(opened, voxels_zyx=recorded))
    pyramid = open_pyramid(tmp_path / "TS_1.mrc")
    assert len(recorded.planes) <= 9  # a sample, for the contrast
    recorded.planes.clear()
    plane = np.asarray(pyramid.levels[2][2])
    assert plane.shape == (5, 150)
    assert recorded.planes == set(range(8, 16))


def test_a_stated_voxel_size_goes_first(mrcs):
    assert open_pyramid(mrcs / "TS_1.mrc", 12.5).voxel_A == 12.5


def test_levels_of_a_store_are_taken_as_they_are(tmp_path):
    write_tomogram(tmp_path / "t.zarr", VOLUME, (VOXEL_A,) * 3, levels=3)
    pyramid = open_pyramid(tmp_path / "t.zarr")
    group = zarr.open_group(str(tmp_path / "t.zarr"), mode="r")
    assert len(pyramid.levels) == 3
    for index, level in enumerate(pyramid.levels):
        assert np.array_equal(np.asarray(level), group[str(index)][...])


def test_a_damaged_store_is_refused_before_a_window_opens(tmp_path):
    write_tomogram(tmp_path / "t.zarr", VOLUME, (VOXEL_A,) * 3, levels=1)
    (chunk,) = (path for path in (tmp_path / "t.zarr" / "0").rglob("*") if path.is_file() and path.name == "0")
    chunk.write_bytes(chunk.read_bytes()[:-10])
    with pytest.raises(DataError, match="damaged"):
        open_pyramid(tmp_path / "t.zarr")
