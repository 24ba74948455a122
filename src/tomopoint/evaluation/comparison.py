"""Two submissions against one truth: differences per particle, and how far chance among the runs could move them.

Runs are drawn with replacement, the same for both submissions (a paired bootstrap): what a hard run costs both of them
is no difference. Counts of the drawn runs are summed and F-beta formed of the sums, as in the metric. Few runs make
wide intervals, and of a single run nothing can be said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tomopoint.errors import DataError
from tomopoint.evaluation.score import Score, f_beta_of

DRAWS = 10_000
SEED = 20261129
INTERVAL = (0.025, 0.975)

LEAST_RUNS = 6
"""With fewer, chance says nothing: that all of five runs favour the same submission, which no draw can then undo, comes
about once in 16 times between equals, and of six once in 32."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """What the second submission has more than the first.

    Attributes
    ----------
    first, second
        F-beta, or the score.
    low, high
        Between these 95 % of the draws lie; both are nan with a single run.
    better
        Share of the draws in which the second is better, half of those in which both are equal counted; nan alike.
    n_runs
        Runs that were drawn from.
    """

    first: float
    second: float
    low: float
    high: float
    better: float
    n_runs: int

    @property
    def difference(self) -> float:
        """The second less the first."""
        return self.second - self.first

    @property
    def verdict(self) -> str:
        """In a word, whether the second is better or worse by more than chance among the runs would make it."""
        if self.n_runs < LEAST_RUNS:
            return "too few runs to say"
        if self.low > 0:
            return "better, beyond chance"
        return "worse, beyond chance" if self.high < 0 else "within chance"


def compare_scores(first: Score, second: Score, draws: int = DRAWS, seed: int = SEED) -> dict[str, Difference]:
    """Compare two scores of the same truth and particles.

    Returns
    -------
    dict
        Particle -> difference of F-beta, for all that the truth holds, and ``"score"`` -> that of the score.

    Raises
    ------
    DataError
        They are of other runs or particles.
    """
    if first.runs != second.runs or first.particles != second.particles or first.beta != second.beta:
        raise DataError("the two scores are not of the same truth and particles; score both with one --pipeline")
    runs = first.runs
    names = [name for name in first.per_class if any(count.particle == name for count in first.counts)]
    # How often each run is drawn: (draws, runs).
    drawn = np.random.default_rng(seed).multinomial(len(runs), np.full(len(runs), 1 / len(runs)), size=draws)
    weights = np.array([particle.weight for particle in first.particles])
    per_class: dict[str, tuple[Floats, Floats]] = {}
    totals = [np.zeros(draws), np.zeros(draws)]
    for particle in first.particles:
        curves = []
        for place, score in enumerate((first, second)):
            tp, fp, fn = (drawn @ counts for counts in _counts(score, particle.name))
            f_beta = f_beta_of(tp, fp, fn, score.beta)
            totals[place] += particle.weight * f_beta / (weights.sum() or 1.0)
            curves.append(f_beta)
        per_class[particle.name] = (curves[0], curves[1])
    compared = {
        name: _difference(first.per_class[name].f_beta, second.per_class[name].f_beta, *per_class[name], len(runs))
        for name in names
    }
    return {**compared, "score": _difference(first.score, second.score, totals[0], totals[1], len(runs))}


def comparison_text(compared: dict[str, Difference], n_runs: int, simulated: bool = False, beta: float = 4.0) -> str:
    """Return differences as a table for people."""
    lines = [
        f"{'particle':22}{f'F{beta:g} A':>9}{f'F{beta:g} B':>9}{'B - A':>9}{'95 % of draws':>20}{'B better':>10}  B is"
    ]
    for name, item in compared.items():
        label = ("simulated score" if simulated else "score") if name == "score" else name
        spread = "-" if np.isnan(item.low) else f"{item.low:+.4f} to {item.high:+.4f}"
        better = "-" if np.isnan(item.better) else f"{100 * item.better:.0f} %"
        figures = f"{item.first:9.4f}{item.second:9.4f}{item.difference:+9.4f}{spread:>20}{better:>10}"
        lines.append(f"{label:22}{figures}  {item.verdict}")
    if n_runs < 2:
        lines.append("a single run: what chance among runs does cannot be said")
    else:
        lines.append(f"draws: {DRAWS} of {n_runs} runs with replacement, the same for both")
    if n_runs < LEAST_RUNS:
        lines.append(f"{LEAST_RUNS} runs and more tell whether a difference is beyond chance")
    return "\n".join(lines)


def comparison_figures(compared: dict[str, Difference]) -> dict[str, Any]:
    """Return differences as plain JSON types; None for what cannot be said."""
    return {
        name: {
            "first": item.first,
            "second": item.second,
            "difference": item.difference,
            "low": None if np.isnan(item.low) else item.low,
            "high": None if np.isnan(item.high) else item.high,
            "better": None if np.isnan(item.better) else item.better,
            "verdict": item.verdict,
        }
        for name, item in compared.items()
    }


def _counts(score: Score, name: str) -> tuple[Floats, Floats, Floats]:
    """Return TP, FP and FN of a particle, ``(runs,)`` each."""
    by_run = {count.run: count for count in score.counts if count.particle == name}
    found = [
        np.array([getattr(by_run[run], what) if run in by_run else 0 for run in score.runs], dtype=np.float64)
        for what in ("tp", "fp", "fn")
    ]
    return found[0], found[1], found[2]


def _difference(first: float, second: float, of_first: Floats, of_second: Floats, n_runs: int) -> Difference:
    if n_runs < 2:
        return Difference(first, second, np.nan, np.nan, np.nan, n_runs)
    differences = of_second - of_first
    low, high = np.quantile(differences, INTERVAL)
    better = float((differences > 0).mean() + (differences == 0).mean() / 2)
    return Difference(first, second, float(low), float(high), better, n_runs)
