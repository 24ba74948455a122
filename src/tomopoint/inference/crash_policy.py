"""Crash policy: when workers die, which runs are dealt alone, which are put off to the end, and who is given up.

A run that kills its worker and a GPU that fails below it look alike from outside, a process that is gone. Evidence
tells them apart. A death is blamed on a run only if nothing else was in work in that process; runs that were in work
together are dealt alone from then on. A run that is blamed twice by workers that finish others explains these deaths;
one death each over many runs speaks against the worker, which then waits longer before each new start. Nobody is given
up while another worker still finishes runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

BLAMED_BEFORE_PUT_OFF = 2
"""A run that workers died over so often, alone, waits until all others are settled."""

TRIES_AT_THE_END = 2
"""So many more deaths, and it has failed."""

DEATHS_BEFORE_HOPELESS = 5
"""Where every worker died so often without finishing a run in between, none is started again."""

FAILED_LOADS_BEFORE_HOPELESS = 2
"""The same for engines that could not be loaded, which say why: the first time may have been chance."""

LONGEST_PAUSE_SECONDS = 300.0
"""A worker that keeps dying is tried again after at most this long."""


@dataclass
class _Record:
    """What is known of one worker, over all processes that were started for it.

    Attributes
    ----------
    n_finished
        Runs it finished.
    deaths, failed_loads
        Since it last finished a run, less the deaths that a run explains.
    blamed
        Runs that these deaths were blamed on.
    why
        Of its last death.
    """

    n_finished: int = 0
    deaths: int = 0
    failed_loads: int = 0
    blamed: tuple[str, ...] = ()
    why: str = ""


class CrashPolicy:
    """The deaths of a prediction's workers, and what follows from them.

    Parameters
    ----------
    n_workers
        They are numbered from 0.

    Attributes
    ----------
    alone
        Runs that may be dealt only to a worker that has nothing else in work.
    """

    def __init__(self, n_workers: int) -> None:
        self._workers = [_Record() for _ in range(n_workers)]
        self._blame: Counter[str] = Counter()
        self.alone: set[str] = set()

    def finished(self, worker: int) -> None:
        """Note that a worker finished a run: its engine works, whatever it died of before."""
        record = self._workers[worker]
        record.n_finished += 1
        record.deaths = record.failed_loads = 0
        record.blamed = ()

    def load_failed(self, worker: int, why: str) -> None:
        """Note that a worker could not load its engine and said why."""
        self._workers[worker].failed_loads += 1
        self._workers[worker].why = f"could not load its engine: {why}"

    def died(self, worker: int, in_work: Collection[str], why: str) -> None:
        """Note that a worker died, or had to be ended, over the runs that it was reading or computing."""
        record = self._workers[worker]
        record.deaths += 1
        record.why = f"died over {', '.join(in_work)}: {why}" if in_work else f"died without a run: {why}"
        self.alone.update(in_work)
        if len(in_work) == 1:
            (run,) = in_work
            self._blame[run] += 1
            record.blamed = (*record.blamed, run)
            if self.is_put_off(run):
                for other in self._workers:
                    if other.n_finished:
                        other.deaths -= other.blamed.count(run)
                        other.blamed = tuple(name for name in other.blamed if name != run)
        if record.deaths >= DEATHS_BEFORE_HOPELESS:
            # It is the worker, then: what its deaths said against runs is taken back.
            self._blame.subtract(record.blamed)
            record.blamed = ()

    def is_put_off(self, run: str) -> bool:
        """Whether a run waits until all others are settled."""
        return self._blame[run] >= BLAMED_BEFORE_PUT_OFF

    def has_failed(self, run: str) -> bool:
        """Whether a run took down every worker that tried it, at the end too."""
        return self._blame[run] >= BLAMED_BEFORE_PUT_OFF + TRIES_AT_THE_END

    def pause_seconds(self, worker: int) -> float:
        """Return how long to wait before a worker is started again: not at all after a first death."""
        n = self._workers[worker].deaths + self._workers[worker].failed_loads
        return 0.0 if n < 2 else min(2.0 ** (n - 1), LONGEST_PAUSE_SECONDS)

    @property
    def is_hopeless(self) -> bool:
        """Whether every worker died, or failed to load its engine, over and over without finishing a run."""
        return all(
            record.deaths >= DEATHS_BEFORE_HOPELESS or record.failed_loads >= FAILED_LOADS_BEFORE_HOPELESS
            for record in self._workers
        )

    @property
    def n_productive(self) -> int:
        """Workers that finished a run."""
        return sum(record.n_finished > 0 for record in self._workers)

    @property
    def troubles(self) -> tuple[str, ...]:
        """One sentence per worker that has finished nothing since it last died or failed to load its engine."""
        bad = [number for number, record in enumerate(self._workers) if record.deaths + record.failed_loads >= 2]
        return tuple(f"worker {number} {self.trouble(number)}" for number in bad)

    def trouble(self, worker: int) -> str:
        """Say how a worker ended last, and how often since it last finished a run."""
        record = self._workers[worker]
        return f"{record.why} ({record.deaths + record.failed_loads} times in a row)"
