"""Who is to blame when workers die: the run they held, or the GPU below them.

Both look alike from outside, a process that is gone. Evidence tells them apart: a run that takes down workers which
finish others is at fault; a worker that dies over run after run and finishes none in between is.
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
class _Standing:
    """What is known of one worker, over all processes that were started for it.

    Attributes
    ----------
    n_finished
        Runs it finished.
    unexplained
        What it held at each death since the last run it finished, unless that run was found guilty.
    failed_loads
        Engines it could not load since the last run it finished.
    why_lost
        Why it is not started again; empty while it is.
    """

    n_finished: int = 0
    unexplained: list[tuple[str, ...]] = field(default_factory=list)
    failed_loads: int = 0
    why_lost: str = ""


class Ledger:
    """The deaths of a prediction's workers.

    Parameters
    ----------
    n_workers
        They are numbered from 0.
    """

    def __init__(self, n_workers: int) -> None:
        self._standings = [_Standing() for _ in range(n_workers)]
        self._deaths: defaultdict[str, list[_Death]] = defaultdict(list)
        self._guilty: set[str] = set()

    @property
    def n_productive(self) -> int:
        """Workers that finished a run."""
        return sum(standing.n_finished > 0 for standing in self._standings)

    @property
    def lost(self) -> dict[int, str]:
        """Workers that are not to be started again, and why."""
        return {worker: s.why_lost for worker, s in enumerate(self._standings) if s.why_lost}

    def finished(self, worker: int) -> None:
        """Note that a worker finished a run: whatever it died of before was not its engine."""
        standing = self._standings[worker]
        standing.n_finished += 1
        standing.unexplained.clear()
        standing.failed_loads = 0

    def load_failed(self, worker: int, why: str) -> None:
        """Note that a worker could not load its engine and said so."""
        standing = self._standings[worker]
        standing.failed_loads += 1
        if standing.failed_loads >= MAX_FAILED_LOADS:
            self._lose(worker, f"could not load its engine {standing.failed_loads} times: {why}")

    def crashed(self, worker: int, held: Sequence[str], why: str) -> list[str]:
        """Note that a worker died, over the runs that it held or while loading; return the runs found guilty by it."""
        standing = self._standings[worker]
        standing.unexplained.append(tuple(held))
        for run in held:
            self._deaths[run].append(_Death(worker, standing.n_finished))
        guilty = [run for run in held if self._is_guilty(run)]
        self._guilty.update(guilty)
        for other in self._standings:
            other.unexplained = [runs for runs in other.unexplained if not self._guilty.intersection(runs)]
        n_crashes = len(standing.unexplained)
        if n_crashes >= MAX_CRASHES_IN_A_ROW:
            self._lose(worker, f"died {n_crashes} times without finishing a run, last with {why}")
        return guilty

    def is_suspect(self, run: str) -> bool:
        """Whether a worker died over a run, and was not given up since."""
        return bool(self._deaths[run])

    def is_guilty(self, run: str) -> bool:
        """Whether a run takes its workers down with it."""
        return run in self._guilty

    def is_new_to_one(self, worker: int, runs: Collection[str]) -> bool:
        """Whether there is a run among `runs` that this worker did not die over yet."""
        return any(worker not in {death.worker for death in self._deaths[run]} for run in runs)

    def _is_guilty(self, run: str) -> bool:
        """Whether the deaths over a run speak against it.

        Two workers must have died over it, one of which is known to finish others; or one worker twice, which
        finished another in between. Less than that may as well be the engine's fault.
        """
        deaths = self._deaths[run]
        workers = {death.worker for death in deaths}
        if len(workers) > 1:
            return any(self._standings[worker].n_finished for worker in workers)
        return len({death.n_finished for death in deaths}) > 1

    def _lose(self, worker: int, why: str) -> None:
        """Give a worker up, and take back what its last deaths said against the runs it held."""
        standing = self._standings[worker]
        standing.why_lost = why
        for run in {run for runs in standing.unexplained for run in runs}:
            self._deaths[run] = [d for d in self._deaths[run] if d != _Death(worker, standing.n_finished)]
