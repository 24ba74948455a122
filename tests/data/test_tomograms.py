"""Stores: the competition's format to the letter, and one clear sentence for each way of being broken."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tomopoint.data import stores
from tomopoint.data.normalisation import normalise
from tomopoint.data.stores import write_tomogram
from tomopoint.data.tomograms import describe_tomogram, read_tomogram
from tomopoint.errors import DataError
from tomopoint.pipeline import Normalisation


@pytest.fixture
def volume() -> np.ndarray:
    return np.random.default_rng(7).normal(0, 5e-6, (20, 31, 45)).astype(np.float32)


@pytest.fixture
def store(tmp_path, volume):
    path = tmp_path / "denoised.zarr"
    write_tomogram(path, volume)
    return path


def test_round_trip_is_bit_exact(store, volume):
    tomogram = read_tomogram(store)
    assert tomogram.volume_zyx.dtype == np.float32
    np.testing.assert_array_equal(tomogram.volume_zyx, volume)
    assert tomogram.voxel_A == pytest.approx(10.0124443, abs=1e-6)


def test_metadata_is_the_competitions(store):
    """Every key of the original .zarray and .zattrs, see the OME-Zarr 0.4 specification for their meaning."""
    assert json.loads((store / ".zgroup").read_text()) == {"zarr_format": 2}
    assert json.loads((store / "2" / ".zarray").read_text()) == {
        "chunks": [256, 256, 256],
        "compressor": {"blocksize": 0, "clevel": 5, "cname": "lz4", "id": "blosc", "shuffle": 1},
        "dimension_separator": "/",
        "dtype": "<f4",
        "fill_value": 0.0,
        "filters": None,
        "order": "C",
        "shape": [5, 8, 12],
        "zarr_format": 2,
    }
    (multiscale,) = json.loads((store / ".zattrs").read_text())["multiscales"]
    assert multiscale["version"] == "0.4"
    assert multiscale["name"] == "/"
    assert [axis["name"] for axis in multiscale["axes"]] == ["z", "y", "x"]
    scales = [level["coordinateTransformations"][0]["scale"] for level in multiscale["datasets"]]
    assert scales[0] == [10.012444196428572, 10.012444196428572, 10.012444537618887]
    assert scales[2] == [40.049776785714286, 40.049776785714286, 40.04977815047555]
    files = {str(p.relative_to(store)) for p in store.rglob("*") if p.is_file()}
    assert files == {".zgroup", ".zattrs", *(f"{n}/{f}" for n in "012" for f in (".zarray", "0/0/0"))}


def test_levels_of_the_real_size_are_the_real_ones(tmp_path):
    """315 halves to 158: an odd axis is rounded up, as in the competition's stores."""
    write_tomogram(tmp_path / "a.zarr", np.zeros((4, 6, 630), np.float32), levels=3)
    shapes = [json.loads((tmp_path / "a.zarr" / n / ".zarray").read_text())["shape"][2] for n in "012"]
    assert shapes == [630, 315, 158]


def test_coarse_levels_are_means(store, volume):
    import zarr

    level = np.asarray(zarr.open_group(str(store), mode="r")["1"])
    np.testing.assert_allclose(level[3, 4, 5], volume[6:8, 8:10, 10:12].mean(), rtol=1e-5)


def test_describe_reads_no_chunk(store):
    for chunk in store.glob("0/0/0/*"):
        chunk.write_bytes(b"")
    assert describe_tomogram(store).shape_zyx == (20, 31, 45)


def test_no_such_folder(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        read_tomogram(tmp_path / "none.zarr")


def test_not_a_store(tmp_path):
    (tmp_path / "notes").mkdir()
    with pytest.raises(DataError, match="not a tomogram store"):
        read_tomogram(tmp_path / "notes")


def test_truncated_chunk(store):
    chunk = store / "0" / "0" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:1000])
    with pytest.raises(DataError, match="damaged") as caught:
        read_tomogram(store)
    assert str(store) in str(caught.value)


def test_a_store_without_chunks_is_refused(store):
    (store / "0" / "0" / "0" / "0").unlink()
    with pytest.raises(DataError, match="of the 1 chunks of a shape of 20x31x45, 1 are missing"):
        read_tomogram(store)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite(tmp_path, volume, bad):
    volume[3, 4, 5] = bad
    write_tomogram(tmp_path / "a.zarr", volume)
    with pytest.raises(DataError, match="1 voxels are NaN or infinite"):
        read_tomogram(tmp_path / "a.zarr")


