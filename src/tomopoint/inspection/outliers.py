"""Runs unlike the others: each figure of a run against the median of all runs, in robust standard deviations.

A run's deviation is ``(value - median) / (1.4826 MAD)`` (Iglewicz & Hoaglin, How to Detect and Handle Outliers, 1993),
where MAD is the median distance from the median. Where runs hardly differ, the spread of a figure counts as no less
than a stated one, below which differences do not matter; that one is known, so 4 of it are enough in few runs too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

FEWEST_RUNS = 5
"""Of fewer, the median and the spread about it say nothing of the one that differs."""

MAD_TO_SD = 1.4826
"""Of normal values."""


LIMIT = 4.0


def limit_of(n_runs: int) -> float:
    """Return the deviation beyond which a run is named: 4 of many runs, and more of few, whose spread is uncertain.

    Of normal values in 5, 7, 10, 20 and 50 runs, some run passes it by chance in 2.4, 1.3, 0.6, 0.4 and 0.6 % of all
    cases; the usual 3.5 is passed in 21, 17, 13, 10 and 8 %.
    """
    return LIMIT + 40.0 / n_runs


@dataclass(frozen=True)
class Quantity:
    """A figure that runs are compared by.

    Attributes
    ----------
    name
        For people.
    values
        By run, on a scale on which differences are comparable; runs without it are left out.
    least_spread
        A spread below this counts as this much.
    shown
        By run, as it is told; None: as the values are.
    """

    name: str
    values: Mapping[str, float]
    least_spread: float
    shown: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Outlier:
    """A run that stands out.

    Attributes
    ----------
    run, quantity
        Which, by what.
    value, median
        As told.
    deviation
        In spreads, signed: robust standard deviations, or the least spread where these are smaller.
    limit
        Deviation beyond which the run is named.
    """

    run: str
    quantity: str
    value: float
    median: float
    deviation: float
    limit: float

    def text(self) -> str:
        """Return the same for people."""
        return (
            f"{self.run}: {self.quantity} {self.value:.4g}, median of all runs {self.median:.4g} "
            f"({abs(self.deviation):.1f} spreads {'above' if self.deviation > 0 else 'below'}, limit {self.limit:.1f})"
        )


def find_outliers(quantities: Sequence[Quantity]) -> list[Outlier]:
    """Return the runs that stand out, the farthest first; quantities of fewer than five runs are passed over."""
    found = []
    for quantity in quantities:
        if len(quantity.values) < FEWEST_RUNS:
            continue
        runs = list(quantity.values)
        values = np.array([quantity.values[run] for run in runs], dtype=np.float64)
        told = np.array([(quantity.shown or quantity.values)[run] for run in runs], dtype=np.float64)
        middle = np.median(values)
        robust_sd = MAD_TO_SD * float(np.median(np.abs(values - middle)))
        spread = max(robust_sd, quantity.least_spread)
        deviations = (values - middle) / spread
        limit = max(limit_of(len(runs)) * robust_sd, LIMIT * quantity.least_spread) / spread
        found += [
            Outlier(runs[i], quantity.name, float(told[i]), float(np.median(told)), float(deviations[i]), limit)
            for i in np.flatnonzero(np.abs(deviations) > limit)
        ]
    return sorted(found, key=lambda one: (-abs(one.deviation), one.run, one.quantity))
