"""The rows of a submission: what the competition takes of them, and whether picks lie where picks can.

A :class:`Faults` collects one sentence per kind of fault, with the first line or run that has it, how many there are,
and what to do.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from tomopoint.data.read_record import ReadRecord
from tomopoint.data.selection import DOUBLED_A
from tomopoint.data.sources.run import ReadableRun
from tomopoint.data.tables import COORDINATES, SUBMISSION_COLUMNS
from tomopoint.errors import DataError
from tomopoint.files import require_file
from tomopoint.pipeline import Particle
from tomopoint.progress import track

CROWDED_SHARE = 0.5
"""Two picks of one particle closer than this share of its suppression radius are no prediction's: it keeps one."""

FACE_TOLERANCE_A = 0.001
"""Coordinates are written with three decimals, and so may a pick on a face be rounded outwards."""

VOXEL_TOLERANCE = 0.001
"""Voxel sizes that differ by a larger share are two: of a tomogram of 6,000 A, 6 A."""

MAX_LISTED = 5
"""So many lines or runs are named in one sentence."""

KEY = ["experiment", "particle_type", *COORDINATES]


@dataclass
class Faults:
    """What was found so far, a sentence each, as of :class:`~tomopoint.inference.verify.Verification`."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)


def read_rows(path: Path, faults: Faults) -> pd.DataFrame | None:
    """Return the rows with as many fields as the header: KEY, and the line each was on; say what is wrong with any.

    None where there are no rows with these columns at all.

    Texts are taken as they are: whether a number is one is asked here, where the line is known.
    """
    fix = "`tomopoint rethreshold` writes it anew from picks.csv"
    try:
        require_file(path)
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            header = next(reader, [])
            content = [(reader.line_num, fields) for fields in reader if fields]
    except OSError as error:
        faults.errors.append(f"cannot read {path} ({error.strerror}); name the submission.csv of a prediction")
        return None
    except (UnicodeDecodeError, csv.Error) as error:
        faults.errors.append(f"{path} is no CSV table ({error}); {fix}")
        return None
    if tuple(header) != SUBMISSION_COLUMNS:
        given = ", ".join(header)[:200] or "none"
        faults.errors.append(
            f"{path}, line 1: the columns are {given}; the competition takes {', '.join(SUBMISSION_COLUMNS)}, in this "
            f"order: {fix}"
        )
    if missing := [name for name in KEY if header.count(name) != 1]:
        faults.unchecked.append(f"the rows of {path}: they lack {', '.join(missing)}, or have it twice")
        return None
    place = {name: header.index(name) for name in (*KEY, *(["id"] if "id" in header else []))}

    uneven = pd.DataFrame({"line": [line for line, fields in content if len(fields) != len(header)]})
    if len(uneven):
        faults.errors.append(
            f"{at_lines(path, uneven)}: {len(header)} fields are wanted, as in the header; correct or remove the rows"
        )
    whole = [(index, line, fields) for index, (line, fields) in enumerate(content) if len(fields) == len(header)]
    rows = pd.DataFrame({name: [fields[at] for *_, fields in whole] for name, at in place.items()}, dtype=object)
    rows["line"] = [line for _, line, _ in whole]
    if "id" in place:
        wrong = rows[pd.to_numeric(rows["id"], errors="coerce").to_numpy() != [index for index, *_ in whole]]
        if len(wrong):
            faults.errors.append(
                f"{at_lines(path, wrong)}: the id is {wrong['id'].iloc[0]!r}; ids are 0, 1, 2 ... in the order of the "
                "rows: number them anew"
            )
    for name in COORDINATES:
        numbers = pd.to_numeric(rows[name], errors="coerce").astype(np.float64)
        wrong = rows[~np.isfinite(numbers)]
        if len(wrong):
            faults.errors.append(
                f"{at_lines(path, wrong)}: {name} is {wrong[name].iloc[0]!r}, not a finite number; correct or remove "
                "the rows"
            )
        rows[name] = numbers
    return rows


def check_inside(
    path: Path,
    rows: pd.DataFrame,
    runs: Sequence[ReadableRun],
    tomo_type: str,
    readings: Mapping[str, ReadRecord],
    faults: Faults,
) -> None:
    """Look for picks outside their tomograms, whose sizes the metadata of the stores tell; a face is inside.

    Where the prediction took a tomogram's voxels for others than are told now, as `readings` of the runs say, its size
    is not known: that is said, for the rows are not at fault.
    """
    sizes_xyz_A, unread = {}, []
    otherwise: defaultdict[str, list[str]] = defaultdict(list)
    for run in track(runs, "sizes of tomograms", total=len(runs)):
        try:
            info = run.describe(tomo_type)
        except (DataError, OSError) as error:
            unread.append(f"{run.name} ({error})")
            continue
        reading = readings.get(run.name)
        if reading is not None and abs(info.voxel_A / reading.voxel_A - 1) > VOXEL_TOLERANCE:
            advice = (
                f"say --voxel-size {reading.voxel_A:g}, as tomopoint predict was told"
                if reading.is_stated
                else "say no --voxel-size, as tomopoint predict was told none; or, if the file was changed since, "
                "remove the run's part and predict it again"
            )
            otherwise[f"voxels of {reading.voxel_A:.3f} A, here they are {info.voxel_A:.3f} A: {advice}"].append(
                run.name
            )
        else:
            sizes_xyz_A[run.name] = [size * info.voxel_A for size in info.shape_zyx[::-1]]
    if unread:
        faults.unchecked.append(f"whether picks lie inside the tomogram of {listed(unread)}")
    for sentence, names in otherwise.items():
        faults.unchecked.append(f"whether picks lie inside the tomogram of {listed(names)}, predicted as of {sentence}")
    known = rows[rows["experiment"].isin(sizes_xyz_A)]
    ends_xyz_A = np.array([sizes_xyz_A[name] for name in known["experiment"]]).reshape(-1, 3)
    points_xyz_A = known[list(COORDINATES)].to_numpy(dtype=np.float64)
    is_outside = (points_xyz_A < -FACE_TOLERANCE_A) | (points_xyz_A > ends_xyz_A + FACE_TOLERANCE_A)
    outside = known.iloc[np.flatnonzero(is_outside.any(axis=1))]
    if len(outside):
        first = outside.iloc[0]
        x, y, z = sizes_xyz_A[first["experiment"]]
        faults.errors.append(
            f"{at_lines(path, outside)}: the pick at {place_of(first)} lies outside the tomogram of "
            f"{first['experiment']}, which ends at x {x:.1f}, y {y:.1f}, z {z:.1f} A; coordinates are Angstrom "
            "from its corner, x before y before z: correct or remove the rows"
        )


def check_distances(path: Path, rows: pd.DataFrame, particles: Sequence[Particle], faults: Faults) -> None:
    """Look for picks of one particle in one run that are one pick, or that suppression would have made one."""
    suppression_A = {particle.name: particle.suppression_A for particle in particles}
    doubled: list[tuple[int, int, float, str, str]] = []
    crowded: list[tuple[int, int, float, str, str]] = []
    for (run, name), group in rows.groupby(["experiment", "particle_type"]):
        if len(group) < 2 or name not in suppression_A:
            continue
        points_xyz_A = group[list(COORDINATES)].to_numpy(dtype=np.float64)
        distances, neighbours = map(np.asarray, cKDTree(points_xyz_A).query(points_xyz_A, k=2))
        lines = group["line"].to_numpy()
        # Of two in one place the tree names either first.
        other = np.where(neighbours[:, 0] == np.arange(len(group)), neighbours[:, 1], neighbours[:, 0])
        for index in np.flatnonzero(distances[:, 1] < max(DOUBLED_A, CROWDED_SHARE * suppression_A[str(name)])):
            kind = doubled if distances[index, 1] < DOUBLED_A else crowded
            kind.append((int(lines[index]), int(lines[other[index]]), float(distances[index, 1]), str(name), str(run)))
    if doubled:
        line, other_line, distance, name, run = min(doubled)
        faults.errors.append(
            f"{path}, lines {line} and {other_line}: {name} in {run} is there twice, {distance:.3f} A apart, one of "
            f"{len(doubled)} such rows; keep one of each: `tomopoint rethreshold` writes the submission anew"
        )
    if crowded:
        line, other_line, distance, name, run = min(crowded)
        faults.warnings.append(
            f"{path}, lines {line} and {other_line}: {distance:.1f} A between two picks of {name} in {run}, where one "
            f"suppresses others within {suppression_A[name]:g} A; {len(crowded)} rows have such a neighbour: were "
            "submissions put together? Keep one of them"
        )


def at_lines(path: Path, rows: pd.DataFrame) -> str:
    """Name the lines of a file."""
    lines = sorted(int(line) for line in rows["line"])
    return f"{path}, line{'s' * (len(lines) > 1)} {listed(map(str, lines))}"


def named(values: pd.Series) -> str:
    """Name what a column holds, each once."""
    return listed(dict.fromkeys(repr(value) for value in values))


def place_of(row: pd.Series) -> str:
    """Say where a pick is."""
    return f"x {row['x']:.3f}, y {row['y']:.3f}, z {row['z']:.3f} A"


def listed(names: Iterable[str]) -> str:
    """Name the first `MAX_LISTED`, and how many more there are."""
    known = list(names)
    more = len(known) - MAX_LISTED
    return ", ".join(known[:MAX_LISTED]) + (f" and {more} more" if more > 0 else "")
