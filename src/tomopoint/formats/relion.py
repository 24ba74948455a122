"""STAR files of RELION 5, 4 and 3.1, see docs/formats.md."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pandas as pd

from tomopoint.data.tables import COORDINATES
from tomopoint.errors import DataError, reason_of
from tomopoint.files import require_file, write_atomically
from tomopoint.formats.frames import FROM_CORNER, FROM_INDEX, RECONSTRUCTED, Frame, Points, Tomograms, check_words

Version = Literal["relion5", "relion4", "relion3"]

CENTRED = tuple(f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ")
PIXELS = tuple(f"rlnCoordinate{axis}" for axis in "XYZ")
COLUMNS: Mapping[str, tuple[str, ...]] = {"relion5": CENTRED, "relion4": PIXELS, "relion3": PIXELS}
NAME: Mapping[str, str] = {"relion5": "rlnTomoName", "relion4": "rlnTomoName", "relion3": "rlnMicrographName"}
ORIGINS_A = tuple(f"rlnOrigin{axis}Angst" for axis in "XYZ")
SUBTOMOGRAM_ANGLES = ("rlnTomoSubtomogramRot", "rlnTomoSubtomogramTilt", "rlnTomoSubtomogramPsi")
SCORE = "rlnAutopickFigureOfMerit"
PIXEL, DETECTOR_PIXEL, MAGNIFICATION = "rlnTomoTiltSeriesPixelSize", "rlnDetectorPixelSize", "rlnMagnification"
ORIGINAL_PIXEL = "rlnMicrographOriginalPixelSize"
NEUTRAL_MAGNIFICATION = 10_000.0
"""RELION divides the detector's pixel, in micrometres, by the magnification: so it is read as Angstrom."""
TEXTS = ["rlnTomoName", "rlnMicrographName", "rlnTomoParticleName", "rlnOpticsGroupName"]

logger = logging.getLogger(__name__)


def write_relion(
    version: Version,
    picks: pd.DataFrame,
    frames: Mapping[str, Frame],
    names: Mapping[str, str],
    out: Path,
    binning: float = 1.0,
    first_voxel: float = FROM_INDEX,
) -> list[Path]:
    """Write ``<out>/<particle>.star``, one table of all runs, the highest score of a run first.

    Parameters
    ----------
    version
        ``relion5``: centred, Angstrom. ``relion4``: pixels of the tilt series. ``relion3``: voxels of the tomogram.
    picks
        ``experiment, particle_type, x, y, z`` (Angstrom from the corner) and, where known, ``score``.
    frames
        Of every run; with sizes for ``relion5``.
    names
        Run -> name of its tomogram in RELION, where it is another.
    binning
        ``relion4`` only: pixels of the tilt series per voxel of the tomogram.
    first_voxel
        Coordinate of the centre of the first voxel, where coordinates are pixels or voxels.
    """
    import starfile

    paths = []
    check_words({names.get(run, run) for run in picks["experiment"]}, "tomogram name")
    unit = {
        "relion5": "Angstrom from the centre of the tomogram: 0 is the centre of voxel N / 2, counted from 0",
        "relion4": f"pixels of the tilt series, {binning:g} per voxel; the first voxel is at {first_voxel * binning:g}",
        "relion3": f"voxels of the tomogram; the first one is at {first_voxel:g}",
    }[version]
    for particle, own in picks.groupby("particle_type", sort=True):
        blocks = []
        lines = [f"# {particle}, picked by tomopoint. Coordinates: {unit}."]
        for run, rows in own.groupby("experiment", sort=True):
            frame, name = frames[str(run)], names.get(str(run), str(run))
            ordered = rows.sort_values("score", ascending=False, kind="stable") if "score" in rows else rows
            points_xyz_A = ordered[list(COORDINATES)].to_numpy(dtype=np.float64)
            if version == "relion5":
                points = frame.to_centred(points_xyz_A)
            else:
                points = frame.to_voxels(points_xyz_A, first_voxel) * (binning if version == "relion4" else 1.0)
            size = "" if frame.size_xyz_A is None else " x ".join(f"{s:.2f}" for s in frame.size_xyz_A) + " A, "
            lines.append(f"# {name}: {size}voxels of {frame.voxel_A:.6g} A.")
            table = pd.DataFrame({NAME[version]: [name] * len(rows)})
            table[list(COLUMNS[version])] = points
            if version == "relion4":
                table[PIXEL] = frame.voxel_A / binning
            if version == "relion3":
                table[MAGNIFICATION], table[DETECTOR_PIXEL] = NEUTRAL_MAGNIFICATION, frame.voxel_A
            if "score" in rows:
                table[SCORE] = ordered["score"].to_numpy(dtype=np.float64)
            blocks.append(table)
        block = pd.concat(blocks, ignore_index=True)
        text = starfile.to_string({"particles": block} if version != "relion3" else {"": block})
        paths.append(out / f"{particle}.star")
        remarks = [line for line in lines if "data_" not in line]  # RELION looks for that word in comments, too
        write_atomically(paths[-1], "\n".join([*remarks, text]))
    return paths


