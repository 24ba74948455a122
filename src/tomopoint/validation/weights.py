"""How much each network counts in the average of each particle's scores: equal shares, the user's own, or chosen out of
fold.

Networks that differ in their fold only, siblings, share their weights. Each run is predicted once per set of siblings,
by those that never saw it; since averaging is linear, the maps of any shares follow from these maps without running a
network again. (Offsets averaged by score are not linear, and score maps are applied here to maps that are merged
already, in the graph to each window: while shares are chosen both are approximate; the picks that thresholds are then
chosen on are those of the real average.)

Few particles choose badly: of many candidates the best is partly the luckiest. So the choice itself is judged: every
group of runs is scored with shares and thresholds chosen on the other groups. Each particle chooses for itself, and its
shares go as far from equal ones as the gain on groups left out is certain: the logarithm of the chosen shares is
multiplied by ``1 - (error / gain)**2``, nothing where the gain is within its error (the factor by which an estimate
with that error is shrunk to be right on average). The error is a bootstrap's over quarters of tomograms: runs are few,
and particles of a run are found or missed together.
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
import numpy.typing as npt
import pandas as pd
import torch

from tomopoint.data.project import Project
from tomopoint.data.tables import COORDINATES, PICK_COLUMNS, passing, read_pick_table, write_pick_table
from tomopoint.data.tomograms import read_tomogram
from tomopoint.errors import TomopointError
from tomopoint.evaluation.calibration import CalibrationOptions, calibrate
from tomopoint.evaluation.matching import match_points
from tomopoint.evaluation.score import DISTANCE_MULTIPLIER, TruthMapping, f_beta_of, score_picks
from tomopoint.files import write_atomically
from tomopoint.inference.decode import decode_maps
from tomopoint.inference.predict import check_voxel_size, predict_volume
from tomopoint.inference.tiles import VolumeMaps
from tomopoint.networks.score_maps import ScoreMaps
from tomopoint.pipeline import KINDS, Member, Particle, Pipeline
from tomopoint.validation.ensemble_folder import EnsembleFolder
from tomopoint.validation.out_of_fold import FOLDER, engine_of, identity_of, pipeline_of, record_if_done

logger = logging.getLogger(__name__)

FACTORS = (1 / 3, 1 / 2, 2.0, 3.0)
"""By which one set's share is changed against the others': finer steps, or two sets at once, are within the noise of
a few hundred particles."""

DRAWS, SEED = 1000, 20261129
"""Of the bootstrap: the error of an error is then two percent."""

SUBFOLDER = "weights"

Shares = dict[str, float]
"""Set of siblings -> weight of each of its members; only ratios count."""

ClassShares = dict[str, tuple[float, ...]]
"""The same for every particle, in channel order."""


@dataclass(frozen=True)
class ParticleChoice:
    """What one particle would choose, and how much of it was taken.

    Attributes
    ----------
    candidate
        The shares that score best where they were not chosen.
    equal_f_beta, chosen_f_beta
        With equal shares and with shares chosen elsewhere, each run at thresholds chosen on other groups.
    gain_error
        Standard error of the gain.
    taken
        Power of the candidate's shares that was taken: 0 equal shares, 1 all of it.
    """

    candidate: Shares
    equal_f_beta: float
    chosen_f_beta: float
    gain_error: float
    taken: float


@dataclass(frozen=True)
class WeightChoice:
    """Which shares were taken, and why.

    Attributes
    ----------
    shares
        Set of siblings -> weight of each of its members, per particle in channel order.
    reason
        In words.
    particles
        Name -> its choice.
    candidates
        Score of every candidate, all particles alike, at thresholds chosen on other groups.
    """

    shares: ClassShares
    reason: str
    particles: dict[str, ParticleChoice]
    candidates: tuple[tuple[Shares, float], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def candidate_shares(siblings: Sequence[str], kinds: Mapping[str, str]) -> list[Shares]:
    """Return equal shares first, then the share of each set, and of each kind, changed by each of ``FACTORS``, without
    repetition.

    Parameters
    ----------
    siblings
        Names of the sets.
    kinds
        Set -> kind of its networks.
    """
    together = [[name] for name in siblings]
    together += [[name for name in siblings if kinds[name] == kind] for kind in dict.fromkeys(kinds.values())]
    found: dict[tuple[float, ...], Shares] = {}
    for shares in ({}, *(dict.fromkeys(names, factor) for names in together for factor in FACTORS)):
        weights = np.array([shares.get(name, 1.0) for name in siblings])
        key = tuple(np.round(weights / weights.sum(), 6).tolist())
        found.setdefault(key, {name: float(w) for name, w in zip(siblings, weights / weights.min(), strict=True)})
    return list(found.values())


def choose_weights(
    ensemble: EnsembleFolder, pipeline: Pipeline, project: Project, device: str, options: CalibrationOptions
) -> WeightChoice:
    """Choose the shares out of fold; see the module's text.

    Parameters
    ----------
    ensemble, pipeline, project, device
        As :func:`~tomopoint.validation.out_of_fold.predict_held_out`; members of equal weights.
    options
        How thresholds are chosen.

    Raises
    ------
    TomopointError
        There is only one set of siblings, or only one group of held-out runs, so that nothing can be left out.
    """
    candidates = judged_candidates(ensemble)
    siblings = judged_siblings(ensemble)
    tables: list[list[pd.DataFrame]] = [[] for _ in candidates]
    for name in (held_out.name for held_out in ensemble.held_out):
        found = predict_candidates(ensemble, pipeline, project, device, name)
        for table, picks in zip(tables, found, strict=True):
            table.append(picks)
        logger.info("weights: %s predicted by each of %s", name, ", ".join(siblings))
    truth = ensemble.read_truth(project)
    picks_of = [pd.concat(table, ignore_index=True) for table in tables]
    return _choose(candidates, picks_of, truth, ensemble.groups, pipeline, options)


def judged_candidates(ensemble: EnsembleFolder) -> list[Shares]:
    """Return the shares that are tried; TomopointError as :func:`choose_weights`."""
    siblings = judged_siblings(ensemble)
    if len(siblings) < 2:
        raise TomopointError(
            f"--weights out-of-fold: all networks differ in their fold only, {siblings[0]}, as far as they hold runs "
            "out; leave it out"
        )
    if len(ensemble.groups) < 2:
        raise TomopointError(
            "--weights out-of-fold needs two or more folds: shares are judged where they were not chosen"
        )
    return candidate_shares(siblings, _kinds(ensemble))


def parse_weights(text: str, ensemble: EnsembleFolder) -> ClassShares:
    """Return the shares that a user gives: ``detection=2,segmentation=1,segmentation:ribosome=3``.

    A name is a kind or a set of siblings, and with ``:particle`` its share for that particle alone. The later of two
    that say the same wins; what is not named has 1.

    Raises
    ------
    TomopointError
        An unknown name or particle, or a weight that is not a positive number.
    """
    particles = [particle.name for particle in ensemble.particles]
    kinds = _kinds(ensemble)
    shares = {name: dict.fromkeys(particles, 1.0) for name in kinds}
    for item in text.split(","):
        whose, equals, number = item.strip().partition("=")
        name, colon, particle = whose.partition(":")
        named = [one for one in kinds if name in (one, kinds[one])]
        try:
            weight = float(number)
        except ValueError:
            weight = np.nan
        if not equals or not named or (colon and particle not in particles) or not 0 < weight < np.inf:
            raise TomopointError(
                f"--weights {item.strip()!r}: give equal, out-of-fold, or NAME=WEIGHT and NAME:PARTICLE=WEIGHT with "
                f"positive weights; names are {', '.join(dict.fromkeys([*kinds.values(), *kinds]))}, particles "
                f"{', '.join(particles)}"
            )
        for one in named:
            shares[one].update(dict.fromkeys([particle] if colon else particles, weight))
    return {name: tuple(own.values()) for name, own in shares.items()}


def judged_siblings(ensemble: EnsembleFolder) -> list[str]:
    """Return the sets of which some network holds runs out; the others get the mean of their shares."""
    return [title for title, members in ensemble.siblings.items() if not set(members) <= set(ensemble.unjudged)]


def with_weights(
    members: Sequence[Member], siblings: Mapping[str, tuple[int, ...]], shares: Mapping[str, Sequence[float]]
) -> tuple[Member, ...]:
    """Return the members, each with the weights of its set; of a set that was not judged, the mean of the others.

    Offsets, of no particle, are averaged by the mean of a member's weights.
    """
    mean = tuple(float(np.mean(of_particle)) for of_particle in zip(*shares.values(), strict=True))
    of_member = {index: tuple(shares.get(name, mean)) for name, indices in siblings.items() for index in indices}
    same = all(len(set(own)) == 1 for own in of_member.values())
    return tuple(
        replace(member, weight=sum(own) / len(own), class_weights=() if same else own)
        for member, own in ((member, of_member[index]) for index, member in enumerate(members))
    )


def _kinds(ensemble: EnsembleFolder) -> dict[str, str]:
    """Return the kind of each set of siblings."""
    return {name: ensemble.members[members[0]].kind for name, members in ensemble.siblings.items()}


def predict_candidates(
    ensemble: EnsembleFolder, pipeline: Pipeline, project: Project, device: str, name: str
) -> list[pd.DataFrame]:
    """Return one run's picks with the shares of every candidate, made now or by an earlier call."""
    candidates = judged_candidates(ensemble)
    held_out = ensemble.run_named(name)
    store = project.run(name, "train").tomogram_path(ensemble.tomo_type)
    siblings = {title: [i for i in members if i in held_out.members] for title, members in ensemble.siblings.items()}
    present = {title: members for title, members in siblings.items() if members}
    whole = pipeline_of(held_out.members, pipeline)
    paths, content = _files_of_candidates(ensemble, pipeline, project, name)
    if record_if_done(paths[-1], content) is None:
        paths[-1].with_suffix(".json").unlink(missing_ok=True)
        tomogram = read_tomogram(store)
        check_voxel_size(tomogram, pipeline)
        maps: dict[str, VolumeMaps] = {}
        for title, members in present.items():
            own = replace(pipeline_of(members, pipeline), score_maps=())
            with closing(engine_of(ensemble, members, own, device)) as engine:
                maps[title] = predict_volume(tomogram.volume_zyx, engine, own)
        for path, shares in zip(paths, candidates, strict=True):
            # A set's maps are the mean of its members: it counts with their number.
            weights = {title: shares[title] * len(members) for title, members in present.items()}
            picks = decode_maps(averaged(maps, weights, _kinds(ensemble), whole), whole, tomogram.voxel_A)
            write_pick_table(picks.assign(experiment=name), path)
        write_atomically(paths[-1].with_suffix(".json"), json.dumps(content) + "\n")
    return [read_pick_table(path).loc[:, list(PICK_COLUMNS)] for path in paths]


