"""Tomograms on disk: OME-Zarr 0.4 on Zarr v2, as the competition ships them; 0.5 on Zarr v3 and MRC are read, too.

A store is a folder ``<tomo_type>.zarr`` with ``.zgroup``, ``.zattrs`` (the multiscale metadata with the voxel size)
and one array per level, ``0`` the finest. Axes are z, y, x; values are float32 of about 1e-5; protein is dark.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tomopoint.data.chunks import check_chunks, check_link
from tomopoint.data.mrc import is_mrc, open_mrc
from tomopoint.data.multiscale import voxel_size_A
from tomopoint.data.read_record import ReadRecord
from tomopoint.errors import DataError, reason_of

COMPETITION_SCALE_A = (10.012444196428572, 10.012444196428572, 10.012444537618887)
"""Voxel size in the competition's ``.zattrs``, z, y, x, Angstrom (the folder name says 10.000)."""

CHUNK_VOX = 256

FLOATS = ("float16", "float32", "float64")
INTEGERS = ("int8", "uint8", "int16", "uint16")
"""Common in laboratories. Each tomogram is standardised, so a linear scale to integers costs only its rounding; wider
integers are masks and labels as a rule, and refused."""

COPIES_IN_MEMORY = 2
"""The volume as read, and standardised."""

SLAB_VOX = 1 << 24
"""Voxels of an MRC file that are read at a time, where it is not read whole: 64 MB of float32."""

logger = logging.getLogger(__name__)

Volume = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TomogramInfo:
    """What the metadata says of a tomogram, without reading it.

    Attributes
    ----------
    shape_zyx
        Voxels along z, y, x.
    voxel_A
        Edge of a voxel, Angstrom.
    path
        The store, or file.
    n_bytes
        Of the files of level 0. Compressed voxels of another reconstruction hardly ever take the same number.
    """

    shape_zyx: tuple[int, int, int]
    voxel_A: float
    path: Path
    n_bytes: int


@dataclass(frozen=True)
class Tomogram:
    """A tomogram in memory.

    Attributes
    ----------
    volume_zyx
        ``(D, H, W)`` float32, as stored (not normalised), all finite.
    voxel_A
        Edge of a voxel, Angstrom.
    path
        The store or file it came from.
    notes
        What whoever uses the picks should know: missing chunks, another data type than float32.
    record
        How it was read, where that is not as a project's are.
    """

    volume_zyx: Volume
    voxel_A: float
    path: Path
    notes: tuple[str, ...] = ()
    record: ReadRecord | None = None


@dataclass(frozen=True)
class StoredTomogram:
    """A tomogram on disk, checked as far as that goes without its values.

    Attributes
    ----------
    shape_zyx, voxel_A, path, notes
        As of :class:`Tomogram`.
    format
        E.g. ``"MRC, float32"``.
    planes
        From the first plane and the one behind the last to ``(n, H, W)`` float32, as stored, not yet checked.
    slab
        Planes that are best read at a time.
    """

    shape_zyx: tuple[int, int, int]
    voxel_A: float
    path: Path
    notes: tuple[str, ...]
    format: str
    planes: Callable[[int, int], Volume]
    slab: int

    def read(self) -> Volume:
        """Read all of it.

        Raises
        ------
        DataError
            It does not fit into memory, a chunk cannot be decoded, or the volume holds NaN or infinity or is constant.
        """
        check_memory(COPIES_IN_MEMORY * 4 * math.prod(self.shape_zyx), self.shape_zyx, self.path)
        volume = self.planes(0, self.shape_zyx[0])
        _check_values(volume, self.path)
        return volume

    def slabs(self) -> Iterator[tuple[int, Volume]]:
        """Read it in pieces: where each begins along z, and its planes; errors as :meth:`read`."""
        low, high = math.inf, -math.inf
        for begin in range(0, self.shape_zyx[0], self.slab):
            planes = self.planes(begin, min(begin + self.slab, self.shape_zyx[0]))
            low, high = min(low, _finite(planes.min(), planes, self.path)), max(high, float(planes.max()))
            yield begin, planes
        if low == high:
            raise _constant(low, self.path)


def describe_tomogram(path: Path, voxel_A: float | None = None) -> TomogramInfo:
    """Read shape and voxel size (of the finest level) from the metadata.

    Parameters
    ----------
    voxel_A
        Edge of a voxel, Angstrom, whatever the metadata say; None: what they say.

    Raises
    ------
    DataError
        Nothing there, not a tomogram, not 3-D, a store larger than this machine's memory, not of a data type in
        :data:`FLOATS` or :data:`INTEGERS`; or as :func:`tomopoint.data.multiscale.voxel_size_A` and
        :func:`tomopoint.data.mrc.open_mrc`.
    """
    if is_mrc(path):
        opened = open_mrc(path, voxel_A)
        return TomogramInfo(_shape_3d(opened.voxels_zyx, path), opened.voxel_A, path, path.stat().st_size)
    array, stored_A = _open_finest(path, voxel_A)
    n_bytes = sum(file.stat().st_size for file in (path / "0").rglob("*") if file.is_file())
    return TomogramInfo(_shape_3d(array, path), stored_A, path, n_bytes)


