"""How much each kind of network counts in the average: equal shares, or shares chosen out of fold.

A kind is an architecture of one training folder; its members differ in their fold only and share one weight. Each run
is predicted once per kind, by the networks of that kind that never saw it; since averaging is linear, the maps of any
shares follow from these maps without running a network again. (Offsets averaged by score are not linear: while shares
are chosen, kinds are averaged plainly; the picks that thresholds are then chosen on are those of the real average.)

Few particles choose badly: of many candidates the best is partly the luckiest. Shares other than equal ones are taken
only if they gain where they were not chosen: every group of runs is scored with shares and thresholds chosen on the
other groups, and the gain over equal shares, treated alike, must exceed its own standard error over runs.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from tomopoint.data.project import Project
from tomopoint.data.tables import PICK_COLUMNS, passing, read_pick_table, write_pick_table
from tomopoint.data.tomograms import read_tomogram
from tomopoint.errors import TomopointError
from tomopoint.evaluation.calibration import CalibrationOptions, calibrate
from tomopoint.evaluation.score import TruthMapping, score_picks
from tomopoint.files import write_atomically
from tomopoint.inference.decode import decode_maps
from tomopoint.inference.predict import check_voxel_size, predict_volume
from tomopoint.inference.tiles import VolumeMaps
from tomopoint.pipeline import Member, Pipeline
from tomopoint.validation.ensemble_folder import EnsembleFolder
from tomopoint.validation.out_of_fold import FOLDER, engine_of, identity_of, pipeline_of, record_if_done

logger = logging.getLogger(__name__)

FACTORS = (1 / 3, 1 / 2, 2.0, 3.0)
"""By which one kind's share is changed against the others': finer steps, or two kinds at once, are within the noise of
a few hundred particles."""

SUBFOLDER = "weights"

Shares = dict[str, float]
"""Kind -> weight of each of its members; only ratios count."""


@dataclass(frozen=True)
class WeightChoice:
    """Which shares were taken, and why.

    Attributes
    ----------
    shares
        Kind -> weight of each of its members.
    reason
        In words.
    equal_score, chosen_score
        Score with equal shares and with shares chosen elsewhere, each run at thresholds chosen on other groups.
    gain_error
        Standard error of the gain, over runs.
    candidates
        Score of every candidate at thresholds chosen on other groups.
    """

    shares: Shares
    reason: str
    equal_score: float
    chosen_score: float
    gain_error: float
    candidates: tuple[tuple[Shares, float], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def candidate_shares(kinds: Sequence[str]) -> list[Shares]:
    """Return equal shares first, then each kind's share changed by each of ``FACTORS``, without repetition."""
    found: dict[tuple[float, ...], Shares] = {}
    for shares in ({}, *({kind: factor} for kind in kinds for factor in FACTORS)):
        weights = np.array([shares.get(kind, 1.0) for kind in kinds])
        key = tuple(np.round(weights / weights.sum(), 6).tolist())
        found.setdefault(key, {kind: float(w) for kind, w in zip(kinds, weights / weights.min(), strict=True)})
    return list(found.values())


def choose_weights(
    ensemble: EnsembleFolder, pipeline: Pipeline, project: Project, device: str, options: CalibrationOptions
) -> WeightChoice:
    """Choose the kinds' shares out of fold; see the module's text.

    Parameters
    ----------
    ensemble, pipeline, project, device
        As :func:`~tomopoint.validation.out_of_fold.predict_held_out`.
    options
        How thresholds are chosen.

    Raises
    ------
    TomopointError
        There is only one kind, or only one group of held-out runs, so that nothing can be left out.
    """
    kinds = judged_kinds(ensemble)
    if len(kinds) < 2:
        raise TomopointError(
            f"--weights out-of-fold: all networks are of one kind, {kinds[0]}, as far as they hold runs out; leave it "
            "out"
        )
    if len(ensemble.groups) < 2:
        raise TomopointError(
            "--weights out-of-fold needs two or more folds: shares are judged where they were not chosen"
        )
    candidates = candidate_shares(kinds)
    tables: list[list[pd.DataFrame]] = [[] for _ in candidates]
    for name in (held_out.name for held_out in ensemble.held_out):
        for table, picks in zip(tables, _picks_of_run(ensemble, pipeline, project, device, name), strict=True):
            table.append(picks)
        logger.info("weights: %s predicted by each of %s", name, ", ".join(kinds))
    truth = ensemble.read_truth(project)
    picks_of = [pd.concat(table, ignore_index=True) for table in tables]
    return _choose(candidates, picks_of, truth, ensemble.groups, pipeline, options)


def judged_kinds(ensemble: EnsembleFolder) -> list[str]:
    """Return the kinds of which some network holds runs out; the others get the mean of their shares."""
    return [kind for kind, members in ensemble.kinds.items() if not set(members) <= set(ensemble.unjudged)]


def with_weights(
    members: Sequence[Member], kinds: Mapping[str, tuple[int, ...]], shares: Mapping[str, float]
) -> tuple[Member, ...]:
    """Return the members, each with the weight of its kind; of a kind that was not judged, the mean of the others."""
    mean = sum(shares.values()) / len(shares)
    of_member = {index: shares.get(kind, mean) for kind, indices in kinds.items() for index in indices}
    return tuple(replace(member, weight=of_member[index]) for index, member in enumerate(members))


