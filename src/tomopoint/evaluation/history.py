"""The report's sections about what led to the submission: validation, the exported graph, the prediction's time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from tomopoint.data.tables import COORDINATES, read_pick_table
from tomopoint.data.truth import read_truth
from tomopoint.errors import DataError, EngineError
from tomopoint.evaluation.calibration import OUT_OF_FOLD_FOLDER, VALIDATION_NAME
from tomopoint.evaluation.epochs import read_epoch_scores
from tomopoint.evaluation.figures import (
    CURVE_KEY,
    INK,
    RIGHT,
    WRONG,
    Histogram,
    Series,
    draw_curves,
    draw_epoch_scores,
    draw_histograms,
    networks_of,
)
from tomopoint.evaluation.matching import match_points
from tomopoint.evaluation.page import Markup, key, number, panels, paragraph, section, table
from tomopoint.evaluation.score import DISTANCE_MULTIPLIER
from tomopoint.inference.engines.graph_metadata import PARITY_KEY, read_metadata
from tomopoint.inference.folder import PredictionFolder
from tomopoint.pipeline import PIPELINE_NAME, Pipeline
from tomopoint.strict_json import Malformed, build, parse, read, reading

LISTED_TIMES = 12
"""Slowest runs of a prediction that are listed."""


Part = TypeVar("Part")


@dataclass(frozen=True)
class _Choice:
    threshold: float
    flat_low: float
    flat_high: float
    from_curve: bool


@dataclass(frozen=True)
class _Class:
    f_beta: float


@dataclass(frozen=True)
class _Curve:
    thresholds: tuple[float, ...]
    f_beta: tuple[float, ...]
    recall: tuple[float, ...]
    precision: tuple[float, ...]


@dataclass(frozen=True)
class _Group:
    score: float
    f_beta: Mapping[str, float]
    curves: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class _Residual:
    n: int
    mean_xyz_A: tuple[float, float, float]
    correction_xyz_A: tuple[float, float, float]


@dataclass(frozen=True)
class _Validation:
    """What the report reads of ``validation.json``."""

    score: float
    score_left_out: float | None
    per_class: Mapping[str, _Class]
    per_class_left_out: Mapping[str, _Class] | None
    per_group: Mapping[str, _Group]
    thresholds: Mapping[str, _Choice]
    residual: _Residual
    curves: Mapping[str, _Curve]
    data_root: str
    predictions: Mapping[str, Any]

    def __post_init__(self) -> None:
        names = set(self.thresholds)
        tables = [self.per_class, self.curves, *([self.per_class_left_out] if self.per_class_left_out else [])]
        if any(
            set(table) != names
            for table in (*tables, *(table for g in self.per_group.values() for table in (g.f_beta, g.curves)))
        ):
            raise Malformed("it does not name the same particles everywhere")
        for name, curve in self.curves.items():
            others = (curve.f_beta, curve.recall, curve.precision, *(g.curves[name] for g in self.per_group.values()))
            if any(len(values) != len(curve.thresholds) for values in others):
                raise Malformed(f"the curves of {name} differ in length")


def read_validation(training_folder: Path) -> dict[str, Any] | None:
    """Return the content of ``validation.json``; None where the thresholds came from another run."""
    path = training_folder / VALIDATION_NAME
    if not path.is_file():
        return None
    with reading(path, DataError, "is damaged", f"run `tomopoint validate {training_folder}` again"):
        content: dict[str, Any] = read(path)
        build(_Validation, content, ignore_unknown=True)
    return content


def validation_sections(training_folder: Path | None) -> list[Markup]:
    """Return curves, the table per particle and fold, and score histograms, of a validated training folder."""
    validation = read_validation(training_folder) if training_folder else None
    if validation is None or training_folder is None:
        return []
    pipeline = Pipeline.load(training_folder / PIPELINE_NAME)
    names = list(pipeline.particle_names)
    if set(names) != set(validation["thresholds"]):
        raise DataError(
            f"{training_folder / VALIDATION_NAME} is of other particles than {PIPELINE_NAME}; "
            f"run `tomopoint validate {training_folder}` again"
        )
    thresholds = pipeline.thresholds
    curves = panels(draw_curves(names, validation, thresholds))
    note = "Shaded: F4 within 1 % of the chosen threshold's."
    parts = [
        _folds(validation, names),
        section("Threshold curves", paragraph(note, soft=True), key(CURVE_KEY), curves),
    ]
    judged = _judge_out_of_fold(training_folder, validation, pipeline)
    if judged is not None:
        bars = panels(draw_histograms([_out_of_fold_scores(judged, name, thresholds[name]) for name in names]))
        note = (
            "Out-of-fold picks above the floor. The line is the threshold; bars stack; the scale is linear up to ten "
            "picks, logarithmic above."
        )
        colours = key([("right", RIGHT), ("wrong", WRONG)])
        parts.append(section("Out-of-fold scores of right and wrong picks", paragraph(note, soft=True), colours, bars))
    parts += _epochs(training_folder, validation, names)
    return parts


def _out_of_fold_scores(judged: pd.DataFrame, name: str, threshold: float) -> Histogram:
    own = judged.loc[judged["particle_type"] == name]
    series = [Series(own.loc[own["hit"], "score"], RIGHT), Series(own.loc[~own["hit"], "score"], WRONG)]
    return Histogram(name, series, (0.0, 1.0), "score", lines=[(threshold, INK)], from_ten_logarithmic=True)


def _epochs(ensemble_folder: Path, validation: Mapping[str, Any], names: Sequence[str]) -> list[Markup]:
    """F4 of held-out runs per particle while the networks were trained, where that was measured; per training folder.

    An ensemble names the folders that it is made of; one training folder is its own.
    """
    folders = [Path(folder) for folder in validation.get("training_folders", ())]
    sections = []
    for folder in folders if len(folders) > 1 else [ensemble_folder]:
        members = read_epoch_scores(folder)
        if members:
            note = "Each epoch's best threshold, chosen on the runs that are scored: flattering, for every epoch alike."
            where = f" in {folder.name}" if len(folders) > 1 else ""
            drawn = key(networks_of(members)), panels(draw_epoch_scores(names, members))
            sections.append(section(f"F4 per epoch{where}", paragraph(note, soft=True), *drawn))
    return sections


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


@dataclass(frozen=True)
class _Done:
    run: str
    worker: int | str
    n_picks: int
    seconds: float
    read_seconds: float


@dataclass(frozen=True)
class _Failed:
    run: str


@dataclass(frozen=True)
class _Joined:
    total_seconds: float


def _of_kind(log: Sequence[Any], kind: str, cls: type[Part]) -> Iterator[Part]:
    """Yield the events of a kind; a line that a crash or a disk has damaged is left out."""
    for event in log:
        if isinstance(event, dict) and event.get("event") == kind:
            with suppress(Malformed):
                yield build(cls, event, ignore_unknown=True)


def timings_section(folder: Path | None) -> list[Markup]:
    """Return a section with the seconds of every run, where `folder` holds a log."""
    log = PredictionFolder(folder).events() if folder else []
    events = list(_of_kind(log, "done", _Done))
    if not events:
        return []
    done = {event.run for event in events}
    failed = sorted({event.run for event in _of_kind(log, "failed", _Failed)} - done)  # some succeed when repeated
    totals = [event.total_seconds for event in _of_kind(log, "joined", _Joined)]
    seconds = sorted(event.seconds for event in events)
    slowest = sorted(events, key=lambda event: -event.seconds)[:LISTED_TIMES]
    rows = [(e.run, e.worker, e.n_picks, number(e.seconds, 1), number(e.read_seconds, 1)) for e in slowest]
    note = (
        f"{len(seconds)} runs, {sum(seconds) / len(seconds):.1f} s on average, median "
        f"{seconds[len(seconds) // 2]:.1f} s, {seconds[-1]:.1f} s at most"
        + (f"; all together {totals[-1]:.1f} s" if totals else "")
        + (f"; FAILED: {', '.join(failed)}" if failed else "")
        + ". The slowest:"
    )
    head = ("run", "worker", "picks above the floor", "seconds", "of these, waiting for data")
    return [section("Time of the prediction", paragraph(note), table(head, rows))]


@dataclass(frozen=True)
class _ParityRow:
    subject: str
    runtime: str
    scores_max: float
    scores_mean: float
    offsets_max_vox: float
    top1_agreement: float
    ok: bool


@dataclass(frozen=True)
class _ParityTable:
    rows: tuple[_ParityRow, ...]


def parity_section(model: Path | None) -> list[Markup]:
    """Return the table that the export left in the graph's metadata: how far each runtime is from PyTorch."""
    if model is None:
        return []
    with reading(
        f"the metadata of {model}", EngineError, "holds no parity table", "write the graph with `tomopoint export`"
    ):
        rows = build(
            _ParityTable, {"rows": parse(read_metadata(model).get(PARITY_KEY, "[]"))}, ignore_unknown=True
        ).rows
    head = ("outputs of", "runtime", "scores, max", "scores, mean", "offsets, max (voxels)", "best pick equal", "")
    cells = [
        (
            *(row.subject, row.runtime, f"{row.scores_max:.1e}", f"{row.scores_mean:.1e}"),
            *(f"{row.offsets_max_vox:.1e}", f"{100 * row.top1_agreement:.0f} %"),
            "within tolerance" if row.ok else "OUTSIDE tolerance",
        )
        for row in rows
    ]
    note = f"Absolute difference from PyTorch in float32, as measured when {model.name} was exported."
    return [section("Parity of the exported graph", table(head, cells, text=(1,)), paragraph(note, soft=True))]


def _triple(values: Sequence[float]) -> str:
    return ", ".join(f"{value:+.2f}" for value in values)
