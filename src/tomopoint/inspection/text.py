"""An inspection as plain text, and as figures for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from tomopoint.inspection.balance import unevenness
from tomopoint.inspection.findings import findings_text
from tomopoint.inspection.inspection import Inspection

LISTED_RUNS = 24
"""Runs of a table on a terminal; of more, the first are listed."""

LISTED_SUSPECTS = 10


def inspection_text(inspection: Inspection) -> str:
    """Return tables and findings for people."""
    blocks = [inspection.found]
    names = inspection.names
    if inspection.labelled:
        counts = inspection.counts
        rows = [(run, sum(own.values()), *(own[name] for name in names)) for run, own in counts.items()]
        sums = [sum(own[name] for own in counts.values()) for name in names]
        total = ("all", sum(sums), *sums)
        blocks.append(_table(("labels", "all", *names), rows, total))
    volumes = [
        (
            *(run.name, tomo_type, "x".join(map(str, look.shape_zyx)), f"{look.voxel_A:.3f}"),
            *(f"{look.mean:.2e}", f"{look.sd:.2e}", look.protein),
            *(f"{value:.2f}" for value in look.statistics.correlation_zyx),
        )
        for run in inspection.runs
        for tomo_type, look in run.volumes.items()
    ]
    if volumes:
        head = ("tomogram", "type", "z x y x x", "voxel, A", "mean", "sd", "protein", "corr. z", "y", "x")
        blocks.append(_table(head, volumes))
    if inspection.folds:
        folds = [
            (one.fold.name, len(one.fold.validation_runs), *(one.held_out[name] for name in names))
            for one in inspection.folds
        ]
        uneven = unevenness(inspection.folds)
        last = ("uneven", "", *(f"{uneven[name]:.0%}" if name in uneven else "-" for name in names))
        blocks.append(_table((f"held out ({inspection.recipe})", "runs", *names), folds, last))
    if inspection.notes:
        blocks.append("\n".join(f"note: {note}" for note in inspection.notes))
    if inspection.findings:
        blocks.append(findings_text(inspection.findings))
    return "\n\n".join(blocks)


def suspects_text(suspects: pd.DataFrame) -> str:
    """Return the first suspects for people."""
    if not len(suspects):
        return "No label is contradicted by networks that are sure enough (--sure)."
    kinds = ", ".join(f"{count} {kind}" for kind, count in suspects["kind"].value_counts().items())
    rows = [
        (
            *(one["run"], one["particle"], *(f"{one[axis]:.0f}" for axis in "xyz"), one["kind"]),
            *(f"{one['score']:.3f}", f"{one['doubt']:.2f}", one["seen"]),
        )
        for one in suspects.head(LISTED_SUSPECTS).to_dict("records")
    ]
    table = _table(("run", "particle", "x", "y", "z", "kind", "score", "doubt", "seen"), rows)
    return f"{len(suspects)} probable label errors: {kinds}. The most doubtful:\n{table}"


def inspection_figures(inspection: Inspection) -> dict[str, Any]:
    """Return the same for programs."""
    errors = sum(finding.kind.severity == "error" for finding in inspection.findings)
    return {
        "data": str(inspection.data),
        "found": inspection.found,
        "simulated": inspection.is_simulated,
        "recipe": inspection.recipe,
        "n_errors": errors,
        "n_warnings": len(inspection.findings) - errors,
        "findings": [
            {
                "kind": finding.kind.key,
                "severity": finding.kind.severity,
                "run": finding.run,
                "text": finding.text,
                "advice": finding.kind.advice,
            }
            for finding in inspection.findings
        ],
        "outliers": [
            {**vars(outlier), "deviation": round(outlier.deviation, 2), "limit": round(outlier.limit, 2)}
            for outlier in inspection.outliers
        ],
        "notes": list(inspection.notes),
        "counts": {run: dict(own) for run, own in inspection.counts.items()},
        "tomograms": {
            run.name: {
                tomo_type: {
                    "shape_zyx": list(look.shape_zyx),
                    "voxel_A": look.voxel_A,
                    "mean": look.mean,
                    "sd": look.sd,
                    "quantiles": list(look.quantiles),
                    "protein": look.protein,
                    "skewness": look.statistics.skewness,
                    "tails": look.statistics.tails,
                    "correlation_zyx": list(look.statistics.correlation_zyx),
                }
                for tomo_type, look in run.volumes.items()
            }
            for run in inspection.runs
        },
        "folds": {
            one.fold.name: {"validation_runs": list(one.fold.validation_runs), "held_out": dict(one.held_out)}
            for one in inspection.folds
        },
    }


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]], last: Sequence[Any] = ()) -> str:
    """Return columns of equal width, the first to the left, others to the right; long tables are cut."""
    shown = [*rows[:LISTED_RUNS], *([last] if last else [])]
    cells = [list(map(str, row)) for row in (head, *shown)]
    widths = np.array([[len(cell) for cell in row] for row in cells]).max(axis=0).tolist()
    lines = [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    if len(rows) > LISTED_RUNS:
        lines.append(f"({len(rows) - LISTED_RUNS} more, see --json or the page of --out)")
    return "\n".join(lines)
