"""The recipe `default` against the recipe `winner`, on simulated tomograms, with the same small networks.

    python benchmarks/recipes.py [--seeds 0,1,2] [--faults] [--out work/bench-recipes]

Every arm trains the narrow SegResNet and DynUNet of the recipe `narrow` with the same number of steps on the same runs,
and is scored with the official metric on others, each at thresholds chosen on the rest of these: each network alone,
and the average of both. The geometry is the competition's at half scale: volumes of 96 x 318 x 318, crops of
48 x 64 x 64, windows whose starts are odd about as often. Learning rates of all recipes are multiplied by the same
factor, because steps are few and networks narrow.

Two faults of the winner's code (random crops with axes swapped, tile starts that are no multiples of the stride) exist
nowhere else in tomopoint: they are reproduced here, to be measured; with `--faults` also alone, in a third arm of
`default` with these two faults. An arm that is finished is not trained again; the
last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from tomopoint.data.folds import Fold
from tomopoint.data.project import Project
from tomopoint.data.tomograms import read_tomogram
from tomopoint.data.truth import read_truth
from tomopoint.evaluation.calibration import CalibrationOptions, calibrate
from tomopoint.evaluation.score import TruthMapping
from tomopoint.inference.decode import decode_maps
from tomopoint.inference.engines.torch import TorchEngine
from tomopoint.inference.predict import prepare
from tomopoint.inference.tiles import MapMerger
from tomopoint.networks.build import build_network
from tomopoint.pipeline import Pipeline, Tiling
from tomopoint.training.crops.sampler import CropOrigin, CropSampler
from tomopoint.training.crops.tomograms import TrainingTomogram, describe_runs, read_tomograms
from tomopoint.training.fit import MemberTask, fit_member
from tomopoint.training.machine import Machine
from tomopoint.training.recipe import Recipe
from tomopoint.training.recipe_files import load_recipe

SHAPE = "96,318,318"
N_TRAIN, N_HELD_OUT, N_TEST = 8, 4, 8
DATA_SEED = 2024
CROP = (48, 64, 64)
WINDOW, OVERLAP, TILES = (96, 96, 96), (0, 40, 40), (1, 5, 5)
EPOCHS, STEPS_PER_EPOCH, BATCH = 8, 100, 2
RATE_FACTOR = 5.0
CLASSES = ("apo-ferritin", "beta-galactosidase", "ribosome", "thyroglobulin", "virus-like-particle")


@dataclass(frozen=True)
class Arm:
    """What is compared.

    Attributes
    ----------
    title
        In the table.
    recipe
        Name of a recipe; each network is trained with the options that it has there.
    faulty
        With the winner's two faults.
    """

    title: str
    recipe: str
    faulty: bool


ARMS = (
    Arm("default", "default", False),
    Arm("winner", "winner", True),
    Arm("default with the two faults", "default", True),
)
NETWORKS = ("segresnet", "dynunet")
SUBJECTS = (*NETWORKS, "average")


class AxisSwappedSampler(CropSampler):
    """The winner's crops: random centres drawn along x, z, y and used as x, y, z; particles exactly central."""

    def draw(self, position: int, rng: np.random.Generator) -> CropOrigin:
        """Return the origin of the crop at `position`, very often outside the volume."""
        origin = super().draw(position, rng)
        if self.is_centred(position):
            return origin
        depth, height, width = self.tomograms[origin.run].shape_zyx
        z, y, x = origin.centre_zyx / (depth, height, width)
        return CropOrigin(origin.run, origin.tomo_type, np.array([z * height, y * depth, x * width]))

    def _centre_range(self, run: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        shape = np.array(self.tomograms[run].shape_zyx, dtype=np.float64)
        return np.zeros(3), shape


def winner_starts(shape_zyx: Sequence[int]) -> tuple[tuple[int, int, int], ...]:
    """Evenly spaced starts, cut to whole voxels; the merger's division by the stride shifts the odd ones."""
    axes = [
        np.linspace(0, max(0, length - window), n).astype(int).tolist()
        for length, window, n in zip(shape_zyx, WINDOW, TILES, strict=True)
    ]
    return tuple((z, y, x) for z, y, x in product(*axes))


def predict(store: Path, engines: Sequence[TorchEngine], pipeline: Pipeline, faulty: bool) -> dict[str, pd.DataFrame]:
    """Return the picks of each network and of their average; but for the faulty tile starts as `tomopoint predict`."""
    tomogram = read_tomogram(store)
    prepared = prepare(tomogram.volume_zyx, pipeline)
    plan = prepared.plan
    if faulty:
        plan = replace(plan, starts_zyx=winner_starts(plan.shape_zyx))
    mergers = [MapMerger(plan, len(pipeline.particles), pipeline.tiling.edge_weight) for _ in SUBJECTS]
    for starts, windows in plan.batches(prepared.volume_zyx, 1):
        outputs = [engine.infer(windows) for engine in engines]
        scores, offsets = (np.mean([output[part] for output in outputs], axis=0) for part in (0, 1))
        for merger, output in zip(mergers, [*outputs, (scores, offsets)], strict=True):
            merger.add(starts[0], output[0][0], output[1][0])
    return {
        subject: decode_maps(merger.maps(), pipeline, tomogram.voxel_A)
        for subject, merger in zip(SUBJECTS, mergers, strict=True)
    }


def recipe_of(arm: Arm, network: str, seed: int) -> Recipe:
    """The arm's recipe at this benchmark's size; what it says about anything but size and length stays."""
    recipe = load_recipe(arm.recipe)
    own = recipe.for_network([config.name for config in recipe.networks].index(network))
    narrow = next(config for config in load_recipe("narrow").networks if config.name == network)
    optimiser = replace(own.optimiser, learning_rate=own.optimiser.learning_rate * RATE_FACTOR)
    sized = replace(own, networks=(narrow,), crops=replace(own.crops, size_zyx=CROP), optimiser=optimiser)
    return replace(sized, seed=seed).with_fit(
        epochs=EPOCHS, steps_per_epoch=STEPS_PER_EPOCH, batch_size=BATCH, patience=0, score_every=0, max_minutes=0.0
    )


def measure(arm: Arm, seed: int, data: Path, out: Path) -> dict[str, dict[str, float]]:
    """Train both networks, choose thresholds, score; or read what an earlier call found."""
    result = out / f"{ARMS.index(arm)}-{seed}.json"
    if result.exists():
        found: dict[str, dict[str, float]] = json.loads(result.read_text())
        return found
    torch.set_num_threads(1)
    project = Project(data)
    names = sorted(run.name for run in project.runs("train"))
    fold = Fold("fold0", tuple(names[:N_TRAIN]), tuple(names[N_TRAIN:]))
    recipe = recipe_of(arm, NETWORKS[0], seed)
    records = describe_runs(data, names, recipe)
    runs = read_tomograms(records, recipe)
    engines = [TorchEngine(train_network(arm, recipe_of(arm, n, seed), fold, runs, out), WINDOW) for n in NETWORKS]
    pipeline = Pipeline(
        recipe.particles, runs[names[0]].voxel_A, normalisation=recipe.normalisation, tiling=Tiling(WINDOW, OVERLAP)
    )

    def picks_of(split: str, chosen: Sequence[str]) -> dict[str, pd.DataFrame]:
        found = {n: predict(project.run(n, split).tomogram_path(), engines, pipeline, arm.faulty) for n in chosen}
        return {s: pd.concat([found[n][s].assign(experiment=n) for n in chosen], ignore_index=True) for s in SUBJECTS}

    truth = read_truth(data / "truth", [particle.name for particle in pipeline.particles])
    picks = picks_of("test", list(truth))
    figures = {subject: score_of(truth, picks[subject], pipeline) for subject in SUBJECTS}
    result.write_text(json.dumps(figures))
    return figures


def train_network(
    arm: Arm, recipe: Recipe, fold: Fold, runs: dict[str, TrainingTomogram], out: Path
) -> torch.nn.Module:
    """Train the one network of `recipe`; an interrupted training goes on."""
    sampler = AxisSwappedSampler([runs[name] for name in fold.training_runs], recipe.crops) if arm.faulty else None
    folder = out / f"{ARMS.index(arm)}-{recipe.seed}" / recipe.networks[0].name
    folder.mkdir(parents=True, exist_ok=True)
    fitted = fit_member(MemberTask(fold, 0, 0, recipe, folder), runs, Machine("cpu", curves="none"), sampler=sampler)
    module = build_network(recipe.networks[0], len(recipe.particles), stride=2)
    module.load_state_dict(dict(fitted.weights))
    return module


def score_of(truth: TruthMapping, picks: pd.DataFrame, pipeline: Pipeline) -> dict[str, float]:
    """Score every test run at thresholds chosen on the other test runs: most data for both, and none twice."""
    groups = {name: (name,) for name in truth}
    score = calibrate(
        truth, picks, groups, pipeline.particles, CalibrationOptions(floor=pipeline.decoding.floor)
    ).left_out
    assert score is not None
    return {"score": score.score, **{name: item.f_beta for name, item in score.per_class.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2", help="of weights, crops and augmentation")
    parser.add_argument("--faults", action="store_true", help="a third arm: default with the winner's two faults")
    parser.add_argument("--out", type=Path, default=Path("work/bench-recipes"))
    words = parser.parse_args()
    seeds = [int(seed) for seed in words.seeds.split(",")]
    data = words.out / "data"
    runs = ["--train-runs", str(N_TRAIN + N_HELD_OUT), "--test-runs", str(N_TEST)]
    simulate = ["simulate", str(data), *runs, "--shape", SHAPE, "--seed", str(DATA_SEED)]
    subprocess.run([sys.executable, "-m", "tomopoint", *simulate], check=True)
    arms = ARMS if words.faults else ARMS[:2]
    tasks = [(arm, seed) for seed in seeds for arm in arms]
    found: dict[tuple[Arm, int], dict[str, dict[str, float]]] = {}
    # One thread each: threads of two trainings that wait for each other's cores cost more than the cores give.
    os.environ["OMP_NUM_THREADS"] = "1"
    n_processes = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(n_processes, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(measure, *task, data, words.out): task for task in tasks}
        for done, future in enumerate(as_completed(futures), start=1):
            (arm, seed), figures = futures[future], future.result()
            found[arm, seed] = figures
            scores = ", ".join(f"{subject} {figures[subject]['score']:.4f}" for subject in SUBJECTS)
            print(f"{done}/{len(tasks)} {arm.title}, seed {seed}: {scores}", flush=True)
    print_table(found, arms, seeds)


def print_table(
    found: dict[tuple[Arm, int], dict[str, dict[str, float]]], arms: Sequence[Arm], seeds: Sequence[int]
) -> None:
    """Simulated F4 of every arm, and what the default gains over each other arm, seed by seed."""
    columns = " | ".join(["networks", "arm", *(f"seed {seed}" for seed in seeds), "mean", "default gains", *CLASSES])
    print(f"| {columns} |\n|{'---|' * (5 + len(CLASSES) + len(seeds) - 1)}")
    table: dict[str, dict[str, object]] = {}
    for subject, arm in product(SUBJECTS, arms):
        scores = [found[arm, seed][subject]["score"] for seed in seeds]
        gains = [found[arms[0], seed][subject]["score"] - own for seed, own in zip(seeds, scores, strict=True)]
        spread = statistics.stdev(gains) if len(gains) > 1 else 0.0
        gain = "" if arm is arms[0] else f"{statistics.mean(gains):+.3f} (sd {spread:.3f})"
        classes = [statistics.mean(found[arm, seed][subject][name] for seed in seeds) for name in CLASSES]
        cells = [subject, arm.title, *(f"{s:.3f}" for s in scores), f"{statistics.mean(scores):.3f}", gain]
        print(f"| {' | '.join([*cells, *(f'{value:.3f}' for value in classes)])} |")
        table[f"{subject}: {arm.title}"] = {"scores": scores, "gains": gains, "classes": classes}
    print(json.dumps(table))


if __name__ == "__main__":
    main()
