"""The report: one HTML page about one submission or several, their truth if there is any, and the networks behind."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tomopoint import __version__
from tomopoint.data.particles import particles_around
from tomopoint.data.project import DEFAULT_TOMO_TYPE, SPLITS, Project, Run
from tomopoint.data.selection import refuse_doubled
from tomopoint.data.sources.find import Found, find_tomograms, is_project
from tomopoint.data.sources.run import ReadableRun
from tomopoint.data.sources.tree import Choice
from tomopoint.data.tables import read_pick_table
from tomopoint.data.tomograms import Tomogram, TomogramInfo
from tomopoint.data.truth import is_simulated_truth, pipeline_beside, read_truth
from tomopoint.errors import DataError
from tomopoint.evaluation.comparison import Difference
from tomopoint.evaluation.distribution_sections import distribution_sections
from tomopoint.evaluation.history import parity_section, read_validation, timings_section, validation_sections
from tomopoint.evaluation.page import Markup, number, page, paragraph, section, table, tiles
from tomopoint.evaluation.pictures import pictures_section
from tomopoint.evaluation.score import score_picks
from tomopoint.evaluation.score_sections import compare_all, comparison_sections, score_sections
from tomopoint.evaluation.scored_runs import check_shared_runs, differing_runs
from tomopoint.evaluation.submissions import (
    Material,
    Submission,
    check_names,
    find_scored,
    labels_of,
    runs_of,
)
from tomopoint.files import sha256_of
from tomopoint.inference.verify import predicted_tomo_type
from tomopoint.pipeline import PIPELINE_NAME, Particle, Pipeline, metric_of

PACKAGES = ("numpy", "scipy", "pandas", "zarr", "torch", "monai", "onnxruntime", "matplotlib")


@dataclass(frozen=True)
class ReportSources:
    """What the report is made from.

    Attributes
    ----------
    data
        Project folder with the tomograms, or any other place of tomograms that `tomopoint predict` takes.
    submissions
        ``submission.csv``: experiment, particle_type and x, y, z in Angstrom. Others are compared with the first.
    truth
        Folder of true picks; None: there is none.
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
    submissions: tuple[Path, ...]
    truth: Path | None = None
    run: Path | None = None
    prediction: Path | None = None
    model: Path | None = None
    choice: Choice = field(default_factory=Choice)
    voxel_A: float | None = None

    @property
    def particles(self) -> tuple[Particle, ...]:
        """Those of the validated run or of the submission's Pipeline, else of the project of the truth or the data."""
        return self.pipeline.particles if self.pipeline else particles_around(self.truth or self.data)

    @cached_property
    def pipeline(self) -> Pipeline | None:
        """What validation wrote, or what the prediction of the first submission was made with."""
        return Pipeline.load(self.run / PIPELINE_NAME) if self.run else pipeline_beside(self.submissions[0])

    @property
    def tomo_type(self) -> str:
        """Reconstruction to show."""
        return self.pipeline.tomo_type if self.pipeline else DEFAULT_TOMO_TYPE

    @cached_property
    def found(self) -> Found | None:
        """The tomograms; None of a project in the competition's layout, whose splits are both looked up."""
        if is_project(self.data) and self.voxel_A is None and self.choice.voxel_spacing is None:
            return None
        usual = predicted_tomo_type(self.prediction or self.submissions[0].parent)
        return find_tomograms(self.data, SPLITS[1], replace(self.choice, usual=usual), self.voxel_A)

    def run_of(self, name: str) -> ReadableRun | None:
        """Return the run of a name, test before train; None where there is no tomogram of it."""
        if self.found is not None:
            return next((run for run in self.found.tomograms if run.name == name), None)
        runs = (Run(name, split, self.data) for split in reversed(SPLITS))
        return next((run for run in runs if run.tomogram_path(self.tomo_type).exists()), None)

    def read(self, name: str) -> Tomogram:
        """Read the tomogram of a run; DataError where there is none, or it is damaged."""
        run = self.run_of(name)
        if run is None:
            raise DataError(f"{self.data} has no {self.tomo_type} tomogram of {name}")
        return run.read(self.tomo_type)

    @cached_property
    def validation(self) -> dict[str, Any] | None:
        """Content of ``validation.json``; None where thresholds came from another run."""
        return read_validation(self.run) if self.run else None

    @property
    def simulated(self) -> bool:
        """Whether truth or tomograms are those of a simulated project."""
        if self.truth is not None and is_simulated_truth(self.truth):
            return True
        return self.found is None and Project(self.data).is_simulated


@dataclass(frozen=True)
class Report:
    """The page, and what it shows."""

    html: str
    material: Material
    compared: Sequence[dict[str, Difference]]


