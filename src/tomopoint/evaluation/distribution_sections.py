"""The report's sections that need no truth: how many picks, how dense, how sure, how deep, how close to each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from tomopoint.data.colours import BLUE, SKY, VERMILION
from tomopoint.data.selection import SCORE_STEP
from tomopoint.data.tables import COORDINATES
from tomopoint.evaluation.distribution import Neighbours, count_picks, neighbours_of, volume_um3
from tomopoint.evaluation.figures import INK, RIGHT, SERIES_COLOURS, WRONG, Histogram, Series, draw_histograms
from tomopoint.evaluation.matching import match_points
from tomopoint.evaluation.page import Markup, key, number, panels, paragraph, section, subheading, table
from tomopoint.evaluation.score import DISTANCE_MULTIPLIER, truth_table
from tomopoint.evaluation.score_sections import LISTED_RUNS
from tomopoint.evaluation.submissions import Material, Submission
from tomopoint.pipeline import Particle

SHARE_SHOWN = 0.95
"""Distances up to this quantile have an axis of their own; the few beyond are in its last bin."""

CLOSE = 0.05
"""The quantile of distances that is given as a figure beside the median."""

Floats = npt.NDArray[np.float64]


def distribution_sections(material: Material) -> list[Markup]:
    """Return the sections; those are left out for which there is nothing to show."""
    if not any(len(submission.picks) for submission in material.submissions):
        return [section("Picks", paragraph("There is no pick in these runs."))]
    return [*_counts(material), *_densities(material), *_scores(material), *_depths(material), *_neighbours(material)]


def _counts(material: Material) -> list[Markup]:
    """Return picks per particle and run; with truth, the scores per run say as much."""
    if material.truth is not None:
        return []
    parts: list[Markup] = []
    for submission in material.submissions:
        counts = count_picks(submission.picks, material.runs, material.names)
        shown = _listed(counts)
        rows = [(run, int(row.sum()), *map(int, row)) for run, row in shown.iterrows()]
        rows.append(("all", int(counts.to_numpy().sum()), *map(int, counts.sum())))
        parts += [*_heading(submission), table(("run", "picks", *material.names), rows, total=True)]
    return [section("Picks per particle and run", *parts, *_listing_note(material))]


def _densities(material: Material) -> list[Markup]:
    """Return picks per volume, of the runs whose tomograms are there."""
    runs = [run for run in material.runs if run in material.volumes]
    if not runs:
        return []
    volumes = {run: volume_um3(material.volumes[run]) for run in runs}
    whole = sum(volumes.values())
    parts: list[Markup] = []
    for submission in material.submissions:
        counts = count_picks(submission.picks, runs, material.names)
        shown = _listed(counts)
        rows = [
            (run, number(volumes[run], 4), *(number(value / volumes[run], 0) for value in row))
            for run, row in zip(map(str, shown.index), shown.to_numpy(), strict=True)
        ]
        every = [number(value / whole, 0) for value in counts.sum()]
        rows.append(("all", number(whole, 4), *every))
        head = ("run", "volume, cubic um", *material.names)
        parts += [*_heading(submission), table(head, rows, total=True)]
    note = "Picks per cubic micrometre of the whole tomogram, ice and what lies above and below it alike."
    return [section("Density", *parts, paragraph(note, soft=True), *_listing_note(material))]


def _scores(material: Material) -> list[Markup]:
    """Return histograms of scores: of one submission all picks it was chosen from, of several those submitted."""
    if len(material.submissions) > 1:
        return _scores_of_several(material)
    scored, thresholds = material.submissions[0].scored, material.submissions[0].thresholds
    if scored is None or not len(scored):
        return []
    labels = (
        [("submitted", BLUE), ("left out", SKY)] if material.truth is None else [("right", RIGHT), ("wrong", WRONG)]
    )
    histograms = []
    for particle in material.particles:
        own = scored.loc[scored["particle_type"] == particle.name]
        if not len(own):
            continue
        taken = own["submitted"].to_numpy(dtype=bool)
        upper = taken if material.truth is None else _hits(own, material, particle)
        scores = own["score"].to_numpy(dtype=np.float64)
        series = [Series(scores[upper], labels[0][1]), Series(scores[~upper], labels[1][1])]
        threshold = threshold_between(scores[taken], scores[~taken], thresholds.get(particle.name))
        lines = [] if threshold is None else [(threshold, INK)]
        histograms.append(_score_histogram(particle.name, series, lines))
    note = (
        "All picks above the floor of the prediction. The line is the threshold: that of the pipeline.json beside the "
        "submission, or the lowest submitted score where another one was taken. The scale is linear up to ten picks, "
        "logarithmic above."
    )
    title = "Scores of the picks"
    return [section(title, paragraph(note, soft=True), key(labels), panels(draw_histograms(histograms)))]


def _scores_of_several(material: Material) -> list[Markup]:
    labels: list[tuple[str, str]] = []
    submitted: list[tuple[pd.DataFrame, str]] = []
    for submission, colour in zip(material.submissions, SERIES_COLOURS, strict=False):
        if submission.scored is not None and submission.scored["submitted"].any():
            labels.append((submission.title, colour))
            submitted.append((submission.scored.loc[submission.scored["submitted"]], colour))
    histograms = []
    for name in material.names:
        series = [
            Series(scored.loc[scored["particle_type"] == name, "score"].to_numpy(), colour, outline=True)
            for scored, colour in submitted
        ]
        if any(len(np.atleast_1d(one.values)) for one in series):
            histograms.append(_score_histogram(name, series, []))
    if not histograms:
        return []
    note = "Picks that were submitted. The scale is linear up to ten picks, logarithmic above."
    title = "Scores of the picks"
    return [section(title, paragraph(note, soft=True), key(labels), panels(draw_histograms(histograms)))]


def _score_histogram(name: str, series: Sequence[Series], lines: Sequence[tuple[float, str]]) -> Histogram:
    return Histogram(name, series, (0.0, 1.0), "score", lines=lines, from_ten_logarithmic=True)


def threshold_between(taken: Floats, left: Floats, stated: float | None) -> float | None:
    """Return the threshold that parted the picks of a particle, as far as that can be told.

    Parameters
    ----------
    taken, left
        Scores of the picks that were submitted, ``(N,)``, and of those that were left out, ``(M,)``.
    stated
        Of the Pipeline; another may have been taken since.

    Returns
    -------
    float or None
        `stated` where no submitted pick is below it and no gap between both lies above it (one class per place
        leaves out single picks above it); else the lowest submitted score; None where there is neither.
    """
    if not len(taken):
        return stated
    lowest = float(taken.min())
    if stated is None:
        return lowest if len(left) else None
    lowered = lowest < stated - SCORE_STEP
    raised = len(left) > 0 and stated + SCORE_STEP < float(left.max()) < lowest
    return lowest if lowered or raised else stated


def _depths(material: Material) -> list[Markup]:
    """Return how picks, and true centres where they are known, lie along z."""
    tops = [info.shape_zyx[0] * info.voxel_A for run, info in material.volumes.items() if run in material.runs]
    top_A = max(
        [*tops, 1.0] if tops else [1.0, *(own.picks["z"].max() for own in material.submissions if len(own.picks))]
    )
    histograms = []
    for name in material.present:
        series = _one_or_many(
            [own.picks.loc[own.picks["particle_type"] == name, "z"].to_numpy() for own in material.submissions]
        )
        if material.truth is not None:
            true = [points[name][:, 2] for points in material.truth.values() if name in points]
            series.append(Series(np.concatenate(true or [np.zeros(0)]), INK, outline=True, dashed=True))
        histograms.append(Histogram(name, series, (0.0, top_A), "z (A)"))
    note = "From the tomogram's first slice to its last, all runs together. A class on one face is worth a look."
    legend = key([*_series_key(material), *_truth_key(material)])
    return [section("Depth", paragraph(note, soft=True), legend, panels(draw_histograms(histograms)))]


def _neighbours(material: Material) -> list[Markup]:
    """Return distances to the nearest pick of the same particle, and of another."""
    measured = [neighbours_of(submission.picks, material.particles) for submission in material.submissions]
    true = None if material.truth is None else neighbours_of(truth_table(material.truth), material.particles)
    if not any(
        np.isfinite(own.same_A).any() or np.isfinite(own.other_A).any() for one in measured for own in one.values()
    ):
        return []
    parts: list[Markup] = []
    for submission, one in zip(material.submissions, measured, strict=True):
        rows = [(name, len(own.same_A), *_figures_of(own)) for name, own in one.items() if len(own.same_A)]
        head = ("particle", "picks", "same, median", f"same, {CLOSE:.0%}", "other, median", f"other, {CLOSE:.0%}")
        parts += [*_heading(submission), table((*head, "claimed twice"), rows)]
    lone = len(material.submissions) == 1
    histograms = []
    for particle in material.particles:
        shown = [one[particle.name] for one in measured]
        series = _one_or_many([_finite(own.same_A) for own in shown])
        if lone:
            series.append(Series(_finite(shown[0].other_A), VERMILION, outline=True))
        if true is not None:
            series.append(Series(_finite(true[particle.name].same_A), INK, outline=True, dashed=True))
        values = np.concatenate([np.asarray(one.values, dtype=np.float64) for one in series])
        if len(values):
            limits = (0.0, float(np.quantile(values, SHARE_SHOWN)) or 1.0)
            lines = [(particle.suppression_A, INK)] if particle.suppression_A < limits[1] else []
            histograms.append(Histogram(particle.name, series, limits, "distance (A)", lines=lines))
    note = (
        "Distances in Angstrom to the nearest pick of the same particle and of any other in the run. Of two picks of "
        "one particle nearer than the line, prediction keeps one. Claimed twice: another particle's pick is nearer "
        f"than the mean of both radii. The farthest {1 - SHARE_SHOWN:.0%} are in the last bin."
    )
    labels = [("nearest of the same particle", BLUE), ("nearest of another", VERMILION)] if lone else None
    legend = key([*(labels or _series_key(material)), *_truth_key(material)])
    return [
        section("Nearest neighbours", *parts, paragraph(note, soft=True), legend, panels(draw_histograms(histograms)))
    ]


def _figures_of(own: Neighbours) -> tuple[str, ...]:
    cells: list[str] = []
    for distances in (_finite(own.same_A), _finite(own.other_A)):
        known = len(distances) > 0
        cells += [number(float(np.quantile(distances, share)) if known else None, 0) for share in (0.5, CLOSE)]
    return (*cells, str(int(own.claimed.sum())))


def _hits(picks: pd.DataFrame, material: Material, particle: Particle) -> npt.NDArray[np.bool_]:
    """Return which picks of a particle reach a true centre, ``(N,)``."""
    hits = np.zeros(len(picks), dtype=bool)
    runs = picks["experiment"].to_numpy()
    for run, centres in (material.truth or {}).items():
        own = runs == run
        points = picks.loc[own, list(COORDINATES)].to_numpy(dtype=np.float64)
        hits[own] = match_points(centres[particle.name], points, particle.radius_A * DISTANCE_MULTIPLIER).hits
    return hits


def _one_or_many(values: Sequence[npt.ArrayLike]) -> list[Series]:
    """Return bars of one submission, outlines of several."""
    if len(values) == 1:
        return [Series(values[0], BLUE)]
    return [Series(one, colour, outline=True) for one, colour in zip(values, SERIES_COLOURS, strict=False)]


def _series_key(material: Material) -> list[tuple[str, str]]:
    if len(material.submissions) == 1:
        return [("picks", BLUE)]
    return [(one.title, colour) for one, colour in zip(material.submissions, SERIES_COLOURS, strict=False)]


def _truth_key(material: Material) -> list[tuple[str, str]]:
    return [] if material.truth is None else [("true centres, dashed", "var(--ink)")]


def _finite(values: Floats) -> Floats:
    return values[np.isfinite(values)]


def _heading(submission: Submission) -> list[Markup]:
    return [subheading(submission.title)] if submission.label else []


def _listed(counts: pd.DataFrame) -> pd.DataFrame:
    """Return all runs, or of many those with the fewest picks and the most; by name."""
    if len(counts) <= LISTED_RUNS:
        return counts
    by_total = counts.sum(axis=1).sort_values(kind="stable").index
    return counts.loc[sorted([*by_total[: LISTED_RUNS // 2], *by_total[-(LISTED_RUNS // 2) :]])]


def _listing_note(material: Material) -> list[Markup]:
    if len(material.runs) <= LISTED_RUNS:
        return []
    half = LISTED_RUNS // 2
    note = f"Of {len(material.runs)} runs, the {half} with the fewest picks and the {half} with the most are listed."
    return [paragraph(note, soft=True)]
