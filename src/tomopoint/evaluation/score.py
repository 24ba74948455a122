"""The official metric of CZII - CryoET Object Identification: a weighted F-beta (beta 4) per particle kind.

Same results as the competition's metric notebook in every case, odd ones included: matching is not one to one (a
centre counts once however many picks reach it, and a pick between two close centres finds both, which makes FP
negative), counts are summed over runs before F-beta is formed, a kind absent from the whole truth is ignored, and
the sum of all weights (7) divides the result whatever kinds the truth holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tomopoint.data.tables import COORDINATES
from tomopoint.errors import DataError
from tomopoint.evaluation.matching import match_points
from tomopoint.pipeline import COMPETITION_PARTICLES, Particle

TruthMapping = Mapping[str, Mapping[str, npt.NDArray[np.float64]]]
"""Run name -> particle name -> ``(N, 3)`` x, y, z in Angstrom."""

DISTANCE_MULTIPLIER = 0.5
"""A centre counts as found within this share of the particle's radius."""

BETA = 4.0
"""Recall weighs beta times as much as precision."""


@dataclass(frozen=True)
class Counts:
    """What was found of one particle kind in one run.

    Attributes
    ----------
    tp
        Number of true centres that some pick reaches.
    fp
        Number of picks less `tp`; negative where one pick reaches two centres.
    fn
        Number of true centres that no pick reaches.
    distance_sum_A
        Sum over the found centres of the distance to their nearest pick, Angstrom.
    """

    run: str
    particle: str
    tp: int
    fp: int
    fn: int
    distance_sum_A: float


@dataclass(frozen=True)
class ClassScore:
    """Figures of one particle kind over all runs.

    Attributes
    ----------
    f_beta, precision, recall
        In [0, 1] (precision can pass 1 where `fp` is negative); 0 where undefined.
    tp, fp, fn
        Summed over the runs, see :class:`Counts`.
    weight
        Weight of the kind in the score.
    localisation_A
        Mean distance of the found centres to their nearest pick, Angstrom; None where none was found.
    """

    f_beta: float
    precision: float
    recall: float
    tp: int
    fp: int
    fn: int
    weight: float
    localisation_A: float | None

    @property
    def n_truth(self) -> int:
        """Number of true centres."""
        return self.tp + self.fn

    @property
    def n_picks(self) -> int:
        """Number of picks."""
        return self.tp + self.fp


@dataclass(frozen=True)
class Score:
    """Outcome of the official metric.

    Attributes
    ----------
    score
        The weighted mean of the F-betas; 1 is perfect.
    per_class
        Every particle kind that was asked for, in order; kinds absent from the truth have all counts 0.
    counts
        The counts behind it, per run and kind present in the truth.
    """

    score: float
    per_class: dict[str, ClassScore]
    counts: tuple[Counts, ...]
    particles: tuple[Particle, ...]
    beta: float = BETA

    @property
    def runs(self) -> tuple[str, ...]:
        """Names of the scored runs, sorted."""
        return tuple(sorted({count.run for count in self.counts}))

    def of_runs(self, runs: Iterable[str]) -> Score:
        """Return the score as if these runs were the whole truth."""
        wanted = set(runs)
        return _assemble([c for c in self.counts if c.run in wanted], self.particles, self.beta)


def score_picks(
    truth: pd.DataFrame | TruthMapping,
    submission: pd.DataFrame,
    particles: Sequence[Particle] = COMPETITION_PARTICLES,
    distance_multiplier: float = DISTANCE_MULTIPLIER,
    beta: float = BETA,
) -> Score:
    """Compute the official score.

    Parameters
    ----------
    truth
        Table with ``experiment, particle_type, x, y, z`` (Angstrom), or a mapping of runs to particles to points.
    submission
        Table with the same columns; others are ignored. Rows of runs that the truth does not hold are dropped.
    particles
        Radii and weights.
    distance_multiplier
        Share of the radius within which a centre counts as found.
    beta
        Weight of recall against precision.

    Raises
    ------
    DataError
        No truth, an unknown particle in the truth or in a scored row, a true point given twice, or a coordinate
        that is NaN or infinite.
    """
    solution = truth if isinstance(truth, pd.DataFrame) else truth_table(truth)
    scored = submission.loc[submission["experiment"].isin(set(solution["experiment"]))]
    _check(solution, scored, [particle.name for particle in particles])
    true_points, candidates = _points(solution), _points(scored)
    nothing = np.zeros((0, 3))
    counts: list[Counts] = []
    present = set(solution["particle_type"])
    for run in sorted(set(solution["experiment"])):
        for particle in particles:
            if particle.name not in present:
                continue
            key = (run, particle.name)
            reach_A = particle.radius_A * distance_multiplier
            match = match_points(true_points.get(key, nothing), candidates.get(key, nothing), reach_A)
            tp = int(match.found.sum())
            distance_sum_A = float(match.nearest()[2].sum())
            counts.append(Counts(*key, tp, match.n_picks - tp, match.n_truth - tp, distance_sum_A))
    return _assemble(counts, tuple(particles), beta)


