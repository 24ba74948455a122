"""The recipe `default` against the winner's settings, on simulated tomograms, with the same small networks.

    python benchmarks/recipes.py [--seeds 0,1,2] [--out work/bench-recipes]

Every arm trains the narrow SegResNet and DynUNet of the recipe `demo` with the same number of steps on the same runs,
chooses thresholds on runs that were held out, and is scored with the official metric on others. The geometry is the
competition's at half scale: volumes of 96 x 318 x 318, crops of 48 x 64 x 64, windows whose starts are odd as often.
Learning rates of all recipes are multiplied by the same factor, because steps are few and networks narrow.

Two faults of the winner's code (random crops with axes swapped, tile starts that are no multiples of the stride) exist
nowhere else in tomopoint: they are reproduced here, to be measured. An arm that is finished is not trained again; the
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
from tomopoint.data.normalisation import normalise
from tomopoint.data.project import Project
from tomopoint.data.tables import passing
from tomopoint.data.tomograms import read_tomogram
from tomopoint.evaluation.score import score_picks
from tomopoint.evaluation.thresholds import choose_thresholds, sweep, threshold_grid
from tomopoint.evaluation.truth import read_truth
from tomopoint.inference.decode import decode_maps
from tomopoint.inference.engines.torch import TorchEngine
from tomopoint.inference.tiles import MapMerger, TilePlan
from tomopoint.networks.build import build_network
from tomopoint.pipeline import Pipeline, Tiling
from tomopoint.training.crops import CropOrigin, CropSampler
from tomopoint.training.fit import MemberTask, fit_member
from tomopoint.training.machine import Machine
from tomopoint.training.recipe_files import load_recipe
from tomopoint.training.recipes import Recipe
from tomopoint.training.runs import describe_runs, read_runs

SHAPE = "96,318,318"
N_TRAIN, N_HELD_OUT, N_TEST = 8, 4, 6
DATA_SEED = 2024
CROP = (48, 64, 64)
WINDOW, OVERLAP, TILES = (96, 96, 96), (0, 40, 40), (1, 5, 5)
EPOCHS, STEPS_PER_EPOCH, BATCH = 6, 100, 2
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
        Name of a recipe; ``{network}`` stands for the network's.
    faulty
        With the winner's two faults.
    """

    title: str
    recipe: str
    faulty: bool


ARMS = (
    Arm("default", "default", False),
    Arm("winner", "winner-{network}", True),
    Arm("default with the two faults", "default", True),
)
NETWORKS = ("segresnet", "dynunet")


