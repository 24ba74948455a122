"""Verifying a submission: is it what the competition takes, and what the prediction's parts say.

Everything that is wrong is collected, one sentence per kind of fault, with the first line or run that has it, how many
there are, and what to do. What lies beside the submission decides what can be compared; the rest is said, too.
"""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from tomopoint.data.particles import project_particles
from tomopoint.data.project import DEFAULT_TOMO_TYPE, SPLITS, Project
from tomopoint.data.selection import DOUBLED_A, select_picks
from tomopoint.data.sources.find import Found
from tomopoint.data.sources.run import ReadableRun
from tomopoint.data.tables import COORDINATES, SUBMISSION_COLUMNS
from tomopoint.errors import DataError, PipelineError
from tomopoint.files import require_file
from tomopoint.inference.events import Event, last_call, read_events
from tomopoint.inference.folder import RECORD_NAME, PredictionFolder
from tomopoint.inference.parts import PartOrigin, load_part, part_path
from tomopoint.inference.status import is_at_work
from tomopoint.pipeline import PIPELINE_NAME, Particle, Pipeline, has_competition_metric
from tomopoint.progress import track
from tomopoint.strict_json import Malformed, read

CROWDED_SHARE = 0.5
"""Two picks of one particle closer than this share of its suppression radius are no prediction's: it keeps one."""

FACE_TOLERANCE_A = 0.001
"""Coordinates are written with three decimals, and so may a pick on a face be rounded outwards."""

MAX_LISTED = 5
"""So many lines or runs are named in one sentence."""

KEY = ["experiment", "particle_type", *COORDINATES]


@dataclass(frozen=True)
class Verification:
    """What was found.

    Attributes
    ----------
    submission
        The file.
    errors
        What the competition would refuse or score wrongly, or what differs from the prediction.
    warnings
        What may be meant so, and costs score if it is not.
    unchecked
        What could not be looked at, and why.
    counts
        ``n_picks``, ``n_runs`` of the project, ``n_runs_with_picks``, ``n_parts``, and per particle.
    """

    submission: Path
    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    unchecked: tuple[str, ...]
    counts: dict[str, int]

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not self.errors

    def figures(self) -> dict[str, Any]:
        """Return the same as plain JSON values."""
        return {
            "submission": str(self.submission),
            "errors": list(self.errors),
            "warnings": list(self.warnings),
            "unchecked": list(self.unchecked),
            "counts": self.counts,
        }

    def text(self) -> str:
        """Return the same for people: errors, warnings, what was not checked, and one line of counts."""
        counts = self.counts
        said = (("error", self.errors), ("warning", self.warnings), ("not checked", self.unchecked))
        lines = [f"{kind}: {sentence}" for kind, sentences in said for sentence in sentences]
        lines.append(
            f"{self.submission}: {counts['n_picks']} picks in {counts['n_runs_with_picks']} of {counts['n_runs']} runs,"
            f" {counts['n_parts']} parts; {len(self.errors)} errors, {len(self.warnings)} warnings"
        )
        return "\n".join(lines)


@dataclass
class _Found:
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)


def predicted_tomo_type(folder: Path) -> str | None:
    """Return the reconstruction that the prediction of a folder read; None where it does not tell."""
    try:
        identity = read(folder / RECORD_NAME)
    except (OSError, Malformed):
        return None
    tomo_type = identity.get("tomogram type") if isinstance(identity, dict) else None
    return tomo_type if isinstance(tomo_type, str) else None


