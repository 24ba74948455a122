"""Tomograms on disk: OME-Zarr 0.4 on Zarr v2, as the competition ships them.

A store is a folder ``<tomo_type>.zarr`` with ``.zgroup``, ``.zattrs`` (the multiscale metadata with the voxel size)
and one array per level, ``0`` the finest. Axes are z, y, x; values are float32 of about 1e-5; protein is dark.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tomopoint.errors import DataError

COMPETITION_SCALE_A = (10.012444196428572, 10.012444196428572, 10.012444537618887)
"""Voxel size in the competition's ``.zattrs``, z, y, x, Angstrom (the folder name says 10.000)."""

CHUNK_VOX = 256
ISOTROPY_TOLERANCE = 0.01
"""Voxel sizes along the axes may differ by this share; the competition's differ by 3e-8."""

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
        The store.
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
        The store it came from.
    """

    volume_zyx: Volume
    voxel_A: float
    path: Path


def describe_tomogram(path: Path) -> TomogramInfo:
    """Read shape and voxel size of the finest level from the metadata.

    Raises
    ------
    DataError
        Nothing there, not a tomogram store, not 3-D, or no usable voxel size.
    """
    array = _open_finest(path)
    n_bytes = sum(file.stat().st_size for file in (path / "0").rglob("*") if file.is_file())
    return TomogramInfo(_shape_3d(array, path), _voxel_size(path), path, n_bytes)


def read_tomogram(path: Path) -> Tomogram:
    """Read the finest level of a store.

    Raises
    ------
    DataError
        As :func:`describe_tomogram`; or a chunk cannot be decoded, or the volume holds NaN or infinity, or is
        constant.
    """
    array = _open_finest(path)
    _shape_3d(array, path)
    voxel_A = _voxel_size(path)
    _warn_of_missing_chunks(array, path)
    try:
        volume = np.asarray(array[...], dtype=np.float32)
    except Exception as error:  # zarr and numcodecs raise many kinds for a damaged chunk
        raise DataError(
            f"{path}: a chunk of level 0 cannot be read ({error}); the store is damaged, copy or download it again"
        ) from error
    _check_values(volume, path)
    return Tomogram(volume, voxel_A, path)


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


def _open_finest(path: Path) -> Any:
    """Return the zarr array of level 0."""
    import zarr

    if not path.is_dir():
        raise DataError(f"{path}: no such folder; expected a tomogram store such as .../denoised.zarr")
    try:
        array = zarr.open_group(str(path), mode="r")["0"]
    except Exception as error:  # zarr raises a different kind for each way of not being a group
        raise DataError(
            f"{path} is not a tomogram store: it has no readable array '0' ({error}); "
            "expected OME-Zarr with .zgroup, .zattrs and a level '0'"
        ) from error
    if not isinstance(array, zarr.Array):
        raise DataError(f"{path}: level '0' is a group, not an array; expected OME-Zarr with an array '0'")
    return array


def _warn_of_missing_chunks(array: Any, path: Path) -> None:
    """Say so where chunks have no file: zarr reads them as fill value, which hides an incomplete copy."""
    missing = array.nchunks - array.nchunks_initialized
    if missing:
        logger.warning(
            "%s: %d of %d chunks have no file and read as zero; is the copy complete?", path, missing, array.nchunks
        )


def _shape_3d(array: Any, path: Path) -> tuple[int, int, int]:
    if len(array.shape) != 3 or 0 in array.shape:
        raise DataError(f"{path}: level '0' has shape {tuple(array.shape)}; expected three axes z, y, x")
    depth, height, width = array.shape
    return int(depth), int(height), int(width)


def _voxel_size(path: Path) -> float:
    """Return the voxel size of level 0 from the OME-Zarr metadata, Angstrom."""
    attributes_path = path / ".zattrs"
    try:
        multiscales = json.loads(attributes_path.read_text())["multiscales"][0]
        datasets = {dataset["path"]: dataset for dataset in multiscales["datasets"]}
        transforms = datasets["0"]["coordinateTransformations"]
        scale = next(t["scale"] for t in transforms if t["type"] == "scale")
        units = {axis.get("unit", "angstrom") for axis in multiscales.get("axes", [])}
        values = [float(value) for value in scale[-3:]]
    except (OSError, ValueError, KeyError, IndexError, TypeError, StopIteration) as error:
        raise DataError(
            f"{attributes_path} gives no voxel size ({type(error).__name__}: {error}); "
            "expected OME-Zarr 0.4 multiscales with a 'scale' of level 0 in angstrom"
        ) from error
    if len(values) != 3 or not all(math.isfinite(v) and v > 0 for v in values):
        raise DataError(f"{attributes_path}: the voxel size of level 0 is {scale}; expected three positive numbers")
    if units - {"angstrom"}:
        raise DataError(f"{attributes_path}: the axes are in {', '.join(sorted(map(str, units)))}; expected angstrom")
    if max(values) / min(values) - 1 > ISOTROPY_TOLERANCE:
        raise DataError(f"{attributes_path}: voxels of {values} A are not cubic; resample the tomogram first")
    return sum(values) / 3


def _check_values(volume: Volume, path: Path) -> None:
    low, high = float(volume.min()), float(volume.max())  # NaN propagates to both
    if not (math.isfinite(low) and math.isfinite(high)):
        n_bad = int((~np.isfinite(volume)).sum())
        raise DataError(f"{path}: {n_bad} voxels are NaN or infinite; mend or leave out this tomogram")
    if low == high:
        raise DataError(f"{path}: every voxel is {low}; the store is empty or its chunks are missing")


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
