"""The report: one HTML page about a submission, its truth, and the networks behind it."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd

from tomopoint import __version__
from tomopoint.data.project import DEFAULT_TOMO_TYPE, SPLITS, Project, Run
from tomopoint.data.sources.find import Found, find_tomograms, is_project
from tomopoint.data.sources.run import ReadableRun
from tomopoint.data.sources.tree import Choice
from tomopoint.data.tables import read_pick_table
from tomopoint.data.truth import is_simulated_truth, pipeline_beside, read_truth, scored_particles
from tomopoint.evaluation.figures import COLOURS, draw_slices, marker_of
from tomopoint.evaluation.history import parity_section, read_validation, timings_section, validation_sections
from tomopoint.evaluation.page import Markup, number, page, paragraph, picture, section, table, tiles
from tomopoint.evaluation.score import Score, score_picks
from tomopoint.evaluation.slices import choose_slabs, judge_picks
from tomopoint.files import sha256_of
from tomopoint.inference.verify import predicted_tomo_type
from tomopoint.pipeline import PIPELINE_NAME, Particle, Pipeline

SHOWN_RUNS = 4
"""Runs with pictures: the worst, the best and some between."""

LISTED_RUNS = 30
"""Runs with a row in the table of runs; beyond that the lowest scores are listed."""

SYMBOLS = {"o": "●", "^": "▲", "s": "■", "D": "◆", "h": "⬢", "v": "▼", "p": "⬟", "*": "★"}
PACKAGES = ("numpy", "scipy", "pandas", "zarr", "torch", "monai", "onnxruntime", "matplotlib")


@dataclass(frozen=True)
class ReportSources:
    """What the report is made from.

    Attributes
    ----------
    data
        Project folder with the tomograms, or any other place of tomograms that `tomopoint predict` takes.
    submission
        ``submission.csv``: experiment, particle_type and x, y, z in Angstrom.
    truth
        Folder of true picks.
    run
        Folder of the training run, validated; None leaves its sections out.
    prediction
        Folder with the log of the prediction; None leaves timings out.
    model
        The graph; None leaves the parity table out.
    choice, voxel_A
        Which tomograms of `data` are shown, and the edge of their voxels over what they say; None: as they say.
    """

    data: Path
    submission: Path
    truth: Path
    run: Path | None = None
    prediction: Path | None = None
    model: Path | None = None
    choice: Choice = field(default_factory=Choice)
    voxel_A: float | None = None

    @property
    def particles(self) -> tuple[Particle, ...]:
        """Those of the validated run or of the submission's Pipeline, else of the project that holds the truth."""
        return scored_particles(self.pipeline, self.truth)

    @cached_property
    def pipeline(self) -> Pipeline | None:
        """What validation wrote, or what the prediction of the submission was made with."""
        return Pipeline.load(self.run / PIPELINE_NAME) if self.run else pipeline_beside(self.submission)

    @property
    def tomo_type(self) -> str:
        """Reconstruction to show."""
        return self.pipeline.tomo_type if self.pipeline else DEFAULT_TOMO_TYPE

    @cached_property
    def found(self) -> Found | None:
        """The tomograms; None of a project in the competition's layout, whose splits are both looked up."""
        if is_project(self.data) and self.voxel_A is None and self.choice.voxel_spacing is None:
            return None
        usual = predicted_tomo_type(self.prediction or self.submission.parent)
        return find_tomograms(self.data, SPLITS[1], replace(self.choice, usual=usual), self.voxel_A)

    def run_of(self, name: str) -> ReadableRun | None:
        """Return the run of a name, test before train; None where there is no tomogram of it."""
        if self.found is not None:
            return next((run for run in self.found.tomograms if run.name == name), None)
        runs = (Run(name, split, self.data) for split in reversed(SPLITS))
        return next((run for run in runs if run.tomogram_path(self.tomo_type).exists()), None)

    @cached_property
    def validation(self) -> dict[str, Any] | None:
        """Content of ``validation.json``; None where thresholds came from another run."""
        return read_validation(self.run) if self.run else None


@dataclass(frozen=True)
class Report:
    """The page and the score it shows."""

    html: str
    score: Score
    simulated: bool


def build_report(sources: ReportSources) -> Report:
    """Build the page.

    Raises
    ------
    DataError
        The submission, the truth or a tomogram cannot be read, or there is no folder `data`.
    PipelineError
        `run` is given and not validated.
    """
    picks = read_pick_table(sources.submission)
    truth = read_truth(sources.truth, [particle.name for particle in sources.particles])
    score = score_picks(truth, picks, sources.particles)
    simulated = is_simulated_truth(sources.truth)
    simulated |= sources.found is None and Project(sources.data).is_simulated
    parts = [
        _headline(score, sources, simulated),
        _classes(score),
        _runs(score),
        _pictures(score, truth, picks, sources),
        *validation_sections(sources.run),
        *timings_section(sources.prediction),
        *parity_section(sources.model),
        _provenance(sources, simulated),
    ]
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    badge = "SIMULATED" if simulated else ""
    subtitle = f"{sources.submission.name}, {len(score.runs)} runs, made {now} by tomopoint {__version__}"
    return Report(page("tomopoint report", badge, subtitle, parts), score, simulated)


