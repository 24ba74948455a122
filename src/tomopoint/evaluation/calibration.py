"""From out-of-fold picks to thresholds, a residual correction and honest scores.

How thresholds are calibrated
-----------------------------
The graph that is deployed averages the networks of all folds. No run is left out of all of them, so that average
cannot be calibrated where the truth is known: on a training run most of its networks would be scored on what they
learnt. Each run is therefore predicted by the average of every network that never saw it (with disjoint folds: the
networks of its fold), through the tiling, merging and decoding of the submission, and thresholds are chosen on these
picks pooled over all runs.

This carries over approximately. On a new run each network behaves as it does out of fold, so that scores of the larger
average have the same mean at any place and less spread: networks that disagree pull a peak down, and where few
networks made the out-of-fold average, peaks of the larger one are somewhat lower. The error is a shift of the scores,
which is why thresholds lie in the centre of a plateau and the plateau's width is reported, and why the number of
picks per run at the chosen thresholds is kept: a deployed average that picks far fewer or more shows the shift.

Thresholds chosen and scored on the same runs flatter. ``left_out`` is the honest figure: each group of runs scored
with the thresholds chosen on the other groups.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pandas as pd

from tomopoint.data.tables import passing
from tomopoint.evaluation.residual import Residual, estimate_residual, shifted
from tomopoint.evaluation.score import Score, TruthMapping, score_figures, score_picks
from tomopoint.evaluation.thresholds import (
    Choice,
    Curve,
    choose_thresholds,
    count_thresholds,
    sweep,
    threshold_grid,
)
from tomopoint.pipeline import Particle

VALIDATION_NAME, OUT_OF_FOLD_FOLDER = "validation.json", "validation"
"""In a validated training folder: the outcome of its calibration, and the pick table of each run."""

Method = Literal["curve", "counts"]


@dataclass(frozen=True)
class CalibrationOptions:
    """How thresholds are chosen.

    Attributes
    ----------
    method
        ``"curve"``: centre of the plateau of the F-beta curve. ``"counts"``: as many picks as expected.
    picks_per_particle
        ``counts`` only: picks to keep per true particle. F4 weighs recall so much that its best precision lies
        between 0.4 and 0.6 (two picks per particle) unless the classes separate cleanly.
    floor
        Lowest score among the picks.
    score_loss
        ``curve`` only: share of their scores, in [0, 1), that picks may have lost in the tomograms that the thresholds
        are for, see :func:`~tomopoint.evaluation.thresholds.choose`. Zero where they are of the same kind.
    correct
        Whether the residual is taken off the picks before thresholds are chosen, as decoding will do; it is estimated
        either way.
    """

    method: Method = "curve"
    picks_per_particle: float = 2.0
    floor: float = 0.05
    score_loss: float = 0.0
    correct: bool = True


@dataclass(frozen=True)
class Calibration:
    """Outcome of a calibration.

    Attributes
    ----------
    choices
        Threshold of every particle.
    curves
        Over all runs, per particle.
    group_curves
        Per group of runs, per particle.
    residual
        Mean error of the picks that pass.
    score
        At the chosen thresholds, on the runs they were chosen on.
    left_out
        Each group at thresholds chosen on the other groups; None with a single group.
    groups
        Group -> its runs.
    picks_per_run
        Mean number of picks per run that pass, per particle.
    """

    choices: dict[str, Choice]
    curves: dict[str, Curve]
    group_curves: dict[str, dict[str, Curve]]
    residual: Residual
    score: Score
    left_out: Score | None
    groups: dict[str, tuple[str, ...]]
    picks_per_run: dict[str, float]

    @property
    def thresholds(self) -> dict[str, float]:
        """Threshold of every particle."""
        return {name: choice.threshold for name, choice in self.choices.items()}

    @property
    def best_at_floor(self) -> list[str]:
        """Particles whose F-beta still rises where the picks end: thresholds below the floor might have been better."""
        named = []
        for name, choice in self.choices.items():
            curve = self.curves[name]
            highest_there = choice.from_curve and curve.f_beta[0] == choice.best_f_beta
            if highest_there and (choice.threshold == curve.thresholds[0] or choice.f_beta < choice.best_f_beta):
                named.append(name)
        return named

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON types."""
        return {
            **score_figures(self.score),
            "score_left_out": self.left_out.score if self.left_out else None,
            "per_class_left_out": score_figures(self.left_out)["per_class"] if self.left_out else None,
            "per_group": {name: self._of_group(name) for name in self.groups},
            "thresholds": {name: asdict(choice) for name, choice in self.choices.items()},
            "picks_per_run": self.picks_per_run,
            "residual": {**asdict(self.residual), "correction_xyz_A": self.residual.correction_xyz_A},
            "curves": {name: curve.to_dict() for name, curve in self.curves.items()},
        }

    def _of_group(self, name: str) -> dict[str, Any]:
        runs = self.groups[name]
        own, left_out = self.score.of_runs(runs), self.left_out.of_runs(runs) if self.left_out else None
        return {
            "runs": list(runs),
            "score": own.score,
            "score_left_out": left_out.score if left_out else None,
            "f_beta": {particle: item.f_beta for particle, item in own.per_class.items()},
            "curves": {particle: c.f_beta.round(4).tolist() for particle, c in self.group_curves[name].items()},
        }


