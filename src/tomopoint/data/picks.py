"""Picks on disk: one copick JSON file per particle and run, as the competition ships them."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tomopoint.errors import DataError
from tomopoint.files import write_atomically
from tomopoint.strict_json import build, read, reading, shown

logger = logging.getLogger(__name__)

Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ParticlePicks:
    """All picks of one particle in one run.

    Attributes
    ----------
    run
        Name of the run, e.g. ``"TS_5_4"``.
    particle
        Name of the particle.
    points_xyz_A
        ``(N, 3)`` float64: centres x, y, z in Angstrom, origin at the volume's corner.
    """

    run: str
    particle: str
    points_xyz_A: Points


@dataclass(frozen=True)
class _Location:
    x: float
    y: float
    z: float


@dataclass(frozen=True)
class _Point:
    location: _Location


@dataclass(frozen=True)
class _File:
    """What is read of a picks file; other programs write more into it."""

    run_name: str
    pickable_object_name: str
    points: tuple[_Point, ...] | None
    unit: str = "angstrom"


def read_picks(path: Path) -> ParticlePicks:
    """Read one picks file.

    Raises
    ------
    DataError
        Missing, not JSON, a key missing or of another type, another unit than angstrom, or a coordinate that is not
        finite.
    """
    expected = "expected JSON with run_name, pickable_object_name and points[].location.{x,y,z}"
    with reading(path, DataError, "is not a picks file", expected):
        content = build(_File, read(path), ignore_unknown=True)
    if content.unit != "angstrom":
        raise DataError(f"{path}: the unit is {shown(content.unit)}; convert the coordinates to angstrom")
    places = [(point.location.x, point.location.y, point.location.z) for point in content.points or ()]
    return ParticlePicks(
        content.run_name, content.pickable_object_name, np.array(places, dtype=np.float64).reshape(-1, 3)
    )


def write_picks(path: Path, run: str, particle: str, points_xyz_A: npt.ArrayLike) -> None:
    """Write one picks file with every key of the competition's files.

    Parameters
    ----------
    points_xyz_A
        ``(N, 3)``: centres x, y, z, Angstrom.
    """
    points = np.asarray(points_xyz_A, dtype=np.float64).reshape(-1, 3).tolist()
    identity = np.eye(4).tolist()
    content = {
        "pickable_object_name": particle,
        "user_id": "curation",
        "session_id": "0",
        "run_name": run,
        "voxel_spacing": None,
        "unit": "angstrom",
        "points": [
            {"location": {"x": x, "y": y, "z": z}, "transformation_": identity, "instance_id": 0} for x, y, z in points
        ],
        "trust_orientation": True,
    }
    write_atomically(path, json.dumps(content))


def read_run_picks(folder: Path, particle_names: Collection[str], left_out: Collection[str] = ()) -> dict[str, Points]:
    """Read all picks of a run: ``<folder>/<particle>.json``.

    Parameters
    ----------
    folder
        The run's ``Picks`` folder.
    particle_names
        The particles that may occur.
    left_out
        Others whose files may be there: they are passed over.

    Returns
    -------
    dict
        Every one of `particle_names` with its ``(N, 3)`` x, y, z in Angstrom; ``(0, 3)`` where there is no file. A
        point that is there twice counts once, with a warning: the official metric allows no two.

    Raises
    ------
    DataError
        No picks at all, or a file of an unknown particle.
    """
    paths = sorted(folder.glob("*.json")) if folder.is_dir() else []
    if not paths:
        raise DataError(f"{folder} holds no picks; put <particle>.json files there or leave the run out of training")
    found = {name: np.zeros((0, 3)) for name in particle_names}
    for path in paths:
        picks = read_picks(path)
        if picks.particle in left_out and picks.particle not in found:
            continue
        if picks.particle not in found:
            raise DataError(
                f"{path}: unknown particle {picks.particle!r}; known are {', '.join(particle_names)}. "
                "Remove the file, or give the recipe or pipeline.json that knows this particle"
            )
        both = np.concatenate([found[picks.particle], picks.points_xyz_A])
        first = np.sort(np.unique(both, axis=0, return_index=True)[1])
        if len(first) < len(both):
            logger.warning(
                "%s: %d points are there twice, or in another file of %s too; they count once",
                *(path, len(both) - len(first), folder),
            )
        found[picks.particle] = both[first]
    return found