def are_candidates_there(ensemble: EnsembleFolder, pipeline: Pipeline, project: Project, name: str) -> bool:
    """Tell whether :func:`predict_candidates` has nothing to do."""
    paths, content = _files_of_candidates(ensemble, pipeline, project, name)
    return record_if_done(paths[-1], content) is not None


def _files_of_candidates(
    ensemble: EnsembleFolder, pipeline: Pipeline, project: Project, name: str
) -> tuple[list[Path], dict[str, Any]]:
    """Return where one run's picks for every candidate belong, and what they must have been made with."""
    candidates = judged_candidates(ensemble)
    folder = ensemble.folder / FOLDER / SUBFOLDER
    content = {
        "pipeline_sha256": pipeline_of(ensemble.run_named(name).members, pipeline).digest,
        "tomogram": identity_of(project.run(name, "train").tomogram_path(ensemble.tomo_type)),
        "candidates": candidates,
    }
    return [folder / f"{name}-{index}.csv" for index in range(len(candidates))], content


def averaged(
    maps: Mapping[str, VolumeMaps], weights: Mapping[str, float], kinds: Mapping[str, str], pipeline: Pipeline
) -> VolumeMaps:
    """Return the weighted mean of maps of one tomogram; those of a kind are averaged, then mapped.

    Offsets are averaged over the sets that predict some; over all, where none does.

    Parameters
    ----------
    maps, weights, kinds
        Set of siblings -> its maps, its weight as a whole, the kind of its networks.
    pipeline
        Whose score maps are applied.
    """
    total = sum(weights.values())
    pointing = [name for name in maps if kinds[name] == KINDS[0]] or list(maps)
    of_pointing = sum(weights[name] for name in pointing)
    first = next(iter(maps.values()))
    scores, offsets = np.zeros_like(first.scores), np.zeros_like(first.offsets)
    for kind in dict.fromkeys(kinds[name] for name in maps):
        names = [name for name in maps if kinds[name] == kind]
        of_kind = sum(weights[name] for name in names)
        own = np.zeros_like(scores)
        for name in names:
            own += np.float32(weights[name] / of_kind) * maps[name].scores
            if name in pointing:
                offsets += np.float32(weights[name] / of_pointing) * maps[name].offsets
        score_maps = ScoreMaps.of_kind(kind, pipeline)
        own = own if score_maps is None else score_maps(torch.from_numpy(own)[None])[0].numpy()
        scores += np.float32(of_kind / total) * own
    return replace(first, scores=scores, offsets=offsets)


