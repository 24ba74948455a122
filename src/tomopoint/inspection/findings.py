"""What is wrong, or worth a look, in tomograms and labels: what it is called, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

LISTED = 8
"""Findings of a kind that are listed on a terminal; the page and ``--json`` have all."""


@dataclass(frozen=True)
class Kind:
    """Findings of one kind.

    Attributes
    ----------
    key
        For programs.
    severity
        ``"error"``: training stops at it, or labels are broken. ``"warning"``: training goes through.
    title
        For people.
    advice
        What to do.
    """

    key: str
    severity: Literal["error", "warning"]
    title: str
    advice: str


UNREADABLE = Kind(
    "unreadable",
    "error",
    "Tomograms that cannot be read",
    "copy or download them again, or take the runs out: training stops at the first, prediction leaves them out",
)
LABELS = Kind(
    "labels",
    "error",
    "Labels that are missing or cannot be read",
    "training stops at these: add or mend the picks files, or take the runs out of train/",
)
OUTSIDE = Kind(
    "outside",
    "error",
    "Labels outside their tomogram",
    "training stops at these: remove single ones; of many, look at the unit (voxels for Angstrom?), the order of the "
    "axes and the origin they were imported with",
)
SHAPES = Kind(
    "shapes",
    "error",
    "Reconstructions of one run that differ in shape",
    "train on one of them (crops.tomo_types of the recipe), or reconstruct them alike",
)
VOXEL_SIZES = Kind(
    "voxel-sizes",
    "error",
    "Voxel sizes that differ among the training runs",
    "training stops at these: `tomopoint import` resamples tomograms to one size",
)
FOLDS = Kind(
    "folds", "error", "Folds that cannot be made", "add runs, or give the recipe `folds` that suit these (kfold-2, all)"
)
OTHER_VOXELS = Kind(
    "other-voxels",
    "warning",
    "Voxel sizes that differ",
    "prediction resamples them; where a size is wrong, state it with --voxel-size",
)
LIGHT = Kind(
    "light",
    "warning",
    "Light protein",
    "networks that are handed on were trained on dark protein: `tomopoint predict` and `tomopoint import` invert it",
)
STORED = Kind(
    "stored",
    "warning",
    "Tomograms that are stored oddly",
    "incomplete ones: copy or download them again; others: see that nothing was cut off when they were converted",
)
DOUBLED = Kind(
    "doubled",
    "warning",
    "Particles that are labelled twice",
    "remove one of each two (`tomopoint view` shows them), unless particles of this kind can be so close",
)
CONFLICTING = Kind(
    "conflicting",
    "warning",
    "Labels of different particles on one place",
    "remove the wrong one of each two (`tomopoint view` shows them)",
)
MISSING_CLASS = Kind(
    "missing-class",
    "warning",
    "Particles without a label",
    "label some, or take the particle out of the recipe's particles: networks cannot learn it",
)
OUTLIER = Kind(
    "outlier",
    "warning",
    "Runs unlike the others",
    "look at them beside another run: voxel statistics differ after another reconstruction, filter or binning, counts "
    "and distances where labels are unfinished or doubled, depths where they are shifted or flipped along z",
)
FOLD_CLASS = Kind(
    "fold-class",
    "warning",
    "Folds that lack a particle",
    "its threshold is not measured there, or the fold's networks never learn it: spread such runs over the folds",
)
UNEVEN_FOLDS = Kind(
    "uneven-folds", "warning", "Folds of uneven content", "set `folds` of the recipe as said, before training"
)


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes
    ----------
    kind
        What it is.
    text
        Names the run and the figures.
    run
        Name of the run; None: it concerns several.
    """

    kind: Kind
    text: str
    run: str | None = None


def by_kind(findings: Sequence[Finding]) -> dict[Kind, list[Finding]]:
    """Return the findings of every kind, errors first, else in the order in which they were found."""
    sorted_findings = sorted(findings, key=lambda finding: finding.kind.severity != "error")
    grouped: dict[Kind, list[Finding]] = {}
    for finding in sorted_findings:
        grouped.setdefault(finding.kind, []).append(finding)
    return grouped


def findings_text(findings: Sequence[Finding]) -> str:
    """Return all findings as lines, by kind, each kind with what to do."""
    lines = []
    for kind, own in by_kind(findings).items():
        lines.append(f"{kind.severity.upper()}  {kind.title} ({len(own)})")
        lines += [f"  {finding.text}" for finding in own[:LISTED]]
        if len(own) > LISTED:
            lines.append(f"  and {len(own) - LISTED} more, see --json or the page of --out")
        lines.append(f"  -> {kind.advice}")
    return "\n".join(lines)