def voxel_size_of(path: Path, voxel_A: float | None = None) -> float:
    """Return the voxel size alone, which takes less than :func:`describe_tomogram`; errors as there."""
    return open_mrc(path, voxel_A).voxel_A if is_mrc(path) else _open_finest(path, voxel_A)[1]


def read_tomogram(path: Path, voxel_A: float | None = None) -> Tomogram:
    """Read an MRC file, or the finest level of a store.

    Parameters
    ----------
    voxel_A
        As of :func:`describe_tomogram`.

    Raises
    ------
    DataError
        As :func:`open_tomogram` and :meth:`StoredTomogram.read`.
    """
    stored = open_tomogram(path, voxel_A)
    return Tomogram(stored.read(), stored.voxel_A, path, stored.notes)


def open_tomogram(path: Path, voxel_A: float | None = None) -> StoredTomogram:
    """Open an MRC file, or the finest level of a store.

    Raises
    ------
    DataError
        As :func:`describe_tomogram` and :func:`tomopoint.data.chunks.check_chunks`.
    """
    if is_mrc(path):
        opened = open_mrc(path, voxel_A)
        voxels, notes = opened.voxels_zyx, list(opened.notes)
        shape_zyx = _shape_3d(voxels, path)
        format_name, slab, own_A = (
            f"MRC, {voxels.dtype.name}",
            SLAB_VOX // (shape_zyx[1] * shape_zyx[2]),
            opened.voxel_A,
        )
    else:
        voxels, own_A = _open_finest(path, voxel_A)
        notes, shape_zyx = [], _shape_3d(voxels, path)
        n_chunks, n_missing = check_chunks(voxels, path / "0")
        if n_missing:
            notes.append(f"incomplete: {n_missing} of {n_chunks} chunks missing, read as {voxels.fill_value}")
        if voxels.dtype.name in INTEGERS:
            notes.append(f"stored as {voxels.dtype.name}, the competition's are float32")
        format_name, slab = f"OME-Zarr, {voxels.dtype.name}", (voxels.shards or voxels.chunks)[0]
    for note in notes:
        logger.warning("%s: %s", path, note)

    def planes(begin: int, end: int) -> Volume:
        try:
            # A copy, also of a mapped file: whoever reads a tomogram may write into it.
            return np.array(voxels[begin:end], dtype=np.float32, order="C")
        except Exception as error:  # zarr and numcodecs raise many kinds for a damaged chunk
            raise DataError(
                f"{path}: a chunk of level 0 cannot be read ({reason_of(error)}); the store is damaged, copy or "
                "download it again"
            ) from error

    return StoredTomogram(shape_zyx, own_A, path, tuple(notes), format_name, planes, max(1, slab))


def write_tomogram(
    path: Path,
    volume_zyx: npt.NDArray[np.floating[Any]],
    scale_A: Sequence[float] = COMPETITION_SCALE_A,
    levels: int = 3,
) -> None:
    """Write a store in the competition's exact format; it appears under `path` only when it is whole.

    Parameters
    ----------
    path
        Where to; an existing store is replaced.
    volume_zyx
        ``(D, H, W)``, written as little-endian float32.
    scale_A
        Voxel size of the finest level along z, y, x, Angstrom.
    levels
        Resolution levels; each next one averages 2x2x2 voxels.
    """
    import zarr
    from numcodecs import Blosc

    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    level_zyx = np.ascontiguousarray(volume_zyx, dtype="<f4")
    for level in range(levels):
        array = zarr.create_array(
            store=str(partial / str(level)),
            shape=level_zyx.shape,
            chunks=(CHUNK_VOX,) * 3,
            dtype="<f4",
            fill_value=0.0,
            zarr_format=2,
            order="C",
            compressors=Blosc(cname="lz4", clevel=5, shuffle=Blosc.SHUFFLE, blocksize=0),
            chunk_key_encoding={"name": "v2", "separator": "/"},
        )
        array[...] = level_zyx
        # The competition's arrays carry no attributes file; zarr writes an empty one.
        (partial / str(level) / ".zattrs").unlink(missing_ok=True)
        level_zyx = _halve(level_zyx)
    (partial / ".zgroup").write_text(json.dumps({"zarr_format": 2}, indent=4))
    (partial / ".zattrs").write_text(json.dumps(_multiscales(scale_A, levels)))
    if path.exists():
        shutil.rmtree(path)
    partial.rename(path)


