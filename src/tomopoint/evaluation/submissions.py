"""What a report is about: one submission or several, of the same runs, with or without truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase

import numpy as np
import numpy.typing as npt
import pandas as pd

from tomopoint.data.tables import COORDINATES, read_pick_table
from tomopoint.data.tomograms import TomogramInfo
from tomopoint.errors import DataError
from tomopoint.evaluation.score import Score
from tomopoint.inference.folder import PredictionFolder
from tomopoint.pipeline import Particle, Pipeline

MOST_SUBMISSIONS = 6
"""More than these no reader keeps apart, nor do their colours."""

Truth = Mapping[str, Mapping[str, npt.NDArray[np.float64]]]
"""Run -> particle -> ``(N, 3)`` x, y, z in Angstrom."""


@dataclass(frozen=True)
class Submission:
    """One submission.

    Attributes
    ----------
    label
        ``"A"``, ``"B"`` and so on; empty where there is but one.
    path
        Its table.
    picks
        ``experiment, particle_type, x, y, z``, of the runs of the report.
    scored
        All picks that it was chosen from, with ``score`` and ``submitted``; None where there are no scores.
    pipeline
        The one beside it.
    score
        None without truth.
    notes
        Sentences on its runs and those of the truth, where they differ.
    """

    label: str
    path: Path
    picks: pd.DataFrame
    scored: pd.DataFrame | None
    pipeline: Pipeline | None
    score: Score | None
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Label and file, for a heading."""
        return f"{self.label}: {self.path}"

    @property
    def thresholds(self) -> Mapping[str, float]:
        """Those of the Pipeline beside it; empty where there is none."""
        return self.pipeline.thresholds if self.pipeline else {}

    def of_run(self, run: str) -> pd.DataFrame:
        """Return its picks of a run."""
        return self.picks.loc[self.picks["experiment"] == run]


@dataclass(frozen=True)
class Material:
    """What the sections of a report share.

    Attributes
    ----------
    submissions
        The first is the one that others are compared with.
    particles
        Names, radii and weights.
    truth
        None where there is none.
    runs
        Those of the truth, else those that a submission has picks of or a prediction went through; sorted.
    volumes
        Shape and voxels of the runs whose tomograms are there.
    simulated
        Whether the tomograms are.
    """

    submissions: tuple[Submission, ...]
    particles: tuple[Particle, ...]
    truth: Truth | None
    runs: tuple[str, ...]
    volumes: Mapping[str, TomogramInfo]
    simulated: bool

    @property
    def names(self) -> list[str]:
        """Of the particles."""
        return [particle.name for particle in self.particles]

    @property
    def present(self) -> list[str]:
        """Names of the particles of which there is any pick or true centre."""
        picked = {name for submission in self.submissions for name in submission.picks["particle_type"].unique()}
        true = {name for own in (self.truth or {}).values() for name, points in own.items() if len(points)}
        return [name for name in self.names if name in picked | true]


def labels_of(paths: Sequence[Path]) -> tuple[str, ...]:
    """Return what the submissions are called; DataError for too many, or one that is given twice."""
    if not 1 <= len(paths) <= MOST_SUBMISSIONS:
        raise DataError(f"--submission takes 1 to {MOST_SUBMISSIONS} tables, got {len(paths)}; leave some of them out")
    twice = sorted({str(path) for path in paths if [other.resolve() for other in paths].count(path.resolve()) > 1})
    if twice:
        raise DataError(f"--submission names {', '.join(twice)} twice; leave one of them out")
    return ("",) if len(paths) == 1 else tuple(ascii_uppercase[: len(paths)])


def check_names(picks: pd.DataFrame, names: Sequence[str], path: Path) -> None:
    """DataError where a table holds particles that are not known."""
    unknown = sorted(set(picks["particle_type"]) - set(names))
    if unknown:
        raise DataError(
            f"{path} holds unrecognised particle types: {', '.join(unknown)}; known are {', '.join(names)} (of the "
            "pipeline.json beside the table, else of the particles.yaml of the project)"
        )


def runs_of(picks: Sequence[pd.DataFrame], folder: Path | None) -> tuple[str, ...]:
    """Return the runs with picks, and those that the log of a prediction says are done: they may have none."""
    done = PredictionFolder(folder).events() if folder else []
    names = {event.get("run") for event in done if isinstance(event, dict) and event.get("event") == "done"}
    named = {name for name in names if isinstance(name, str)}
    return tuple(sorted(named.union(*(set(table["experiment"]) for table in picks))))


def find_scored(submission: Path, picks: pd.DataFrame) -> pd.DataFrame | None:
    """Return the picks that a submission was chosen from, with ``score`` and ``submitted``.

    The submission itself where it has scores; else ``picks.csv`` beside it, where that holds every pick of the
    submission; else None.
    """
    if "score" in picks.columns:
        return picks.assign(submitted=True)
    beside = PredictionFolder(submission.parent).picks_path
    if picks.empty or not beside.is_file():
        return None
    candidates = read_pick_table(beside)
    if "score" not in candidates.columns:
        return None
    submitted = set(_keys(picks))
    known = _keys(candidates)
    if not submitted <= set(known):
        return None
    return candidates.assign(submitted=[one in submitted for one in known])


def _keys(picks: pd.DataFrame) -> list[tuple[str, ...]]:
    """Return run, particle and place of each pick, as both tables write them."""
    places = (picks[name].map("{:.3f}".format) for name in COORDINATES)
    return list(zip(picks["experiment"], picks["particle_type"], *places, strict=True))
