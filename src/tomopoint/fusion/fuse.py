"""From sources to one table with thresholds, and what it is worth where there is truth.

What a fusion is worth is told for runs that had no part in it: each group of runs is fused with maps (from score to
precision) fitted to the other groups, and scored at thresholds chosen on the other groups, whose picks went through
these same maps. A source alone is scored at thresholds chosen on the other groups as well, as `tomopoint tune` does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from tomopoint.errors import DataError
from tomopoint.evaluation.calibration import CalibrationOptions, score_left_out
from tomopoint.evaluation.comparison import Difference, compare_scores
from tomopoint.evaluation.score import Score, TruthMapping
from tomopoint.evaluation.thresholds import GRID_STEP, HIGHEST_THRESHOLD
from tomopoint.evaluation.tuning import Tuning, tune_thresholds
from tomopoint.fusion.clusters import VOTES, fuse_picks
from tomopoint.fusion.scales import PrecisionMap, Scale, as_they_are, calibrated, fit_maps, ranked
from tomopoint.fusion.sources import Source
from tomopoint.pipeline import Particle, Pipeline

FLOOR = GRID_STEP
"""Fused picks below it are left out: no threshold is as low."""

SCORE_DECIMALS = 5
"""Of a score in a table: a threshold taken from a score must not be rounded above it."""


@dataclass(frozen=True)
class FusionOptions:
    """How picks are fused.

    Attributes
    ----------
    weights
        Of each source.
    radius_scale
        As of :func:`~tomopoint.fusion.clusters.fuse_picks`.
    scale
        See :mod:`tomopoint.fusion.scales`.
    """

    weights: tuple[float, ...]
    radius_scale: float
    scale: Scale


@dataclass(frozen=True)
class Worth:
    """What some picks are worth on runs with truth.

    Attributes
    ----------
    tuning
        Thresholds chosen on all of these runs, and scores there, which flatter.
    left_out
        Score of runs that had no part in anything; None with a single run.
    """

    tuning: Tuning
    left_out: Score | None

    @property
    def shown(self) -> Score:
        """The honest score, where there is one."""
        return self.left_out or self.tuning.calibration.score


@dataclass(frozen=True)
class Judgement:
    """Each source alone, and all of them fused, on the runs with truth that all sources have.

    Attributes
    ----------
    runs
        Those.
    alone
        Of each source.
    fused
        Of the fusion.
    """

    runs: tuple[str, ...]
    alone: tuple[Worth, ...]
    fused: Worth

    @property
    def best(self) -> int:
        """Which source alone is the best."""
        scores = [worth.shown.score for worth in self.alone]
        return scores.index(max(scores))

    def gain(self) -> dict[str, Difference]:
        """Compare the fusion with the best source alone, see :func:`compare_scores`."""
        return compare_scores(self.alone[self.best].shown, self.fused.shown)


@dataclass(frozen=True)
class Fusion:
    """Outcome of a fusion.

    Attributes
    ----------
    picks
        ``experiment, particle_type, x, y, z, score, votes``.
    pipeline
        Of these picks: particles with thresholds that fit their scores.
    maps
        Of each source, particle -> map; empty unless calibrated.
    judgement
        None without truth.
    """

    picks: pd.DataFrame
    pipeline: Pipeline
    maps: tuple[dict[str, PrecisionMap], ...]
    judgement: Judgement | None


def fuse_sources(
    sources: Sequence[Source], pipeline: Pipeline, options: FusionOptions, truth: TruthMapping | None = None
) -> Fusion:
    """Fuse picks of several sources.

    Parameters
    ----------
    sources
        Two or more that share runs.
    pipeline
        Particles; their thresholds are replaced.
    options
        How.
    truth
        Run -> particle -> ``(N, 3)`` x, y, z in Angstrom, of some of the runs. By it scores are calibrated, where
        `options` say so, thresholds chosen, and all of it judged. Without it thresholds pass as many picks of a
        particle per run as the sources hand on, in their weighted mean.

    Raises
    ------
    DataError
        Scores that cannot be averaged as they are, or no run with truth that all sources have.
    """
    particles = pipeline.particles
    runs = _common_runs(sources, truth)
    maps = _fit(sources, particles, truth, set(truth)) if truth and options.scale == "calibrated" else ()
    picks = _fused(sources, particles, options, maps)
    counted = pipeline.with_thresholds(_counted_thresholds(sources, picks, particles, options.weights))
    floored = replace(counted, decoding=replace(pipeline.decoding, floor=FLOOR))
    if not truth:
        return Fusion(picks, floored, maps, None)

    known = {run: truth[run] for run in runs}
    how = CalibrationOptions(floor=FLOOR)

    def fused_without(left_out: Sequence[str]) -> pd.DataFrame:
        own = [replace(source, picks=source.picks[source.picks["experiment"].isin(runs)]) for source in sources]
        return _fused(own, particles, options, _fit(own, particles, known, set(runs) - set(left_out)))

    alone = []
    for source in sources:
        tuning = tune_thresholds(known, _tunable(source), floored.particles, how)
        alone.append(Worth(tuning, tuning.calibration.left_out))
    tuning = tune_thresholds(known, picks, floored.particles, how)
    left_out, groups = tuning.calibration.left_out, tuning.calibration.groups
    if maps and left_out is not None:
        left_out = score_left_out(known, fused_without, groups, floored.particles, replace(how, correct=False))
    judgement = Judgement(tuple(runs), tuple(alone), Worth(tuning, left_out))
    return Fusion(picks, floored.with_thresholds(tuning.calibration.thresholds), maps, judgement)


def record_of(fusion: Fusion, sources: Sequence[Source], options: FusionOptions, simulated: bool) -> dict[str, Any]:
    """Return where fused picks come from, as plain JSON types."""
    judgement = fusion.judgement
    return {
        "scale": options.scale,
        "radius_scale": options.radius_scale,
        "simulated": simulated,
        "sources": [
            {
                "source": source.place.name,
                "files": [str(path) for path in source.place.files.values()],
                "sha256": source.place.sha256(),
                "weight": weight,
                "n_runs": len(source.runs),
                "n_picks": len(source.picks),
                "maps": {
                    name: {"scores": own.scores, "precisions": own.precisions, "n": own.n_picks, "right": own.n_right}
                    for name, own in (fusion.maps[index] if fusion.maps else {}).items()
                },
                "score": None if judgement is None else _figures(judgement.alone[index]),
            }
            for index, (source, weight) in enumerate(zip(sources, options.weights, strict=True))
        ],
        "runs_with_truth": [] if judgement is None else list(judgement.runs),
        "score": None if judgement is None else _figures(judgement.fused),
        "n_picks": len(fusion.picks),
        "votes": {str(votes): int(count) for votes, count in fusion.picks[VOTES].value_counts().sort_index().items()},
        "thresholds": fusion.pipeline.thresholds,
    }


def _figures(worth: Worth) -> dict[str, Any]:
    """Return scores: of runs that had no part (None with a single run), and of those that had."""
    left_out = worth.left_out
    return {
        "left_out": left_out.score if left_out else None,
        "f_beta_left_out": {name: item.f_beta for name, item in left_out.per_class.items()} if left_out else None,
        "tuned": worth.tuning.calibration.score.score,
    }


def _common_runs(sources: Sequence[Source], truth: TruthMapping | None) -> list[str]:
    if not truth:
        return []
    runs = sorted(set(truth).intersection(*(source.runs for source in sources)))
    if not runs:
        raise DataError(
            f"no run of the truth ({', '.join(sorted(truth)[:6])}) has picks in every source, so that they cannot be "
            "compared; name the truth of runs that all sources have, or leave --truth out"
        )
    return runs


def _fit(
    sources: Sequence[Source], particles: Sequence[Particle], truth: TruthMapping, runs: set[str]
) -> tuple[dict[str, PrecisionMap], ...]:
    return tuple(fit_maps(source.picks, truth, particles, sorted(runs)) for source in sources)


def _fused(
    sources: Sequence[Source],
    particles: Sequence[Particle],
    options: FusionOptions,
    maps: Sequence[Mapping[str, PrecisionMap]],
) -> pd.DataFrame:
    """Fuse the sources on the scale of `options`."""
    tables = [source.picks for source in sources]
    if options.scale == "calibrated":
        tables = calibrated(tables, maps)
    elif options.scale == "rank":
        tables = ranked(tables)
    else:
        tables = [as_they_are(source.picks, source.place.name) for source in sources]
    fused = fuse_picks(tables, particles, options.weights, options.radius_scale)
    return fused.loc[fused["score"] >= FLOOR].reset_index(drop=True)


def _tunable(source: Source) -> pd.DataFrame:
    """Return a source's picks with scores that thresholds can part: its own, or, where they cannot, its ranks."""
    scores = source.picks["score"]
    fits = scores.min() >= 0 and scores.min() < HIGHEST_THRESHOLD - GRID_STEP and scores.max() <= 1
    return source.picks if fits else ranked([source.picks])[0]


