"""Models of IMOD, ``.mod``, see docs/formats.md."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tomopoint.data.colours import colours_of
from tomopoint.data.tables import COORDINATES
from tomopoint.errors import DataError, reason_of
from tomopoint.files import require_file, whole_or_absent
from tomopoint.formats.frames import FROM_CORNER, FROM_INDEX, Frame, Points, Tomograms
from tomopoint.pipeline import Particle

FIRST_VOXEL_XYZ = np.array([FROM_CORNER, FROM_CORNER, FROM_INDEX])
"""In x and y a model counts from the corner; in z from half a voxel inside, so that slices have whole numbers."""

NM_UNITS = -9
"""Exponent of the unit of the header's pixel size: nanometres. Units of 0 are pixels: the size was never said."""

CONTOUR, CONTOUR_STORE, CONTOUR_HEADER = b"CONT", b"COST", struct.Struct(">iIii")
STORED = struct.Struct(">hhif")
"""One value of one point: its kind, its flags, which point, the value."""
VALUE, RANGE = 10, 11
FLOAT_OF_ONE_POINT, FLOATS_OF_OBJECT = (1 << 2) | (1 << 7), 1 | (1 << 2) | (1 << 4)
"""Kinds and flags of IMOD's general storage: a float for one point; lowest and highest of an object."""

MAX_NAME = 63


def write_imod(
    picks: pd.DataFrame, frames: Mapping[str, Frame], out: Path, particles: Mapping[str, Particle]
) -> list[Path]:
    """Write ``<out>/<run>.mod``: an object per particle, scattered points, with scores as the values of points."""
    import imodmodel.models as imod

    paths = []
    colours = colours_of({*particles, *map(str, picks["particle_type"])})
    for run, rows in picks.groupby("experiment", sort=True):
        frame = frames[str(run)]
        values, objects = [], []
        for name, own in rows.groupby("particle_type", sort=True):
            points = to_model(own[list(COORDINATES)].to_numpy(dtype=np.float64), frame)
            radius_vox = round(particles[str(name)].radius_A / frame.voxel_A) if str(name) in particles else 0
            thing = imod.Object(contours=[imod.Contour(points=points)])
            thing.header = imod.ObjectHeader(
                name=str(name)[:MAX_NAME], pdrawsize=radius_vox, contsize=1, flags=imod.ObjectFlags(0)
            )
            thing.color = colours[str(name)]
            thing.header.flags.scattered = True
            if "score" in own:
                scores = own["score"].to_numpy(dtype=np.float64)
                values.append(scores)
                extent = {"index": float(scores.min()), "value": float(scores.max())}
                thing.extra = [imod.GeneralStorage(type=RANGE, flags=FLOATS_OF_OBJECT, **extent)]
            objects.append(thing)
        size = (0, 0, 0) if frame.size_xyz_A is None else tuple(round(s / frame.voxel_A) for s in frame.size_xyz_A)
        flags = imod.ModelFlags(0)
        flags.z_coordinates_start_from_negative_half = True
        flags.mat1_and_mat3_are_bytes = True
        header = imod.ModelHeader(
            name=str(run)[:MAX_NAME], pixelsize=frame.voxel_A / 10, units=NM_UNITS, flags=flags,
            xmax=size[0], ymax=size[1], zmax=size[2],
        )  # fmt: skip
        paths.append(out / f"{run}.mod")
        with whole_or_absent(paths[-1]) as temporary:
            with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # its own use of pydantic
                imod.ImodModel(header=header, objects=objects).to_file(temporary)
            if values:
                temporary.write_bytes(_with_values(temporary.read_bytes(), values))
    return paths


def to_model(points_xyz_A: Points, frame: Frame) -> Points:
    """Return ``(N, 3)`` positions as a model has them."""
    return frame.to_voxels(points_xyz_A, FROM_CORNER) + (FIRST_VOXEL_XYZ - FROM_CORNER)


def _with_values(content: bytes, values: list[Points]) -> bytes:
    """Put the values of each contour's points behind it, one contour per object.

    imodmodel writes such a chunk without its name, which no program could read.
    """
    end = 0
    for own in values:
        start = content.index(CONTOUR, end)
        end = start + len(CONTOUR) + CONTOUR_HEADER.size + 12 * len(own)
        (count, *_) = CONTOUR_HEADER.unpack_from(content, start + len(CONTOUR))
        assert count == len(own)
        stored = b"".join(STORED.pack(VALUE, FLOAT_OF_ONE_POINT, i, value) for i, value in enumerate(own))
        chunk = CONTOUR_STORE + struct.pack(">i", len(stored)) + stored
        content = content[:end] + chunk + content[end:]
        end += len(chunk)
    return content


def read_imod(path: Path, particle: str | None, tomograms: Tomograms, pixel_A: float | None) -> pd.DataFrame:
    """Read the points of a model, which is of the run that its file's name says.

    Parameters
    ----------
    particle
        What all its points are; None: what the names of its objects say.
    pixel_A
        Size of the pixels it was made on, where its header does not say it; goes before the header.

    Returns
    -------
    DataFrame
        ``experiment, particle_type, x, y, z``, Angstrom from the corner.

    Raises
    ------
    DataError
        No model, one of a part of a volume or of a turned one, no pixel size, or objects without a name.
    """
    model = _load(path)
    if model.header.flags.model_last_viewed_onYZ_flipped_or_rotated:
        raise DataError(f"{path} was made on a turned volume; open it on the tomogram as it is, and save it again")
    image = model.minx
    if image is not None and not np.allclose(image.otrans, image.ctrans, atol=1e-3):
        raise DataError(f"{path} was made on a part of a volume; open it on the whole tomogram, and save it again")
    if pixel_A is None:
        if model.header.units == 0 or not model.header.pixelsize > 0:
            raise DataError(f"{path} does not say its pixel size; give it in Angstrom with --pixel-size")
        pixel_A = model.header.pixelsize * 10.0 ** (model.header.units + 10)
    run = tomograms.run(path.name, path)
    tables = []
    for index, thing in enumerate(model.objects, start=1):
        name = particle or thing.header.name.strip()
        points = np.concatenate([np.zeros((0, 3)), *(contour.points for contour in thing.contours)])
        if len(points) and not name:
            raise DataError(f"{path}: object {index} has no name; say what it is: NAME={path}")
        points_xyz_A = Frame(pixel_A).from_voxels(points - (FIRST_VOXEL_XYZ - FROM_CORNER), FROM_CORNER)
        tables.append(pd.DataFrame(points_xyz_A, columns=list(COORDINATES)).assign(particle_type=name))
    if not any(map(len, tables)):
        raise DataError(f"{path} holds no points; place some, or leave it out")
    return pd.concat([table for table in tables if len(table)], ignore_index=True).assign(experiment=run)


def _load(path: Path) -> Any:
    import imodmodel.models as imod

    try:
        require_file(path)
        if path.read_bytes()[:8] != b"IMODV1.2":
            raise DataError(f"{path} is no binary model of IMOD; save it in 3dmod")
        return imod.ImodModel.from_file(path)
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}); name a model of IMOD") from error
    except DataError:
        raise
    except Exception as error:  # imodmodel raises what its parsing happens to run into
        raise DataError(f"{path} is no model that can be read ({reason_of(error)}); save it again in 3dmod") from error
