"""What variants gain over the base, seed by seed, and whether that is more than chance among seeds gives.

A variant and the base trained with the same seed share initial weights, as far as they have the same networks, and the
folds; their difference is one draw of the gain. The mean of these draws has a confidence interval by Student's t
(n - 1 degrees of freedom). Of k variants compared with one base the intervals are made wider, to 1 - 0.05 / k each
(Bonferroni), so that among equals one comparison in twenty at most calls any of its variants better or worse.

Seeds say what chance in training does. What chance among runs does, they do not: all of them are judged on the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tomopoint.experiments.training import Result

LEAST_SEEDS = 3
"""With two, t's interval is 13 standard errors wide on either side, which no gain of interest exceeds."""

ERROR_RATE = 0.05
SCORE = "score"
"""The subject beside the particles."""

RULE = (
    "Gain: a variant less the base, with the same seed; mean over the seeds that both have. Beyond chance: Student's t "
    f"interval of the mean gain, at 95 % for all variants together (Bonferroni), leaves out 0; it takes {LEAST_SEEDS} "
    "seeds. Seeds are chance in training alone: all are judged on the same held-out runs, and another set of runs may "
    "say otherwise."
)


@dataclass(frozen=True)
class Gain:
    """One particle, or the score, of one variant.

    Attributes
    ----------
    values
        Of every seed that is there, in order.
    gains
        Over the base, of every seed that both have.
    low, high
        Interval of the mean gain; both nan with fewer than two pairs.
    """

    values: tuple[float, ...]
    gains: tuple[float, ...]
    low: float
    high: float

    @property
    def mean(self) -> float:
        """Mean over seeds; nan without any."""
        return float(np.mean(self.values)) if self.values else math.nan

    @property
    def spread(self) -> float:
        """Standard deviation over seeds; nan with fewer than two."""
        return _deviation(self.values)

    @property
    def gain(self) -> float:
        """Mean gain; nan without a pair."""
        return float(np.mean(self.gains)) if self.gains else math.nan

    @property
    def gain_spread(self) -> float:
        """Standard deviation of the gains; nan with fewer than two."""
        return _deviation(self.gains)

    @property
    def verdict(self) -> str:
        """In a word, whether the variant is better or worse by more than chance among seeds gives."""
        if len(self.gains) < LEAST_SEEDS:
            return "too few seeds to say"
        if self.low > 0:
            return "better, beyond chance"
        return "worse, beyond chance" if self.high < 0 else "within chance"


def compare_seeds(base: Mapping[int, float], variant: Mapping[int, float], n_variants: int) -> Gain:
    """Compare the figures of a variant with those of the base, both by seed; `n_variants` are compared in all."""
    from scipy.stats import t

    gains = tuple(value - base[seed] for seed, value in sorted(variant.items()) if seed in base)
    low = high = math.nan
    if len(gains) > 1:
        reach = t.ppf(1 - ERROR_RATE / n_variants / 2, len(gains) - 1) * _deviation(gains) / math.sqrt(len(gains))
        low, high = float(np.mean(gains) - reach), float(np.mean(gains) + reach)
    return Gain(tuple(value for _, value in sorted(variant.items())), gains, low, high)


def compare_variants(
    results: Mapping[str, Mapping[int, Result]], base: str, particles: Sequence[str]
) -> dict[str, dict[str, Gain]]:
    """Compare every variant with the base.

    Parameters
    ----------
    results
        Variant -> seed -> what came of it; the base among them.
    base
        Its name.
    particles
        Names.

    Returns
    -------
    dict
        Variant -> particle, and :data:`SCORE` -> its figures; of the base without gains.
    """

    def figures(name: str, subject: str) -> dict[int, float]:
        return {
            seed: result.score if subject == SCORE else result.per_class[subject]
            for seed, result in results[name].items()
        }

    found: dict[str, dict[str, Gain]] = {}
    for name in results:
        found[name] = {
            subject: compare_seeds(
                {} if name == base else figures(base, subject), figures(name, subject), len(results) - 1
            )
            for subject in (*particles, SCORE)
        }
    return found


def _deviation(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
