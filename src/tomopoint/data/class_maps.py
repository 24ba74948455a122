"""Class maps on disk: what a segmentation of somebody else says of every voxel, one score map per particle.

::

    maps.zarr               a group with one array per run, or
    maps/<run>.zarr         a folder with one array per run, or
    <run>.zarr              one array

An array is ``(C, d, h, w)``, floating-point numbers from 0 to 1, axes channel, z, y, x; its maps have one value per
voxel of the tomogram (stride 1) or per 2x2x2 voxels (stride 2; a last, incomplete cell counts). Attributes of the
array, or else of the group around it:

``channels``
    Names of the particles, in the order of the channels; ``background``, or ``-``, is a channel that is none.
``stride``, ``voxel_A``
    1 or 2, and the edge of a voxel **of the tomogram** in Angstrom. Needed only where the tomograms are not at hand.

Zarr v2 and v3 are read. Chunks that are missing are read as their fill value, as Zarr does: writers leave empty ones
out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tomopoint.data.chunks import check_link
from tomopoint.data.multiscale import MAX_VOXEL_A
from tomopoint.data.stores import COPIES_IN_MEMORY, FLOATS, check_memory
from tomopoint.errors import DataError, reason_of
from tomopoint.files import PLAIN_NAME, is_plain_name
from tomopoint.strict_json import shown

STRIDES = (1, 2)
"""Voxels per cell that maps may have."""

ROUNDING = 1e-3
"""Scores may pass 0 and 1 by this much, which half precision leaves of sums; they are set to 0 and 1 then."""

METADATA = (".zarray", ".zgroup", "zarr.json")

Size = tuple[int, int, int]


@dataclass(frozen=True)
class ClassMaps:
    """The score maps of one run, not read yet.

    Attributes
    ----------
    run
        Name of the run.
    path
        Of its array.
    shape_zyx
        Cells of a map.
    n_channels
        Maps that there are.
    channels
        Their names, as :func:`~tomopoint.data.channels.particle_channels` takes them; none where the store is silent.
    stride
        Voxels per cell, where the store says it.
    voxel_A
        Edge of a voxel of the tomogram, Angstrom, where the store says it.
    """

    run: str
    path: Path
    shape_zyx: Size
    n_channels: int
    channels: tuple[str, ...]
    stride: int | None
    voxel_A: float | None
    _array: Any = field(repr=False, compare=False)

    def read(self, channel: int) -> npt.NDArray[np.float32]:
        """Read one map, ``(d, h, w)``.

        Raises
        ------
        DataError
            It does not fit into memory, is damaged, or holds NaN or a value outside [0, 1].
        """
        largest = max(math.prod(self.shape_zyx), math.prod(self._array.shards or self._array.chunks))
        check_memory(COPIES_IN_MEMORY * 4 * largest, self.shape_zyx, self.path)
        try:
            scores = np.array(self._array[channel], dtype=np.float32, order="C")
        except Exception as error:  # zarr and numcodecs raise many kinds for a damaged chunk
            raise DataError(
                f"{self.path}: channel {channel} cannot be read ({reason_of(error)}); copy it again"
            ) from error
        if n_bad := int((~np.isfinite(scores)).sum()):
            raise DataError(f"{self.path}: {n_bad} cells of channel {channel} are NaN or infinite; mend the maps")
        low, high = float(scores.min()), float(scores.max())
        if low < -ROUNDING or high > 1 + ROUNDING:
            raise DataError(
                f"{self.path}: values of channel {channel} go from {low:g} to {high:g}, not from 0 to 1; store what "
                "comes out of the softmax or sigmoid"
            )
        return np.clip(scores, 0, 1, out=scores)


def is_class_maps(path: Path) -> bool:
    """Whether a path is a Zarr store, or a folder of them."""
    return path.is_dir() and (_is_store(path) or next(path.glob("*.zarr"), None) is not None)


def find_class_maps(path: Path) -> list[ClassMaps]:
    """Open the maps of every run; see the module's text.

    Raises
    ------
    DataError
        No such store, an array of another shape or type, attributes of another kind, or a link out of the store.
    """
    import zarr

    if not path.is_dir():
        raise DataError(f"{path}: no such folder; class maps are Zarr arrays (C, d, h, w), one per run")
    for file in path.rglob("*"):
        check_link(file, path)
    stores = [path] if _is_store(path) else sorted(store for store in path.glob("*.zarr") if _is_store(store))
    found: list[ClassMaps] = []
    for store in stores:
        try:
            opened = zarr.open(str(store), mode="r")
            if isinstance(opened, zarr.Array):
                found.append(_describe(store.stem, store, opened, {}))
                continue
            around = opened.attrs.asdict()
            found += [_describe(name, store / name, array, around) for name, array in sorted(opened.arrays())]
        except DataError:
            raise
        except Exception as error:  # zarr raises a different kind for each way of not being a store
            raise DataError(f"{store} is no Zarr store ({reason_of(error)}); write it again") from error
    if not found:
        raise DataError(f"{path} holds no array; class maps are Zarr arrays (C, d, h, w), one per run")
    runs = [maps.run for maps in found]
    if len(set(runs)) < len(runs):
        raise DataError(f"{path} holds two arrays of one run; keep one of each")
    return found


def place_of(maps: ClassMaps, shape_zyx: Size | None, voxel_A: float | None) -> tuple[int, float]:
    """Return stride and voxel size (Angstrom, of the tomogram).

    Parameters
    ----------
    maps
        What they say.
    shape_zyx, voxel_A
        Of the tomogram, where it is at hand.

    Raises
    ------
    DataError
        The maps are not of that tomogram, or it is not at hand and they do not say it.
    """
    if shape_zyx is None or voxel_A is None:
        if maps.stride is None or maps.voxel_A is None:
            raise DataError(
                f"{maps.path} does not say stride and voxel_A (attributes); name the tomograms with --data, or add them"
            )
        return maps.stride, maps.voxel_A
    fitting = [s for s in STRIDES if tuple(-(-size // s) for size in shape_zyx) == maps.shape_zyx]
    if not fitting or (maps.stride is not None and maps.stride not in fitting):
        says = "" if maps.stride is None else f", its attribute says stride {maps.stride}"
        raise DataError(
            f"{maps.path} has maps of {_size(maps.shape_zyx)}{says}; the tomogram of {maps.run} has {_size(shape_zyx)} "
            f"voxels, so that they need {' or '.join(_size(tuple(-(-n // s) for n in shape_zyx)) for s in STRIDES)}"
        )
    return maps.stride or fitting[0], voxel_A


def _is_store(path: Path) -> bool:
    return any((path / name).is_file() for name in METADATA)


def _describe(run: str, path: Path, array: Any, around: dict[str, Any]) -> ClassMaps:
    attributes = {**around, **array.attrs.asdict()}
    if len(array.shape) != 4 or 0 in array.shape:
        raise DataError(f"{path} has shape {tuple(array.shape)}; class maps are (C, d, h, w): channel, z, y, x")
    if array.dtype.name not in FLOATS:
        raise DataError(f"{path} holds {array.dtype}; class maps are scores from 0 to 1 of type {', '.join(FLOATS)}")
    if not is_plain_name(run):
        raise DataError(f"{path}: the run is called {shown(run)}; rename it, the name must be {PLAIN_NAME}")
    channels, stride, voxel_A = (attributes.get(name) for name in ("channels", "stride", "voxel_A"))
    if channels is not None and not (isinstance(channels, list) and all(isinstance(c, str) for c in channels)):
        raise DataError(f"{path}: the attribute `channels` is {shown(channels)}; it is a list of names")
    if stride is not None and (stride not in STRIDES or isinstance(stride, bool)):
        raise DataError(f"{path}: the attribute `stride` is {shown(stride)}; it is 1 or 2")
    if voxel_A is not None and not (type(voxel_A) in (int, float) and 0 < voxel_A < MAX_VOXEL_A):
        raise DataError(f"{path}: the attribute `voxel_A` is {shown(voxel_A)}; it is a positive number of Angstrom")
    n_channels, depth, height, width = (int(size) for size in array.shape)
    return ClassMaps(
        run,
        path,
        (depth, height, width),
        n_channels,
        tuple(channels or ()),
        None if stride is None else int(stride),
        None if voxel_A is None else float(voxel_A),
        array,
    )


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