def verify_submission(
    path: Path, project: Project | Found, split: str = "test", out: Path | None = None
) -> Verification:
    """Compare a submission with the project, with the Pipeline beside it, and with the parts and the log of `out`.

    Parameters
    ----------
    path
        The submission.
    project, split
        Which runs it is about; of tomograms of one's own, what was found.
    out
        Folder of the prediction; None: the submission's.

    Raises
    ------
    DataError
        The project has no such runs. Whatever is wrong with the other files is among the errors.
    """
    runs: dict[str, ReadableRun] = {run.name: run for run in project.runs(split)}
    folder = PredictionFolder(path.parent if out is None else out)
    found = _Found()

    # What the competition takes: columns, ids, numbers, names.
    pipeline = _read_pipeline([path.with_name(PIPELINE_NAME), folder.pipeline_path], found)
    particles = pipeline.particles if pipeline else project_particles(project.root)
    names = [particle.name for particle in particles]
    table = _read_rows(path, found)
    rows = pd.DataFrame(columns=[*KEY, "line"]) if table is None else table
    unknown = rows[~rows["particle_type"].isin(names)]
    if len(unknown):
        found.errors.append(
            f"{_at(path, unknown)}: no particle is called {_named(unknown['particle_type'])}; there are "
            f"{', '.join(names)}: correct or remove the rows"
        )
    unknown = rows[~rows["experiment"].isin(runs)]
    if len(unknown):
        found.errors.append(
            f"{_at(path, unknown)}: no {split} run of {project.root} is called {_named(unknown['experiment'])}; there "
            f"are {_listed(runs)}: {_other_split(project, split, unknown)}"
        )
    rows = rows[np.isfinite(rows[list(COORDINATES)].to_numpy(dtype=np.float64)).all(axis=1)]
    with_picks = set(rows["experiment"])

    # What the prediction left: parts and the log.
    events = read_events(folder.log_path)
    call = last_call(events)
    paths = sorted(folder.parts_path.glob("[!.]*.csv"))
    parts, origin = _read_parts(paths, call, found)
    predicted = {part.stem for part in paths}
    if not paths and not call:
        found.unchecked.append(f"what was predicted: no parts/ in {folder.path} (--out names a prediction's folder)")
    elif not call:
        found.unchecked.append(f"why runs are not predicted, and which stores were incomplete: no {folder.log_path}")

    # Where the picks lie: in their tomograms, and apart.
    tomo_type = origin.tomo_type if origin else pipeline.tomo_type if pipeline else DEFAULT_TOMO_TYPE
    _check_inside(path, rows, [run for run in runs.values() if run.name in with_picks], tomo_type, found)
    _check_distances(path, rows, particles, found)

    # Is it what the parts give?
    is_prediction = bool(paths or call)
    if is_prediction and table is not None:
        if pipeline is None:
            found.unchecked.append(f"whether it holds what the parts give: no {PIPELINE_NAME} with the thresholds")
        elif is_at_work(folder.path):
            found.unchecked.append(
                f"whether it holds what the parts give: a prediction is at work in {folder.path}; verify again when it "
                "ends"
            )
        else:
            comparable = rows[~rows["experiment"].isin(predicted - set(parts))]  # a faulty part has been named already
            _compare(path, comparable, parts, folder, pipeline, found)

    # Which runs are missing, and which were read from less than a whole store.
    missing = [name for name in runs if name not in predicted] if is_prediction else []
    if missing:
        why = {event.run: f" ({event.message})" for event in events if event.event == "failed" and event.message}
        found.warnings.append(
            f"{folder.path}: {len(missing)} of {len(runs)} runs are not predicted: "
            f"{_listed(name + why.get(name, '') for name in missing)}; run the same `tomopoint predict` command again"
        )
    without = [name for name in runs if name not in with_picks and name not in missing]
    if without and table is not None:
        found.warnings.append(
            f"{path}: {len(without)} of {len(runs)} runs have no pick: {_listed(without)}; look at their tomograms, or "
            "lower thresholds with `tomopoint rethreshold`"
        )
    notes: defaultdict[str, list[str]] = defaultdict(list)
    for name, done in {event.run: event for event in events if event.event == "done"}.items():
        for note in done.notes if name in predicted else ():
            notes[note].append(name)
    for note, noted in notes.items():
        found.warnings.append(
            f"{folder.log_path}: {note}: {_listed(noted)}; where that can be mended, remove the run's part "
            "and predict it again"
        )

    counts = {particle.name: int((rows["particle_type"] == particle.name).sum()) for particle in particles}
    return Verification(
        path,
        tuple(found.errors),
        tuple(found.warnings),
        tuple(found.unchecked),
        {
            "n_picks": len(rows),
            "n_runs": len(runs),
            "n_runs_with_picks": len(with_picks & set(runs)),
            "n_parts": len(paths),
            **counts,
        },
    )


