"""Tomogram stores: OME-Zarr 0.4 on Zarr v2, as the competition ships them; 0.5 on Zarr v3 is read, too.

A store is a folder ``<tomo_type>.zarr`` with ``.zgroup``, ``.zattrs`` (the multiscale metadata with the voxel size)
and one array per level, ``0`` the finest. Axes are z, y, x; values are float32 of about 1e-5; protein is dark.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tomopoint.data.chunks import check_link
from tomopoint.data.multiscale import voxel_size_A
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


def open_finest(path: Path, voxel_A: float | None = None) -> tuple[Any, float]:
    """Return the zarr array of level 0, of a shape and a data type that can be read, and its voxel size, Angstrom.

    Raises
    ------
    DataError
        As :func:`tomopoint.data.tomograms.describe_tomogram`.
    """
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
    shape_zyx = shape_3d(array, path)
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


def shape_3d(array: Any, path: Path) -> tuple[int, int, int]:
    """Return the shape of an array; DataError where it has not three axes, or no voxels."""
    if len(array.shape) != 3 or 0 in array.shape:
        raise DataError(f"{path}: level '0' has shape {tuple(array.shape)}; expected three axes z, y, x")
    depth, height, width = array.shape
    return int(depth), int(height), int(width)


def _check_metadata_files(path: Path) -> None:
    """Refuse metadata that are no files of the store itself: zarr would follow a link, and wait for a pipe for ever."""
    names = (".zgroup", ".zattrs", "zarr.json")
    for file in (path / "0", *(folder / name for folder in (path, path / "0") for name in (*names, ".zarray"))):
        check_link(file, path)
        if file.name != "0" and file.exists() and not file.is_file():
            raise DataError(f"{file} is no file; copy or download the store again")


def _halve(volume: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
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
