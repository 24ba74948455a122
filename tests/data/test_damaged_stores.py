"""Chunks that are not what their store says: noticed before a decoder can crash or invent voxels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, TransposeCodec, ZstdCodec

from tomopoint.data.stores import COMPETITION_SCALE_A
from tomopoint.data.tomograms import describe_tomogram, read_tomogram
from tomopoint.errors import DataError

LARGE_ZYX = (40, 160, 160)
"""4 MB in one chunk: such a buffer ends at the edge of its memory mapping, beyond which a read is fatal."""

SMALL_ZYX = (20, 31, 45)


def noise(shape_zyx) -> np.ndarray:
    return np.random.default_rng(7).normal(0, 5e-6, shape_zyx).astype(np.float32)


def write(path: Path, volume, zarr_format=2, compressors=None, chunks=(8, 16, 16), **options):
    """Write a store of one level in either format; return its array."""
    axes = [{"name": name, "type": "space", "unit": "angstrom"} for name in "zyx"]
    transformations = [{"type": "scale", "scale": list(COMPETITION_SCALE_A)}]
    datasets = [{"path": "0", "coordinateTransformations": transformations}]
    multiscales = {"multiscales": [{"axes": axes, "datasets": datasets}]}
    group = zarr.open_group(str(path), mode="w", zarr_format=zarr_format)
    group.attrs.update(multiscales if zarr_format == 2 else {"ome": multiscales | {"version": "0.5"}})
    array = group.create_array(
        "0", shape=volume.shape, dtype=volume.dtype, chunks=chunks, compressors=compressors, **options
    )
    array[...] = volume
    return array


def read_damaged(store: Path, chunk: str, kind: str, times: int) -> dict[str, int]:
    """Damage one chunk `times` times in another process; a crash of it fails the test."""
    script = Path(__file__).with_name("read_damaged.py")
    words = [sys.executable, str(script), str(store), str(store / "0" / chunk), kind, str(times), "1"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"exit status {done.returncode}: {done.stderr[-500:]}"
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", ["cut", "header"])
def test_a_damaged_blosc_chunk_is_refused_and_kills_nobody(tmp_path, kind):
    """Decoded unchecked, the truncated ones end the process with a segmentation fault."""
    write(tmp_path / "a.zarr", noise(LARGE_ZYX), 2, numcodecs.Blosc("lz4", 5, 1), LARGE_ZYX)
    assert read_damaged(tmp_path / "a.zarr", "0.0.0", kind, 220) == {"refused": 220}


def test_a_damaged_blosc_payload_kills_nobody(tmp_path):
    """It may give other voxels: the format has no checksum. docs/decisions.md says so."""
    write(tmp_path / "a.zarr", noise(LARGE_ZYX), 2, numcodecs.Blosc("lz4", 5, 1), LARGE_ZYX)
    assert sum(read_damaged(tmp_path / "a.zarr", "0.0.0", "payload", 200).values()) == 200


BLOSC = BloscCodec(cname="lz4", typesize=4)
IN_SHARDS = {"chunks": (8, 16, 16), "shards": (16, 32, 32)}
CODECS = {
    "v2 blosc zstd": (2, numcodecs.Blosc("zstd", 5, 2), {}),
    "v2 blosc blosclz": (2, numcodecs.Blosc("blosclz", 5, 0), {}),
    "v2 blosc stored": (2, numcodecs.Blosc("lz4", 0), {}),
    "v2 zlib": (2, numcodecs.Zlib(), {}),
    "v2 gzip": (2, numcodecs.GZip(), {}),
    "v2 bz2": (2, numcodecs.BZ2(), {}),
    "v2 zstd": (2, numcodecs.Zstd(), {}),
    "v2 lz4": (2, numcodecs.LZ4(), {}),
    "v2 none": (2, None, {}),
    "v3 blosc": (3, BLOSC, {}),
    "v3 blosc crc32c": (3, [BLOSC, Crc32cCodec()], {}),
    "v3 transposed": (3, BLOSC, {"filters": TransposeCodec(order=(2, 1, 0))}),
    "v3 gzip": (3, GzipCodec(), {}),
    "v3 zstd": (3, ZstdCodec(), {}),
    "v3 none": (3, None, {}),
    "v3 shards blosc": (3, BLOSC, IN_SHARDS),
    "v3 shards zstd": (3, ZstdCodec(), IN_SHARDS),
    "v3 shards none": (3, None, IN_SHARDS),
}


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_that_is_let_through_notices_a_truncation(tmp_path, codec):
    zarr_format, compressors, options = CODECS[codec]
    volume = noise(SMALL_ZYX)
    write(tmp_path / "a.zarr", volume, zarr_format, compressors, **options)
    np.testing.assert_array_equal(read_tomogram(tmp_path / "a.zarr").volume_zyx, volume)
    chunk = "0.0.0" if zarr_format == 2 else "c/0/0/0"
    assert read_damaged(tmp_path / "a.zarr", chunk, "cut", 40) == {"refused": 40}


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, 5, "its Blosc header is none"),  # Blosc 2
        (3, 8, "its Blosc header is none"),  # would be unshuffled as float64
        (4, 1, "it decodes to"),
        (12, 0, "its header says"),
        (19, 0x7F, "its Blosc blocks lie outside it"),
    ],
)
def test_what_a_blosc_header_may_not_say(tmp_path, position, value, message):
    write(tmp_path / "a.zarr", noise(SMALL_ZYX), 2, numcodecs.Blosc("lz4", 5, 1))
    chunk = tmp_path / "a.zarr/0/1.0.1"
    content = bytearray(chunk.read_bytes())
    content[position] = value
    chunk.write_bytes(content)
    with pytest.raises(DataError, match=rf"0/1\.0\.1: the chunk is truncated or damaged \(.*{message}.*again$"):
        read_tomogram(tmp_path / "a.zarr")


@pytest.mark.parametrize(
    ("zarr_format", "compressors", "options", "message"),
    [
        (2, numcodecs.LZMA(), {}, "encoded with lzma; damage is only noticed with one of blosc, zlib"),
        (2, numcodecs.Blosc(), {"filters": numcodecs.Delta("f4")}, "encoded with delta, blosc"),
        (
            3,
            [GzipCodec(), BLOSC],
            {},
            "encoded with bytes, gzip, blosc; damage is only noticed with one of blosc",
        ),
    ],
)
def test_codecs_that_nobody_tried_are_refused(tmp_path, zarr_format, compressors, options, message):
    write(tmp_path / "a.zarr", noise(SMALL_ZYX), zarr_format, compressors, **options)
    with pytest.raises(DataError, match=message):
        read_tomogram(tmp_path / "a.zarr")


def test_a_codec_that_runs_code_is_not_even_opened(tmp_path):
    write(tmp_path / "a.zarr", noise(SMALL_ZYX), 2, numcodecs.Zlib())
    change_metadata(tmp_path / "a.zarr", compressor={"id": "pickle"})
    with pytest.raises(DataError, match="not a tomogram store"):
        read_tomogram(tmp_path / "a.zarr")


def test_missing_chunks_are_counted(tmp_path):
    """20x31x45 in chunks of 8x16x16 are 3x2x3; the note reaches whoever uses the picks."""
    volume = noise(SMALL_ZYX)
    write(tmp_path / "a.zarr", volume, 2, numcodecs.Blosc("lz4"))
    for name in ("0.1.2", "2.0.0"):
        (tmp_path / "a.zarr/0" / name).unlink()
    tomogram = read_tomogram(tmp_path / "a.zarr")
    assert tomogram.notes == ("incomplete: 2 of 18 chunks missing, read as 0.0",)
    assert (tomogram.volume_zyx[:8, 16:, 32:] == 0).all()
    np.testing.assert_array_equal(tomogram.volume_zyx[:8, :16], volume[:8, :16])


def test_missing_chunks_inside_shards_are_counted(tmp_path):
    """Inner chunks beyond the array's edge are no loss: shards of 16x32x32 over 20x31x45 hold some."""
    volume = noise(SMALL_ZYX)
    write(tmp_path / "a.zarr", volume, 3, BLOSC, **IN_SHARDS)
    assert read_tomogram(tmp_path / "a.zarr").notes == ()
    volume[:8, :16, 16:32] = 0  # empty chunks are not written
    write(tmp_path / "a.zarr", volume, 3, BLOSC, **IN_SHARDS)
    (tmp_path / "a.zarr/0/c/1/0/1").unlink()  # the corner of 4x31x13, two chunks
    assert read_tomogram(tmp_path / "a.zarr").notes == ("incomplete: 3 of 18 chunks missing, read as 0.0",)