def _read_pipeline(paths: Sequence[Path], found: _Found) -> Pipeline | None:
    """Return the first Pipeline that is there."""
    for path in paths:
        if path.exists():
            try:
                return Pipeline.load(path)
            except PipelineError as error:
                found.errors.append(str(error))
                return None
    found.unchecked.append(
        f"particles and distances of the prediction: there is no {paths[0]}; the competition's are taken"
    )
    return None


def _read_rows(path: Path, found: _Found) -> pd.DataFrame | None:
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
        found.errors.append(f"cannot read {path} ({error.strerror}); name the submission.csv of a prediction")
        return None
    except (UnicodeDecodeError, csv.Error) as error:
        found.errors.append(f"{path} is no CSV table ({error}); {fix}")
        return None
    if tuple(header) != SUBMISSION_COLUMNS:
        given = ", ".join(header)[:200] or "none"
        found.errors.append(
            f"{path}, line 1: the columns are {given}; the competition takes {', '.join(SUBMISSION_COLUMNS)}, in this "
            f"order: {fix}"
        )
    if missing := [name for name in KEY if header.count(name) != 1]:
        found.unchecked.append(f"the rows of {path}: they lack {', '.join(missing)}, or have it twice")
        return None
    place = {name: header.index(name) for name in (*KEY, *(["id"] if "id" in header else []))}

    uneven = pd.DataFrame({"line": [line for line, fields in content if len(fields) != len(header)]})
    if len(uneven):
        found.errors.append(
            f"{_at(path, uneven)}: {len(header)} fields are wanted, as in the header; correct or remove the rows"
        )
    whole = [(index, line, fields) for index, (line, fields) in enumerate(content) if len(fields) == len(header)]
    rows = pd.DataFrame({name: [fields[at] for *_, fields in whole] for name, at in place.items()}, dtype=object)
    rows["line"] = [line for _, line, _ in whole]
    if "id" in place:
        wrong = rows[pd.to_numeric(rows["id"], errors="coerce").to_numpy() != [index for index, *_ in whole]]
        if len(wrong):
            found.errors.append(
                f"{_at(path, wrong)}: the id is {wrong['id'].iloc[0]!r}; ids are 0, 1, 2 ... in the order of the rows: "
                "number them anew"
            )
    for name in COORDINATES:
        numbers = pd.to_numeric(rows[name], errors="coerce").astype(np.float64)
        wrong = rows[~np.isfinite(numbers)]
        if len(wrong):
            found.errors.append(
                f"{_at(path, wrong)}: {name} is {wrong[name].iloc[0]!r}, not a finite number; correct or remove "
                "the rows"
            )
        rows[name] = numbers
    return rows


def _other_split(project: Project | Found, split: str, unknown: pd.DataFrame) -> str:
    """Say what to do about runs that the split does not have: another split may."""
    for other in SPLITS:
        with suppress(DataError):
            if other != split and set(unknown["experiment"]) <= {run.name for run in project.runs(other)}:
                return f"these are {other} runs, say --split {other}"
    return "correct or remove the rows, or name their project with --data"


