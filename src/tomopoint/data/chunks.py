"""The chunk files of an array: which are there, and whether each is whole, looked at before anything is decoded.

Blosc's decoder believes the lengths in a chunk's header: behind the end of a truncated one it reads whatever lies in
memory, which ends in an error, in other voxels, or in the death of the process. The other codecs that are let through
notice a truncation themselves: zlib, gzip and bz2 by their end marks, zstd and lz4 by the length they expect, and zarr
compares the decoded length, which is all there is to compare of a chunk without compression. Codecs that nobody here
has tried that with are refused.

The decoded length is compared only once it is in memory, and a kilobyte can stand for gigabytes. So the length is
looked up before (Blosc, zstd, lz4 say it), or counted piece by piece (zlib, gzip, bz2: as long as decoding again).
"""

from __future__ import annotations

import bz2
import gzip
import io
import math
import os
import struct
import zlib
from collections.abc import Callable
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

ZSTD_MAGIC, ZSTD_SKIPPABLE = 0xFD2FB528, range(0x184D2A50, 0x184D2A60)
ZSTD_BLOCK_BYTES = 128 << 10
"""Most that a block decodes to. Source of the frame format: RFC 8878, section 3.1."""
ZSTD_EXCESS_BYTES = 64 << 20
"""Frames that do not state their length count a whole block for each, of which writers may leave some half full."""

_PIECE_BYTES = 1 << 20

_NO_CHUNK = 2**64 - 1
"""Offset and length of an inner chunk that its shard does not hold (Zarr v3, sharding codec)."""


@dataclass(frozen=True)
class _Encoding:
    """How a chunk became bytes, as far as its length goes.

    Attributes
    ----------
    codec
        What compressed it, by numcodecs' name; empty: nothing did.
    itemsize, n_bytes
        Of a voxel and of the whole chunk once it is decoded.
    n_trailing
        Bytes of the checksum behind it.
    """

    codec: str
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
    n_files = 0
    for file in folder.rglob("[!.]*"):
        check_link(file, folder.parent)
        n_files += file.is_file() and file.name != "zarr.json"
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


def check_link(file: Path, store: Path) -> None:
    """Refuse a link that leads nowhere or out of the store: whoever made the store would choose what is read."""
    if file.is_symlink() and not (file.exists() and file.resolve().is_relative_to(store.resolve())):
        raise DataError(
            f"{file} is a link to {os.readlink(file)}, which is not in the store; copy the store with what its links "
            "stand for, e.g. by `cp -rL`"
        )


def _encoding(array: Any, folder: Path) -> tuple[_Encoding, _Shards | None]:
    """Return how chunks are encoded and where shards have their index; DataError for what cannot be checked."""
    n_bytes = math.prod(array.chunks) * array.dtype.itemsize
    if array.metadata.zarr_format == 2:
        codecs = [codec.codec_id for codec in (*(array.metadata.filters or ()), array.metadata.compressor) if codec]
        if len(codecs) > 1 or not set(codecs) <= set(V2_COMPRESSORS):
            raise _unknown(folder, codecs, V2_COMPRESSORS)
        return _Encoding("".join(codecs), array.dtype.itemsize, n_bytes), None
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
    n_trailing = CRC32C_BYTES * (names[-1:] == ["crc32c"])
    inner = names[1 : len(names) - bool(n_trailing)]
    if names[:1] != ["bytes"] or len(inner) > 1 or not set(inner) <= set(V3_COMPRESSORS):
        raise _unknown(folder, names, V3_COMPRESSORS)
    return _Encoding("".join(inner), array.dtype.itemsize, n_bytes, n_trailing), shards


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
            if path.exists() or path.is_symlink():
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
    """Check the chunk of `length` bytes at `start`; ValueError where it is none, or decodes to another length."""
    length -= encoding.n_trailing
    if encoding.codec == "blosc":
        _check_blosc(stream, start, length, encoding)
    elif encoding.codec:
        stream.seek(start)
        n_bytes = _LENGTHS[encoding.codec](stream.read(max(0, length)), encoding.n_bytes)
        if n_bytes > encoding.n_bytes:
            raise ValueError(f"it decodes to {n_bytes} bytes or more, a chunk has {encoding.n_bytes}")


def _counted(opened: Callable[[io.BytesIO], BinaryIO], data: bytes, limit: int) -> int:
    """Return how many bytes a stream decodes to, counted a little beyond `limit`."""
    count = 0
    try:
        with opened(io.BytesIO(data)) as stream:
            while count <= limit and (piece := stream.read(_PIECE_BYTES)):
                count += len(piece)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(str(error)) from error
    return count


def _zlib_length(data: bytes, limit: int) -> int:
    decoder, count = zlib.decompressobj(), 0
    try:
        while count <= limit and (piece := decoder.decompress(data, _PIECE_BYTES)):
            count, data = count + len(piece), decoder.unconsumed_tail
    except zlib.error as error:
        raise ValueError(str(error)) from error
    return count


def _lz4_length(data: bytes, limit: int) -> int:
    if len(data) < 4:
        raise ValueError(f"{len(data)} bytes, less than an lz4 header")
    return int.from_bytes(data[:4], "little")  # numcodecs' own


def _zstd_length(data: bytes, limit: int) -> int:
    """Return the length that all frames state; where one does not, the most that their blocks can give, less an excess.

    What a frame states, libzstd holds it to.
    """
    stated, n_blocks, all_stated, at = 0, 0, True, 0
    try:
        while at < len(data):
            (magic,) = struct.unpack_from("<I", data, at)
            if magic in ZSTD_SKIPPABLE:
                at += 8 + struct.unpack_from("<I", data, at + 4)[0]
                continue
            if magic != ZSTD_MAGIC:
                raise ValueError("it is no zstd frame")
            flags = data[at + 4]
            single, has_checksum, size_code, dictionary_code = flags >> 5 & 1, flags >> 2 & 1, flags >> 6, flags & 3
            at += 5 + (not single) + (0, 1, 2, 4)[dictionary_code]
            n_size = (single, 2, 4, 8)[size_code]
            stated += int.from_bytes(data[at : at + n_size], "little") + 256 * (n_size == 2)
            all_stated = all_stated and n_size > 0
            at, is_last = at + n_size, False
            while not is_last:
                header = int.from_bytes(struct.unpack_from("<3s", data, at)[0], "little")
                is_last, is_run = bool(header & 1), header >> 1 & 3 == 1  # a run is one byte, repeated
                at += 3 + (1 if is_run else header >> 3)
                n_blocks += 1
            at += 4 * has_checksum
    except (struct.error, IndexError) as error:
        raise ValueError("it ends within a zstd frame") from error
    return stated if all_stated else max(0, n_blocks * ZSTD_BLOCK_BYTES - ZSTD_EXCESS_BYTES)


_LENGTHS: dict[str, Callable[[bytes, int], int]] = {
    "gzip": lambda data, limit: _counted(lambda raw: gzip.GzipFile(fileobj=raw), data, limit),  # type: ignore[arg-type,return-value]
    "bz2": lambda data, limit: _counted(bz2.BZ2File, data, limit),  # type: ignore[arg-type]
    "zlib": _zlib_length,
    "lz4": _lz4_length,
    "zstd": _zstd_length,
}
"""How long a chunk becomes, or more than the limit, by codec; ValueError where it is damaged."""


def _check_blosc(stream: BinaryIO, start: int, length: int, encoding: _Encoding) -> None:
    """Check a Blosc buffer of `length` bytes at `start`; ValueError where its header does not fit them."""
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
