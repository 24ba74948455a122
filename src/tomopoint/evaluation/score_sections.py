"""The report's sections that need truth: scores per particle and run, and what one submission has more than another."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np

from tomopoint.evaluation.comparison import DRAWS, LEAST_RUNS, Difference, compare_scores
from tomopoint.evaluation.judging import AGREED, JUDGED, compare_picks, judge_picks
from tomopoint.evaluation.page import Markup, number, paragraph, section, subheading, table
from tomopoint.evaluation.score import Score
from tomopoint.evaluation.submissions import Material, Submission, Truth

LISTED_RUNS = 30
"""Runs with a row in a table of runs; beyond that those that stand out are listed."""


def score_sections(material: Material) -> list[Markup]:
    """Return scores per particle and per run of each submission; nothing without truth."""
    if material.truth is None:
        return []
    note = (
        "F4 counts recall far above precision. A centre is found if a pick of its kind lies within half the particle's "
        "radius. A duplicate reaches a centre to which another pick is nearer, a wrong pick reaches none; both cost "
        "precision. Error is the mean distance of found centres to their nearest pick."
    )
    classes: list[Markup] = []
    runs: list[Markup] = []
    for submission in material.submissions:
        if submission.score is None:
            continue
        heading = [subheading(submission.title)] if submission.label else []
        classes += [*heading, _classes(submission, submission.score, material.truth)]
        runs += [*heading, _runs(submission.score)]
    said = "Picks / true particles. A run's score is the official one as if it were alone."
    if len(material.runs) > LISTED_RUNS:
        said += f" Of {len(material.runs)} runs, the {LISTED_RUNS} with the lowest score are listed."
    return [
        section("Score per particle", *classes, paragraph(note, soft=True)),
        section("Score per run", *runs, paragraph(said, soft=True)),
    ]


def _classes(submission: Submission, score: Score, truth: Truth) -> Markup:
    names = [particle.name for particle in score.particles]
    counts = {name: dict.fromkeys(JUDGED, 0) for name in names}
    for run, centres in truth.items():
        judged = judge_picks(centres, submission.of_run(run), score.particles)
        for kind, part in judged.items():
            for name, points in part.items():
                counts[name][kind] += len(points)
    rows = [
        (
            *(name, f"{c.weight:g}", number(c.f_beta), number(c.recall), number(c.precision), c.n_truth, c.n_picks),
            *(c.tp, c.fn, counts[name]["wrong"], counts[name]["duplicate"], number(c.localisation_A, 1)),
        )
        for name, c in score.per_class.items()
    ]
    head = ("particle", "weight", "F4", "recall", "precision", "true", "picks")
    return table((*head, "found", "missed", "wrong", "duplicate", "error A"), rows)


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
    return table(("run", "score", *names), rows, total=True)


def compare_all(material: Material) -> list[dict[str, Difference]]:
    """Compare each further submission with the first; nothing without truth."""
    first, *others = material.submissions
    return [
        compare_scores(first.score, other.score)
        for other in others
        if first.score is not None and other.score is not None
    ]


def comparison_sections(material: Material, compared: Sequence[dict[str, Difference]]) -> list[Markup]:
    """Return one section for each submission after the first: what it has more than the first, and where they agree.

    Parameters
    ----------
    material
        The submissions.
    compared
        Of each after the first, see :func:`compare_all`; empty without truth.
    """
    first, *others = material.submissions
    sections = []
    for other, differences in zip_longest(others, compared):
        parts = [] if differences is None else _differences(first, other, differences, material)
        title = f"{other.label} against {first.label}"
        sections.append(section(title, *parts, *_agreement(first, other, material)))
    return sections


def _differences(
    first: Submission, other: Submission, differences: dict[str, Difference], material: Material
) -> list[Markup]:
    rows = []
    for name, item in differences.items():
        label = ("simulated score" if material.simulated else "score") if name == "score" else name
        interval = "-" if np.isnan(item.low) else f"{item.low:+.3f} to {item.high:+.3f}"
        shown = (number(item.first), number(item.second), f"{item.difference:+.3f}", interval, item.verdict)
        rows.append((label, *shown))
    head = ("particle", f"F4 {first.label}", f"F4 {other.label}", f"{other.label} - {first.label}")
    n_runs = len(material.runs)
    note = (
        f"{DRAWS} times the {n_runs} runs are drawn with replacement, the same for both (a paired bootstrap). A "
        "difference is beyond chance where the interval, which holds 95 % of the draws, leaves out 0; of many "
        "particles one in twenty does so by chance all the same."
    )
    if n_runs < LEAST_RUNS:
        note = (
            f"Whether a difference is beyond chance takes {LEAST_RUNS} runs or more: with {n_runs} the interval, which "
            "holds 95 % of the draws of a paired bootstrap over runs, may be narrow by luck."
        )
    columns = (*head, "95 % of draws", f"{other.label} is")
    return [table(columns, rows, total=True), paragraph(note, soft=True)]


def _agreement(first: Submission, other: Submission, material: Material) -> list[Markup]:
    """Return how many picks both have, and each alone, whatever the truth."""
    counts = {name: dict.fromkeys(AGREED, 0) for name in material.present}
    for run in material.runs:
        compared = compare_picks(None, first.of_run(run), other.of_run(run), material.particles)
        for kind in AGREED:
            for name in counts:
                counts[name][kind] += len(compared[kind][name])
    every = {kind: sum(own[kind] for own in counts.values()) for kind in AGREED}
    rows = []
    for name, own in [*counts.items(), ("all", every)]:
        share = own["both"] / max(1, sum(own.values()))
        rows.append((name, own["both"], own["first"], own["second"], f"{100 * share:.0f} %"))
    note = (
        "Picks of one kind within half the particle's radius of each other are the same. The share is of all places "
        "that either has."
    )
    head = ("particle", "picked by both", f"{first.label} alone", f"{other.label} alone", "share of both")
    return [table(head, rows, total=True), paragraph(note, soft=True)] if counts else []