def _choose(
    candidates: Sequence[Shares],
    picks_of: Sequence[pd.DataFrame],
    truth: TruthMapping,
    groups: Mapping[str, Sequence[str]],
    pipeline: Pipeline,
    options: CalibrationOptions,
) -> WeightChoice:
    """Judge every candidate, and each particle's choice among them, on groups that had no part in the choice."""
    particles = pipeline.particles
    names = [particle.name for particle in particles]
    passed: list[list[pd.DataFrame]] = [[] for _ in candidates]
    chosen: list[pd.DataFrame] = []
    for runs in groups.values():
        others = {run: points for run, points in truth.items() if run not in runs}
        other_groups = {run: (run,) for run in others}
        found = [calibrate(others, picks, other_groups, particles, options) for picks in picks_of]
        for kept, picks, calibration in zip(passed, picks_of, found, strict=True):
            own = picks.loc[picks["experiment"].isin(list(runs))]
            kept.append(passing(own, calibration.thresholds))
        for name in names:
            of_name = [calibration.score.per_class[name].f_beta for calibration in found]
            best_there = passed[int(np.argmax(of_name))][-1]
            chosen.append(best_there.loc[best_there["particle_type"] == name])
    tables = [pd.concat(table) for table in passed]
    scores = [score_picks(truth, table, particles) for table in tables]
    of_choice = pd.concat(chosen)

    rng = np.random.default_rng(SEED)
    choices = {}
    for particle in particles:
        best = int(np.argmax([score.per_class[particle.name].f_beta for score in scores]))
        equal, other = (_counts_of_quarters(truth, table, particle) for table in (tables[0], of_choice))
        drawn = rng.multinomial(len(equal), np.full(len(equal), 1 / len(equal)), size=DRAWS)
        error = float(np.std(_f_beta(drawn @ other) - _f_beta(drawn @ equal)))
        before, after = float(_f_beta(equal.sum(axis=0))), float(_f_beta(other.sum(axis=0)))
        taken = max(0.0, 1 - (error / (after - before)) ** 2) if best != 0 and after > before else 0.0
        choices[particle.name] = ParticleChoice(candidates[best], before, after, error, taken)

    shares = {
        title: tuple(float(choice.candidate[title] ** choice.taken) for choice in choices.values())
        for title in candidates[0]
    }
    listed = tuple((shares, score.score) for shares, score in zip(candidates, scores, strict=True))
    return WeightChoice(shares, _reason(choices), choices, listed)


