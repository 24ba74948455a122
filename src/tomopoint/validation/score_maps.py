"""Score maps, fitted out of fold: what makes scores of one kind of networks comparable with those of another.

Each held-out run is predicted by the networks of every kind that never saw it, every kind alone, as they are averaged
in the graph before their map. What is kept is the best local maxima of each particle, however low their scores::

    <ensemble folder>/validation/kinds/<run>-<kind>.json    picks, and what they were made with
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tomopoint.data.picks import Points
from tomopoint.data.project import Project
from tomopoint.data.tables import COORDINATES
from tomopoint.data.tomograms import read_tomogram
from tomopoint.evaluation.matching import match_points
from tomopoint.evaluation.score import DISTANCE_MULTIPLIER
from tomopoint.evaluation.score_scale import JudgedPicks, fit_score_scale
from tomopoint.files import write_atomically
from tomopoint.inference.predict import predict_tomogram
from tomopoint.pipeline import MemberKind, Pipeline, ScoreMap
from tomopoint.strict_json import Malformed, build, read
from tomopoint.validation.ensemble_folder import EnsembleFolder
from tomopoint.validation.out_of_fold import FOLDER, engine_of, identity_of, pipeline_of

logger = logging.getLogger(__name__)

SUBFOLDER = "kinds"

FLOOR, MAX_PICKS = 1e-7, 500
"""Of the local maxima that maps are fitted on. A share of a softmax over single voxels may be tiny and still be the
best there is, so that only their number is bounded: several times that of the particles of a kind in a tomogram."""


@dataclass(frozen=True)
class FittedMaps:
    """What was fitted.

    Attributes
    ----------
    score_maps
        For the Pipeline.
    n_hits
        Kind -> particle -> right picks that the maps rest on.
    runs
        That were held out from networks of every kind.
    """

    score_maps: tuple[ScoreMap, ...]
    n_hits: Mapping[MemberKind, Mapping[str, int]]
    runs: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "n_hits": {kind: dict(counts) for kind, counts in self.n_hits.items()}}

    @property
    def text(self) -> str:
        """One line for people."""
        if not self.score_maps:
            return "score maps: none, there are too few right picks in runs that networks of every kind hold out"
        kinds = ", ".join(dict.fromkeys(m.kind for m in self.score_maps))
        knots = [len(m.scores) - 2 for m in self.score_maps]
        return (
            f"score maps: {kinds}, {min(knots)} to {max(knots)} knots per particle, "
            f"from {len(self.runs)} runs that networks of every kind hold out"
        )


@dataclass(frozen=True)
class KindPicks:
    """What a file of picks holds.

    Attributes
    ----------
    made_with
        What the picks were made with.
    picks
        Particle -> rows of x, y, z in Angstrom and the score.
    """

    made_with: Mapping[str, str]
    picks: Mapping[str, tuple[tuple[float, float, float, float], ...]]


def fit_score_maps(ensemble: EnsembleFolder, pipeline: Pipeline, project: Project, device: str) -> FittedMaps:
    """Fit the maps of every kind but the first; arguments as for
    :func:`~tomopoint.validation.out_of_fold.predict_held_out`.
    """
    truth = ensemble.read_truth(project)
    judged: dict[MemberKind, dict[str, list[JudgedPicks]]] = {
        kind: {name: [] for name in pipeline.particle_names} for kind in ensemble.of_kinds
    }
    runs = []
    for run in runs_of_all_kinds(ensemble):
        runs.append(run)
        predicted = predict_kinds(ensemble, pipeline, project, device, run)
        for kind, picks in predicted.items():
            for name, found in judge_picks_of_run(picks, truth[run], pipeline).items():
                judged[kind][name].append(found)
        logger.info("score maps: %s predicted by each of %s", run, ", ".join(predicted))
    if not runs:
        return FittedMaps((), {}, ())
    pooled = {
        kind: {name: JudgedPicks.pooled(parts) for name, parts in found.items()} for kind, found in judged.items()
    }
    reference, *others = pooled
    score_maps = tuple(
        ScoreMap(kind, name, *knots)
        for kind in others
        for name, knots in fit_score_scale(pooled[kind], pooled[reference]).items()
    )
    n_hits = {kind: {name: picks.n_hits for name, picks in found.items()} for kind, found in pooled.items()}
    return FittedMaps(score_maps, n_hits, tuple(runs))


def runs_of_all_kinds(ensemble: EnsembleFolder) -> list[str]:
    """Return the names of the runs that networks of every kind hold out."""
    return [run.name for run in ensemble.held_out if all(_members_by_kind(ensemble, run.name).values())]


def predict_kinds(
    ensemble: EnsembleFolder, pipeline: Pipeline, project: Project, device: str, name: str
) -> dict[MemberKind, pd.DataFrame]:
    """Return one run's best local maxima by each kind alone, made now or by an earlier call."""
    return {
        kind: _picks_of_kind(ensemble, pipeline, project, device, name, kind, members)
        for kind, members in _members_by_kind(ensemble, name).items()
    }


