"""The chunk files of an array: which are there, and whether each is whole, looked at before anything is decoded.

Blosc's decoder believes the lengths in a chunk's header: behind the end of a truncated one it reads whatever lies in
memory, which ends in an error, in other voxels, or in the death of the process. The other codecs that are let through
notice a truncation themselves: zlib, gzip and bz2 by their end marks, zstd and lz4 by the length they expect, and zarr
compares the decoded length, which is all there is to compare of a chunk without compression. Codecs that nobody here
has tried that with are refused.
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tomopoint.errors import DataError

V2_COMPRESSORS = ("blosc", "zlib", "gzip", "bz2", "zstd", "lz4")
V3_COMPRESSORS = ("blosc", "gzip", "zstd")
CRC32C_BYTES = 4

BLOSC_VERSION = 2
BLOSC_HEADER = struct.Struct("<BBBBIII")
"""Format version, version of its codec, flags, typesize; nbytes, blocksize, cbytes: README_CHUNK_FORMAT of c-blosc."""

BLOSC_SHUFFLES, BLOSC_COPIED, BLOSC_RESERVED = 0b0101, 0b0010, 0b1000
BLOSC_CODECS = range(5)
"""The three upper bits of the flags: blosclz, lz4, snappy, zlib, zstd."""

_NO_CHUNK = 2**64 - 1
"""Offset and length of an inner chunk that its shard does not hold (Zarr v3, sharding codec)."""


@dataclass(frozen=True)
class _Encoding:
    """How a chunk became bytes, as far as its length goes.

    Attributes
    ----------
    is_blosc
        Whether it is a Blosc buffer.
    itemsize, n_bytes
        Of a voxel and of the whole chunk once it is decoded.
    n_trailing
        Bytes of the checksum behind it.
    """

    is_blosc: bool
    itemsize: int
    n_bytes: int
    n_trailing: int = 0


@dataclass(frozen=True)
class _Shards:
    """Where a shard's index is."""

    at_end: bool
    n_bytes: int


def check_chunks(array: Any, folder: Path) -> tuple[int, int]:
    """Check every chunk file of an array without decoding it.

    The work is bounded by the files that are there, however many chunks the metadata claim.

    Parameters
    ----------
    array
        A ``zarr.Array`` of Zarr v2 or v3.
    folder
        Where its chunks are.

    Returns
    -------
    n_chunks, n_missing : int
        Chunks of the array, and those that are nowhere, which Zarr reads as the fill value.

    Raises
    ------
    DataError
        A codec that is not allowed, more chunks missing than there, a folder in a chunk's place, or a chunk whose
        length or header contradict each other.
    """
    encoding, shards = _encoding(array, folder)
    grid = tuple(array.shards or array.chunks)
    counts = tuple(math.ceil(size / step) for size, step in zip(array.shape, grid, strict=True))
    n_files = sum(file.is_file() for file in folder.rglob("[!.]*") if file.name != "zarr.json")
    n_missing, n_chunks = math.prod(counts) - n_files, math.prod(counts)
    if n_missing <= n_files:  # else there is no end to looking for each of them
        n_missing, n_chunks = 0, 0
        for coords in np.ndindex(counts):
            # Of a shard at the upper edge, only some chunks are inside the array.
            inside = tuple(
                math.ceil(min(step, size - at * step) / chunk)
                for at, step, size, chunk in zip(coords, grid, array.shape, array.chunks, strict=True)
            )
            n_chunks += math.prod(inside)
            path = folder / array.metadata.encode_chunk_key(coords)
            n_missing += _check_file(path, encoding, shards, _per_shard(array), inside)
    if 2 * n_missing > n_chunks:
        raise DataError(
            f"{folder}: of the {n_chunks} chunks of a shape of {'x'.join(map(str, array.shape))}, {n_missing} are "
            "missing; copy or download the store again, or correct the shape in its metadata"
        )
    return n_chunks, n_missing


def _encoding(array: Any, folder: Path) -> tuple[_Encoding, _Shards | None]:
    """Return how chunks are encoded and where shards have their index; DataError for what cannot be checked."""
    n_bytes = math.prod(array.chunks) * array.dtype.itemsize
    if array.metadata.zarr_format == 2:
        codecs = [codec.codec_id for codec in (*(array.metadata.filters or ()), array.metadata.compressor) if codec]
        if len(codecs) > 1 or not set(codecs) <= set(V2_COMPRESSORS):
            raise _unknown(folder, codecs, V2_COMPRESSORS)
        return _Encoding("blosc" in codecs, array.dtype.itemsize, n_bytes), None
    codecs = [codec.to_dict() for codec in array.metadata.codecs]
    shards = None
    if [codec["name"] for codec in codecs] == ["sharding_indexed"]:
        (sharding,) = (codec["configuration"] for codec in codecs)
        codecs = list(sharding["codecs"])
        index = _names(sharding["index_codecs"])
        if index not in (["bytes"], ["bytes", "crc32c"]):
            raise _unknown(folder, index, ("bytes", "crc32c"))
        # Two numbers of 8 bytes for each inner chunk.
        n_index = 16 * math.prod(_per_shard(array)) + CRC32C_BYTES * ("crc32c" in index)
        shards = _Shards(sharding["index_location"] == "end", n_index)
    names = [name for name in _names(codecs) if name != "transpose"]
    n_trailing = CRC32C_BYTES * (names[-1] == "crc32c")
    inner = names[1 : len(names) - bool(n_trailing)]
    if names[0] != "bytes" or len(inner) > 1 or not set(inner) <= set(V3_COMPRESSORS):
        raise _unknown(folder, names, V3_COMPRESSORS)
    return _Encoding("blosc" in inner, array.dtype.itemsize, n_bytes, n_trailing), shards


