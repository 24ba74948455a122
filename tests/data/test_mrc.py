"""MRC files as mrcfile and others write them: every mode, byte order and axis order, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys

import mrcfile
import numpy as np
import pytest

from tomopoint.data import tomograms
from tomopoint.data.mrc import IMOD_SIGNED, IMOD_STAMP
from tomopoint.data.tomograms import describe_tomogram, open_tomogram, read_tomogram
from tomopoint.errors import DataError

VOXEL_A = 7.84
SHAPE_ZYX = (5, 7, 9)
HEADER_ROUNDING = 1e-6
"""The header holds the cell's edges as float32."""


def values(dtype):
    numbers = np.random.default_rng(0).normal(0, 30, SHAPE_ZYX)
    return np.abs(numbers).astype(dtype) if np.dtype(dtype).kind == "u" else numbers.astype(dtype)


def write_mrc(path, volume, voxel_A=VOXEL_A, **header):
    with mrcfile.new(path, overwrite=True) as made:
        made.set_data(volume)
        made.voxel_size = voxel_A
        for name, value in header.items():
            made.header[name] = value
    return path


def header_bytes(path, offset, *numbers, order="<"):
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(np.array(numbers, dtype=f"{order}i4").tobytes())


@pytest.mark.parametrize("suffix", [".mrc", ".mrcs", ".rec", ".MRC"])
@pytest.mark.parametrize("dtype", ["int8", "int16", "float32", "uint16", "float16"])
def test_every_mode_under_every_name(tmp_path, dtype, suffix):
    path = write_mrc(tmp_path / f"TS_1{suffix}", values(dtype))
    tomogram = read_tomogram(path)
    assert tomogram.volume_zyx.dtype == np.float32
    assert np.array_equal(tomogram.volume_zyx, values(dtype).astype(np.float32))
    assert tomogram.voxel_A == pytest.approx(VOXEL_A, rel=HEADER_ROUNDING)
    info = describe_tomogram(path)
    assert (info.shape_zyx, info.n_bytes) == (SHAPE_ZYX, path.stat().st_size)
    assert open_tomogram(path).format == f"MRC, {dtype}"


def test_what_was_read_may_be_written_to_and_the_file_stays(tmp_path):
    path = write_mrc(tmp_path / "a.mrc", values("float32"))
    before = path.read_bytes()
    volume = read_tomogram(path).volume_zyx
    volume[...] = 0
    assert volume.flags.c_contiguous
    assert path.read_bytes() == before


def test_big_endian(tmp_path):
    volume = values("float32").astype(">f4")
    path = write_mrc(tmp_path / "TS_1.mrc", volume)
    with mrcfile.open(path, header_only=True) as opened:
        assert opened.header.mode.dtype.byteorder == ">"
    assert np.array_equal(read_tomogram(path).volume_zyx, volume.astype("<f4"))


def test_bytes_of_imod_are_unsigned_unless_it_says_otherwise(tmp_path):
    path = write_mrc(tmp_path / "TS_1.rec", np.full(SHAPE_ZYX, -56, np.int8))
    with path.open("r+b") as stream:
        stream.seek(1024)
        stream.write(bytes([7]))
    assert read_tomogram(path).volume_zyx.min() == -56
    header_bytes(path, 152, IMOD_STAMP, 0)
    assert read_tomogram(path).volume_zyx.max() == 200
    header_bytes(path, 152, IMOD_STAMP, IMOD_SIGNED)
    assert read_tomogram(path).volume_zyx.min() == -56


@pytest.mark.parametrize("mapped", [(1, 2, 3), (2, 1, 3), (3, 1, 2), (1, 3, 2)])
def test_axes_in_any_order_become_z_y_x(tmp_path, mapped):
    """Columns, rows, sections run along `mapped`; the value at x, y, z is 100 x + 10 y + z whatever the order."""
    size = {1: 4, 2: 5, 3: 6}
    sections_rows_columns = mapped[::-1]
    grid = np.indices([size[axis] for axis in sections_rows_columns])
    along = dict(zip(sections_rows_columns, grid, strict=True))
    stored = (100 * along[1] + 10 * along[2] + along[3]).astype(np.float32)
    names = dict(zip(("mapc", "mapr", "maps"), mapped, strict=True))
    cell = {f"m{name}": size[axis] for axis, name in ((1, "x"), (2, "y"), (3, "z"))}
    path = write_mrc(tmp_path / "TS_1.mrc", stored, **names, **cell)
    with mrcfile.open(path, "r+") as opened:
        opened.header.cella = tuple(VOXEL_A * size[axis] for axis in (1, 2, 3))
    tomogram = read_tomogram(path)
    assert tomogram.volume_zyx.shape == (6, 5, 4)
    assert tomogram.volume_zyx[3, 2, 1] == 123
    assert tomogram.voxel_A == pytest.approx(VOXEL_A, rel=HEADER_ROUNDING)


def test_an_old_header_without_axes_is_read_and_nonsense_refused(tmp_path):
    path = write_mrc(tmp_path / "TS_1.mrc", values("float32"), mapc=0, mapr=0, maps=0)
    assert read_tomogram(path).volume_zyx.shape == SHAPE_ZYX
    write_mrc(path, values("float32"), mapc=1, mapr=1, maps=3)
    with pytest.raises(DataError, match="mapc, mapr, maps are 1, 1, 3"):
        read_tomogram(path)


