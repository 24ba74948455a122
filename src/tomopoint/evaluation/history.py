"""The report's sections about what led to the submission: validation, the exported graph, the prediction's time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from tomopoint.data.tables import COORDINATES, read_pick_table
from tomopoint.data.truth import read_truth
from tomopoint.errors import DataError
from tomopoint.evaluation.calibration import OUT_OF_FOLD_FOLDER, VALIDATION_NAME
from tomopoint.evaluation.figures import draw_curves, draw_histograms
from tomopoint.evaluation.matching import match_points
from tomopoint.evaluation.page import Markup, number, paragraph, picture, section, table
from tomopoint.evaluation.score import DISTANCE_MULTIPLIER
from tomopoint.inference.engines.graph_metadata import PARITY_KEY, read_metadata
from tomopoint.inference.folder import PredictionFolder
from tomopoint.pipeline import PIPELINE_NAME, Pipeline
from tomopoint.strict_json import Malformed, parse, read, reading

LISTED_TIMES = 12
"""Slowest runs of a prediction that are listed."""


def read_validation(training_folder: Path) -> dict[str, Any] | None:
    """Return the content of ``validation.json``; None where the thresholds came from another run."""
    path = training_folder / VALIDATION_NAME
    if not path.is_file():
        return None
    with reading(path, DataError, "is damaged", f"run `tomopoint validate {training_folder}` again"):
        content: dict[str, Any] = read(path)
        found = set(content if isinstance(content, dict) else ())
        if missing := {"score", "score_left_out", "per_class", "thresholds", "residual", "curves"} - found:
            raise Malformed(f"it lacks {', '.join(sorted(missing))}")
    return content


def validation_sections(training_folder: Path | None) -> list[Markup]:
    """Return curves, the table per particle and fold, and score histograms, of a validated training folder."""
    validation = read_validation(training_folder) if training_folder else None
    if validation is None or training_folder is None:
        return []
    pipeline = Pipeline.load(training_folder / PIPELINE_NAME)
    names = list(pipeline.particle_names)
    thresholds = pipeline.thresholds
    curves = picture(draw_curves(names, validation, thresholds), "F4, recall and precision over the threshold")
    parts = [
        _folds(validation, names),
        section("Threshold curves", paragraph("Shaded: F4 within 1 % of the chosen threshold's.", soft=True), curves),
    ]
    judged = _judge_out_of_fold(training_folder, validation, pipeline)
    if judged is not None:
        bars = picture(draw_histograms(judged, names, thresholds), "histograms of the scores of out-of-fold picks")
        note = (
            "Out-of-fold picks above the floor. The line is the threshold; bars stack; the scale is linear up to ten "
            "picks, logarithmic above."
        )
        parts.append(section("Scores of right and wrong picks", paragraph(note, soft=True), bars))
    return parts


def _folds(validation: Mapping[str, Any], names: Sequence[str]) -> Markup:
    """Out-of-fold F4, per particle and fold."""
    groups, left_out = validation["per_group"], validation["per_class_left_out"]
    rows: list[tuple[str, ...]] = []
    for name in names:
        choice = validation["thresholds"][name]
        flat = f"{choice['flat_low']:.3f} to {choice['flat_high']:.3f}" if choice["from_curve"] else "not measured"
        other = left_out[name]["f_beta"] if left_out else None
        rows.append(
            (
                *(name, number(choice["threshold"]), flat),
                *(number(validation["per_class"][name]["f_beta"]), number(other)),
                *(number(group["f_beta"][name]) for group in groups.values()),
            )
        )
    scores = (number(group["score"]) for group in groups.values())
    rows.append(("score", "", "", number(validation["score"]), number(validation["score_left_out"]), *scores))
    head = ("particle", "threshold", "flat within 1 %", "F4", "left out", *groups)
    residual = validation["residual"]
    note = (
        f"Left out: thresholds chosen on the other folds. Mean error of {residual['n']} found picks (x, y, z): "
        f"{_triple(residual['mean_xyz_A'])} A; subtracted from every pick: {_triple(residual['correction_xyz_A'])} A."
    )
    return section("Out-of-fold F4 per particle and fold", table(head, rows, total=True), paragraph(note, soft=True))


def _judge_out_of_fold(training_folder: Path, validation: Mapping[str, Any], pipeline: Pipeline) -> pd.DataFrame | None:
    """Return every out-of-fold pick with whether it hits; None where the training data is no longer there."""
    try:
        truth = read_truth(Path(validation["data_root"]), pipeline.particle_names, list(validation["predictions"]))
        tables = [read_pick_table(training_folder / OUT_OF_FOLD_FOLDER / f"{name}.csv") for name in truth]
    except DataError:
        return None
    parts = []
    for points, picks in zip(truth.values(), tables, strict=True):
        for particle in pipeline.particles:
            own = picks.loc[picks["particle_type"] == particle.name]
            reach_A = particle.radius_A * DISTANCE_MULTIPLIER
            hits = match_points(points[particle.name], own.loc[:, list(COORDINATES)].to_numpy(), reach_A).hits
            parts.append(own.assign(hit=hits))
    return pd.concat(parts, ignore_index=True)


def timings_section(folder: Path | None) -> list[Markup]:
    """Return a section with the seconds of every run, where `folder` holds a log."""
    log = PredictionFolder(folder).events() if folder else []
    events = [event for event in log if event["event"] == "done"]
    if not events:
        return []
    done = {event["run"] for event in events}
    failed = sorted({event["run"] for event in log if event["event"] == "failed"} - done)  # some succeed when repeated
    totals = [float(event["total_seconds"]) for event in log if event["event"] == "joined"]
    seconds = sorted(float(event["seconds"]) for event in events)
    slowest = sorted(events, key=lambda event: -float(event["seconds"]))[:LISTED_TIMES]
    rows = [
        (e["run"], e["worker"], e["n_picks"], number(float(e["seconds"]), 1), number(float(e["read_seconds"]), 1))
        for e in slowest
    ]
    note = (
        f"{len(seconds)} runs, {sum(seconds) / len(seconds):.1f} s on average, median "
        f"{seconds[len(seconds) // 2]:.1f} s, {seconds[-1]:.1f} s at most"
        + (f"; all together {totals[-1]:.1f} s" if totals else "")
        + (f"; FAILED: {', '.join(failed)}" if failed else "")
        + ". The slowest:"
    )
    head = ("run", "worker", "picks above the floor", "seconds", "of these, waiting for data")
    return [section("Time of the prediction", paragraph(note), table(head, rows))]


def parity_section(model: Path | None) -> list[Markup]:
    """Return the table that the export left in the graph's metadata: how far each runtime is from PyTorch."""
    if model is None:
        return []
    rows = parse(read_metadata(model).get(PARITY_KEY, "[]"))
    head = ("outputs of", "runtime", "scores, max", "scores, mean", "offsets, max (voxels)", "best pick equal", "")
    cells = [
        (
            *(row["subject"], row["runtime"], f"{row['scores_max']:.1e}", f"{row['scores_mean']:.1e}"),
            *(f"{row['offsets_max_vox']:.1e}", f"{100 * row['top1_agreement']:.0f} %"),
            "within tolerance" if row["ok"] else "OUTSIDE tolerance",
        )
        for row in rows
    ]
    note = f"Absolute difference from PyTorch in float32, as measured when {model.name} was exported."
    return [section("Parity of the exported graph", table(head, cells, text=(1,)), paragraph(note, soft=True))]


def _triple(values: Sequence[float]) -> str:
    return ", ".join(f"{value:+.2f}" for value in values)