def calibrate(
    truth: TruthMapping,
    picks: pd.DataFrame,
    groups: Mapping[str, Sequence[str]],
    particles: Sequence[Particle],
    options: CalibrationOptions,
) -> Calibration:
    """Choose thresholds and estimate the residual from out-of-fold picks.

    Parameters
    ----------
    truth
        Run -> particle -> ``(N, 3)`` x, y, z in Angstrom.
    picks
        Out-of-fold picks above the floor (``experiment, particle_type, x, y, z, score``), without any correction.
    groups
        Name -> runs that were predicted by the same networks; disjoint, together all runs of `truth`.
    particles
        Radii, weights, and the thresholds kept where the picks say nothing.
    options
        How to choose.
    """
    first = _choose(truth, picks, particles, options)
    residual = estimate_residual(truth, passing(picks, _thresholds(first)), particles)
    corrected = shifted(picks, residual.correction_xyz_A) if options.correct else picks
    choices = _choose(truth, corrected, particles, options)
    grid = threshold_grid(options.floor)
    parts = {name: {run: truth[run] for run in runs} for name, runs in groups.items()}
    kept = passing(corrected, _thresholds(choices))
    counts = kept["particle_type"].value_counts()
    return Calibration(
        choices=choices,
        curves=sweep(truth, corrected, particles, grid),
        group_curves={name: sweep(part, corrected, particles, grid) for name, part in parts.items()},
        residual=residual,
        score=score_picks(truth, kept, particles),
        left_out=score_left_out(truth, lambda _: corrected, groups, particles, options) if len(groups) > 1 else None,
        groups={name: tuple(runs) for name, runs in groups.items()},
        picks_per_run={p.name: float(counts.get(p.name, 0)) / len(truth) for p in particles},
    )


def score_left_out(
    truth: TruthMapping,
    picks_without: Callable[[Sequence[str]], pd.DataFrame],
    groups: Mapping[str, Sequence[str]],
    particles: Sequence[Particle],
    options: CalibrationOptions,
) -> Score:
    """Score each group's picks at the thresholds chosen on the other groups, all counts summed.

    Parameters
    ----------
    truth
        Run -> particle -> ``(N, 3)`` x, y, z in Angstrom.
    picks_without
        Returns the picks of all runs as they are where nothing was learnt from the truth of these runs.
    groups, particles, options
        As of :func:`calibrate`.
    """
    kept = []
    for runs in groups.values():
        picks = picks_without(runs)
        others = {run: points for run, points in truth.items() if run not in runs}
        thresholds = _thresholds(_choose(others, picks, particles, options))
        kept.append(passing(picks.loc[picks["experiment"].isin(list(runs))], thresholds))
    return score_picks(truth, pd.concat(kept), particles)


def _choose(
    truth: TruthMapping, picks: pd.DataFrame, particles: Sequence[Particle], options: CalibrationOptions
) -> dict[str, Choice]:
    curves = sweep(truth, picks, particles, threshold_grid(options.floor))
    if options.method == "counts":
        return count_thresholds(curves, particles, options.picks_per_particle)
    return choose_thresholds(curves, particles, options.score_loss)


def _thresholds(choices: Mapping[str, Choice]) -> dict[str, float]:
    return {name: choice.threshold for name, choice in choices.items()}