def test_most_chunks_missing_is_refused(tmp_path):
    write(tmp_path / "a.zarr", noise(SMALL_ZYX), 2, numcodecs.Blosc("lz4"))
    for chunk in sorted((tmp_path / "a.zarr/0").glob("?.?.?"))[:10]:
        chunk.unlink()
    with pytest.raises(DataError, match="of the 18 chunks of a shape of 20x31x45, 10 are missing"):
        read_tomogram(tmp_path / "a.zarr")


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_is_no_chunk(tmp_path, kind):
    """Zarr takes a folder for a missing chunk; a pipe without a writer would never end."""
    write(tmp_path / "a.zarr", noise(SMALL_ZYX), 2, numcodecs.Blosc("lz4"))
    chunk = tmp_path / "a.zarr/0/0.0.0"
    chunk.unlink()
    if kind == "folder":
        chunk.mkdir()
    else:
        os.mkfifo(chunk)
    with pytest.raises(DataError, match=r"0\.0\.0 stands in a chunk's place"):
        read_tomogram(tmp_path / "a.zarr")


def change_metadata(store: Path, **changes) -> None:
    metadata = store / "0/.zarray"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | changes))


def test_a_shape_without_end_is_refused_at_once(tmp_path):
    """10^15 voxels are beyond any memory; 10^8 in chunks of one voxel are not, and are not looked for one by one."""
    write(tmp_path / "a.zarr", noise(SMALL_ZYX), 2, numcodecs.Blosc("lz4"))
    change_metadata(tmp_path / "a.zarr", shape=[100_000] * 3)
    with pytest.raises(DataError, match=r"100000x100000x100000 .* does not fit into this machine's memory"):
        describe_tomogram(tmp_path / "a.zarr")
    change_metadata(tmp_path / "a.zarr", shape=[10**400] * 3)  # beyond any float, too
    with pytest.raises(DataError, match="does not fit"):
        describe_tomogram(tmp_path / "a.zarr")
    change_metadata(tmp_path / "a.zarr", shape=[100, 1000, 1000], chunks=[1, 1, 1])
    with pytest.raises(DataError, match="of the 100000000 chunks of a shape of 100x1000x1000, 99999982 are missing"):
        read_tomogram(tmp_path / "a.zarr")


def test_chunks_without_end_are_refused(tmp_path):
    write(tmp_path / "a.zarr", noise(SMALL_ZYX), 2, None)
    change_metadata(tmp_path / "a.zarr", chunks=[100_000] * 3)
    with pytest.raises(DataError, match="does not fit into"):
        read_tomogram(tmp_path / "a.zarr")
