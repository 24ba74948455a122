"""Which picks of a table are handed on: those that pass their thresholds, none twice, one class per place where wanted.

One class per place
-------------------
Suppression knows one class at a time, so two classes may claim one place. The competition's metric scores each class
alone, and a second guess costs it little; whoever averages particles wants one answer. Scores of different classes do
not compare: a network is bolder in one class than in another, and thresholds, chosen where each class is best, show by
how much. The claim of a pick is therefore how far its score lies above the threshold of its class, in log-odds:

    claim = logit(score) - logit(threshold),    logit(p) = log(p / (1 - p))

which rises with the score, is 0 at the threshold and treats 0.9 against 0.99 as it does 0.1 against 0.01. The highest
claim of a run is taken first; picks of other classes nearer to it than the mean of both radii are dropped, and so on.
Two balls that touch are twice that apart; of elongated particles, whose radius is that of their longest axis, two
neighbours lie closer, but rarely so close.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from tomopoint.data.tables import COORDINATES, passing, read_pick_table
from tomopoint.errors import DataError
from tomopoint.pipeline import PIPELINE_NAME, Particle, Pipeline, has_competition_metric
from tomopoint.strict_json import Malformed, read, reading, shown

DOUBLED_A = 1.0
"""Two picks of one particle closer than this are one pick, there twice: no particle is that small."""

SCORE_STEP = 1e-5
"""Scores are written with five decimals; 0 and 1 are taken as this far from either end, where log-odds are finite."""

Floats = npt.NDArray[np.float64]


def parse_thresholds(text: str, option: str = "--thresholds") -> dict[str, float]:
    """Read ``name=number,name=number``, or the JSON file of that content which `tomopoint tune` writes.

    `option` names where the text was given, for messages.

    Raises
    ------
    DataError
        Neither, or a name twice.
    """
    example = "ribosome=0.3,thyroglobulin=0.2, or thresholds.json of `tomopoint tune`"
    if text.strip() and "=" not in text:
        with reading(text, DataError, "holds no thresholds", f"{option} takes {example}"):
            content = read(Path(text))
            if not isinstance(content, dict) or not all(type(value) in (int, float) for value in content.values()):
                raise Malformed(f"expected names with numbers, got {shown(content)}")
        return {name: float(value) for name, value in content.items()}
    try:
        pairs = [(name.strip(), float(value)) for name, value in (p.split("=") for p in text.split(",") if p.strip())]
    except ValueError as error:
        raise DataError(f"{option} takes {example}; got {text!r}") from error
    if len(dict(pairs)) < len(pairs):
        raise DataError(f"{option} {text!r} names a particle twice; leave one of them out")
    return dict(pairs)


def check_scored_picks(picks: pd.DataFrame, particle_names: Collection[str], source: object) -> None:
    """DataError where a table cannot be sorted out by scores: it has none, other particles, or picks twice."""
    if "score" not in picks.columns:
        raise DataError(f"{source} has no scores; give the picks.csv that `tomopoint predict` left")
    if unknown := set(picks["particle_type"]) - set(particle_names):
        names = ", ".join(sorted(map(str, unknown)))
        raise DataError(f"{source} names {names}; this pipeline knows {', '.join(particle_names)}")
    refuse_doubled(picks, source)


def refuse_doubled(picks: pd.DataFrame, source: object) -> None:
    """DataError where two picks of one particle in one run are one pick: nearer than :data:`DOUBLED_A`.

    Parameters
    ----------
    picks
        ``experiment, particle_type, x, y, z`` (Angstrom, finite).
    source
        Where they come from, for the message.
    """
    from scipy.spatial import cKDTree

    n_doubled, example = 0, ""
    for (run, name), group in picks.groupby(["experiment", "particle_type"], sort=True):
        points_xyz_A = group[list(COORDINATES)].to_numpy(dtype=np.float64)
        pairs = cKDTree(points_xyz_A).query_pairs(np.nextafter(DOUBLED_A, 0.0), output_type="ndarray")
        if len(pairs):
            x, y, z = points_xyz_A[pairs[:, 0].min()]
            example = example or f"{name} of {run} at x {x:.3f}, y {y:.3f}, z {z:.3f} A"
            n_doubled += len(np.unique(pairs[:, 1]))
    if n_doubled:
        raise DataError(
            f"{source} holds {n_doubled} of {len(picks)} picks twice, e.g. {example}, less than {DOUBLED_A:g} A from "
            "another of its kind; were tables put together? Keep one of each"
        )


def select_picks(
    picks: pd.DataFrame,
    particles: Sequence[Particle],
    exclusive: bool | None = None,
    thresholds: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Return the picks that are handed on, in their order.

    Parameters
    ----------
    picks
        ``experiment, particle_type, x, y, z, score``.
    particles
        Their thresholds and radii; picks of others do not pass.
    exclusive
        Whether one class stays per place; None: unless the metric is the competition's.
    thresholds
        Instead of the particles'.
    """
    kept = passing(picks, thresholds or {particle.name: particle.threshold for particle in particles})
    if has_competition_metric(particles) if exclusive is None else not exclusive:
        return kept
    return one_class_per_place(kept, particles)


