"""Thresholds for any table of picks with scores, chosen where the truth is known and judged where they were not chosen.

The choice is that of validation (:mod:`tomopoint.evaluation.calibration`), with groups of runs in the place of folds:
each group is scored at the thresholds chosen on the others. Picks stay where they are; what can be changed of a table
is which of them are handed on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from tomopoint.data.tables import passing
from tomopoint.errors import DataError
from tomopoint.evaluation.calibration import Calibration, CalibrationOptions, calibrate
from tomopoint.evaluation.figures import curves_figure
from tomopoint.evaluation.score import Score, TruthMapping, score_picks
from tomopoint.evaluation.thresholds import GRID_STEP, HIGHEST_THRESHOLD
from tomopoint.files import check_output, write_atomically
from tomopoint.pipeline import Particle

MOST_GROUPS = 10
"""Groups of runs: one each up to so many, beyond that they are dealt out in turn."""

ROUNDING = 1e-6
"""A score that is a step of the grid stays one, whatever dividing by the step leaves."""

THRESHOLDS_NAME, CURVES_NAME, FIGURE_NAME = "thresholds.json", "curves.csv", "curves.svg"


@dataclass(frozen=True)
class Tuning:
    """Outcome of a tuning.

    Attributes
    ----------
    calibration
        Choices, curves, scores.
    particles
        With the thresholds that the table had before.
    before
        Score at those.
    """

    calibration: Calibration
    particles: tuple[Particle, ...]
    before: Score

    @property
    def option(self) -> str:
        """The thresholds as `tomopoint rethreshold` takes them."""
        return ",".join(f"{name}={value:g}" for name, value in self.calibration.thresholds.items())

    def text(self, simulated: bool) -> str:
        """Return a table for people."""
        own, left_out = self.calibration, self.calibration.left_out
        lines = [
            f"{'particle':22}{'before':>8}{'tuned':>8}{'flat from':>10}{'to':>7}{'F4 before':>11}{'tuned':>8}"
            f"{'left out':>10}{'true':>7}"
        ]
        for particle in self.particles:
            choice, name = own.choices[particle.name], particle.name
            held = "-" if left_out is None else f"{left_out.per_class[name].f_beta:.4f}"
            lines.append(
                f"{name:22}{particle.threshold:8.3f}{choice.threshold:8.3f}{choice.flat_low:10.3f}{choice.flat_high:7.3f}"
                f"{self.before.per_class[name].f_beta:11.4f}{own.score.per_class[name].f_beta:8.4f}{held:>10}"
                f"{own.score.per_class[name].n_truth:7d}"
                + ("" if choice.from_curve else "  kept: nothing to choose by")
            )
        kind = "simulated score" if simulated else "score"
        lines.append(f"{kind}: {self.before.score:.4f} before, {own.score.score:.4f} tuned on these runs")
        if left_out is None:
            lines.append("one run alone: what these thresholds are worth on another one cannot be said")
        else:
            lines.append(
                f"{kind} of runs that had no part in the choice: {left_out.score:.4f} ({len(own.groups)} groups)"
            )
        if own.best_at_floor:
            lines.append(
                f"still rising where the picks end: {', '.join(own.best_at_floor)}; lower thresholds might be better, "
                "for which the table lacks picks"
            )
        return "\n".join(lines)


def tune_thresholds(
    truth: TruthMapping, picks: pd.DataFrame, particles: Sequence[Particle], options: CalibrationOptions
) -> Tuning:
    """Choose thresholds on all runs, and score groups of runs at those chosen on the others.

    Parameters
    ----------
    truth
        Run -> particle -> ``(N, 3)`` x, y, z in Angstrom.
    picks
        ``experiment, particle_type, x, y, z, score`` after suppression, none twice.
    particles
        Radii, weights, and the thresholds that are kept where picks say nothing.
    options
        How to choose; the floor is raised to the step of the grid below the lowest score of the table.

    Raises
    ------
    DataError
        No pick in a run of the truth, or scores that no threshold could part.
    """
    own = picks.loc[picks["experiment"].isin(list(truth))]
    if not len(own):
        raise DataError("no pick lies in a run of the truth, so there is nothing to choose by")
    lowest = float(own["score"].min())
    if not lowest < HIGHEST_THRESHOLD - GRID_STEP:
        raise DataError(
            f"all scores are {lowest:g} or more; thresholds up to {HIGHEST_THRESHOLD:g} part none of them: are these "
            "scores from 0 to 1?"
        )
    floor = max(options.floor, math.floor(lowest / GRID_STEP + ROUNDING) * GRID_STEP)
    runs = sorted(truth)
    n_groups = min(MOST_GROUPS, len(runs))
    groups = {f"group{i}" if n_groups < len(runs) else runs[i]: tuple(runs[i::n_groups]) for i in range(n_groups)}
    calibration = calibrate(truth, own, groups, particles, replace(options, floor=floor, correct=False))
    before = score_picks(truth, passing(own, {p.name: p.threshold for p in particles}), particles)
    return Tuning(calibration, tuple(particles), before)


def write_tuning(tuning: Tuning, out: Path) -> list[Path]:
    """Write thresholds, curves and their figure into a folder; return the files."""
    paths = [out / name for name in (THRESHOLDS_NAME, CURVES_NAME, FIGURE_NAME)]
    for path in paths:
        check_output(path)
    content: dict[str, Any] = tuning.calibration.to_dict()
    figure = curves_figure([p.name for p in tuning.particles], content, tuning.calibration.thresholds)
    rows = [
        pd.DataFrame(
            {
                "particle_type": name,
                "threshold": curve.thresholds,
                "f_beta": curve.f_beta,
                "precision": curve.precision,
                "recall": curve.recall,
                "tp": curve.tp,
                "n_picks": curve.n_picks,
                "n_truth": curve.n_truth,
            }
        )
        for name, curve in tuning.calibration.curves.items()
    ]
    write_atomically(paths[1], pd.concat(rows).round(5).to_csv(index=False, lineterminator="\n"))
    write_atomically(paths[2], figure)
    write_atomically(paths[0], json.dumps(tuning.calibration.thresholds, indent=2) + "\n")
    return paths