def are_kinds_there(ensemble: EnsembleFolder, pipeline: Pipeline, project: Project, name: str) -> bool:
    """Tell whether :func:`predict_kinds` has nothing to do."""
    kinds = _members_by_kind(ensemble, name).items()
    files = (_file_of_kind(ensemble, pipeline, project, name, kind, members) for kind, members in kinds)
    return all(_read_picks(path, made_with) is not None for path, made_with, _ in files)


def _members_by_kind(ensemble: EnsembleFolder, name: str) -> dict[MemberKind, list[int]]:
    """Return the networks of every kind that never saw a run."""
    members = ensemble.run_named(name).members
    return {kind: [i for i in indices if i in members] for kind, indices in ensemble.of_kinds.items()}


def _picks_of_kind(
    ensemble: EnsembleFolder,
    pipeline: Pipeline,
    project: Project,
    device: str,
    name: str,
    kind: str,
    members: Sequence[int],
) -> pd.DataFrame:
    """Return the best local maxima of one kind in one run, made now or by an earlier call."""
    path, made_with, own = _file_of_kind(ensemble, pipeline, project, name, kind, members)
    found = _read_picks(path, made_with)
    if found is not None:
        return found
    store = project.run(name, "train").tomogram_path(ensemble.tomo_type)
    with closing(engine_of(ensemble, members, own, device)) as engine:
        picks = predict_tomogram(read_tomogram(store), engine, own)
    rows = {
        particle: picks.loc[picks["particle_type"] == particle, [*COORDINATES, "score"]].to_numpy().tolist()
        for particle in pipeline.particle_names
    }
    write_atomically(path, json.dumps({"made_with": made_with, "picks": rows}) + "\n")
    return picks


def _file_of_kind(
    ensemble: EnsembleFolder, pipeline: Pipeline, project: Project, name: str, kind: str, members: Sequence[int]
) -> tuple[Path, dict[str, str], Pipeline]:
    """Return where picks of one kind in one run belong, what they must have been made with, and by which Pipeline."""
    store = project.run(name, "train").tomogram_path(ensemble.tomo_type)
    own = pipeline_of(members, pipeline)
    own = replace(own, score_maps=(), decoding=replace(own.decoding, floor=FLOOR, max_picks=MAX_PICKS))
    made_with = {"pipeline_sha256": own.digest, "tomogram": identity_of(store)}
    return ensemble.folder / FOLDER / SUBFOLDER / f"{name}-{kind}.json", made_with, own


def _read_picks(path: Path, made_with: Mapping[str, str]) -> pd.DataFrame | None:
    """Return the picks of an earlier call where they were made with the same, else None."""
    try:
        earlier = build(KindPicks, read(path))
    except (OSError, Malformed):
        return None
    if earlier.made_with != made_with:
        return None
    rows = [(name, *row) for name, own in earlier.picks.items() for row in own]
    return pd.DataFrame(rows, columns=["particle_type", *COORDINATES, "score"])


def judge_picks_of_run(picks: pd.DataFrame, truth: Mapping[str, Points], pipeline: Pipeline) -> dict[str, JudgedPicks]:
    """Match picks of one run, ``particle_type, x, y, z, score``, to its true centres, particle by particle."""
    found = {}
    for particle in pipeline.particles:
        rows = picks.loc[picks["particle_type"] == particle.name]
        points = truth.get(particle.name, np.zeros((0, 3)))
        xyz_A = rows.loc[:, list(COORDINATES)].to_numpy(dtype=np.float64)
        match = match_points(points, xyz_A, particle.radius_A * DISTANCE_MULTIPLIER)
        found[particle.name] = JudgedPicks(rows["score"].to_numpy(dtype=np.float64), match.hits)
    return found
