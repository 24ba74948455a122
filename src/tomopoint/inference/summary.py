"""The summary of a prediction: the outcome of every run and the counts, as text for people and figures for programs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tomopoint.inference.folder import PredictionFolder
from tomopoint.progress import spoken

MAX_LISTED = 10
"""So many runs are named in one line; the table and the log name all."""


N_TOLD = 500
"""Tomograms whose time is told at the end: about as many as the competition hides."""


@dataclass(frozen=True)
class RunOutcome:
    """What became of one run.

    Attributes
    ----------
    run
        Its name.
    status
        ``"done"``, ``"failed"`` or ``"not processed"``.
    message
        Why it is not done.
    notes
        What is to be known of its tomogram though it is done: missing chunks, integers.
    read
        How its tomogram was read; empty: as a project's are.
    """

    run: str
    status: str
    message: str = ""
    notes: tuple[str, ...] = ()
    read: str = ""


@dataclass(frozen=True)
class PredictionSummary:
    """What became of all runs, and where the results are.

    Attributes
    ----------
    outcomes
        One per run, in the order given.
    n_picks
        Rows of ``picks.csv``: picks above the floor.
    counts
        Particle -> rows of ``submission.csv``: picks above its threshold.
    folder
        Where everything is.
    seconds, mean_run_seconds
        Since the clock's start; those that one worker spends on a run (0 where none was predicted).
    n_workers
        Workers that finished a run.
    lost
        One sentence per worker that was given up.
    n_others
        Runs of earlier predictions in the folder that were not asked for now; their picks are joined with these.
    many_seconds
        What `N_TOLD` tomograms like these would take here; 0 where none was predicted.
    """

    outcomes: tuple[RunOutcome, ...]
    n_picks: int
    counts: dict[str, int]
    folder: PredictionFolder
    seconds: float
    mean_run_seconds: float
    n_workers: int
    lost: tuple[str, ...] = ()
    n_others: int = 0
    many_seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether every run is done."""
        return all(outcome.status == "done" for outcome in self.outcomes)

    @property
    def n_submitted(self) -> int:
        """Rows of ``submission.csv``."""
        return sum(self.counts.values())

    @property
    def failed(self) -> tuple[RunOutcome, ...]:
        """Runs that are not done."""
        return tuple(outcome for outcome in self.outcomes if outcome.status != "done")

    @property
    def n_done(self) -> int:
        """How many runs are done."""
        return len(self.outcomes) - len(self.failed)

    @property
    def remarks(self) -> list[str]:
        """One line per note, with the runs that it is true of."""
        return _by_sentence((note, outcome.run) for outcome in self.outcomes for note in outcome.notes)

    @property
    def readings(self) -> list[str]:
        """One line per way that tomograms were read in, with the runs; none of a project's."""
        return _by_sentence((outcome.read, outcome.run) for outcome in self.outcomes if outcome.read)

    def figures(self) -> dict[str, Any]:
        """Return the figures as plain JSON values."""
        return {
            "n_runs": len(self.outcomes),
            "n_other_runs": self.n_others,
            "n_picks": self.n_picks,
            "n_submitted": self.n_submitted,
            "counts": self.counts,
            "not_done": {outcome.run: outcome.message for outcome in self.failed},
            "notes": {outcome.run: list(outcome.notes) for outcome in self.outcomes if outcome.notes},
            "read": {outcome.run: outcome.read for outcome in self.outcomes if outcome.read},
            "seconds_per_run": round(self.mean_run_seconds, 2),
            f"seconds_per_{N_TOLD}_runs": round(self.many_seconds),
            "workers": self.n_workers,
            "lost_workers": list(self.lost),
            "submission": str(self.folder.submission_path),
            "picks": str(self.folder.picks_path),
        }

    def text(self) -> str:
        """Return the same for people, and what to do about runs that are not done."""
        rows = [f"  {name:20} {count:6d}" for name, count in self.counts.items()]
        problems = [f"  {outcome.run} ({outcome.status}): {outcome.message}" for outcome in self.failed]
        of = f" of these and {self.n_others} other runs that are done in this folder" if self.n_others else ""
        lines = [
            f"{self.n_done} of {len(self.outcomes)} runs predicted in {self.seconds:.0f} s, "
            f"{self.n_submitted} picks{of} above their thresholds:",
            *rows,
            f"Submission: {self.folder.submission_path}",
            f"All {self.n_picks} picks with scores: {self.folder.picks_path}",
            *self.lost,
        ]
        if self.many_seconds and len(self.outcomes) < N_TOLD:
            lines.append(f"{N_TOLD} tomograms like these would take about {spoken(self.many_seconds)} on this machine.")
        if self.readings:
            lines += ["Tomograms as they were read:", *(f"  {reading}" for reading in self.readings)]
        if self.remarks:
            lines += ["In the submission, but look at their tomograms:", *(f"  {remark}" for remark in self.remarks)]
        if problems:
            lines += ["Not in the submission; mend the cause and run the same command again:", *problems]
        return "\n".join(lines)


def _by_sentence(said: Iterable[tuple[str, str]]) -> list[str]:
    """Return one line per sentence, with the runs that it is true of."""
    runs: defaultdict[str, list[str]] = defaultdict(list)
    for sentence, run in said:
        runs[sentence].append(run)
    return [f"{sentence}: {_listed(names)}" for sentence, names in runs.items()]


def _listed(runs: Sequence[str]) -> str:
    more = len(runs) - MAX_LISTED
    return ", ".join(runs[:MAX_LISTED]) + (f" and {more} more" if more > 0 else "")
