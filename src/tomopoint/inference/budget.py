"""The time budget of a prediction: seconds per run, the projected end, and when to start no further run."""

from __future__ import annotations

from dataclasses import dataclass, field

WARN_SHARE = 0.8
"""A projection beyond this share of the limit is worth a warning."""

FIRST_RUNS = 2
"""Runs of each worker after which the rest is projected: the very first is slower, while kernels and pages are new."""

RESERVE_SHARE = 0.02
"""Share of the limit kept for joining tables and for the spread of run times: 14 minutes of Kaggle's 12 hours."""


@dataclass
class Budget:
    """Time spent and time left; seconds throughout.

    Attributes
    ----------
    limit
        Allowed in total; None: no limit.
    n_workers
        Processes that share the runs; fewer once one is lost.
    costs
        Seconds of each run so far, as one worker spent them.
    """

    limit: float | None
    n_workers: int = 1
    costs: list[float] = field(default_factory=list)

    def add(self, seconds: float) -> None:
        """Note what one run took."""
        self.costs.append(seconds)

    @property
    def mean_cost(self) -> float:
        """Mean seconds per run; 0 before the first."""
        return sum(self.costs) / len(self.costs) if self.costs else 0.0

    def projected(self, n_runs: int) -> float:
        """Seconds that `n_runs` take at the present rate, shared by all workers."""
        return n_runs * self.mean_cost / self.n_workers

    def allows_another(self, elapsed: float) -> bool:
        """Whether one more run, as long as the longest so far, ends within the limit."""
        if self.limit is None:
            return True
        longest = max(self.costs, default=0.0)
        return elapsed + longest <= self.limit * (1 - RESERVE_SHARE)

    def fitting(self) -> int | None:
        """Return how many runs the whole limit holds at the present rate; None: any number."""
        if self.limit is None or not self.costs:
            return None
        return int(self.limit * (1 - RESERVE_SHARE) * self.n_workers / self.mean_cost)

    def projection(self, elapsed: float, n_left: int) -> str | None:
        """Return what the runs so far say of the end; None too early, or where none are left.

        Parameters
        ----------
        elapsed
            Since the clock's start.
        n_left
            Runs that are not done.
        """
        if not n_left or len(self.costs) < FIRST_RUNS * self.n_workers:
            return None
        return self._end(elapsed, n_left)

    def warning(self, elapsed: float, n_left: int) -> str | None:
        """Return a sentence where the projection passes `WARN_SHARE` of the limit."""
        if self.limit is None or not self.costs or elapsed + self.projected(n_left) <= WARN_SHARE * self.limit:
            return None
        return f"{self._end(elapsed, n_left)}; runs that do not fit are left out of the submission and reported"

    def _end(self, elapsed: float, n_left: int) -> str:
        end = f"{(elapsed + self.projected(n_left)) / 3600:.2f} h"
        limit = "" if self.limit is None else f" of {self.limit / 3600:.2f} h"
        return f"{n_left} runs are left at {self.mean_cost:.0f} s each: the end is projected at {end}{limit}"
