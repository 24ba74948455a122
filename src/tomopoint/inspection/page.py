"""An inspection as one HTML page, in the report's own style."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pandas as pd

from tomopoint import __version__
from tomopoint.data.colours import BLUE, VERMILION
from tomopoint.evaluation.distribution import neighbours_of
from tomopoint.evaluation.figures import INK, Histogram, Series, draw_histograms
from tomopoint.evaluation.page import Markup, key, number, page, panels, paragraph, section, subheading, table, tiles
from tomopoint.inspection.balance import unevenness
from tomopoint.inspection.findings import by_kind
from tomopoint.inspection.inspection import Inspection
from tomopoint.inspection.outliers import limit_of
from tomopoint.inspection.suspects import MEANINGS

SHARE_SHOWN = 0.95
"""Distances up to this quantile have an axis of their own; the few beyond are in its last bin."""

LISTED_SUSPECTS = 200


def inspection_page(inspection: Inspection, suspects: Sequence[Markup] = ()) -> str:
    """Return the page; `suspects` are the sections of :func:`suspect_sections`."""
    errors = sum(finding.kind.severity == "error" for finding in inspection.findings)
    n_labels = sum(sum(own.values()) for own in inspection.counts.values())
    headline = tiles(
        [
            (str(errors), "errors: training stops"),
            (str(len(inspection.findings) - errors), "warnings"),
            (str(len(inspection.runs)), "runs"),
            (str(n_labels), f"labels in {len(inspection.labelled)} runs"),
        ]
    )
    parts = [headline, _findings(inspection), *suspects, *_labels(inspection), *_folds(inspection)]
    parts += [_tomograms(inspection), *_distributions(inspection)]
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    badge = "SIMULATED" if inspection.is_simulated else ""
    return page("tomopoint inspect", badge, f"{inspection.found}; made {now} by tomopoint {__version__}", parts)


def suspect_sections(suspects: pd.DataFrame, pictures: Markup | None) -> list[Markup]:
    """Return the section about labels that networks contradict."""
    title = "Probable label errors"
    if not len(suspects):
        return [section(title, paragraph("No label is contradicted by networks that are sure enough (--sure)."))]
    note = (
        "Labels and out-of-fold picks that contradict each other, the most doubtful first. Doubt: the share of the "
        "labels of that particle that these networks do find, or of the picks that score as much and do have a label. "
    )
    meanings = "; ".join(f"{kind}: {meaning}" for kind, meaning in MEANINGS.items())
    rows = [
        (
            *(rank, one["run"], one["particle"], one["kind"], one["seen"]),
            *(number(one["score"]), number(one["doubt"], 2), *(number(one[axis], 0) for axis in "xyz")),
        )
        for rank, one in enumerate(suspects.head(LISTED_SUSPECTS).to_dict("records"), start=1)
    ]
    head = ("rank", "run", "particle", "kind", "seen", "score", "doubt", "x, A", "y, A", "z, A")
    parts = [paragraph(note, meanings, ".", soft=True), *([pictures] if pictures else [])]
    return [section(title, *parts, table(head, rows))]


def _findings(inspection: Inspection) -> Markup:
    if not inspection.findings:
        return section("Findings", paragraph("Nothing that needs a look."))
    parts: list[Markup] = []
    for kind, own in by_kind(inspection.findings).items():
        parts.append(subheading(f"{kind.severity.upper()}: {kind.title} ({len(own)})"))
        parts.append(paragraph(f"What to do: {kind.advice}."))
        parts.append(table(("what",), [(finding.text,) for finding in own], text=(0,)))
    return section("Findings", *parts, *(paragraph(note, soft=True) for note in inspection.notes))


def _labels(inspection: Inspection) -> list[Markup]:
    if not inspection.labelled:
        return []
    counts = inspection.counts
    rows = [(run, sum(own.values()), *(own[name] for name in inspection.names)) for run, own in counts.items()]
    sums = [sum(own[name] for own in counts.values()) for name in inspection.names]
    rows.append(("all", sum(sums), *sums))
    return [section("Labels per particle and run", table(("run", "labels", *inspection.names), rows, total=True))]


def _folds(inspection: Inspection) -> list[Markup]:
    if not inspection.folds:
        return []
    names, uneven = inspection.names, unevenness(inspection.folds)
    rows = [
        (one.fold.name, ", ".join(one.fold.validation_runs), *(one.held_out[name] for name in names))
        for one in inspection.folds
    ]
    rows.append(("uneven", "", *(f"{uneven[name]:.0%}" if name in uneven else "-" for name in names)))
    note = (
        f"Labels that each fold of the recipe {inspection.recipe} holds out. Uneven: how far the farthest fold is from "
        "the mean; at 100 % it holds out twice as many, or none."
    )
    shown = table(("fold", "runs", *names), rows, total=True, text=(1,))
    return [section("Folds", paragraph(note, soft=True), shown)]


def _tomograms(inspection: Inspection) -> Markup:
    rows = [
        (
            *(run.name, tomo_type, " x ".join(map(str, look.shape_zyx)), number(look.voxel_A)),
            *(f"{look.mean:.2e}", f"{look.sd:.2e}", look.protein, number(look.statistics.skewness, 2)),
            *(number(value, 2) for value in look.quantiles),
            *(number(value, 2) for value in look.statistics.correlation_zyx),
        )
        for run in inspection.runs
        for tomo_type, look in run.volumes.items()
    ]
    head = ("run", "type", "z, y, x", "voxel, A", "mean", "sd", "protein", "skewness", "0.1 %", "1 %", "99 %", "99.9 %")
    n_runs = len(inspection.runs)
    note = (
        "Quantiles are in standard deviations from the median, correlations those of neighbouring voxels. A run is "
        "named as an outlier where a figure lies more than 4 + 40 / runs"
        + (f" = {limit_of(n_runs):.1f}" if n_runs else "")
        + " robust standard deviations (1.4826 MAD) from the median of all runs, and by more than matters."
    )
    return section("Tomograms", paragraph(note, soft=True), table((*head, "corr. z", "y", "x"), rows))


def _distributions(inspection: Inspection) -> list[Markup]:
    """Return how deep labels lie, and how close to each other."""
    labels = inspection.label_table
    if not len(labels):
        return []
    tops = [look.shape_zyx[0] * look.voxel_A for run in inspection.labelled for look in run.volumes.values()]
    top_A = max([*tops, float(labels["z"].max()), 1.0])
    depths, distances = [], []
    for name, own in neighbours_of(labels, inspection.particles).items():
        z_A = labels.loc[labels["particle_type"] == name, "z"].to_numpy()
        if len(z_A):
            depths.append(Histogram(name, [Series(z_A, BLUE)], (0.0, top_A), "z (A)", "labels"))
        same_A, other_A = (values[np.isfinite(values)] for values in (own.same_A, own.other_A))
        both = np.concatenate([same_A, other_A])
        if len(both):
            limits = (0.0, float(np.quantile(both, SHARE_SHOWN)) or 1.0)
            series = [Series(same_A, BLUE), Series(other_A, VERMILION, outline=True)]
            radius_A = next(p.radius_A for p in inspection.particles if p.name == name)
            lines = [(radius_A, INK)] if radius_A < limits[1] else []
            distances.append(Histogram(name, series, limits, "distance (A)", "labels", lines))
    colours = key([("nearest of the same particle", BLUE), ("nearest of another", VERMILION)])
    note = "The line is the particle's radius; the farthest 5 % are in the last bin."
    return [
        section("Depth of the labels", panels(draw_histograms(depths))),
        section("Nearest labels", paragraph(note, soft=True), colours, panels(draw_histograms(distances))),
    ]
