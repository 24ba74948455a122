"""Verifying a submission: is it what the competition takes, and what the prediction's parts say.

Everything that is wrong is collected, one sentence per kind of fault, with the first line or run that has it, how many
there are, and what to do. What lies beside the submission decides what can be compared; the rest is said, too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tomopoint.data.notes import advice_on
from tomopoint.data.particles import project_particles
from tomopoint.data.project import DEFAULT_TOMO_TYPE, SPLITS, Project
from tomopoint.data.sources.find import Found
from tomopoint.data.sources.run import ReadableRun
from tomopoint.data.tables import COORDINATES
from tomopoint.errors import DataError, PipelineError
from tomopoint.inference.events import last_call, read_events
from tomopoint.inference.folder import RECORD_NAME, PredictionFolder
from tomopoint.inference.status import is_at_work
from tomopoint.inference.submission_parts import compare, read_parts
from tomopoint.inference.submission_rows import (
    KEY,
    Faults,
    at_lines,
    check_distances,
    check_inside,
    listed,
    named,
    read_rows,
)
from tomopoint.pipeline import PIPELINE_NAME, Pipeline
from tomopoint.strict_json import Malformed, read


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
    faults = Faults()

    # What the competition takes: columns, ids, numbers, names.
    pipeline = _read_pipeline([path.with_name(PIPELINE_NAME), folder.pipeline_path], faults)
    particles = pipeline.particles if pipeline else project_particles(project.root)
    names = [particle.name for particle in particles]
    table = read_rows(path, faults)
    rows = pd.DataFrame(columns=[*KEY, "line"]) if table is None else table
    unknown = rows[~rows["particle_type"].isin(names)]
    if len(unknown):
        faults.errors.append(
            f"{at_lines(path, unknown)}: no particle is called {named(unknown['particle_type'])}; there are "
            f"{', '.join(names)}: correct or remove the rows"
        )
    unknown = rows[~rows["experiment"].isin(runs)]
    if len(unknown):
        faults.errors.append(
            f"{at_lines(path, unknown)}: no {split} run of {project.root} is called {named(unknown['experiment'])}; "
            f"there are {listed(runs)}: {_other_split(project, split, unknown)}"
        )
    rows = rows[np.isfinite(rows[list(COORDINATES)].to_numpy(dtype=np.float64)).all(axis=1)]
    with_picks = set(rows["experiment"])

    # What the prediction left: parts and the log.
    events = read_events(folder.log_path)
    call = last_call(events)
    paths = sorted(folder.parts_path.glob("[!.]*.csv"))
    parts, origin = read_parts(paths, call, faults)
    done = {event.run: event for event in events if event.event == "done"}
    predicted = {part.stem for part in paths}
    if not paths and not call:
        faults.unchecked.append(f"what was predicted: no parts/ in {folder.path} (--out names a prediction's folder)")
    elif not call:
        faults.unchecked.append(f"why runs are not predicted, and which stores were incomplete: no {folder.log_path}")

    # Where the picks lie: in their tomograms, and apart.
    tomo_type = origin.tomo_type if origin else pipeline.tomo_type if pipeline else DEFAULT_TOMO_TYPE
    readings = {name: event.read for name, event in done.items() if event.read is not None}
    check_inside(path, rows, [run for run in runs.values() if run.name in with_picks], tomo_type, readings, faults)
    check_distances(path, rows, particles, faults)

    # Is it what the parts give?
    is_prediction = bool(paths or call)
    if is_prediction and table is not None:
        if pipeline is None:
            faults.unchecked.append(f"whether it holds what the parts give: no {PIPELINE_NAME} with the thresholds")
        elif is_at_work(folder.path):
            faults.unchecked.append(
                f"whether it holds what the parts give: a prediction is at work in {folder.path}; verify again when it "
                "ends"
            )
        else:
            comparable = rows[~rows["experiment"].isin(predicted - set(parts))]  # a faulty part has been named already
            compare(path, comparable, parts, folder, pipeline, faults)

    # Which runs are missing, and which were read from less than a whole store.
    missing = [name for name in runs if name not in predicted] if is_prediction else []
    if missing:
        why = {event.run: f" ({event.message})" for event in events if event.event == "failed" and event.message}
        faults.warnings.append(
            f"{folder.path}: {len(missing)} of {len(runs)} runs are not predicted: "
            f"{listed(name + why.get(name, '') for name in missing)}; run the same `tomopoint predict` command again"
        )
    without = [name for name in runs if name not in with_picks and name not in missing]
    if without and table is not None:
        faults.warnings.append(
            f"{path}: {len(without)} of {len(runs)} runs have no pick: {listed(without)}; look at their tomograms, or "
            "lower thresholds with `tomopoint rethreshold`"
        )
    notes: defaultdict[str, list[str]] = defaultdict(list)
    for name, event in done.items():
        for note in event.notes if name in predicted else ():
            notes[note].append(name)
    faults.warnings += [
        f"{folder.log_path}: {note}: {listed(noted)}; {advice_on(note)}" for note, noted in notes.items()
    ]

    counts = {particle.name: int((rows["particle_type"] == particle.name).sum()) for particle in particles}
    return Verification(
        path,
        tuple(faults.errors),
        tuple(faults.warnings),
        tuple(faults.unchecked),
        {
            "n_picks": len(rows),
            "n_runs": len(runs),
            "n_runs_with_picks": len(with_picks & set(runs)),
            "n_parts": len(paths),
            **counts,
        },
    )


def _read_pipeline(paths: Sequence[Path], faults: Faults) -> Pipeline | None:
    """Return the first Pipeline that is there."""
    for path in paths:
        if path.exists():
            try:
                return Pipeline.load(path)
            except PipelineError as error:
                faults.errors.append(str(error))
                return None
    faults.unchecked.append(
        f"particles and distances of the prediction: there is no {paths[0]}; the competition's are taken"
    )
    return None


def _other_split(project: Project | Found, split: str, unknown: pd.DataFrame) -> str:
    """Say what to do about runs that the split does not have: another split may."""
    for other in SPLITS:
        with suppress(DataError):
            if other != split and set(unknown["experiment"]) <= {run.name for run in project.runs(other)}:
                return f"these are {other} runs, say --split {other}"
    return "correct or remove the rows, or name their project with --data"