def _counted_thresholds(
    sources: Sequence[Source], picks: pd.DataFrame, particles: Sequence[Particle], weights: Sequence[float]
) -> dict[str, float]:
    """Return thresholds that pass as many picks per run as the sources hand on, in their weighted mean.

    Sources of which that is not known have no say, unless it is known of none: then all picks pass.
    """
    chosen = {}
    handed = [(source, source.handed_on(), weight) for source, weight in zip(sources, weights, strict=True)]
    known = [(source, own, weight) for source, own, weight in handed if own is not None]
    n_runs, step = picks["experiment"].nunique(), 10**SCORE_DECIMALS
    for particle in particles:
        scores = picks.loc[picks["particle_type"] == particle.name, "score"].sort_values(ascending=False)
        if not len(scores):
            continue
        wanted, total = 0.0, 0.0
        for source, own, weight in known:
            if (source.picks["particle_type"] == particle.name).any():
                wanted += weight * int((own["particle_type"] == particle.name).sum()) / len(source.runs)
                total += weight
        n_wanted = round(n_runs * wanted / total) if total else len(scores)
        last = float(scores.iloc[min(n_wanted, len(scores)) - 1]) if n_wanted else HIGHEST_THRESHOLD
        chosen[particle.name] = min(max(math.floor(last * step) / step, FLOOR), HIGHEST_THRESHOLD)
    return chosen