def check_memory(n_bytes: int, shape_zyx: Sequence[int], path: Path, what: str = "") -> None:
    """DataError where so many bytes are more than this machine's memory; `what` says more of the shape."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if n_bytes > memory:
        raise DataError(
            f"{path}: a shape of {'x'.join(map(str, shape_zyx))}{what} does not fit into this machine's memory of "
            f"{memory / 1e9:.0f} GB; correct the metadata, or cut the tomogram into pieces"
        )


def _open_finest(path: Path, voxel_A: float | None = None) -> tuple[Any, float]:
    """Return the zarr array of level 0, of a shape and a data type that can be read, and its voxel size, Angstrom."""
    import zarr

    if not path.is_dir():
        raise DataError(f"{path}: no such folder; expected a tomogram store such as .../denoised.zarr")
    _check_metadata_files(path)
    try:
        group = zarr.open_group(str(path), mode="r", use_consolidated=False)
        array, attributes = group["0"], group.attrs.asdict()
    except Exception as error:  # zarr raises a different kind for each way of not being a group
        raise DataError(
            f"{path} is not a tomogram store: it has no readable array '0' ({reason_of(error)}); "
            "expected OME-Zarr with .zgroup, .zattrs and a level '0'"
        ) from error
    if not isinstance(array, zarr.Array):
        raise DataError(f"{path}: level '0' is a group, not an array; expected OME-Zarr with an array '0'")
    shape_zyx = _shape_3d(array, path)
    grid_zyx = array.shards or array.chunks
    if len(grid_zyx) != 3 or min(grid_zyx) < 1:
        raise DataError(f"{path}: level '0' has chunks of {grid_zyx}; expected three positive numbers")
    if array.dtype.name not in (*FLOATS, *INTEGERS):
        raise DataError(
            f"{path}: level '0' holds {array.dtype}; expected {', '.join((*FLOATS, *INTEGERS))} (is it a mask?)"
        )
    needed = COPIES_IN_MEMORY * 4 * max(math.prod(shape_zyx), math.prod(grid_zyx))
    check_memory(needed, shape_zyx, path, f" in chunks of {'x'.join(map(str, grid_zyx))}")
    if voxel_A is not None:
        return array, voxel_A
    return array, voxel_size_A(attributes, path / (".zattrs" if group.metadata.zarr_format == 2 else "zarr.json"))


def _check_metadata_files(path: Path) -> None:
    """Refuse metadata that are no files of the store itself: zarr would follow a link, and wait for a pipe for ever."""
    names = (".zgroup", ".zattrs", "zarr.json")
    for file in (path / "0", *(folder / name for folder in (path, path / "0") for name in (*names, ".zarray"))):
        check_link(file, path)
        if file.name != "0" and file.exists() and not file.is_file():
            raise DataError(f"{file} is no file; copy or download the store again")


def _shape_3d(array: Any, path: Path) -> tuple[int, int, int]:
    if len(array.shape) != 3 or 0 in array.shape:
        raise DataError(f"{path}: level '0' has shape {tuple(array.shape)}; expected three axes z, y, x")
    depth, height, width = array.shape
    return int(depth), int(height), int(width)


def _check_values(volume: Volume, path: Path) -> None:
    low, high = _finite(volume.min(), volume, path), float(volume.max())
    if low == high:
        raise _constant(low, path)


def _finite(low: np.floating[Any], volume: Volume, path: Path) -> float:
    """Return the minimum of a volume, to which NaN propagates; DataError where it, or the maximum, is not finite."""
    if not (math.isfinite(low) and math.isfinite(volume.max())):
        n_bad = int((~np.isfinite(volume)).sum())
        raise DataError(f"{path}: {n_bad} voxels are NaN or infinite; mend or leave out this tomogram")
    return float(low)


def _constant(value: float, path: Path) -> DataError:
    return DataError(f"{path}: every voxel is {value}; the store is empty or its chunks are missing")


def _halve(volume: Volume) -> Volume:
    """Average 2x2x2 voxels; an odd axis is first extended by its last plane, so 315 becomes 158."""
    padding = [(0, size % 2) for size in volume.shape]
    padded = np.pad(volume, padding, mode="edge") if any(size % 2 for size in volume.shape) else volume
    depth, height, width = (size // 2 for size in padded.shape)
    blocks = padded.reshape(depth, 2, height, 2, width, 2)
    return np.ascontiguousarray(blocks.mean(axis=(1, 3, 5), dtype=np.float32), dtype="<f4")


def _multiscales(scale_A: Sequence[float], levels: int) -> dict[str, Any]:
    axes = [{"name": name, "type": "space", "unit": "angstrom"} for name in "zyx"]
    datasets = [
        {
            "coordinateTransformations": [{"scale": [value * 2**level for value in scale_A], "type": "scale"}],
            "path": str(level),
        }
        for level in range(levels)
    ]
    return {"multiscales": [{"axes": axes, "datasets": datasets, "metadata": {}, "name": "/", "version": "0.4"}]}