def _read_parts(
    paths: Sequence[Path], call: Sequence[Event], found: _Found
) -> tuple[dict[str, pd.DataFrame], PartOrigin | None]:
    """Return the picks of each run whose part is whole and of the prediction's graph, and what made them.

    The graph is the one that the log names; without a log, the one that most parts are of, as the reconstruction is.
    """
    loaded: dict[Path, tuple[PartOrigin, pd.DataFrame]] = {}
    damaged = []
    for path in paths:
        try:
            loaded[path] = load_part(path)
        except DataError as error:
            damaged.append(str(error))
    found.errors += damaged[:MAX_LISTED]
    if len(damaged) > MAX_LISTED:
        found.errors.append(f"{len(damaged) - MAX_LISTED} more parts are damaged or of another version")
    graph = call[0].graph_sha256 if call else ""
    origins = Counter(origin for origin, _ in loaded.values() if not graph or origin.graph_sha256 == graph)
    expected = origins.most_common(1)[0][0] if origins else PartOrigin(graph, "")
    faulty: defaultdict[str, list[Path]] = defaultdict(list)
    for path, (origin, picks) in loaded.items():
        if origin.graph_sha256 != expected.graph_sha256:
            made = f"by the graph {origin.graph_sha256[:12]}, the prediction's is {expected.graph_sha256[:12]}"
            faulty[f"made {made}"].append(path)
        elif origin != expected:
            made = f"from the reconstruction {origin.tomo_type!r}, the others from {expected.tomo_type!r}"
            faulty[f"made {made}"].append(path)
        elif others := set(picks["experiment"]) - {path.stem}:
            faulty[f"made of {_listed(sorted(others))} and renamed"].append(path)
    for fault, where in faulty.items():
        was = "was" if len(where) == 1 else "were"
        found.errors.append(
            f"{_listed(map(str, where))} {was} {fault}; remove what does not belong there and run the same `tomopoint "
            "predict` command again"
        )
    wrong = {path for where in faulty.values() for path in where}
    return {path.stem: picks for path, (_, picks) in loaded.items() if path not in wrong}, expected if origins else None


def _check_inside(path: Path, rows: pd.DataFrame, runs: Sequence[ReadableRun], tomo_type: str, found: _Found) -> None:
    """Look for picks outside their tomograms, whose sizes the metadata of the stores tell; a face is inside."""
    sizes_xyz_A, unread = {}, []
    for run in track(runs, "sizes of tomograms", total=len(runs)):
        try:
            info = run.describe(tomo_type)
        except (DataError, OSError) as error:
            unread.append(f"{run.name} ({error})")
        else:
            sizes_xyz_A[run.name] = [size * info.voxel_A for size in info.shape_zyx[::-1]]
    if unread:
        found.unchecked.append(f"whether picks lie inside the tomogram of {_listed(unread)}")
    known = rows[rows["experiment"].isin(sizes_xyz_A)]
    ends_xyz_A = np.array([sizes_xyz_A[name] for name in known["experiment"]]).reshape(-1, 3)
    points_xyz_A = known[list(COORDINATES)].to_numpy(dtype=np.float64)
    is_outside = (points_xyz_A < -FACE_TOLERANCE_A) | (points_xyz_A > ends_xyz_A + FACE_TOLERANCE_A)
    outside = known.iloc[np.flatnonzero(is_outside.any(axis=1))]
    if len(outside):
        first = outside.iloc[0]
        x, y, z = sizes_xyz_A[first["experiment"]]
        found.errors.append(
            f"{_at(path, outside)}: the pick at {_place(first)} lies outside the tomogram of {first['experiment']}, "
            f"which ends at x {x:.1f}, y {y:.1f}, z {z:.1f} A; coordinates are Angstrom from its corner, x before y "
            "before z: correct or remove the rows"
        )