def _picks_of_run(
    ensemble: EnsembleFolder, pipeline: Pipeline, project: Project, device: str, name: str
) -> list[pd.DataFrame]:
    """Return one run's picks for every candidate, made now or by an earlier call."""
    held_out = next(run for run in ensemble.held_out if run.name == name)
    store = project.run(name, "train").tomogram_path(ensemble.tomo_type)
    kinds = {kind: [i for i in members if i in held_out.members] for kind, members in ensemble.kinds.items()}
    present = {kind: members for kind, members in kinds.items() if members}
    candidates = candidate_shares(judged_kinds(ensemble))
    folder = ensemble.folder / FOLDER / SUBFOLDER
    paths = [folder / f"{name}-{index}.csv" for index in range(len(candidates))]
    whole = pipeline_of(held_out.members, pipeline)
    content = {
        "pipeline_sha256": whole.digest,
        "tomogram": identity_of(store),
        "candidates": candidates,
    }
    if record_if_done(paths[-1], content) is None:
        paths[-1].with_suffix(".json").unlink(missing_ok=True)
        tomogram = read_tomogram(store)
        check_voxel_size(tomogram, pipeline)
        maps: dict[str, VolumeMaps] = {}
        for kind, members in present.items():
            own = pipeline_of(members, pipeline)
            with closing(engine_of(ensemble, members, own, device)) as engine:
                maps[kind] = predict_volume(tomogram.volume_zyx, engine, own)
        pointing = {kind for kind, own in present.items() if ensemble.networks[own[0]].predicts_offsets}
        for path, shares in zip(paths, candidates, strict=True):
            # A kind's maps are the mean of its members: it counts with their number.
            weights = {kind: shares[kind] * len(members) for kind, members in present.items()}
            picks = decode_maps(averaged(maps, weights, pointing), whole, tomogram.voxel_A)
            write_pick_table(picks.assign(experiment=name), path)
        write_atomically(paths[-1].with_suffix(".json"), json.dumps(content) + "\n")
    return [read_pick_table(path).loc[:, list(PICK_COLUMNS)] for path in paths]


def averaged(
    maps: Mapping[str, VolumeMaps], weights: Mapping[str, float], pointing: Collection[str] | None = None
) -> VolumeMaps:
    """Return the weighted mean of maps of one tomogram; of offsets only over the kinds in `pointing`, None: all."""
    pointing = maps.keys() if pointing is None else pointing
    total, total_pointing = sum(weights.values()), sum(weights[kind] for kind in pointing)
    first = next(iter(maps.values()))
    scores, offsets = np.zeros_like(first.scores), np.zeros_like(first.offsets)
    for kind, own in maps.items():
        scores += np.float32(weights[kind] / total) * own.scores
        if kind in pointing:
            offsets += np.float32(weights[kind] / total_pointing) * own.offsets
    return replace(first, scores=scores, offsets=offsets)


def _choose(
    candidates: Sequence[Shares],
    picks_of: Sequence[pd.DataFrame],
    truth: TruthMapping,
    groups: Mapping[str, Sequence[str]],
    pipeline: Pipeline,
    options: CalibrationOptions,
) -> WeightChoice:
    """Judge every candidate, and the act of choosing among them, on groups that had no part in the choice."""
    particles = pipeline.particles
    kept_equal, kept_chosen = [], []
    passed: list[list[pd.DataFrame]] = [[] for _ in candidates]
    for runs in groups.values():
        others = {run: points for run, points in truth.items() if run not in runs}
        other_groups = {run: (run,) for run in others}
        found = [calibrate(others, picks, other_groups, particles, options) for picks in picks_of]
        best = max(range(len(candidates)), key=lambda index: found[index].score.score)
        for index, picks in enumerate(picks_of):
            own = picks.loc[picks["experiment"].isin(list(runs))]
            passed[index].append(passing(own, found[index].thresholds))
        kept_equal.append(passed[0][-1])
        kept_chosen.append(passed[best][-1])
    scores = [score_picks(truth, pd.concat(tables), particles) for tables in passed]
    equal = score_picks(truth, pd.concat(kept_equal), particles)
    chosen = score_picks(truth, pd.concat(kept_chosen), particles)
    gains = [chosen.of_runs([run]).score - equal.of_runs([run]).score for run in truth]
    error = float(np.std(gains, ddof=1) / np.sqrt(len(gains))) if len(gains) > 1 else float("inf")
    gain = chosen.score - equal.score
    best = max(range(len(candidates)), key=lambda index: scores[index].score)
    taken = best if gain > error else 0
    if taken != 0:
        reason = f"chosen out of fold: {gain:+.4f} on runs left out, error {error:.4f}"
    elif best == 0:
        reason = "equal shares: none score better"
    else:
        reason = f"equal shares: others gain {gain:+.4f} on runs left out, which is within its error of {error:.4f}"
    listed = tuple((shares, score.score) for shares, score in zip(candidates, scores, strict=True))
    return WeightChoice(candidates[taken], reason, equal.score, chosen.score, error, listed)
