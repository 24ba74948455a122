"""Stores that would fill the memory, wait for ever or lead elsewhere: refused before anything is decoded."""

from __future__ import annotations

import bz2
import gzip
import os
import resource
import zlib

import numcodecs
import pytest
from kinds import VOLUME, write_store

from tomopoint.data.project import Project
from tomopoint.data.tomograms import read_tomogram
from tomopoint.errors import DataError

CHUNK = "a.zarr/0/0.0.1"
CHUNK_BYTES = 6 * 8 * 4 * 4
BOMB_BYTES = 200 << 20
MOST_MORE_BYTES = 100 << 20
"""What refusing a bomb may add to the memory that the process had at its largest: half of what it stands for."""

ZSTD = numcodecs.Zstd()


def unstated(frame: bytes) -> bytes:
    """Return a zstd frame that does not state its length: flags and window instead of it (RFC 8878, 3.1.1.1)."""
    n_size = (1, 2, 4, 8)[frame[4] >> 6]
    start = 5 + (not frame[4] & 0x20)
    return frame[:4] + bytes([frame[4] & 0x04, 0x80]) + frame[start + n_size :]


def bombs() -> dict:
    small, large = bytes(CHUNK_BYTES), bytes(BOMB_BYTES)
    lz4 = bytearray(numcodecs.LZ4().encode(small))
    lz4[:4] = (2**31 - 1).to_bytes(4, "little")
    return {
        "gzip": (numcodecs.GZip(), gzip.compress(large, 1)),
        "gzip, two members": (numcodecs.GZip(), gzip.compress(small) + gzip.compress(large, 1)),
        "zlib": (numcodecs.Zlib(), zlib.compress(large, 1)),
        "bz2": (numcodecs.BZ2(), bz2.compress(large, 1)),
        "lz4": (numcodecs.LZ4(), bytes(lz4)),
        "zstd": (ZSTD, ZSTD.encode(large)),
        "zstd, two frames": (ZSTD, ZSTD.encode(small) + ZSTD.encode(large)),
        "zstd, unstated": (ZSTD, unstated(ZSTD.encode(large))),
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["gzip", "gzip, two members", "zlib", "bz2", "lz4", "zstd", "zstd, two frames", "zstd, unstated"]
)
def test_a_chunk_that_stands_for_far_more_is_refused_before_it_is_decoded(tmp_path, name):
    codec, chunk = bombs()[name]
    write_store(tmp_path, 2, codec)
    read_tomogram(tmp_path / "a.zarr")
    (tmp_path / CHUNK).write_bytes(chunk)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(
        DataError, match=rf"0\.0\.1: .*decodes to \d+ bytes or more, a chunk has {CHUNK_BYTES}\).*again$"
    ):
        read_tomogram(tmp_path / "a.zarr")
    assert 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < MOST_MORE_BYTES


@pytest.mark.parametrize(
    "codec", [numcodecs.GZip(), numcodecs.Zlib(), numcodecs.BZ2(), numcodecs.LZ4(), ZSTD], ids=repr
)
def test_one_byte_more_than_a_chunk_is_refused(tmp_path, codec):
    write_store(tmp_path, 2, codec)
    assert (read_tomogram(tmp_path / "a.zarr").volume_zyx == VOLUME).all()
    (tmp_path / CHUNK).write_bytes(codec.encode(bytes(CHUNK_BYTES + 1)))
    with pytest.raises(DataError, match=rf"decodes to {CHUNK_BYTES + 1} bytes or more"):
        read_tomogram(tmp_path / "a.zarr")


def test_zstd_frames_of_other_writers_are_read(tmp_path):
    """Their length need not be stated, they may be several, and frames to be skipped may lie between them."""
    write_store(tmp_path, 2, ZSTD)
    content = VOLUME[:, :, 4:].tobytes()
    whole = ZSTD.encode(content)
    skipped = (0x184D2A50).to_bytes(4, "little") + (4).to_bytes(4, "little") + b"note"
    for chunk in (unstated(whole), whole + skipped):
        (tmp_path / CHUNK).write_bytes(chunk)
        assert (read_tomogram(tmp_path / "a.zarr").volume_zyx == VOLUME).all()


@pytest.mark.parametrize("name", [CHUNK, "a.zarr/.zattrs", "a.zarr/0/.zarray", "a.zarr/0"])
def test_a_link_out_of_the_store_is_refused(tmp_path, name):
    write_store(tmp_path, 2)
    (tmp_path / name).rename(tmp_path / "elsewhere")
    (tmp_path / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"is a link to .*elsewhere, which is not in the store; .*cp -rL"):
        read_tomogram(tmp_path / "a.zarr")


def test_a_link_that_leads_nowhere_is_no_missing_chunk(tmp_path):
    write_store(tmp_path, 2)
    (tmp_path / CHUNK).unlink()
    (tmp_path / CHUNK).symlink_to("annexed")
    with pytest.raises(DataError, match=r"0\.0\.1 is a link to annexed, which is not in the store"):
        read_tomogram(tmp_path / "a.zarr")


def test_a_link_to_the_store_and_links_inside_it_are_followed(tmp_path):
    write_store(tmp_path, 2)
    (tmp_path / CHUNK).rename(tmp_path / "a.zarr/0/.kept")
    (tmp_path / CHUNK).symlink_to(".kept")
    (tmp_path / "b.zarr").symlink_to("a.zarr")
    assert (read_tomogram(tmp_path / "b.zarr").volume_zyx == VOLUME).all()


@pytest.mark.parametrize("name", [".zgroup", ".zattrs", "0/.zarray"])
def test_a_pipe_in_the_place_of_metadata_is_not_waited_for(tmp_path, name):
    write_store(tmp_path, 2)
    (tmp_path / "a.zarr" / name).unlink()
    os.mkfifo(tmp_path / "a.zarr" / name)
    with pytest.raises(DataError, match=r"is no file; copy or download"):
        read_tomogram(tmp_path / "a.zarr")


@pytest.mark.parametrize("name", ["a\nb", "a" * 251, "\udcff", "a\\b"])
def test_a_run_whose_name_cannot_be_part_of_a_files_name_is_refused(tmp_path, name):
    (tmp_path / "test/static/ExperimentRuns" / name).mkdir(parents=True)
    with pytest.raises(DataError, match="rename it, the name must be a plain name") as caught:
        Project(tmp_path).runs("test")
    str(caught.value).encode()