def _check_distances(path: Path, rows: pd.DataFrame, particles: Sequence[Particle], found: _Found) -> None:
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
        found.errors.append(
            f"{path}, lines {line} and {other_line}: {name} in {run} is there twice, {distance:.3f} A apart, one of "
            f"{len(doubled)} such rows; keep one of each: `tomopoint rethreshold` writes the submission anew"
        )
    if crowded:
        line, other_line, distance, name, run = min(crowded)
        found.warnings.append(
            f"{path}, lines {line} and {other_line}: {distance:.1f} A between two picks of {name} in {run}, where one "
            f"suppresses others within {suppression_A[name]:g} A; {len(crowded)} rows have such a neighbour: were "
            "submissions put together? Keep one of them"
        )


def _compare(
    path: Path,
    rows: pd.DataFrame,
    parts: dict[str, pd.DataFrame],
    folder: PredictionFolder,
    pipeline: Pipeline,
    found: _Found,
) -> None:
    """Compare the rows with the picks of all parts that are handed on; each has its like, once.

    Two classes in one place are either kept or not, as `tomopoint rethreshold --exclusive` decides.
    """
    extra, lacking = _differences(rows, parts, folder, pipeline, None)
    if len(extra) or len(lacking):
        other_way = has_competition_metric(pipeline.particles)
        if not any(map(len, _differences(rows, parts, folder, pipeline, other_way))):
            return
    fix = "run the same `tomopoint predict` command again, which joins them anew, or `tomopoint rethreshold`"
    if len(extra):
        first = extra.iloc[0]
        found.errors.append(
            f"{_at(path, extra)}: {first['particle_type']} of {first['experiment']} at {_place(first)} is in no part, "
            f"or below its threshold of {PIPELINE_NAME}, or in the place of another class; {fix}"
        )
    if len(lacking):
        first = lacking.iloc[0]
        threshold = pipeline.thresholds[first["particle_type"]]
        found.errors.append(
            f"{path} lacks {len(lacking)} picks of the parts, the first at {first['part']}, line "
            f"{int(first['line_part'])}: {first['particle_type']} at {_place(first)}, above its threshold of "
            f"{threshold:g}; {fix}"
        )


def _differences(
    rows: pd.DataFrame,
    parts: dict[str, pd.DataFrame],
    folder: PredictionFolder,
    pipeline: Pipeline,
    exclusive: bool | None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows that no part gives, and the picks of the parts that no row stands for."""
    tables = [rows.head(0).assign(part="")]  # there may be no parts
    for run, picks in parts.items():
        numbered = picks.assign(line=np.arange(len(picks)) + 3)  # two lines come before
        selected = select_picks(numbered, pipeline.particles, exclusive)
        tables.append(selected[[*KEY, "line"]].assign(part=str(part_path(folder.parts_path, run))))
    expected = pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)
    both = []
    for table in (rows, expected):
        with np.errstate(over="ignore"):  # coordinates beyond all measure
            keyed = table.assign(**{name: table[name].astype(np.float64).round(3) for name in COORDINATES})
        both.append(keyed.assign(copy=keyed.groupby(KEY).cumcount()))
    joined = both[0].merge(both[1], how="outer", on=[*KEY, "copy"], suffixes=("", "_part"), indicator="where")
    extra = joined[joined["where"] == "left_only"].sort_values("line")
    lacking = joined[joined["where"] == "right_only"].sort_values(["part", "line_part"])
    return extra, lacking


def _at(path: Path, rows: pd.DataFrame) -> str:
    """Name the lines of a file."""
    lines = sorted(int(line) for line in rows["line"])
    return f"{path}, line{'s' * (len(lines) > 1)} {_listed(map(str, lines))}"


def _named(values: pd.Series) -> str:
    return _listed(dict.fromkeys(repr(value) for value in values))


def _place(row: pd.Series) -> str:
    return f"x {row['x']:.3f}, y {row['y']:.3f}, z {row['z']:.3f} A"


def _listed(names: Iterable[str]) -> str:
    known = list(names)
    more = len(known) - MAX_LISTED
    return ", ".join(known[:MAX_LISTED]) + (f" and {more} more" if more > 0 else "")
