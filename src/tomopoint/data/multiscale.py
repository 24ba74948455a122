"""What the OME-Zarr metadata say of level 0: axes, unit, voxel size; refused where it contradicts what is assumed.

Source: OME-Zarr 0.4, https://ngff.openmicroscopy.org/0.4/ (``multiscales`` at the top); 0.5 has it below ``ome``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from tomopoint.errors import DataError
from tomopoint.strict_json import shown

ISOTROPY_TOLERANCE = 0.01
"""Voxel sizes along the axes may differ by this share; the competition's differ by 3e-8."""

MAX_VOXEL_A = 1e6
"""A tenth of a millimetre: more is no voxel, and overflows where it is multiplied."""

IN_ANGSTROM = {"angstrom": 1.0, "nanometer": 10.0, "nanometre": 10.0}
"""Units of axes, as OME-Zarr spells them (and as writers do)."""

TRANSLATION_TOLERANCE_VOX = 1.0
"""Writers that count from a voxel's centre give half a voxel; more means coordinates from elsewhere than the corner."""


def voxel_size_A(attributes: Mapping[str, Any], source: Path) -> float:
    """Return the edge of a voxel of level 0, Angstrom.

    Parameters
    ----------
    attributes
        Of the store's group.
    source
        The file they came from, for messages.

    Raises
    ------
    DataError
        No voxel size; voxels that are not cubic; axes other than z, y, x or in another unit than angstrom
        or nanometer; a translation, or a scale on top of the level's own.
    """
    try:
        multiscale = attributes.get("ome", attributes)["multiscales"][0]
        axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in multiscale.get("axes", [])]
        names = [str(axis["name"]) for axis in axes]
        units = {str(axis.get("unit", "angstrom")) for axis in axes} or {"angstrom"}
        unit_A = IN_ANGSTROM.get(min(units), 0.0) if len(units) == 1 else 0.0
        datasets = {dataset["path"]: dataset for dataset in multiscale["datasets"]}
        own = datasets["0"]["coordinateTransformations"]
        (scale,) = _values(own, "scale", unit_A or 1.0)
        common = multiscale.get("coordinateTransformations", [])
        common_scales = _values(common, "scale")
        translations = [shift for part in (own, common) for shift in _values(part, "translation", unit_A or 1.0)]
    except (ValueError, OverflowError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise DataError(
            f"{source} gives no voxel size ({type(error).__name__}: {shown(str(error))}); "
            "expected OME-Zarr 0.4 multiscales with one 'scale' of level 0 in angstrom or nanometer"
        ) from error
    if names and [name.lower() for name in names] != ["z", "y", "x"]:
        raise DataError(f"{source}: the axes are {_listed(names)}; expected z, y, x: transpose the tomogram first")
    if not unit_A:
        raise DataError(f"{source}: the axes are in {_listed(sorted(units))}; expected angstrom or nanometer")
    if len(scale) != 3 or not all(0 < value < MAX_VOXEL_A for value in scale):
        raise DataError(
            f"{source}: the voxel size of level 0 is {shown(scale)}; expected three positive numbers of Angstrom"
        )
    if max(scale) / min(scale) - 1 > ISOTROPY_TOLERANCE:
        raise DataError(f"{source}: voxels of {scale} A are not cubic; resample the tomogram first")
    if any(value != 1 for values in common_scales for value in values):
        raise DataError(
            f"{source}: a scale of {shown(common_scales[0])} for all levels contradicts the voxel size {scale} of "
            "level 0; write their product as the scale of each level and leave the other out"
        )
    voxel_A = sum(scale) / 3
    for shift in translations:
        if len(shift) != 3 or not all(abs(value) <= TRANSLATION_TOLERANCE_VOX * voxel_A for value in shift):
            raise DataError(
                f"{source}: a translation of {shown(shift)} A moves the tomogram's corner, from which coordinates "
                "count; remove it, and shift picks by it where they need it"
            )
    return voxel_A


def _values(transformations: Sequence[Mapping[str, Any]], kind: str, unit: float = 1.0) -> list[list[float]]:
    """Return the numbers of each transformation of a kind, times `unit`."""
    return [[float(value) * unit for value in t[kind]] for t in transformations if t["type"] == kind]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(name if name.isprintable() and len(name) < 20 else shown(name) for name in islice(names, 6))