def _headline(score: Score, sources: ReportSources, simulated: bool) -> Markup:
    kind = "simulated test runs" if simulated else "scored runs"
    values = [(number(score.score, 4), f"official F4 score, {kind}")]
    validation = sources.validation
    if validation:
        values.append((number(validation["score"], 4), "out of fold, thresholds chosen on the same runs"))
        if validation["score_left_out"] is not None:
            values.append((number(validation["score_left_out"], 4), "out of fold, thresholds of the other folds"))
    n_truth = sum(item.n_truth for item in score.per_class.values())
    n_picks = sum(item.n_picks for item in score.per_class.values())
    values.append((f"{n_picks} / {n_truth}", "picks / true particles"))
    tile = tiles(values)
    note = "Simulated tomograms: these figures say nothing about the leaderboard." if simulated else ""
    return Markup(tile.html + (paragraph(note, soft=True).html if note else ""))


def _classes(score: Score) -> Markup:
    rows = [
        (
            *(name, f"{c.weight:g}", number(c.f_beta), number(c.recall), number(c.precision)),
            *(c.n_truth, c.n_picks, c.tp, c.fp, c.fn, number(c.localisation_A, 1)),
        )
        for name, c in score.per_class.items()
    ]
    head = ("particle", "weight", "F4", "recall", "precision", "true", "picks", "found", "wrong", "missed", "error A")
    note = (
        "F4 counts recall far above precision. A centre is found if a pick of its kind lies within half the particle's "
        "radius; error is the mean distance of found centres to their nearest pick."
    )
    return section("Score per particle", table(head, rows), paragraph(note, soft=True))


def _runs(score: Score) -> Markup:
    names = list(score.per_class)
    scores = {run: score.of_runs([run]) for run in score.runs}
    listed = sorted(scores, key=lambda run: scores[run].score)[:LISTED_RUNS]
    rows = []
    for run in sorted(listed):
        own = scores[run].per_class
        rows.append((run, number(scores[run].score), *(f"{own[n].n_picks} / {own[n].n_truth}" for n in names)))
    every = score.per_class
    rows.append(("all", number(score.score), *(f"{every[n].n_picks} / {every[n].n_truth}" for n in names)))
    note = "Picks / true particles. A run's score is the official one as if it were alone."
    if len(scores) > LISTED_RUNS:
        note += f" Of {len(scores)} runs, the {LISTED_RUNS} with the lowest score are listed."
    return section("Counts per run", table(("run", "score", *names), rows, total=True), paragraph(note, soft=True))


def _pictures(score: Score, truth: Mapping[str, Any], picks: pd.DataFrame, sources: ReportSources) -> Markup:
    """Slabs of the worst run, the best, and some between."""
    by_score = sorted(score.runs, key=lambda run: score.of_runs([run]).score)
    count = min(SHOWN_RUNS, len(by_score))
    chosen = [by_score[round(i * (len(by_score) - 1) / max(1, count - 1))] for i in range(count)]
    marks = [(p.name, p.radius_A) for p in sources.particles]
    shown: list[Markup] = []
    for name in chosen:
        run = sources.run_of(name)
        if run is None:
            shown.append(paragraph(f"{sources.data} has no {sources.tomo_type} tomogram of {name}.", soft=True))
            continue
        tomogram = run.read(sources.tomo_type)
        own = picks.loc[picks["experiment"] == name]
        judged = judge_picks(truth[name], own, sources.particles, tomogram.voxel_A)
        views = choose_slabs(tomogram, judged, name)
        shown.append(picture(draw_slices(views, marks), "; ".join(view.title for view in views)))
    return section("Slices with picks", _key([p.name for p in sources.particles]), *shown)


def _key(names: Sequence[str]) -> Markup:
    dots = "".join(f'<span><i class="dot" style="border-color:{c}"></i>{kind}</span>' for kind, c in COLOURS.items())
    shapes = "".join(f"<span>{SYMBOLS[marker_of(index)]} {name}</span>" for index, name in enumerate(names))
    return Markup(f'<p class="key">{dots}</p><p class="key soft">{shapes}</p>')


def _provenance(sources: ReportSources, simulated: bool) -> Markup:
    files = [("submission", sources.submission), ("model", sources.model)]
    rows: list[tuple[str, Any]] = [
        ("data", f"{sources.data.resolve()}{' (simulated)' if simulated else ''}"),
        ("truth", sources.truth.resolve()),
        *((what, f"{path.resolve()}, sha256 {sha256_of(path)}") for what, path in files if path is not None),
    ]
    pipeline = sources.pipeline
    if pipeline is not None:
        tiling = pipeline.tiling
        rows += [
            ("pipeline", f"sha256 {pipeline.digest}"),
            ("tiling", f"window {tiling.window_zyx}, overlap {tiling.overlap_zyx}"),
            ("views", f"{', '.join(pipeline.views)}; merged by {pipeline.view_merge}"),
            *((f"{m.fold}/{m.network}", f"weights sha256 {m.weights_sha256}") for m in pipeline.members),
        ]
    software = [f"Python {platform.python_version()}", f"tomopoint {__version__}"]
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            software.append(f"{name} {version(name)}")
    rows.append(("software", ", ".join(software)))
    return section("Where this comes from", table(("what", "value"), rows, text=(1,)))
