"""What validation finds: thresholds as they were asked for, the calibrated Pipeline, and tables for people."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from tomopoint.errors import TomopointError
from tomopoint.evaluation.calibration import Calibration, CalibrationOptions
from tomopoint.pipeline import Pipeline


def parse_thresholds(text: str) -> CalibrationOptions | Path:
    """Read ``"curve"``, ``"curve:0.5"``, ``"counts"``, ``"counts:1.5"`` or the path of a ``pipeline.json``."""
    method, colon, number = text.partition(":")
    if method in ("curve", "counts"):
        try:
            wanted = float(number) if colon else None
        except ValueError:
            wanted = math.nan
        if wanted is None:
            return CalibrationOptions(method="curve" if method == "curve" else "counts")
        if method == "curve" and 0 <= wanted < 1:
            return CalibrationOptions(score_loss=wanted)
        if method == "counts" and 0 < wanted < math.inf:
            return CalibrationOptions(method="counts", picks_per_particle=wanted)
    elif text.endswith(".json"):
        return Path(text)
    raise TomopointError(
        f"--thresholds {text!r}: use curve, curve:0.5, counts, counts:1.5 or the path of a pipeline.json"
    )


def calibrated(pipeline: Pipeline, calibration: Calibration) -> Pipeline:
    """Return the Pipeline with thresholds, residual correction and the members' scores filled in.

    A member's score is that of its fold: of the picks made, with the chosen thresholds, on the runs it never saw, by
    the average of all networks that never saw them.
    """
    decoding = replace(pipeline.decoding, residual_xyz_A=calibration.residual.correction_xyz_A)
    members = tuple(
        replace(
            member, score=calibration.score.of_runs(member.validation_runs).score if member.validation_runs else None
        )
        for member in pipeline.members
    )
    return replace(pipeline.with_thresholds(calibration.thresholds), decoding=decoding, members=members)


def validation_text(calibration: Calibration, simulated: bool) -> str:
    """Return thresholds and scores as tables for people."""
    head = f"{'particle':22}{'threshold':>10}  {'flat (1 %)':13}{'F4':>8}{'left out':>10}{'recall':>8}{'precision':>11}"
    lines = [f"{head}{'error A':>9}"]
    left_out = calibration.left_out
    for name, item in calibration.score.per_class.items():
        choice = calibration.choices[name]
        flat = f"{choice.flat_low:.3f}-{choice.flat_high:.3f}" if choice.from_curve else "not measured"
        other = f"{left_out.per_class[name].f_beta:10.4f}" if left_out else f"{'-':>10}"
        error = "-" if item.localisation_A is None else f"{item.localisation_A:.1f}"
        lines.append(
            f"{name:22}{choice.threshold:10.3f}  {flat:13}{item.f_beta:8.4f}{other}"
            f"{item.recall:8.3f}{item.precision:11.3f}{error:>9}"
        )
    for name, runs in calibration.groups.items():
        lines.append(f"{name} ({', '.join(runs)}): {calibration.score.of_runs(runs).score:.4f}")
    x, y, z = calibration.residual.mean_xyz_A
    lines.append(f"mean error of {calibration.residual.n} picks, x y z: {x:+.2f} {y:+.2f} {z:+.2f} A")
    kind = "simulated out-of-fold score" if simulated else "out-of-fold score"
    honest = f"{left_out.score:.4f}" if left_out else "not available with one fold"
    lines.append(
        f"{kind}: {calibration.score.score:.4f} at thresholds chosen on these runs; "
        f"{honest} at thresholds chosen on the other folds"
    )
    return "\n".join(lines)
