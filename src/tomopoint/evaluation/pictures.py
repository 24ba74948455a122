"""Which runs the report shows slabs of, and what is marked on them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tomopoint.data.tomograms import Tomogram
from tomopoint.evaluation.judging import Marks, compare_picks, count_marks, judge_picks, points_of
from tomopoint.evaluation.page import Markup, number, paragraph, section
from tomopoint.evaluation.slices import cut_slabs
from tomopoint.evaluation.submissions import Material, Submission
from tomopoint.evaluation.viewer import JUDGED_KINDS, PALETTE, PICKED, Layer, RunView, kinds_of_two, viewer

SHOWN_RUNS = 4
"""Runs with pictures: those that differ most, or the worst, the best and some between; about half a megabyte each."""

TITLE = "Slabs with picks"
DIFFERENT = ("first", "second", "wrong_first", "wrong_second")


def pictures_section(material: Material, read: Callable[[str], Tomogram], place: str) -> list[Markup]:
    """Return the section with slabs.

    Parameters
    ----------
    material
        The submissions.
    read
        From a run's name to its tomogram; called for runs in `material.volumes` alone.
    place
        Where tomograms were looked for, to be said where there is none.
    """
    ranked = _ranked(material)
    there = [run for run in ranked if run in material.volumes]
    if not there:
        missing = f"{place} has no tomogram of {', '.join(ranked[:SHOWN_RUNS])} that can be read." if ranked else ""
        return [section(TITLE, paragraph(missing, soft=True))] if missing else []
    layers = _layers(material)
    views = [
        RunView(run, cut_slabs(read(run)), tuple(_marks(material, run)), _note(material, run))
        for run in (there if len(material.submissions) > 1 else _spread(there))[:SHOWN_RUNS]
    ]
    which = "all runs"
    if len(views) < len(material.runs):
        which = f"{len(views)} of {len(material.runs)} runs, {_chosen(material)}"
    judged = any(kind.colour for layer in layers for kind in layer.kinds)
    intro = (
        f"Shown: {which}. A particle is marked on each slab that it touches; the mark's shape says which particle it "
        f"is{', its colour what became of it' if judged else ''}. The slider goes through z, and so do the arrow keys "
        f"once the picture is clicked; the boxes switch marks on and off. Colours: {PALETTE}."
    )
    if set(there) != set(ranked):
        intro += f" {len(ranked) - len(there)} runs have no tomogram in {place} that can be read."
    return [viewer(TITLE, paragraph(intro, soft=True), layers, views, material.particles)]


def _ranked(material: Material) -> list[str]:
    """Return the runs, what is most worth a look first."""
    first, *others = material.submissions
    if others:
        differences = {run: _n_different(material, run) for run in material.runs}
        return sorted(material.runs, key=lambda run: -differences[run])
    if first.score is not None:
        scores = {run: first.score.of_runs([run]).score for run in material.runs}
        return sorted(material.runs, key=lambda run: scores[run])
    n_picks = first.picks["experiment"].value_counts().to_dict()
    return sorted(material.runs, key=lambda run: -n_picks.get(run, 0))


def _chosen(material: Material) -> str:
    """Say by what runs were chosen, see :func:`_ranked`."""
    if len(material.submissions) > 1:
        return "those in which the first two submissions differ most"
    what = "the most picks, the fewest" if material.truth is None else "the lowest score, the highest"
    return f"{what} and some between"


def _spread(ranked: list[str]) -> list[str]:
    """Return the first, the last and some between."""
    count = min(SHOWN_RUNS, len(ranked))
    return [ranked[round(place)] for place in np.linspace(0, len(ranked) - 1, count)]


def _n_different(material: Material, run: str) -> int:
    first, second = (submission.of_run(run) for submission in material.submissions[:2])
    counts = count_marks(compare_picks(_truth_of(material, run), first, second, material.particles))
    return sum(counts.get(kind, 0) for kind in DIFFERENT)


def _truth_of(material: Material, run: str) -> dict[str, np.ndarray] | None:
    return None if material.truth is None else dict(material.truth[run])


def _layers(material: Material) -> list[Layer]:
    """Return first how each submission differs from the first, then, with truth, each by itself."""
    first, *others = material.submissions
    judged = material.truth is not None
    layers = []
    for other in others:
        kinds = kinds_of_two(first.label, other.label, judged)
        telling = tuple(kind.key for kind in kinds if kind.key in DIFFERENT)
        layers.append(Layer(f"{other.label} against {first.label}", kinds, telling))
    if judged:
        everything = tuple(kind.key for kind in JUDGED_KINDS)
        layers += [Layer(one.label or "picks", JUDGED_KINDS, everything) for one in material.submissions]
    elif not others:
        layers.append(Layer("picks", PICKED, ("picked",)))
    return layers


def _marks(material: Material, run: str) -> list[Marks]:
    """Return the marks of a run for each layer."""
    first, *others = material.submissions
    truth = _truth_of(material, run)
    marks: list[Marks] = [
        compare_picks(truth, first.of_run(run), own.of_run(run), material.particles) for own in others
    ]
    if truth is not None:
        marks += [judge_picks(truth, own.of_run(run), material.particles) for own in material.submissions]
    elif not others:
        marks.append({"picked": {p.name: points_of(first.of_run(run), p) for p in material.particles}})
    return marks


def _note(material: Material, run: str) -> str:
    def said(submission: Submission) -> str:
        score = None if submission.score is None else submission.score.of_runs([run]).score
        return f"{submission.label} {number(score)}".strip()

    kind = "simulated score" if material.simulated else "score"
    return "" if material.truth is None else f"{kind} of this run: {', '.join(map(said, material.submissions))}"
