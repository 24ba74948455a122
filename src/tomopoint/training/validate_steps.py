"""The steps of `tomopoint validate` after its options are read: predict, calibrate, write, and say how it went."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from tomopoint.command import CommandResult
from tomopoint.data.project import Project
from tomopoint.errors import TomopointError
from tomopoint.evaluation.calibration import Calibration, CalibrationOptions, calibrate
from tomopoint.pipeline import PIPELINE_NAME, Pipeline
from tomopoint.training.trained import TrainedRun, read_held_out_truth
from tomopoint.training.validation import RESULT, PredictionOptions, calibrated, predict_held_out, save_validation

logger = logging.getLogger(__name__)


def parse_thresholds(text: str) -> CalibrationOptions | Path:
    """Read ``"curve"``, ``"counts"``, ``"counts:1.5"`` or the path of a ``pipeline.json``."""
    method, _, number = text.partition(":")
    if text == "curve":
        return CalibrationOptions()
    if method == "counts":
        try:
            wanted = float(number or CalibrationOptions.picks_per_particle)
        except ValueError:
            wanted = 0.0
        if wanted > 0:
            return CalibrationOptions(method="counts", picks_per_particle=wanted)
    elif text.endswith(".json"):
        return Path(text)
    raise TomopointError(f"--thresholds {text!r}: use curve, counts, counts:1.5 or the path of a pipeline.json")


def adopt_thresholds(run: Path, pipeline: Pipeline, source: Path) -> CommandResult:
    """Take thresholds and residual of another run, without predicting anything."""
    other = Pipeline.load(source)
    decoding = replace(pipeline.decoding, residual_xyz_A=other.decoding.residual_xyz_A)
    adopted = replace(pipeline, decoding=decoding).with_thresholds(other.thresholds)
    path = run / PIPELINE_NAME
    (run / RESULT).unlink(missing_ok=True)  # of thresholds that are no longer the run's
    adopted.save(path)
    text = f"wrote {path} with the thresholds of {source}; nothing was predicted, so it holds no score"
    return CommandResult(text, {"pipeline": str(path), "thresholds": adopted.thresholds})


def calibrate_run(
    trained: TrainedRun, pipeline: Pipeline, project: Project, how: tuple[PredictionOptions, CalibrationOptions]
) -> CommandResult:
    """Predict, calibrate, write; return the tables."""
    options, choice = how
    if not trained.held_out:
        raise TomopointError(
            f"no network of {trained.folder} holds a run out, so thresholds cannot be measured; "
            "take those of a validated run with --thresholds runs/NAME/pipeline.json"
        )
    truth = read_held_out_truth(trained, project)
    picks, records = predict_held_out(trained, pipeline, project, options)
    choice = replace(choice, floor=pipeline.decoding.floor)
    calibration = calibrate(truth, picks, trained.groups, pipeline.particles, choice)
    final = calibrated(pipeline, calibration)
    content = {
        "method": choice.method,
        "data_root": str(project.root.resolve()),
        "simulated": project.is_simulated,
        "predictions": records,
        **calibration.to_dict(),
    }
    save_validation(trained, final, content)
    path = trained.folder / PIPELINE_NAME
    figures = {name: value for name, value in content.items() if name not in ("curves", "per_group")}
    for name in calibration.best_at_floor:
        logger.warning(
            "F4 of %s still rises at %.3f, the lowest score that picks are kept at, so its threshold is no choice: the "
            "networks hardly know this particle; train longer, or show more of it (crops.class_balance)",
            *(name, pipeline.decoding.floor),
        )
    table = validation_text(calibration, project.is_simulated)
    text = f"{table}\nwrote {path}\nnext: python export_onnx.py {trained.folder} -o ensemble.onnx"
    return CommandResult(text, {**figures, "pipeline": str(path)})


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