def test_the_extended_header_is_skipped(tmp_path):
    path = tmp_path / "TS_1.mrc"
    with mrcfile.new(path) as made:
        made.set_data(values("float32"))
        made.voxel_size = VOXEL_A
        made.set_extended_header(np.arange(300, dtype=np.uint8))
    assert np.array_equal(read_tomogram(path).volume_zyx, values("float32"))


@pytest.mark.parametrize("voxel_A", [0.0, 0.01, 5000.0])
def test_a_voxel_size_that_is_none_is_refused_and_stated_instead(tmp_path, voxel_A):
    path = write_mrc(tmp_path / "TS_1.mrc", values("float32"), voxel_A)
    with pytest.raises(DataError, match="no voxel size; state it with --voxel-size"):
        describe_tomogram(path)
    assert read_tomogram(path, 7.84).voxel_A == 7.84


def test_voxels_that_are_not_cubic_are_refused(tmp_path):
    path = write_mrc(tmp_path / "TS_1.mrc", values("float32"), (7.84, 7.84, 8.0))
    with pytest.raises(DataError, match=r"7.84 x 7.84 x 8 A .* not cubic"):
        read_tomogram(path)


def test_what_is_no_single_tomogram_is_refused(tmp_path):
    path = tmp_path / "TS_1.mrc"
    for volume in (values("float32")[0], values("float32")[None, ...]):
        write_mrc(path, volume)
        with pytest.raises(DataError, match="no single tomogram"):
            read_tomogram(path)
    write_mrc(path, values("complex64"))
    with pytest.raises(DataError, match="MRC mode 4 is not read, only 0, 1, 2, 6, 12"):
        read_tomogram(path)


@pytest.mark.parametrize("n_bytes", [0, 500, 1024, 1024 + 5 * 7 * 9 * 4 - 1])
def test_a_truncated_file_is_refused(tmp_path, n_bytes):
    path = write_mrc(tmp_path / "TS_1.mrc", values("float32"))
    os.truncate(path, n_bytes)
    with pytest.raises(DataError, match="is truncated" if n_bytes >= 1024 else "no MRC file"):
        describe_tomogram(path)


def test_another_kind_of_file_is_refused(tmp_path):
    path = tmp_path / "TS_1.mrc"
    path.write_bytes(b"no tomogram at all, only text" * 200)
    with pytest.raises(DataError, match=r"TS_1.mrc"):
        read_tomogram(path)


@pytest.mark.filterwarnings("ignore:Data array contains NaN")  # mrcfile's, while writing
def test_values_are_checked_as_a_stores_are(tmp_path):
    volume = values("float32")
    volume[1, 2, 3] = np.nan
    path = write_mrc(tmp_path / "TS_1.mrc", volume)
    with pytest.raises(DataError, match="1 voxels are NaN"):
        read_tomogram(path)
    with pytest.raises(DataError, match="1 voxels are NaN"):
        list(open_tomogram(path).slabs())
    write_mrc(path, np.full(SHAPE_ZYX, 3.0, np.float32))
    with pytest.raises(DataError, match="every voxel is 3"):
        read_tomogram(path)
    with pytest.raises(DataError, match="every voxel is 3"):
        list(open_tomogram(path).slabs())


def test_pipes_and_dangling_links_are_refused_and_links_to_files_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.mrc")
    with pytest.raises(DataError, match="a device, pipe or socket"):
        read_tomogram(tmp_path / "pipe.mrc")
    (tmp_path / "link.mrc").symlink_to(tmp_path / "TS_1.mrc")
    with pytest.raises(DataError, match="No such file"):
        read_tomogram(tmp_path / "link.mrc")
    write_mrc(tmp_path / "TS_1.mrc", values("float32"))
    assert read_tomogram(tmp_path / "link.mrc").volume_zyx.shape == SHAPE_ZYX


def test_more_than_the_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = write_mrc(tmp_path / "TS_1.mrc", values("float32"))
    monkeypatch.setattr(os, "sysconf", lambda name: 1 if name == "SC_PAGE_SIZE" else 1000)
    with pytest.raises(DataError, match="5x7x9 does not fit into this machine's memory"):
        read_tomogram(path)


def test_slabs_are_the_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(tomograms, "SLAB_VOX", 2 * 7 * 9)
    path = write_mrc(tmp_path / "TS_1.mrc", values("float32"))
    pieces = list(open_tomogram(path).slabs())
    assert [begin for begin, _ in pieces] == [0, 2, 4]
    assert np.array_equal(np.concatenate([planes for _, planes in pieces]), values("float32"))


def test_a_tomogram_that_lies_on_its_side_is_noted(tmp_path):
    path = write_mrc(tmp_path / "TS_1.rec", np.random.default_rng(0).normal(size=(20, 6, 20)).astype(np.float32))
    (note,) = read_tomogram(path).notes
    assert "thinnest along y (20x6x20 voxels along x, y, z)" in note


def test_a_project_on_kaggle_never_loads_mrcfile():
    code = "import sys, tomopoint.kaggle.submit, tomopoint.inference.worker; print('mrcfile' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