def read_relion(
    path: Path, version: Version, tomograms: Tomograms, pixel_A: float | None, first_voxel: float | None
) -> pd.DataFrame:
    """Read a STAR file of one kind of particle.

    Parameters
    ----------
    version
        As for :func:`write_relion`.
    tomograms
        Whose runs and sizes are meant.
    pixel_A
        Of the coordinates, Angstrom, where the file does not say it; goes before what it says.
    first_voxel
        Where another program than RELION wrote it; default 0.

    Returns
    -------
    DataFrame
        ``experiment, x, y, z``, Angstrom from the corner, and ``score`` where the file has figures of merit. Shifts
        of a refinement are applied.

    Raises
    ------
    DataError
        Not such a file, a tomogram that is no run, or no pixel size.
    """
    particles, optics = _blocks(path, version)
    runs = np.array([tomograms.run(str(name), path) for name in particles[NAME[version]]], dtype=object)
    frames = {run: tomograms.frame(run) for run in dict.fromkeys(runs)}
    given = _numbers(particles, COLUMNS[version], path)
    pixels_A = None if version == "relion5" else _pixel_sizes_A(particles, optics, version, path, pixel_A)
    first = FROM_INDEX if first_voxel is None else first_voxel
    points = np.zeros_like(given)
    for run, frame in frames.items():
        own = runs == run
        if version == "relion5":
            points[own] = frame.from_centred(given[own])
        elif version == "relion4":  # pixels of the tilt series: index of the voxel times its size
            assert pixels_A is not None
            points[own] = given[own] * pixels_A[own] + (FROM_CORNER - first) * frame.voxel_A
        else:
            assert pixels_A is not None
            points[own] = (given[own] - first + FROM_CORNER) * pixels_A[own]
    points -= _shifts_A(particles, path)
    table = pd.DataFrame(points, columns=list(COORDINATES)).assign(experiment=runs)
    return table.assign(score=_numbers(particles, (SCORE,), path)[:, 0]) if SCORE in particles.columns else table


def version_of(path: Path) -> Version:
    """Return which version's columns a STAR file has; DataError where it has none's, or is no STAR file."""
    blocks = [block for block in _read(path).values() if isinstance(block, pd.DataFrame)]
    for version in COLUMNS:
        if any({NAME[version], *COLUMNS[version]} <= set(block.columns) for block in blocks):
            return cast(Version, version)
    raise DataError(
        f"{path} has no table with {', '.join(CENTRED)} or {', '.join(PIXELS)} and the name of a tomogram; export it "
        "again with these columns"
    )


def frames_of_tomograms_star(path: Path, runs: list[str]) -> tuple[dict[str, Frame], dict[str, str]]:
    """Read sizes and names of tomograms from RELION 5's ``tomograms.star``.

    Sizes are in pixels of the tilt series, so that they are exact where the tomogram's were rounded by binning.

    Returns
    -------
    frames : dict
        Run -> frame.
    names : dict
        Run -> rlnTomoName.
    """
    blocks = _read(path)
    sizes = tuple(f"rlnTomoSize{axis}" for axis in "XYZ")
    wanted = ("rlnTomoName", *sizes, PIXEL)
    found = [b for b in blocks.values() if isinstance(b, pd.DataFrame) and set(wanted) <= set(b.columns)]
    if not found:
        raise DataError(f"{path} has no table with {', '.join(wanted)}; name the tomograms.star of RELION 5")
    table = found[0].set_index("rlnTomoName")
    frames, names = {}, {}
    for run in runs:
        name = next((n for n in (run, run.removeprefix(RECONSTRUCTED), RECONSTRUCTED + run) if n in table.index), None)
        if name is None:
            raise DataError(f"{path} has no tomogram {run!r}; it has {', '.join(map(str, table.index[:8]))}")
        row: Any = table.loc[name]
        pixel_A = float(row[PIXEL])
        x, y, z = (float(row[size]) * pixel_A for size in sizes)
        frames[run] = Frame(pixel_A * float(row.get("rlnTomoTomogramBinning", 1.0)), (x, y, z))
        names[run] = str(name)
    return frames, names