def own(multiscale):
    """Return the transformations of level 0."""
    return multiscale["datasets"][0]["coordinateTransformations"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["datasets"][0]["coordinateTransformations"][0].update(scale=[10, 10, 20]), "not cubic"),
        (lambda m: m["datasets"][0]["coordinateTransformations"][0].update(scale=[0, 10, 10]), "positive"),
        (lambda m: m["datasets"].pop(0), "no voxel size"),
        (lambda m: m["axes"][0].update(unit="nanometer"), "nanometer"),
        (lambda m: m["axes"].reverse(), "axes are x, y, z"),
        (lambda m: m.update(axes=["x", "y", "z"]), "axes are x, y, z"),  # as OME-Zarr 0.3 has them
        (lambda m: m["axes"].insert(0, {"name": "c", "type": "channel"}), "axes are c, z, y, x"),
        (lambda m: m.update(axes=[None]), "axes are None"),
        (lambda m: own(m).append({"type": "translation", "translation": [0, 11.0, 0]}), "translation of"),
        (lambda m: own(m).append({"type": "translation", "translation": [0, float("nan"), 0]}), "translation of"),
        (lambda m: own(m).append({"type": "scale", "scale": [1, 1, 1]}), "one 'scale'"),
        (lambda m: own(m)[0].update(scale=[1, 10, 10, 10]), "three positive"),
        (lambda m: m.update(coordinateTransformations=[{"type": "scale", "scale": [1, 1, 2]}]), "for all levels"),
        (lambda m: m.update(coordinateTransformations=[{"type": "translation", "translation": [99] * 3}]), "moves"),
        (lambda m: m.update(coordinateTransformations=7), "no voxel size"),
    ],
)
def test_voxel_size_that_cannot_be_used(store, change, message):
    attributes = json.loads((store / ".zattrs").read_text())
    change(attributes["multiscales"][0])
    (store / ".zattrs").write_text(json.dumps(attributes))
    with pytest.raises(DataError, match=message):
        describe_tomogram(store)


def test_transformations_that_change_nothing_are_let_through(store):
    """Half a voxel is what writers give that count from a voxel's centre."""
    attributes = json.loads((store / ".zattrs").read_text())
    (multiscale,) = attributes["multiscales"]
    own(multiscale).append({"type": "translation", "translation": [5.0, 5.0, 5.0]})
    multiscale["coordinateTransformations"] = [{"type": "identity"}, {"type": "scale", "scale": [1.0, 1.0, 1.0]}]
    (store / ".zattrs").write_text(json.dumps(attributes))
    assert describe_tomogram(store).voxel_A == pytest.approx(10.0124443, abs=1e-6)


def rewrite(path, values):
    """Replace level 0 by an array of another data type."""
    import shutil

    import zarr

    shutil.rmtree(path / "0")
    group = zarr.open_group(str(path), mode="r+", zarr_format=2)
    group.create_array("0", shape=values.shape, dtype=values.dtype, chunks=values.shape)[...] = values


@pytest.mark.parametrize(
    ("dtype", "rounding"),
    # Rounding to steps of 16 deviations over the type's range: an rms of step / sqrt(12), with some room.
    [("int8", 0.025), ("uint8", 0.025), (">i2", 1e-4), ("uint16", 1e-4)],
)
def test_integers_are_read_and_said(store, volume, dtype, rounding):
    limits = np.iinfo(dtype)
    step = 16 * volume.std() / (limits.max - limits.min)
    rewrite(store, (np.round(volume / step) + (limits.max + limits.min + 1) // 2).astype(dtype))
    tomogram = read_tomogram(store)
    assert tomogram.volume_zyx.dtype == np.float32
    assert tomogram.notes == (f"stored as {np.dtype(dtype).name}, the competition's are float32",)
    difference = normalise(tomogram.volume_zyx, Normalisation()) - normalise(volume, Normalisation())
    assert np.sqrt((difference**2).mean()) < rounding


@pytest.mark.parametrize("dtype", ["float64", ">f4"])
def test_other_floats_are_read_as_they_are(store, volume, dtype):
    rewrite(store, volume.astype(dtype))
    tomogram = read_tomogram(store)
    np.testing.assert_array_equal(tomogram.volume_zyx, volume)
    assert tomogram.notes == ()


@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64"])
def test_data_types_of_masks_are_refused(store, volume, dtype):
    rewrite(store, volume.astype(dtype))
    with pytest.raises(DataError, match=f"holds {dtype}; expected float16"):
        read_tomogram(store)


def test_wrong_number_of_axes(tmp_path, store):
    import zarr

    path = tmp_path / "flat.zarr"
    group = zarr.open_group(str(path), mode="w", zarr_format=2)
    group.create_array("0", shape=(4, 4), dtype="f4")
    with pytest.raises(DataError, match=r"shape \(4, 4\)"):
        read_tomogram(path)


def test_a_write_that_dies_leaves_no_store(tmp_path, volume, monkeypatch):
    def die(_: np.ndarray) -> np.ndarray:
        raise OSError("No space left on device")

    monkeypatch.setattr(stores, "_halve", die)
    with pytest.raises(OSError, match="No space left"):
        write_tomogram(tmp_path / "a.zarr", volume)
    assert not (tmp_path / "a.zarr").exists()
