"""Tomograms on disk, in a store or an MRC file: what the metadata say, and their voxels, checked."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tomopoint.data.chunks import check_chunks
from tomopoint.data.mrc import is_mrc, open_mrc
from tomopoint.data.notes import INCOMPLETE, STORED_AS_INTEGERS
from tomopoint.data.read_record import ReadRecord
from tomopoint.data.stores import COPIES_IN_MEMORY, INTEGERS, check_memory, open_finest, shape_3d
from tomopoint.errors import DataError, reason_of

SLAB_VOX = 1 << 24
"""Voxels of an MRC file that are read at a time, where it is not read whole: 64 MB of float32."""

TRAINING_VOXEL_TOLERANCE = 0.01
"""Voxel sizes of the tomograms trained on may differ by this share: radii in voxels are then right to a percent."""

ROUNDING_A = 0.01
"""Pick tables are rounded: a pick on a face of the tomogram may lie so far outside."""

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

    @property
    def size_xyz_A(self) -> npt.NDArray[np.float64]:
        """``(3,)``: edges along x, y, z, Angstrom."""
        return np.array(self.shape_zyx[::-1]) * self.voxel_A

    def outside(self, points_xyz_A: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
        """Return which points, ``(N, 3)`` x, y, z in Angstrom, lie outside by more than rounding: their indices."""
        wrong = (points_xyz_A < -ROUNDING_A) | (points_xyz_A > self.size_xyz_A + ROUNDING_A)
        return np.flatnonzero(wrong.any(axis=1))


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
        ``FLOATS`` or ``INTEGERS`` of :mod:`tomopoint.data.stores`; or as
        :func:`tomopoint.data.multiscale.voxel_size_A` and :func:`tomopoint.data.mrc.open_mrc`.
    """
    if is_mrc(path):
        opened = open_mrc(path, voxel_A)
        return TomogramInfo(shape_3d(opened.voxels_zyx, path), opened.voxel_A, path, path.stat().st_size)
    array, stored_A = open_finest(path, voxel_A)
    n_bytes = sum(file.stat().st_size for file in (path / "0").rglob("*") if file.is_file())
    return TomogramInfo(shape_3d(array, path), stored_A, path, n_bytes)


def voxel_size_of(path: Path, voxel_A: float | None = None) -> float:
    """Return the voxel size alone, which takes less than :func:`describe_tomogram`; errors as there."""
    return open_mrc(path, voxel_A).voxel_A if is_mrc(path) else open_finest(path, voxel_A)[1]


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
        shape_zyx = shape_3d(voxels, path)
        format_name, slab, own_A = (
            f"MRC, {voxels.dtype.name}",
            SLAB_VOX // (shape_zyx[1] * shape_zyx[2]),
            opened.voxel_A,
        )
    else:
        voxels, own_A = open_finest(path, voxel_A)
        notes, shape_zyx = [], shape_3d(voxels, path)
        n_chunks, n_missing = check_chunks(voxels, path / "0")
        if n_missing:
            notes.append(f"{INCOMPLETE}: {n_missing} of {n_chunks} chunks missing, read as {voxels.fill_value}")
        if voxels.dtype.name in INTEGERS:
            notes.append(f"{STORED_AS_INTEGERS} {voxels.dtype.name}, the competition's are float32")
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