def _counts_of_quarters(truth: TruthMapping, picks: pd.DataFrame, particle: Particle) -> npt.NDArray[np.int64]:
    """Return centres found, picks and centres in each quarter of each run, ``(4 runs, 3)``.

    Quarters meet in the middle of the run's true centres, along x and y.
    """
    rows = []
    for run, points in truth.items():
        everything = np.concatenate([np.asarray(own, dtype=np.float64).reshape(-1, 3) for own in points.values()])
        middle = np.median(everything[:, :2], axis=0) if len(everything) else np.zeros(2)
        own = picks.loc[(picks["experiment"] == run) & (picks["particle_type"] == particle.name), list(COORDINATES)]
        picks_xyz_A = own.to_numpy(dtype=np.float64)
        truth_xyz_A = np.asarray(points.get(particle.name, np.zeros((0, 3))), dtype=np.float64).reshape(-1, 3)
        match = match_points(truth_xyz_A, picks_xyz_A, particle.radius_A * DISTANCE_MULTIPLIER)
        of_truth, of_picks = ((xyz[:, :2] > middle) @ [1, 2] for xyz in (truth_xyz_A, picks_xyz_A))
        counted = [of_truth[match.found], of_picks, of_truth]
        rows.append(np.stack([np.bincount(quarter, minlength=4) for quarter in counted], axis=1))
    return np.concatenate(rows)


def _f_beta(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the official F-beta of centres found, picks and centres, ``(..., 3)``."""
    found, n_picks, n_truth = np.moveaxis(counts, -1, 0)
    return f_beta_of(found, n_picks - found, n_truth - found)


def _reason(choices: Mapping[str, ParticleChoice]) -> str:
    moved = {name: choice for name, choice in choices.items() if choice.taken > 0}
    if not moved:
        return "equal shares: for no particle do others gain more than their error on runs left out"
    parts = [
        f"{name} {choice.chosen_f_beta - choice.equal_f_beta:+.3f} of F-beta (error {choice.gain_error:.3f}), "
        f"{choice.taken:.0%} of the way"
        for name, choice in moved.items()
    ]
    rest = "" if len(moved) == len(choices) else "; equal shares for the others"
    return f"chosen out of fold: {'; '.join(parts)}{rest}"