def one_class_per_place(picks: pd.DataFrame, particles: Sequence[Particle]) -> pd.DataFrame:
    """Drop picks that another class has a better claim to; see the module's text.

    Parameters
    ----------
    picks
        ``experiment, particle_type, x, y, z, score``; of `particles` only.
    particles
        Thresholds, which calibrate the scores, and radii.

    Returns
    -------
    DataFrame
        The rows that stay, in their order. What stays does not depend on the order given.
    """
    index = {particle.name: place for place, particle in enumerate(particles)}
    thresholds, radii_A = (np.array([getattr(p, name) for p in particles]) for name in ("threshold", "radius_A"))
    classes = picks["particle_type"].map(index).to_numpy(dtype=np.int64)
    claims = _logit(picks["score"].to_numpy(dtype=np.float64)) - _logit(thresholds[classes])
    points_xyz_A = picks[list(COORDINATES)].to_numpy(dtype=np.float64)
    kept = np.zeros(len(picks), dtype=bool)
    for rows in picks.groupby("experiment").indices.values():
        own = _best_claims(points_xyz_A[rows], classes[rows].astype(np.int64), claims[rows], radii_A)
        kept[rows[own]] = True
    return picks.loc[kept]


def _best_claims(
    points_xyz_A: Floats, classes: npt.NDArray[np.int64], claims: Floats, radii_A: Floats
) -> npt.NDArray[np.bool_]:
    """Return which picks of one run stay, ``(N,)`` booleans."""
    from scipy.spatial import cKDTree

    tree = cKDTree(points_xyz_A)
    stays = np.ones(len(claims), dtype=bool)
    for index in np.lexsort((classes, *points_xyz_A.T, -claims)):
        if not stays[index]:
            continue
        radius_A = radii_A[classes[index]]
        near = np.array(tree.query_ball_point(points_xyz_A[index], (radius_A + radii_A.max()) / 2), dtype=np.intp)
        near = near[classes[near] != classes[index]]
        distances_A = np.linalg.norm(points_xyz_A[near] - points_xyz_A[index], axis=1)
        lost = near[distances_A < (radius_A + radii_A[classes[near]]) / 2]
        stays[lost] = False
    return stays


def _logit(p: Floats) -> Floats:
    inside = np.clip(p, SCORE_STEP, 1 - SCORE_STEP)
    return np.log(inside / (1 - inside))


def chosen_for_export(
    source: Path, pipeline: Pipeline | None, thresholds: str, all_picks: bool, exclusive: bool | None
) -> pd.DataFrame:
    """Return the picks of a table that go into other programs' files.

    Parameters
    ----------
    source
        ``picks.csv``, or a submission, which has no scores and goes out whole.
    pipeline
        Thresholds and radii; None where there is none beside the table.
    thresholds
        Those that differ, see :func:`parse_thresholds`.
    all_picks
        Whatever the thresholds.
    exclusive
        As for :func:`select_picks`.

    Raises
    ------
    DataError
        Picks that are there twice, of unknown particles, or no thresholds to choose by.
    """
    picks = read_pick_table(source)
    given = parse_thresholds(thresholds)
    if all_picks and given:
        raise DataError("--all takes every pick, --thresholds only some; leave one of them out")
    if "score" not in picks.columns:
        if given or exclusive:
            raise DataError(f"{source} has no scores to choose by; give the picks.csv that `tomopoint predict` left")
        refuse_doubled(picks, source)
        return picks
    if pipeline is None:
        names = sorted(set(picks["particle_type"]))
        if exclusive:
            raise DataError(f"there is no {source.with_name(PIPELINE_NAME)} with radii; name one with --pipeline")
        if not all_picks and (missing := sorted(set(names) - set(given))):
            raise DataError(
                f"there is no {source.with_name(PIPELINE_NAME)} with the thresholds of {', '.join(missing)}; name one "
                "with --pipeline, give --thresholds, or take --all"
            )
        check_scored_picks(picks, names, source)
        return picks if all_picks else passing(picks, given)
    check_scored_picks(picks, pipeline.particle_names, source)
    particles = pipeline.with_thresholds(given).particles
    return select_picks(picks, particles, exclusive, dict.fromkeys(pipeline.particle_names, 0.0) if all_picks else None)