class AxisSwappedSampler(CropSampler):
    """The winner's crops: random centres drawn along x, z, y and used as x, y, z; particles exactly central."""

    def draw(self, position: int, rng: np.random.Generator) -> CropOrigin:
        """Return the origin of the crop at `position`, very often outside the volume."""
        origin = super().draw(position, rng)
        if self.is_centred(position):
            return origin
        depth, height, width = self.runs[origin.run].shape_zyx
        z, y, x = origin.centre_zyx / (depth, height, width)
        return CropOrigin(origin.run, origin.tomo_type, np.array([z * height, y * depth, x * width]))

    def _centre_range(self, run: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        shape = np.array(self.runs[run].shape_zyx, dtype=np.float64)
        return np.zeros(3), shape


def winner_starts(shape_zyx: Sequence[int]) -> tuple[tuple[int, int, int], ...]:
    """Evenly spaced starts, cut to whole voxels; the merger's division by the stride shifts the odd ones."""
    axes = [
        np.linspace(0, max(0, length - window), n).astype(int).tolist()
        for length, window, n in zip(shape_zyx, WINDOW, TILES, strict=True)
    ]
    return tuple((z, y, x) for z, y, x in product(*axes))


def predict(store: Path, engine: TorchEngine, pipeline: Pipeline, faulty: bool) -> pd.DataFrame:
    """As `tomopoint predict`, but for the tile starts of a faulty arm."""
    tomogram = read_tomogram(store)
    plan = TilePlan.for_volume(tomogram.volume_zyx.shape, pipeline.tiling, pipeline.stride)
    if faulty:
        plan = replace(plan, starts_zyx=winner_starts(plan.shape_zyx))
    merger = MapMerger(plan, len(pipeline.particles), pipeline.tiling.edge_weight)
    for starts, windows in plan.batches(normalise(tomogram.volume_zyx, pipeline.normalisation), 1):
        scores, offsets = engine.infer(windows)
        merger.add(starts[0], scores[0], offsets[0])
    return decode_maps(merger.maps(), pipeline, tomogram.voxel_A)


def recipe_of(arm: Arm, network: str, seed: int) -> Recipe:
    """The arm's recipe at this benchmark's size; what it says about anything but size and length stays."""
    recipe = load_recipe(arm.recipe.format(network=network))
    narrow = next(config for config in load_recipe("demo").networks if config.name == network)
    optimiser = replace(recipe.optimiser, learning_rate=recipe.optimiser.learning_rate * RATE_FACTOR)
    sized = replace(recipe, networks=(narrow,), crops=replace(recipe.crops, size_zyx=CROP), optimiser=optimiser)
    return replace(sized, seed=seed).with_fit(
        epochs=EPOCHS, steps_per_epoch=STEPS_PER_EPOCH, batch_size=BATCH, patience=0, score_every=0, max_minutes=0.0
    )


def measure(arm: Arm, network: str, seed: int, data: Path, out: Path) -> dict[str, float]:
    """Train, choose thresholds, score; or read what an earlier call found."""
    result = out / f"{ARMS.index(arm)}-{network}-{seed}.json"
    if result.exists():
        found: dict[str, float] = json.loads(result.read_text())
        return found
    torch.set_num_threads(1)
    project = Project(data)
    names = sorted(run.name for run in project.runs("train"))
    fold = Fold("fold0", tuple(names[:N_TRAIN]), tuple(names[N_TRAIN:]))
    recipe = recipe_of(arm, network, seed)
    records = describe_runs(data, names, recipe)
    runs = read_runs(records, recipe)
    sampler = AxisSwappedSampler([runs[name] for name in fold.training_runs], recipe.crops) if arm.faulty else None
    task = MemberTask(fold, 0, 0, recipe, out / result.stem)
    task.folder.mkdir(parents=True, exist_ok=True)
    fitted = fit_member(task, runs, Machine("cpu", curves="none"), sampler=sampler)
    module = build_network(recipe.networks[0], len(recipe.particles))
    module.load_state_dict(dict(fitted.weights))
    pipeline = Pipeline(
        recipe.particles, runs[names[0]].voxel_A, normalisation=recipe.normalisation, tiling=Tiling(WINDOW, OVERLAP)
    )
    engine = TorchEngine(module, WINDOW)

    def picks_of(split: str, chosen: Sequence[str]) -> pd.DataFrame:
        stores = {name: project.run(name, split).tomogram_path() for name in chosen}
        tables = [predict(path, engine, pipeline, arm.faulty).assign(experiment=name) for name, path in stores.items()]
        return pd.concat(tables, ignore_index=True)

    held_out = {name: records[name].picks_xyz_A for name in fold.validation_runs}
    grid = threshold_grid(pipeline.decoding.floor)
    curves = sweep(held_out, picks_of("train", fold.validation_runs), pipeline.particles, grid)
    choices = choose_thresholds(curves, pipeline.particles)
    truth = read_truth(data / "truth", [particle.name for particle in pipeline.particles])
    kept = passing(picks_of("test", list(truth)), {name: choice.threshold for name, choice in choices.items()})
    score = score_picks(truth, kept, pipeline.particles)
    figures = {"score": score.score, **{name: item.f_beta for name, item in score.per_class.items()}}
    result.write_text(json.dumps(figures))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2", help="of weights, crops and augmentation")
    parser.add_argument("--out", type=Path, default=Path("work/bench-recipes"))
    words = parser.parse_args()
    seeds = [int(seed) for seed in words.seeds.split(",")]
    data = words.out / "data"
    runs = ["--train-runs", str(N_TRAIN + N_HELD_OUT), "--test-runs", str(N_TEST)]
    simulate = ["simulate", str(data), *runs, "--shape", SHAPE, "--seed", str(DATA_SEED)]
    subprocess.run([sys.executable, "-m", "tomopoint", *simulate], check=True)
    tasks = [(arm, network, seed) for seed in seeds for arm in ARMS for network in NETWORKS]
    found: dict[tuple[Arm, str, int], dict[str, float]] = {}
    # One thread each: threads of two trainings that wait for each other's cores cost more than the cores give.
    os.environ["OMP_NUM_THREADS"] = "1"
    n_processes = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(n_processes, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(measure, *task, data, words.out): task for task in tasks}
        for done, future in enumerate(as_completed(futures), start=1):
            task = futures[future]
            found[task] = future.result()
            print(f"{done}/{len(tasks)} {task[0].title}, {task[1]}, seed {task[2]}: {found[task]['score']:.4f}")
            sys.stdout.flush()
    print_table(found, seeds)


def print_table(found: dict[tuple[Arm, str, int], dict[str, float]], seeds: Sequence[int]) -> None:
    """Simulated F4 of every arm, and what the default gains over each other arm, seed by seed."""
    columns = " | ".join(["network", "arm", *(f"seed {seed}" for seed in seeds), "mean", "default gains", *CLASSES])
    print(f"| {columns} |\n|{'---|' * (6 + len(CLASSES) + len(seeds) - 1)}")
    table: dict[str, dict[str, object]] = {}
    for network in NETWORKS:
        for arm in ARMS:
            scores = [found[arm, network, seed]["score"] for seed in seeds]
            gains = [found[ARMS[0], network, seed]["score"] - own for seed, own in zip(seeds, scores, strict=True)]
            spread = statistics.stdev(gains) if len(gains) > 1 else 0.0
            gain = "" if arm is ARMS[0] else f"{statistics.mean(gains):+.3f} (sd {spread:.3f})"
            classes = [statistics.mean(found[arm, network, seed][name] for seed in seeds) for name in CLASSES]
            cells = [network, arm.title, *(f"{s:.3f}" for s in scores), f"{statistics.mean(scores):.3f}", gain]
            print(f"| {' | '.join([*cells, *(f'{value:.3f}' for value in classes)])} |")
            table[f"{network}: {arm.title}"] = {"scores": scores, "gains": gains, "classes": classes}
    print(json.dumps(table))


if __name__ == "__main__":
    main()
