"""Every fold of a baseline: planned, trained, and its held-out runs predicted."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from tomopoint.baselines.folder import RECORD, NetworkRecord, load_network, load_record
from tomopoint.baselines.found import picks_of
from tomopoint.baselines.method import Method, build_method
from tomopoint.baselines.recipe import BaselineRecipe
from tomopoint.data.folds import Fold, is_stratified, make_folds, parse_fold_selection
from tomopoint.data.normalisation import normalise
from tomopoint.data.project import Project, Run
from tomopoint.data.tables import PICK_COLUMNS, read_pick_table, write_pick_table
from tomopoint.data.tomograms import read_tomogram
from tomopoint.errors import TomopointError
from tomopoint.evaluation.calibration import OUT_OF_FOLD_FOLDER
from tomopoint.files import write_atomically
from tomopoint.inference.predict import check_voxel_size
from tomopoint.pipeline import Decoding, Member, Pipeline
from tomopoint.training.checkpoints import WEIGHTS, save_weights
from tomopoint.training.crops.tomograms import RunRecord, check_voxel_sizes, describe_runs, read_tomograms
from tomopoint.training.machine import Machine
from tomopoint.training.plan import count_labels
from tomopoint.validation.out_of_fold import identity_of, record_if_done

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BaselinePlan:
    """What `tomopoint baseline` is about to do.

    Attributes
    ----------
    recipe
        How.
    data_root
        The project.
    out
        The folder of the baseline.
    folds
        The chosen ones; each holds runs out.
    records
        Every run of these folds, by name.
    pretrained
        Fold -> folder of the weights that it starts from; empty where they are fresh.
    """

    recipe: BaselineRecipe
    data_root: Path
    out: Path
    folds: tuple[Fold, ...]
    records: Mapping[str, RunRecord]
    pretrained: Mapping[str, Path]

    @property
    def voxel_A(self) -> float:
        """Voxel size of the runs."""
        return next(iter(next(iter(self.records.values())).infos.values())).voxel_A

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Names of folds, joined by ``+`` -> the runs that exactly these hold out."""
        groups: dict[str, tuple[str, ...]] = {}
        for run in sorted({run for fold in self.folds for run in fold.validation_runs}):
            name = "+".join(fold.name for fold in self.folds if run in fold.validation_runs)
            groups[name] = (*groups.get(name, ()), run)
        return groups

    @property
    def method(self) -> Method:
        """Of the recipe, for these tomograms."""
        return build_method(self.recipe, self.voxel_A, Decoding().floor)

    def pipeline(self) -> Pipeline:
        """Return what picks of the trained networks are made by; not yet calibrated."""
        members = tuple(
            Member(record.fold, self.recipe.title, record.validation_runs, None, record.weights_sha256)
            for record in (load_record(self.out / fold.name) for fold in self.folds)
        )
        return Pipeline(
            particles=self.recipe.particles,
            voxel_A=self.voxel_A,
            stride=1,
            normalisation=self.recipe.normalisation,
            tomo_type=self.recipe.crops.tomo_types[0],
            members=members,
        )


def make_baseline_plan(recipe: BaselineRecipe, data_root: Path, out: Path, folds: str | None = None) -> BaselinePlan:
    """Check recipe and data as far as that goes without reading volumes.

    Raises
    ------
    TomopointError
        Anything wrong with the project or with `folds`; a fold that holds no run out; weights to start from that are
        not there, or have seen what a fold holds out.
    """
    names = [run.name for run in Project(data_root).runs("train")]
    counts = count_labels(data_root, recipe.particles) if is_stratified(recipe.folds) else None
    by_name = {fold.name: fold for fold in make_folds(names, recipe.folds, counts)}
    chosen = [by_name[name] for name in (by_name if folds is None else parse_fold_selection(folds, by_name))]
    unscored = [fold.name for fold in chosen if not fold.validation_runs]
    if unscored:
        raise TomopointError(
            f"{unscored[0]} holds no run out, so the baseline would have neither thresholds nor a score; take `folds` "
            "that do"
        )
    pretrained = {}
    if recipe.pretrained is not None:
        pretrained = {fold.name: _start_of(fold, Path(recipe.pretrained), data_root) for fold in chosen}
    records = describe_runs(data_root, sorted({name for fold in chosen for name in fold.runs}), recipe)
    check_voxel_sizes(records.values())
    return BaselinePlan(recipe, data_root, out, tuple(chosen), records, pretrained)