def _names(codecs: Any) -> list[str]:
    return [codec["name"] for codec in codecs]


def _unknown(folder: Path, codecs: list[str], allowed: tuple[str, ...]) -> DataError:
    return DataError(
        f"{folder}: the chunks are encoded with {', '.join(codecs)}; damage is only noticed with one of "
        f"{', '.join(allowed)} and no filters: write the store anew with one of them, or uncompressed"
    )


def _per_shard(array: Any) -> tuple[int, ...]:
    """Return how many chunks a file holds along each axis."""
    grid = array.shards or array.chunks
    return tuple(step // chunk for step, chunk in zip(grid, array.chunks, strict=True))


def _check_file(
    path: Path, encoding: _Encoding, shards: _Shards | None, per_shard: tuple[int, ...], inside: tuple[int, ...]
) -> int:
    """Check one chunk file; return how many chunks inside the array it should hold and does not."""
    try:
        if not path.is_file():
            if path.exists():
                raise DataError(f"{path} stands in a chunk's place and is no file; copy or download the store again")
            return math.prod(inside)
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if shards is not None:
                return _check_shard(stream, size, encoding, shards, per_shard, inside)
            _check_chunk(stream, 0, size, encoding)
            return 0
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); copy or download the store again") from error
    except ValueError as error:
        raise DataError(
            f"{path}: the chunk is truncated or damaged ({error}); copy or download the store again"
        ) from error


def _check_shard(
    stream: BinaryIO,
    size: int,
    encoding: _Encoding,
    shards: _Shards,
    per_shard: tuple[int, ...],
    inside: tuple[int, ...],
) -> int:
    """Check the chunks that a shard of `size` bytes says it holds; return how many it does not."""
    if size < shards.n_bytes:
        raise ValueError(f"{size} bytes, less than its index of {shards.n_bytes}")
    stream.seek(size - shards.n_bytes if shards.at_end else 0)
    index = np.frombuffer(stream.read(16 * math.prod(per_shard)), dtype="<u8").reshape(*per_shard, 2)
    n_missing = 0
    for start, length in index[tuple(slice(n) for n in inside)].reshape(-1, 2).tolist():
        if start == length == _NO_CHUNK:
            n_missing += 1
        elif start + length > size:
            raise ValueError(f"its index points to byte {start + length} of {size}")
        else:
            _check_chunk(stream, start, length, encoding)
    return n_missing


def _check_chunk(stream: BinaryIO, start: int, length: int, encoding: _Encoding) -> None:
    """Check the chunk of `length` bytes at `start`; ValueError where its header does not fit them."""
    if not encoding.is_blosc:
        return
    length -= encoding.n_trailing
    if length < BLOSC_HEADER.size:
        raise ValueError(f"{length} bytes, less than a Blosc header")
    stream.seek(start)
    version, _, flags, typesize, n_bytes, block, c_bytes = BLOSC_HEADER.unpack(stream.read(BLOSC_HEADER.size))
    if c_bytes != length:
        raise ValueError(f"{length} bytes, its header says {c_bytes}")
    if n_bytes != encoding.n_bytes:
        raise ValueError(f"it decodes to {n_bytes} bytes, a chunk has {encoding.n_bytes}")
    # Writers give the size of a voxel, or 1; any other would be unshuffled into other voxels.
    sane = version == BLOSC_VERSION and flags >> 5 in BLOSC_CODECS and 0 < block <= n_bytes and typesize
    if not sane or encoding.itemsize % typesize or flags & BLOSC_RESERVED or flags & BLOSC_SHUFFLES == BLOSC_SHUFFLES:
        raise ValueError("its Blosc header is none")
    if flags & BLOSC_COPIED:
        if c_bytes != n_bytes + BLOSC_HEADER.size:
            raise ValueError(f"{n_bytes} bytes stored as they are take {c_bytes} with their header")
        return
    n_blocks = math.ceil(n_bytes / block)
    first = BLOSC_HEADER.size + 4 * n_blocks  # where the table of the blocks' starts ends
    starts = np.frombuffer(stream.read(4 * n_blocks), dtype="<i4") if first < c_bytes else np.zeros(1, dtype="<i4")
    # Each block begins with the length, 4 bytes, of its first stream; the decoder checks those against c_bytes.
    if starts.min() < first or starts.max() > c_bytes - 4:
        raise ValueError("its Blosc blocks lie outside it")
