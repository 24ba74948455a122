"""Labels that networks contradict which never saw the run: probable label errors.

What contradicts a label is told by how seldom these networks are contradicted. A label that they do not find is
suspicious where they find nearly all others of its kind; a pick without a label is, where nearly all picks that score
as much have one. That share is the *doubt* of a suspect, and suspects are ranked by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from tomopoint.data.tables import COORDINATES
from tomopoint.evaluation.matching import match_points
from tomopoint.evaluation.score import DISTANCE_MULTIPLIER
from tomopoint.files import write_atomically
from tomopoint.pipeline import Particle

Floats = npt.NDArray[np.float64]

SUSPECTS_NAME = "suspects.csv"

SUSPECT_COLUMNS = ("run", "particle", "x", "y", "z", "kind", "score", "doubt", "seen")

NOT_FOUND, OTHER_PARTICLE, DISPLACED, NOT_LABELLED = "not found", "other particle", "displaced", "not labelled"

MEANINGS = {
    NOT_FOUND: "a label at which the networks see nothing; the score is that of their best pick of its kind there",
    OTHER_PARTICLE: "a label at which they see another particle, named under seen",
    DISPLACED: "a label beside a sure pick of its kind, half to one radius away",
    NOT_LABELLED: "a sure pick without a label",
}

LOW_SHARE = 0.5
"""A label counts as not found where its own particle's best pick scores below this share of the threshold."""


def find_suspects(
    labels: Mapping[str, Mapping[str, Floats]],
    picks: Mapping[str, pd.DataFrame],
    particles: Sequence[Particle],
    sure: float,
) -> pd.DataFrame:
    """Rank what labels and out-of-fold picks contradict each other about.

    Parameters
    ----------
    labels
        Run -> particle -> ``(N, 3)`` x, y, z in Angstrom.
    picks
        Of the same runs: ``particle_type, x, y, z, score``, all above the floor, of networks that never saw the run.
    particles
        Names, radii and validated thresholds.
    sure
        Least doubt of a suspect, 0 to 1.

    Returns
    -------
    pandas.DataFrame
        :data:`SUSPECT_COLUMNS`, the most doubtful first. Of a label ``x, y, z`` are the label's, of a pick without one
        the pick's; ``seen`` is the particle that the networks see there, empty where they see none.
    """
    runs = sorted(labels)
    matched = {(run, p.name): _matched(labels[run][p.name], picks[run], p) for run in runs for p in particles}
    rows: list[tuple[object, ...]] = []
    doubts = {p.name: _Doubts([matched[run, p.name] for run in runs]) for p in particles}
    for run in runs:
        for particle in particles:
            own = matched[run, particle.name]
            for index in np.flatnonzero(~own.found):
                place, best = own.labels[index], float(own.best[index])
                pick = int(own.best_pick[index])
                if best >= particle.threshold:
                    if not own.hits[pick]:  # a pick that has a label of its own says nothing of this one
                        doubt = doubts[particle.name].of_pick(best)
                        rows.append((run, particle.name, *place, DISPLACED, best, doubt, particle.name))
                    continue
                if best >= LOW_SHARE * particle.threshold:
                    continue
                doubt = doubts[particle.name].of_label(best)
                other = _other_there(place, particle, particles, {p.name: matched[run, p.name] for p in particles})
                if other is None:
                    rows.append((run, particle.name, *place, NOT_FOUND, best, doubt, ""))
                    continue
                seen, score = other
                doubt = max(doubt, doubts[seen.name].of_pick(score))
                rows.append((run, particle.name, *place, OTHER_PARTICLE, score, doubt, seen.name))
        for particle in particles:
            own = matched[run, particle.name]
            for index in np.flatnonzero(~own.hits & (own.scores >= particle.threshold)):
                place, score = own.picks[index], float(own.scores[index])
                if not _is_taken(place, particle, particles, labels[run]):
                    doubt = doubts[particle.name].of_pick(score)
                    rows.append((run, particle.name, *place, NOT_LABELLED, score, doubt, particle.name))
    table = pd.DataFrame(rows, columns=list(SUSPECT_COLUMNS))
    table = table.loc[table["doubt"].astype(float) >= sure]
    certainty = np.where(table["kind"] == NOT_FOUND, 1 - table["score"].astype(float), table["score"].astype(float))
    keys = ["doubt", "certainty", "run", "particle", *COORDINATES]
    ordered = table.assign(certainty=certainty).sort_values(keys, ascending=[False, False, *(True,) * 5])
    return ordered.loc[:, list(SUSPECT_COLUMNS)].reset_index(drop=True)


