"""MRC files: tomograms as most reconstruction programs write them (.mrc, .mrcs, .rec).

Source: MRC2014, https://doi.org/10.1016/j.jsb.2015.04.002. mrcfile reads the header; the voxels are mapped into memory
from the file, so that a part of them can be read without the rest.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tomopoint.data.multiscale import ISOTROPY_TOLERANCE
from tomopoint.data.notes import ODD_HEADER, THIN_ALONG_Y
from tomopoint.errors import DataError, reason_of
from tomopoint.files import require_file, whole_or_absent

MRC_SUFFIXES = (".mrc", ".mrcs", ".rec")

MODES = (0, 1, 2, 6, 12)
"""int8, int16, float32, uint16, float16; 3 and 4 are transforms, 101 is packed."""

IMOD_STAMP, IMOD_SIGNED = 1146047817, 1
"""At byte 152 of the header: IMOD wrote it. Bit of the flags behind it: bytes (mode 0) are signed; else they are not.
Source: the header as documented by IMOD, https://bio3d.colorado.edu/imod/doc/mrc_format.txt."""

STANDARD_AXES = (1, 2, 3)
"""mapc, mapr, maps: which of x, y, z runs along columns, rows and sections."""

VOXELS_A = (0.1, 1000.0)
"""Edges that a voxel may have, Angstrom: what is finer than an atom or coarser than an organelle is no voxel size."""

FLAT_SHARE = 0.6
"""Where y has less than this share of the voxels of both other axes, it is probably the beam's direction."""


@dataclass(frozen=True)
class MrcTomogram:
    """An MRC file, opened.

    Attributes
    ----------
    voxels_zyx
        ``(D, H, W)`` as stored, mapped into memory, not read.
    voxel_A
        Edge of a voxel, Angstrom.
    notes
        What is odd about it.
    """

    voxels_zyx: npt.NDArray[Any]
    voxel_A: float
    notes: tuple[str, ...]


def is_mrc(path: Path) -> bool:
    """Whether a path is called as MRC files are."""
    return path.suffix.lower() in MRC_SUFFIXES


def open_mrc(path: Path, voxel_A: float | None = None) -> MrcTomogram:
    """Open an MRC file.

    Parameters
    ----------
    voxel_A
        Edge of a voxel, Angstrom, whatever the header says; None: the header's.

    Raises
    ------
    DataError
        No file, no MRC, of another mode than :data:`MODES`, not 3-D, shorter than its header says, axes that are no
        order of x, y, z, or voxels that are not cubic or of no sensible size.
    """
    header, oddities = _header(path)
    mode, shape = int(header.mode), (int(header.nz), int(header.ny), int(header.nx))
    if mode not in MODES:
        raise DataError(
            f"{path}: MRC mode {mode} is not read, only {', '.join(map(str, MODES))} (int8, int16, float32, uint16, "
            "float16); is it no tomogram, or no MRC file? Convert it, e.g. to mode 2"
        )
    if min(shape) < 1 or shape[0] < 2 or int(header.ispg) >= 401:
        raise DataError(f"{path}: {'x'.join(map(str, shape))} sections, rows and columns are no single tomogram")
    dtype = _dtype(header)
    start = 1024 + max(0, int(header.nsymbt))
    n_bytes, expected = path.stat().st_size, start + math.prod(shape) * dtype.itemsize
    if n_bytes < expected:
        raise DataError(
            f"{path} is truncated: {n_bytes} bytes, its header says {expected}; copy or reconstruct it again"
        )
    voxels = np.memmap(path, dtype, "r", offset=start, shape=shape)
    axes = tuple(int(header[name]) for name in ("maps", "mapr", "mapc"))
    if axes == (0, 0, 0):  # programs from before the field
        axes = STANDARD_AXES[::-1]
    if sorted(axes) != [1, 2, 3]:
        raise DataError(
            f"{path}: mapc, mapr, maps are {', '.join(map(str, axes[::-1]))}; expected an order of 1, 2, 3 (x, y, z): "
            "correct the header"
        )
    voxels_zyx = np.transpose(voxels, [axes.index(axis) for axis in (3, 2, 1)])
    depth, height, width = voxels_zyx.shape
    if height < FLAT_SHARE * min(depth, width):
        oddities.append(
            f"{THIN_ALONG_Y} ({width}x{height}x{depth} voxels along x, y, z): a tomogram as it comes from the "
            "reconstruction, not yet rotated so that the beam runs along z?"
        )
    return MrcTomogram(voxels_zyx, voxel_A or _voxel_A(header, path), tuple(oddities))


def write_mrc(path: Path, volume_zyx: npt.NDArray[np.float32], voxel_A: float) -> None:
    """Write a tomogram ``(D, H, W)`` as an MRC file of float32 with origin 0; it appears only when it is whole."""
    import mrcfile

    with whole_or_absent(path) as temporary, mrcfile.new(temporary, overwrite=True) as made:
        made.set_data(np.ascontiguousarray(volume_zyx, dtype=np.float32))
        made.voxel_size = voxel_A


def _header(path: Path) -> tuple[Any, list[str]]:
    """Return the header, and what mrcfile finds odd about it."""
    import mrcfile

    try:
        require_file(path)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with mrcfile.open(path, permissive=True, header_only=True) as opened:
                header = opened.header
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror or reason_of(error)}); name an MRC file") from error
    except (ValueError, MemoryError, OverflowError) as error:
        raise DataError(f"{path} is no MRC file ({reason_of(error)}); copy or convert it again") from error
    said = [reason_of(warning.message) for warning in caught if isinstance(warning.message, Warning)]
    # Without its mark, the first 1024 bytes of anything are a header.
    if bytes(header.map)[:3] != b"MAP" and (int(header.mode) not in MODES or not 0 < int(header.nx) < 1 << 20):
        raise DataError(f"{path} is no MRC file ({'; '.join(said)}); copy or convert it again")
    return header, [f"{ODD_HEADER}: {sentence}" for sentence in said if "extended header" not in sentence.lower()]


def _dtype(header: Any) -> np.dtype[Any]:
    """Return the type of the voxels, in the file's byte order; IMOD's older bytes are unsigned."""
    from mrcfile.utils import data_dtype_from_header

    order = header.mode.dtype.byteorder
    stamp, flags = np.frombuffer(header.tobytes()[152:160], dtype=np.dtype(np.int32).newbyteorder(order))
    if int(header.mode) == 0 and int(stamp) == IMOD_STAMP and not int(flags) & IMOD_SIGNED:
        return np.dtype(np.uint8)
    dtype: np.dtype[Any] = data_dtype_from_header(header)
    return dtype


def _voxel_A(header: Any, path: Path) -> float:
    """Return the edge of a voxel: the cell's over the number of its intervals."""
    fix = "state it with --voxel-size, in Angstrom"
    edges, intervals = [float(header.cella[axis]) for axis in "xyz"], [int(header[f"m{axis}"]) for axis in "xyz"]
    sizes = [edge / n if n > 0 else 0.0 for edge, n in zip(edges, intervals, strict=True)]
    shown = " x ".join(f"{size:.5g}" for size in sizes)
    if not all(VOXELS_A[0] <= size <= VOXELS_A[1] for size in sizes):
        raise DataError(f"{path}: its header gives voxels of {shown} A (x, y, z), which is no voxel size; {fix}")
    if max(sizes) / min(sizes) - 1 > ISOTROPY_TOLERANCE:
        raise DataError(
            f"{path}: its header gives voxels of {shown} A (x, y, z), which are not cubic; resample the tomogram, or "
            f"where the header is wrong {fix}"
        )
    return sum(sizes) / 3
