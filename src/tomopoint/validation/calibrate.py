"""The steps of `tomopoint validate` after its options are read: predict, calibrate, write, and say how it went.

What is written is what is deployed: the graph is exported from ``pipeline.json`` and nothing else.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tomopoint import __version__
from tomopoint.command import CommandResult
from tomopoint.data.project import Project
from tomopoint.errors import TomopointError
from tomopoint.evaluation.calibration import Calibration, CalibrationOptions, calibrate
from tomopoint.files import check_output, write_atomically
from tomopoint.pipeline import PIPELINE_NAME, Decoding, Pipeline, Tiling
from tomopoint.validation.ensemble_folder import RESULT, EnsembleFolder, save_ensemble
from tomopoint.validation.out_of_fold import predict_held_out
from tomopoint.validation.validated import state_of
from tomopoint.validation.weights import WeightChoice, choose_weights, with_weights

WEIGHTS = ("equal", "out-of-fold")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ValidationOptions:
    """How the average is made and calibrated; all but the device goes into the Pipeline.

    Attributes
    ----------
    views
        Views to average over.
    offset_average
        See :class:`~tomopoint.pipeline.Pipeline`.
    weights
        ``"equal"`` or ``"out-of-fold"``: shares of the kinds of networks.
    calibration
        How thresholds are chosen.
    device
        ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
    """

    views: tuple[str, ...] = ("identity",)
    offset_average: str = "mean"
    weights: str = "equal"
    calibration: CalibrationOptions = field(default_factory=CalibrationOptions)
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.weights not in WEIGHTS:
            raise TomopointError(f"--weights must be one of {', '.join(WEIGHTS)}, got {self.weights!r}")


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


def base_pipeline(ensemble: EnsembleFolder, tiling: Tiling, options: ValidationOptions) -> Pipeline:
    """Return the Pipeline of an ensemble before calibration, with all members, unscored and of equal weight."""
    first = ensemble.records[0]
    return Pipeline(
        particles=ensemble.particles,
        voxel_A=first.voxel_A,
        stride=first.stride,
        normalisation=first.normalisation,
        tiling=tiling,
        decoding=Decoding(),
        tomo_type=ensemble.tomo_type,
        views=options.views,
        offset_average=options.offset_average,
        members=ensemble.members,
    )


def adopt_thresholds(ensemble: EnsembleFolder, pipeline: Pipeline, source: Path) -> CommandResult:
    """Take thresholds and residual of another validation, without predicting anything."""
    path = ensemble.folder / PIPELINE_NAME
    check_output(path, [source])
    other = Pipeline.load(source)
    decoding = replace(pipeline.decoding, residual_xyz_A=other.decoding.residual_xyz_A)
    adopted = replace(pipeline, decoding=decoding).with_thresholds(other.thresholds)
    (ensemble.folder / RESULT).unlink(missing_ok=True)  # of thresholds that are no longer the ensemble's
    save_ensemble(ensemble)
    adopted.save(path)
    text = f"wrote {path} with the thresholds of {source}; nothing was predicted, so it holds no score"
    return CommandResult(text, {"pipeline": str(path), "thresholds": adopted.thresholds})


def calibrate_ensemble(
    ensemble: EnsembleFolder, pipeline: Pipeline, project: Project, options: ValidationOptions
) -> CommandResult:
    """Choose shares, predict, calibrate, write; return the tables."""
    if not ensemble.held_out:
        raise TomopointError(
            f"no network of {ensemble.command()} holds a run out, so thresholds cannot be measured; "
            "take those of a validated run with --thresholds runs/NAME/pipeline.json"
        )
    choice = replace(options.calibration, floor=pipeline.decoding.floor)
    weights: WeightChoice | None = None
    if options.weights == "out-of-fold":
        weights = choose_weights(ensemble, pipeline, project, options.device, choice)
        pipeline = replace(pipeline, members=with_weights(pipeline.members, ensemble.kinds, weights.shares))
        logger.info("weights: %s", weights.reason)
    truth = ensemble.read_truth(project)
    picks, records = predict_held_out(ensemble, pipeline, project, options.device)
    calibration = calibrate(truth, picks, ensemble.groups, pipeline.particles, choice)
    final = calibrated(pipeline, calibration)
    content: dict[str, Any] = {
        "method": choice.method,
        "training_folders": [str(folder) for folder in ensemble.training_folders],
        "data_root": str(project.root.resolve()),
        "simulated": project.is_simulated,
        "weights": weights.to_dict() if weights else None,
        "predictions": records,
        **calibration.to_dict(),
    }
    record = {"tomopoint": __version__, "pipeline_sha256": final.digest, "state_sha256": state_of(final), **content}
    save_ensemble(ensemble)
    write_atomically(ensemble.folder / RESULT, json.dumps(record) + "\n")
    path = ensemble.folder / PIPELINE_NAME
    final.save(path)  # last: from now on this is what is exported
    for name in calibration.best_at_floor:
        logger.warning(
            "F4 of %s still rises at %.3f, the lowest score that picks are kept at, so its threshold is no choice: the "
            "networks hardly know this particle; train longer, or show more of it (crops.class_balance)",
            *(name, pipeline.decoding.floor),
        )
    lines = [validation_text(calibration, project.is_simulated)]
    lines += [f"weights, {weights.reason}"] if weights else []
    lines += [f"wrote {path}", f"next: tomopoint export {ensemble.folder} -o ensemble.onnx"]
    figures = {name: value for name, value in content.items() if name not in ("curves", "per_group")}
    return CommandResult("\n".join(lines), {**figures, "pipeline": str(path)})


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