def _read(path: Path) -> dict[str, Any]:
    import starfile

    try:
        require_file(path)
        blocks: dict[str, Any] = starfile.read(path, always_dict=True, parse_as_string=TEXTS)
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}); name a STAR file") from error
    except Exception as error:  # starfile raises what its parsing happens to run into
        raise DataError(f"{path} is no STAR file ({reason_of(error)}); export it again") from error
    if not blocks:
        raise DataError(f"{path} is no STAR file: it holds no data block; export it again")
    return blocks


def _blocks(path: Path, version: Version) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Return the table of particles and that of the optics groups."""
    blocks = {name: b for name, b in _read(path).items() if isinstance(b, pd.DataFrame)}
    wanted = {NAME[version], *COLUMNS[version]}
    for block in blocks.values():
        if wanted <= set(block.columns):
            return block, blocks.get("optics")
    others = [v for v in NAME if any({NAME[v], *COLUMNS[v]} <= set(b.columns) for b in blocks.values())]
    hint = f"it is of --format {' or '.join(others)}" if others else "export it again with these columns"
    raise DataError(f"{path} has no table with {', '.join(sorted(wanted))}; {hint}")


def _numbers(table: pd.DataFrame, columns: tuple[str, ...], path: Path) -> Points:
    try:
        values = table[list(columns)].to_numpy(dtype=np.float64)
    except ValueError as error:
        raise DataError(f"{path}: {', '.join(columns)} are not all numbers; correct the file") from error
    if not np.isfinite(values).all():
        raise DataError(f"{path}: {', '.join(columns)} are not all finite numbers; correct the file")
    return values


def _pixel_sizes_A(
    particles: pd.DataFrame, optics: pd.DataFrame | None, version: Version, path: Path, given: float | None
) -> Points:
    """Return the unit of each row's coordinates, ``(N, 1)``, Angstrom."""
    if given is not None:
        return np.full((len(particles), 1), given)
    columns = (PIXEL, ORIGINAL_PIXEL) if version == "relion3" else (PIXEL,)
    for column in columns:
        if column in particles.columns:
            return _numbers(particles, (column,), path)
    if DETECTOR_PIXEL in particles.columns:
        sizes = _numbers(particles, (DETECTOR_PIXEL,), path)
        if MAGNIFICATION in particles.columns:
            sizes = sizes * NEUTRAL_MAGNIFICATION / _numbers(particles, (MAGNIFICATION,), path)
        return sizes
    group = "rlnOpticsGroup"
    for column in columns:
        if optics is None or column not in optics.columns:
            continue
        sizes = _numbers(optics, (column,), path)
        if len(optics) == 1:
            return np.full((len(particles), 1), sizes[0, 0])
        if group in particles.columns and group in optics.columns:
            by_group = dict(zip(optics[group], sizes[:, 0], strict=True))
            if set(particles[group]) <= set(by_group):
                return particles[group].map(by_group).to_numpy(dtype=np.float64)[:, None]
    raise DataError(
        f"{path} does not say what its coordinates are pixels of; give their size in Angstrom with --pixel-size"
    )


def _shifts_A(particles: pd.DataFrame, path: Path) -> Points:
    """Return what a refinement moved each particle by, ``(N, 3)``, turned back by the angles it was extracted at.

    RELION takes ``A * rlnOrigin`` off the coordinate, with A its rotation matrix of the rlnTomoSubtomogram angles:
    the transpose of the intrinsic rotation about z, the new y and the new z.
    """
    from scipy.spatial.transform import Rotation

    if not set(ORIGINS_A) <= set(particles.columns):
        return np.zeros((len(particles), 3))
    shifts_A = _numbers(particles, ORIGINS_A, path)
    if shifts_A.any():
        logger.info("%s: the shifts of its refinement (rlnOriginXAngst ...) are applied", path)
    if set(SUBTOMOGRAM_ANGLES) <= set(particles.columns):
        angles = _numbers(particles, SUBTOMOGRAM_ANGLES, path)
        return np.asarray(Rotation.from_euler("ZYZ", angles, degrees=True).inv().apply(shifts_A), dtype=np.float64)
    return shifts_A