def score_figures(score: Score) -> dict[str, Any]:
    """Return a score as plain JSON types."""
    return {
        "score": score.score,
        "per_class": {name: asdict(item) for name, item in score.per_class.items()},
        "per_run": {run: score.of_runs([run]).score for run in score.runs},
    }


def score_text(score: Score, simulated: bool = False) -> str:
    """Return a score as a table for people; `simulated` says that the tomograms were."""
    head = f"{'particle':22}{'weight':>7}{f'F{score.beta:g}':>9}{'precision':>11}{'recall':>9}"
    head += f"{'TP':>7}{'FP':>7}{'FN':>7}{'error A':>9}"
    lines = [head]
    for name, item in score.per_class.items():
        error = "-" if item.localisation_A is None else f"{item.localisation_A:.1f}"
        lines.append(
            f"{name:22}{item.weight:7g}{item.f_beta:9.4f}{item.precision:11.4f}{item.recall:9.4f}"
            f"{item.tp:7d}{item.fp:7d}{item.fn:7d}{error:>9}"
        )
    runs = ", ".join(f"{run} {score.of_runs([run]).score:.4f}" for run in score.runs)
    return "\n".join([*lines, f"per run: {runs}", f"{'simulated ' if simulated else ''}score: {score.score:.4f}"])


def truth_table(truth: TruthMapping) -> pd.DataFrame:
    """Return the points of a mapping (run -> particle -> ``(N, 3)`` x, y, z in Angstrom) as one table."""
    parts = [
        pd.DataFrame(np.asarray(points, dtype=np.float64).reshape(-1, 3), columns=list(COORDINATES)).assign(
            experiment=run, particle_type=particle
        )
        for run, particles in truth.items()
        for particle, points in particles.items()
        if len(points)
    ]
    columns = ["experiment", "particle_type", *COORDINATES]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def f_beta_of(tp: npt.ArrayLike, fp: npt.ArrayLike, fn: npt.ArrayLike, beta: float = BETA) -> npt.NDArray[np.float64]:
    """Return F-beta of counts, elementwise: (1 + b^2) P R / (b^2 P + R), and 0 where it is undefined."""
    true_positives = np.asarray(tp, dtype=np.float64)
    precision = _ratio(true_positives, true_positives + np.asarray(fp))
    recall = _ratio(true_positives, true_positives + np.asarray(fn))
    return _ratio((1 + beta**2) * precision * recall, beta**2 * precision + recall)


def _ratio(upper: npt.NDArray[np.float64], lower: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.divide(upper, lower, out=np.zeros(np.broadcast(upper, lower).shape), where=lower > 0)


def _assemble(counts: Sequence[Counts], particles: tuple[Particle, ...], beta: float) -> Score:
    """Sum counts over runs, then form F-beta per kind and the weighted mean over all weights."""
    per_class: dict[str, ClassScore] = {}
    for particle in particles:
        own = [count for count in counts if count.particle == particle.name]
        tp, fp, fn = (sum(getattr(count, name) for count in own) for name in ("tp", "fp", "fn"))
        per_class[particle.name] = ClassScore(
            f_beta=float(f_beta_of(tp, fp, fn, beta)),
            precision=tp / (tp + fp) if tp + fp > 0 else 0.0,
            recall=tp / (tp + fn) if tp + fn > 0 else 0.0,
            tp=tp,
            fp=fp,
            fn=fn,
            weight=particle.weight,
            localisation_A=sum(count.distance_sum_A for count in own) / tp if tp else None,
        )
    all_weights = sum(particle.weight for particle in particles)
    total = sum(item.weight * item.f_beta for item in per_class.values())
    return Score(total / all_weights if all_weights else 0.0, per_class, tuple(counts), particles, beta)


def _points(table: pd.DataFrame) -> dict[tuple[str, str], npt.NDArray[np.float64]]:
    """Return the points of each (run, particle) of a table."""
    keys = zip(table["experiment"], table["particle_type"], strict=True)
    rows: dict[tuple[str, str], list[int]] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    points = table.loc[:, list(COORDINATES)].to_numpy(dtype=np.float64)
    return {key: points[own] for key, own in rows.items()}


def _check(solution: pd.DataFrame, scored: pd.DataFrame, names: Sequence[str]) -> None:
    if solution.empty:
        raise DataError("the truth holds no points, so there is nothing to score against")
    for what, table in (("truth", solution), ("submission", scored)):
        unknown = sorted(set(map(str, table["particle_type"])) - set(names))
        if unknown:
            raise DataError(
                f"the {what} holds unrecognised particle types: {', '.join(unknown)}; known are {', '.join(names)}"
            )
        finite = np.isfinite(table.loc[:, list(COORDINATES)].to_numpy(dtype=np.float64)).all(axis=1)
        if not finite.all():
            row = table.loc[~finite].iloc[0]
            raise DataError(
                f"the {what} holds a NaN or infinite coordinate ({row['particle_type']} in {row['experiment']}); "
                "remove the row"
            )
    twice = solution.duplicated(subset=["experiment", *COORDINATES])
    if twice.any():
        row = solution.loc[twice].iloc[0]
        place = ", ".join(f"{row[name]:.3f}" for name in COORDINATES)
        raise DataError(f"the truth holds the point ({place}) of {row['experiment']} twice; remove one of them")