def _start_of(fold: Fold, earlier: Path, data_root: Path) -> Path:
    """Return the folder of the weights that a fold goes on from: the fold of the same name, or the only one."""
    there = sorted(path.parent for path in earlier.glob(f"*/{RECORD}"))
    named = [folder for folder in there if folder.name == fold.name]
    if not named and len(there) != 1:
        raise TomopointError(
            f"pretrained: {earlier} holds no trained {fold.name}, and not one fold alone; give the --out of an earlier "
            "`tomopoint baseline` of the same folds, or of a single one"
        )
    folder = (named or there)[0]
    record = load_record(folder)
    seen = sorted(set(record.training_runs) & set(fold.validation_runs))
    if seen and Path(record.data_root) == data_root.resolve():
        raise TomopointError(
            f"{fold.name} would start from weights that were trained on {', '.join(seen)}, which it holds out: its "
            "score would be that of runs it knows. Give weights of the same folds, or of other data"
        )
    return folder


def train_folds(plan: BaselinePlan, machine: Machine) -> list[str]:
    """Train every fold that is not trained, one after the other; return the names of those that are trained now."""
    from tomopoint.baselines.fit import fit_slices

    waiting = []
    for fold in plan.folds:
        if not (plan.out / fold.name / RECORD).exists():
            waiting.append(fold)
            continue
        record = load_record(plan.out / fold.name)
        if {*record.training_runs} != {*fold.training_runs}:
            raise TomopointError(f"{plan.out / fold.name} was trained on other runs; choose another --out")
        logger.info("%s is trained, skipped", fold.name)
    if not waiting:
        return []
    tomograms = read_tomograms(plan.records, plan.recipe)
    for fold in waiting:
        folder = plan.out / fold.name
        folder.mkdir(parents=True, exist_ok=True)
        training = [tomograms[name] for name in fold.training_runs]
        start = plan.pretrained.get(fold.name)
        network, state = fit_slices(plan.recipe, plan.method, fold, training, folder, machine, start)
        record = NetworkRecord(
            fold=fold.name,
            training_runs=fold.training_runs,
            validation_runs=fold.validation_runs,
            data_root=str(plan.data_root.resolve()),
            voxel_A=plan.voxel_A,
            steps=state.step,
            seconds=round(state.seconds, 1),
            weights_sha256=save_weights(network.state_dict(), folder / WEIGHTS),
            pretrained_sha256=None if start is None else load_record(start).weights_sha256,
        )
        record.save(folder)
    return [fold.name for fold in waiting]


def predict_held_out(plan: BaselinePlan, pipeline: Pipeline, device: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Predict every held-out run by the average of the networks that never saw it.

    Returns
    -------
    picks
        ``experiment, particle_type, x, y, z, score``, Angstrom.
    records
        Run name -> what its picks were made with, and the seconds it took.
    """
    project = Project(plan.data_root)
    tables, records = [], {}
    for group, names in plan.groups.items():
        folds = [fold for fold in plan.folds if fold.name in group.split("+")]
        own = pipeline.of_members([member for member in pipeline.members if member.fold in {f.name for f in folds}])
        for name in names:
            path = plan.out / OUT_OF_FOLD_FOLDER / f"{name}.csv"
            table, record = predict_run(plan, folds, own, project.run(name, "train"), path, device)
            records[name] = {**record, "group": group, "n_networks": len(folds)}
            tables.append(table)
    return pd.concat(tables, ignore_index=True), records


def predict_run(
    plan: BaselinePlan, folds: Sequence[Fold], pipeline: Pipeline, run: Run, path: Path, device: str
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Predict a run by the networks of some folds, or read what the same networks found before at `path`."""
    store = run.tomogram_path(pipeline.tomo_type)
    content = {"pipeline_sha256": pipeline.digest, "recipe_sha256": plan.recipe.digest, "tomogram": identity_of(store)}
    record = record_if_done(path, content)
    if record is None:
        start = time.monotonic()
        path.with_suffix(".json").unlink(missing_ok=True)
        networks = [load_network(plan.method, plan.out / fold.name).to(device) for fold in folds]
        picks = _find_picks(plan.method, networks, pipeline, store, device)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_pick_table(picks.assign(experiment=run.name), path)
        record = {**content, "seconds": round(time.monotonic() - start, 2)}
        write_atomically(path.with_suffix(".json"), json.dumps(record) + "\n")
    table = read_pick_table(path)
    logger.info("%s (%d networks): %d picks, %.1f s", run.name, len(folds), len(table), record["seconds"])
    return table.loc[:, list(PICK_COLUMNS)], record


def _find_picks(
    method: Method, networks: Sequence[nn.Module], pipeline: Pipeline, store: Path, device: str
) -> pd.DataFrame:
    tomogram = read_tomogram(store)
    check_voxel_size(tomogram, pipeline)
    volume = normalise(tomogram.volume_zyx, pipeline.normalisation)
    found = method.find(networks, torch.from_numpy(volume).to(device))
    return picks_of(found, pipeline, volume.shape, tomogram.voxel_A)