def build_report(sources: ReportSources) -> Report:
    """Build the page.

    Raises
    ------
    DataError
        A submission, the truth or a tomogram cannot be read, there is no folder `data`, the submissions are not of
        the same particles, hold a pick twice, or share no run with the truth.
    PipelineError
        `run` is given and not validated.
    """
    material = _gather(sources)
    compared = compare_all(material)
    parts = [
        _headline(material, compared, sources),
        *comparison_sections(material, compared),
        *pictures_section(material, sources.read, str(sources.data)),
        *score_sections(material),
        *distribution_sections(material),
        *validation_sections(sources.run),
        *timings_section(sources.prediction),
        *parity_section(sources.model),
        _provenance(sources, material.simulated),
    ]
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    badge = "SIMULATED" if material.simulated else ""
    names = ", ".join(f"{own.label} {own.path}".strip() for own in material.submissions)
    subtitle = f"{names}; made {now} by tomopoint {__version__}"
    return Report(page("tomopoint report", badge, subtitle, parts), material, compared)


def _gather(sources: ReportSources) -> Material:
    """Read the submissions and the truth, score them where there is any, and look which tomograms are there."""
    labels, particles = labels_of(sources.submissions), sources.particles
    names = [particle.name for particle in particles]
    tables = [read_pick_table(path) for path in sources.submissions]
    truth = None if sources.truth is None else read_truth(sources.truth, names)
    runs = runs_of(tables, sources.prediction) if truth is None else tuple(sorted(truth))
    submissions = []
    for label, path, every in zip(labels, sources.submissions, tables, strict=True):
        refuse_doubled(every, path)
        notes: list[str] = []
        if sources.truth is not None:
            check_shared_runs(every, path, runs, sources.truth)
            notes = differing_runs(every, runs, sources.truth, f" of {path}" if label else "")
        picks = every.loc[every["experiment"].isin(runs)].reset_index(drop=True)
        check_names(picks, names, path)
        pipeline = sources.pipeline if sources.run else pipeline_beside(path)
        if pipeline is not None and metric_of(pipeline.particles) != metric_of(particles):
            raise DataError(
                f"{path} was predicted with other particles, radii or weights than {sources.submissions[0]}; report "
                "each by itself, or say by whose they are judged with --trained"
            )
        scored = find_scored(path, picks)
        score = None if truth is None else score_picks(truth, picks, particles)
        if scored is not None:
            scored = scored.loc[scored["experiment"].isin(runs)]
        submissions.append(Submission(label, path, picks, scored, pipeline, score, tuple(notes)))
    volumes: dict[str, TomogramInfo] = {}
    for name in runs:
        if (run := sources.run_of(name)) is not None:
            with suppress(DataError):  # one damaged tomogram among many costs its density and slabs, not the report
                volumes[name] = run.describe(sources.tomo_type)
    return Material(tuple(submissions), particles, truth, runs, volumes, sources.simulated)


def _headline(material: Material, compared: Sequence[dict[str, Difference]], sources: ReportSources) -> Markup:
    kind = "simulated test runs" if material.simulated else "scored runs"
    values = []
    for own in material.submissions:
        if own.score is not None:
            values.append((number(own.score.score, 4), f"{own.label} official F4 score, {kind}".strip()))
    for own, differences in zip(material.submissions[1:], compared, strict=False):
        item = differences["score"]
        values.append((f"{item.difference:+.4f}", f"{own.label} less {material.submissions[0].label}: {item.verdict}"))
    validation = sources.validation
    if validation:
        values.append((number(validation["score"], 4), "out of fold, thresholds chosen on the same runs"))
        if validation["score_left_out"] is not None:
            values.append((number(validation["score_left_out"], 4), "out of fold, thresholds of the other folds"))
    n_truth = sum(len(points) for own in (material.truth or {}).values() for points in own.values())
    for own in material.submissions:
        n_picks = len(own.picks)
        shown = (f"{n_picks} / {n_truth}", "picks / true particles") if material.truth else (str(n_picks), "picks")
        values.append((shown[0], f"{own.label} {shown[1]}".strip()))
    values.append((str(len(material.runs)), "run" if len(material.runs) == 1 else "runs"))
    notes = [note for own in material.submissions for note in own.notes]
    if material.simulated:
        notes.append("Simulated tomograms: these figures say nothing about the leaderboard.")
    if material.truth is None:
        notes.append("No truth was given: what is shown is what the picks are, not whether they are right.")
    return Markup(tiles(values).html + (paragraph(" ".join(notes), soft=True).html if notes else ""))


def _provenance(sources: ReportSources, simulated: bool) -> Markup:
    files = [*(("submission", path) for path in sources.submissions), ("model", sources.model)]
    rows: list[tuple[str, Any]] = [
        ("data", f"{sources.data.resolve()}{' (simulated)' if simulated else ''}"),
        ("truth", "none" if sources.truth is None else sources.truth.resolve()),
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
