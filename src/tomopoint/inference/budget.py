"""The time budget of a prediction: seconds per run, the projected end, and what still fits."""

from __future__ import annotations

import time
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
        Processes that share the runs.
    costs
        Seconds of each run so far, as one worker spent them.
    started
        When the clock of the limit started, as :func:`time.monotonic` tells.
    """

    limit: float | None
    n_workers: int = 1
    costs: list[float] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def add(self, seconds: float) -> None:
        """Note what one run took."""
        self.costs.append(seconds)

    @property
    def elapsed(self) -> float:
        """Since the clock's start."""
        return time.monotonic() - self.started

    @property
    def left(self) -> float:
        """Seconds until runs must have ended."""
        return float("inf") if self.limit is None else self.limit * (1 - RESERVE_SHARE) - self.elapsed

    @property
    def is_over(self) -> bool:
        """Whether it is time to join what is done, whoever is still at work."""
        return self.left <= 0

    @property
    def mean_cost(self) -> float:
        """Mean seconds per run; 0 before the first."""
        return sum(self.costs) / len(self.costs) if self.costs else 0.0

    @property
    def usual_cost(self) -> float:
        """Mean seconds per run without the first of each worker, which nothing goes beside; of all before others."""
        later = self.costs[self.n_workers :] or self.costs
        return sum(later) / len(later) if later else 0.0

    def projected(self, n_runs: int) -> float:
        """Seconds that `n_runs` take at the present rate, shared by all workers."""
        return n_runs * self.mean_cost / self.n_workers

    def allows_another(self, n_before: int = 0) -> bool:
        """Whether one more run ends in time, after `n_before` others of the same worker, all as long as the longest."""
        return (n_before + 1) * max(self.costs, default=0.0) <= self.left

    def affordable_share(self, n_left: int) -> float:
        """Return the share of a run's cost that there is time for in each of the runs left; 1 while all fit."""
        if len(self.costs) < FIRST_RUNS * self.n_workers or not n_left:
            return 1.0
        return max(0.0, min(1.0, self.left / self.projected(n_left)))

    def fitting(self) -> int | None:
        """Return how many runs the whole limit holds at the present rate; None: any number."""
        if self.limit is None or not self.costs:
            return None
        return int(self.limit * (1 - RESERVE_SHARE) * self.n_workers / self.mean_cost)

    def projection(self, n_left: int) -> str | None:
        """Return what the runs so far say of the end; None too early, or where none are left."""
        if not n_left or len(self.costs) < FIRST_RUNS * self.n_workers:
            return None
        return self._end(n_left)

    def warning(self, n_left: int) -> str | None:
        """Return a sentence where the projection passes `WARN_SHARE` of the limit."""
        if self.limit is None or not self.costs or self.elapsed + self.projected(n_left) <= WARN_SHARE * self.limit:
            return None
        return f"{self._end(n_left)}; runs that do not fit are left out of the submission and reported"

    def _end(self, n_left: int) -> str:
        end = f"{(self.elapsed + self.projected(n_left)) / 3600:.2f} h"
        limit = "" if self.limit is None else f" of {self.limit / 3600:.2f} h"
        return f"{n_left} runs are left at {self.mean_cost:.0f} s each: the end is projected at {end}{limit}"
