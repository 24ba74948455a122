"""Crash policy: when workers die, which runs are given up on, and which workers are not started again.

A run that kills its worker and a GPU that fails below it look alike from outside, a process that is gone. Evidence
tells them apart: a run that takes down workers which finish others is at fault; a worker that dies over run after run
and finishes none in between is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

MAX_CRASHES_IN_A_ROW = 3
"""A worker that dies this often without finishing a run is not started again."""

MAX_FAILED_LOADS = 2
"""So is one that could not load its engine this often: the first time may have been chance."""


@dataclass(frozen=True)
class _Death:
    """A worker died over a run when it had finished so many others."""

    worker: int
    n_finished: int


@dataclass
class _Worker:
    """What is known of one worker, over all processes that were started for it.

    Attributes
    ----------
    n_finished
        Runs it finished.
    unexplained
        Runs it held at each death since the last run it finished, unless one of them was given up on.
    failed_loads
        Engines it could not load since the last run it finished.
    why_lost
        Why it is not started again; empty while it is.
    """

    n_finished: int = 0
    unexplained: list[tuple[str, ...]] = field(default_factory=list)
    failed_loads: int = 0
    why_lost: str = ""


class CrashPolicy:
    """The deaths of a prediction's workers, and what follows from them.

    Parameters
    ----------
    n_workers
        They are numbered from 0.
    """

    def __init__(self, n_workers: int) -> None:
        self._workers = [_Worker() for _ in range(n_workers)]
        self._deaths: defaultdict[str, list[_Death]] = defaultdict(list)
        self._given_up: set[str] = set()

    @property
    def n_productive(self) -> int:
        """Workers that finished a run."""
        return sum(worker.n_finished > 0 for worker in self._workers)

    @property
    def lost(self) -> dict[int, str]:
        """Workers that are not to be started again, and why."""
        return {number: worker.why_lost for number, worker in enumerate(self._workers) if worker.why_lost}

    def finished(self, worker: int) -> None:
        """Note that a worker finished a run: whatever it died of before was not its engine."""
        known = self._workers[worker]
        known.n_finished += 1
        known.unexplained.clear()
        known.failed_loads = 0

    def load_failed(self, worker: int, why: str) -> None:
        """Note that a worker could not load its engine and said so."""
        known = self._workers[worker]
        known.failed_loads += 1
        if known.failed_loads >= MAX_FAILED_LOADS:
            self._lose(worker, f"could not load its engine {known.failed_loads} times: {why}")

    def crashed(self, worker: int, held: Sequence[str], why: str) -> list[str]:
        """Note that a worker died, over the runs that it held or while loading; return the runs to give up on.

        For a run to be given up on, two workers must have died over it, one of which is known to finish others; or one
        worker twice, which finished another in between. Less than that may as well be the engine's fault.
        """
        known = self._workers[worker]
        known.unexplained.append(tuple(held))
        given_up = []
        for run in held:
            self._deaths[run].append(_Death(worker, known.n_finished))
            over_it = {death.worker for death in self._deaths[run]}
            if len(over_it) > 1:
                at_fault = any(self._workers[number].n_finished for number in over_it)
            else:
                at_fault = len({death.n_finished for death in self._deaths[run]}) > 1
            given_up += [run] if at_fault else []
        self._given_up.update(given_up)
        for other in self._workers:
            other.unexplained = [runs for runs in other.unexplained if not self._given_up.intersection(runs)]
        if len(known.unexplained) >= MAX_CRASHES_IN_A_ROW:
            self._lose(worker, f"died {len(known.unexplained)} times without finishing a run, last with {why}")
        return given_up

    def is_suspect(self, run: str) -> bool:
        """Whether a worker died over a run, and was not lost since."""
        return bool(self._deaths[run])

    def gave_up_on(self, run: str) -> bool:
        """Whether a run is known to take its workers down with it."""
        return run in self._given_up

    def has_untried(self, worker: int, runs: Collection[str]) -> bool:
        """Whether there is a run among `runs` that this worker did not die over yet."""
        return any(worker not in {death.worker for death in self._deaths[run]} for run in runs)

    def _lose(self, worker: int, why: str) -> None:
        """Start a worker no more, and take back what its last deaths said against the runs it held."""
        known = self._workers[worker]
        known.why_lost = why
        for run in {run for runs in known.unexplained for run in runs}:
            self._deaths[run] = [d for d in self._deaths[run] if d != _Death(worker, known.n_finished)]