def write_suspects(suspects: pd.DataFrame, path: Path) -> None:
    """Write the table as CSV, atomically: one decimal of an Angstrom, four of a score."""
    rounded = suspects.round({"x": 1, "y": 1, "z": 1, "score": 4, "doubt": 4})
    write_atomically(path, rounded.to_csv(index=False, lineterminator="\n"))


class _Matched:
    """Labels and picks of one particle in one run.

    ``best`` and ``best_pick`` are those of the picks within a radius of each label; ``found`` and ``hits`` are by the
    distance of the official metric, half of it.
    """

    def __init__(self, labels: Floats, picks: Floats, scores: Floats, radius_A: float) -> None:
        self.labels, self.picks, self.scores = labels, picks, scores
        official = match_points(labels, picks, radius_A * DISTANCE_MULTIPLIER)
        self.found, self.hits = official.found, official.hits
        self.best = np.zeros(len(labels))
        self.best_pick = np.full(len(labels), -1)
        near = match_points(labels, picks, radius_A)
        for label, pick in zip(near.truth_index.tolist(), near.pick_index.tolist(), strict=True):
            if scores[pick] > self.best[label]:
                self.best[label], self.best_pick[label] = scores[pick], pick


def _matched(labels: Floats, picks: pd.DataFrame, particle: Particle) -> _Matched:
    own = picks.loc[picks["particle_type"] == particle.name]
    points = own.loc[:, list(COORDINATES)].to_numpy(dtype=np.float64)
    return _Matched(labels, points, own["score"].to_numpy(dtype=np.float64), particle.radius_A)


class _Doubts:
    """How seldom labels of a particle contradict its picks, over all runs."""

    def __init__(self, matched: Sequence[_Matched]) -> None:
        from scipy.optimize import isotonic_regression

        nothing = [np.zeros(0)]
        self._best = np.concatenate([one.best for one in matched] or nothing)
        scores = np.concatenate([one.scores for one in matched] or nothing)
        hits = np.concatenate([one.hits for one in matched] or nothing)
        order = np.argsort(scores, kind="stable")
        self._scores = scores[order]
        # Never falling: the surest pick, which has itself no label, would else vouch against itself.
        self._share = isotonic_regression(hits[order].astype(np.float64)).x if len(order) else np.zeros(0)

    def of_label(self, best: float) -> float:
        """Share of the labels that are found at a higher score than `best`."""
        return float((self._best > best).mean()) if len(self._best) else 0.0

    def of_pick(self, score: float) -> float:
        """Share of the picks that have a label, of those that score about as much."""
        place = int(np.searchsorted(self._scores, score, side="right")) - 1
        return float(self._share[place]) if place >= 0 else 0.0


def _other_there(
    place: Floats, particle: Particle, particles: Sequence[Particle], matched: Mapping[str, _Matched]
) -> tuple[Particle, float] | None:
    """Return the other particle that the networks see most surely on the place of a label, and its score."""
    found: tuple[Particle, float] | None = None
    for other in (one for one in particles if one.name != particle.name):
        own = matched[other.name]
        near = np.linalg.norm(own.picks - place, axis=1) <= _shared_reach_A(particle, other)
        scores = np.where(near & (own.scores >= other.threshold), own.scores, -1.0)
        if len(scores) and scores.max() > (found[1] if found else 0.0):
            found = other, float(scores.max())
    return found


def _is_taken(place: Floats, particle: Particle, particles: Sequence[Particle], labels: Mapping[str, Floats]) -> bool:
    """Whether the place of a pick has a label of another particle, or of its own within a radius."""
    for other in particles:
        reach_A = particle.radius_A if other.name == particle.name else _shared_reach_A(particle, other)
        if (np.linalg.norm(labels[other.name] - place, axis=1) <= reach_A).any():
            return True
    return False


def _shared_reach_A(first: Particle, second: Particle) -> float:
    return DISTANCE_MULTIPLIER * (first.radius_A + second.radius_A) / 2
