"""The 2-D baselines against the 3-D detector, at equal processor time.

    make bench-baselines [ARGS="--minutes 3 --seeds 0 --arms 'detector sphere 1.3 focal,3-D detector'"]

Detectors of slices with constant boxes and with boxes of spheres cut by the slice, of the physical radius and of 1.3
times it, with binary cross entropy and with focal loss; a U-Net of slices; and the 3-D network of `make demo` from
random weights. All are trained on the same simulated runs, on one thread, for as many steps as fit into the same
processor time: how long a step takes is measured first, by the processor's clock, so that other work on the machine
changes little. 2-D networks compute in float32 or bfloat16, whichever is faster; the 3-D road chooses by itself.
Each is scored on other runs, each of them at thresholds chosen on the rest. All scores are simulated.

What is simulated, timed or trained is not made again; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch

from one_network import CLASSES, kept, predict_test_runs, recipe_of_steps, train_network
from tomopoint.baselines.fit import fit_slices
from tomopoint.baselines.found import picks_of
from tomopoint.baselines.method import build_method
from tomopoint.baselines.recipe import BaselineRecipe
from tomopoint.baselines.recipe_files import load_baseline
from tomopoint.command import parse_zyx
from tomopoint.data.folds import Fold
from tomopoint.data.normalisation import normalise
from tomopoint.data.project import TRUTH_FOLDER, Project
from tomopoint.data.tomograms import read_tomogram
from tomopoint.data.truth import read_truth
from tomopoint.evaluation.calibration import CalibrationOptions, calibrate
from tomopoint.evaluation.score import TruthMapping
from tomopoint.pipeline import Pipeline
from tomopoint.simulate.options import SimulationOptions
from tomopoint.simulate.project import ProjectPlan, write_project
from tomopoint.training.crops.tomograms import describe_runs, read_tomograms
from tomopoint.training.machine import Machine
from tomopoint.training.recipe import Recipe
from tomopoint.training.recipe_files import load_recipe

SHAPE = (96, 256, 256)
N_TRAIN, N_TEST = 6, 4
DATA_SEED = 77
SHORT, LONG = 10, 40
"""Steps of the two trainings whose difference in processor time tells what a step takes."""

VOLUMES, SEGMENTER = "3-D detector", "2-D U-Net"
DETECTORS: Mapping[str, Mapping[str, Any]] = {
    f"detector {box} {factor:g} {loss}": {"box": box, "radius_factor": factor, "loss": loss}
    for box in ("constant", "sphere")
    for factor in (1.0, 1.3)
    for loss in ("bce", "focal")
}
ARMS = (*DETECTORS, SEGMENTER, VOLUMES)
FIRST_DETECTOR = next(iter(DETECTORS))
"""Stands for all of them where it is measured what a step takes: they differ in targets and loss alone."""

Precision = Literal["fp32", "bf16", "auto"]


@dataclass(frozen=True)
class Setting:
    """What is compared: for how long, and on what."""

    minutes: float
    shape_zyx: tuple[int, int, int]
    n_train: int
    n_test: int
    out: Path

    @property
    def data(self) -> Path:
        """The project."""
        return self.out / f"data-{'x'.join(map(str, self.shape_zyx))}-{self.n_train}-{self.n_test}"

    @property
    def training_runs(self) -> list[str]:
        """Their names."""
        return sorted(run.name for run in Project(self.data).runs("train"))

    def asked(self) -> dict[str, Any]:
        """Say what was simulated."""
        return {"shape_zyx": self.shape_zyx, "runs": [self.n_train, self.n_test], "data seed": DATA_SEED}


@dataclass(frozen=True)
class Trained:
    """What a training found in the test runs, and the processor time of both."""

    truth: TruthMapping
    picks: pd.DataFrame
    pipeline: Pipeline
    training_s: float
    prediction_s: float


def baseline_of(arm: str, steps: int, precision: Precision, seed: int) -> BaselineRecipe:
    """Return the recipe of a 2-D arm."""
    recipe = load_baseline("segmenter" if arm == SEGMENTER else "detector")
    assert precision != "auto"
    if arm in DETECTORS:
        recipe = replace(recipe, detector=replace(recipe.detector, **DETECTORS[arm]))
    fit = replace(recipe.fit, steps=steps, precision=precision, warmup_steps=min(recipe.fit.warmup_steps, steps // 4))
    return replace(recipe, fit=fit, seed=seed)


def volumes_of(steps: int, seed: int) -> Recipe:
    """Return the recipe of the 3-D arm."""
    return recipe_of_steps(replace(load_recipe("demo-scratch"), seed=seed), steps)


def digest_of(arm: str, steps: int, precision: Precision, seed: int) -> str:
    """Return what tells the recipe of an arm from others."""
    return volumes_of(steps, seed).digest if arm == VOLUMES else baseline_of(arm, steps, precision, seed).digest


def seconds_per_step(setting: Setting, arm: str) -> dict[str, Any]:
    """Return the processor seconds of a step, one for all detectors of slices, and the precision that takes fewer."""
    arm = FIRST_DETECTOR if arm in DETECTORS else arm

    def measure(folder: Path) -> dict[str, Any]:
        found = {}
        precisions: tuple[Precision, ...] = ("auto",) if arm == VOLUMES else ("fp32", "bf16")
        for precision in precisions:
            taken: list[float] = []
            for steps in (SHORT, SHORT, LONG):  # the first also compiles, and chooses among ways to compute
                own = folder / f"{precision}-{len(taken)}"
                own.mkdir(exist_ok=True)
                start = time.process_time()
                if arm == VOLUMES:
                    train_network(setting.data, setting.training_runs, volumes_of(steps, 0), setting.shape_zyx, own)
                else:
                    train_slices(setting, baseline_of(arm, steps, precision, 0), own)
                taken.append(time.process_time() - start)
            found[precision] = (taken[2] - taken[1]) / (LONG - SHORT)
        best = min(found, key=found.__getitem__)
        return {"seconds": found[best], "precision": best, "all": found}

    return kept(
        setting.out / "steps", arm, {**setting.asked(), "arm": arm, "recipe": digest_of(arm, LONG, "fp32", 0)}, measure
    )


def train_slices(setting: Setting, recipe: BaselineRecipe, folder: Path) -> tuple[torch.nn.Module, float]:
    """Train a 2-D network; return it and the voxel size."""
    torch.set_num_threads(1)
    names = setting.training_runs
    runs = read_tomograms(describe_runs(setting.data, names, recipe), recipe)
    voxel_A = runs[names[0]].voxel_A
    method = build_method(recipe, voxel_A, Pipeline(recipe.particles, voxel_A).decoding.floor)
    fold = Fold("fold0", tuple(names), ())
    network, _ = fit_slices(recipe, method, fold, list(runs.values()), folder, Machine("cpu"), None)
    return network, voxel_A


def train_and_predict(setting: Setting, arm: str, steps: int, precision: Precision, seed: int, folder: Path) -> Trained:
    """Train an arm and predict the test runs."""
    start = time.process_time()
    if arm == VOLUMES:
        recipe = volumes_of(steps, seed)
        engine, pipeline, _ = train_network(setting.data, setting.training_runs, recipe, setting.shape_zyx, folder)
        trained = time.process_time()
        truth, picks = predict_test_runs(setting.data, engine, pipeline)
    else:
        baseline = baseline_of(arm, steps, precision, seed)
        network, voxel_A = train_slices(setting, baseline, folder)
        trained = time.process_time()
        pipeline = Pipeline(baseline.particles, voxel_A, stride=1, normalisation=baseline.normalisation)
        method = build_method(baseline, voxel_A, pipeline.decoding.floor)
        truth = read_truth(setting.data / TRUTH_FOLDER, pipeline.particle_names)
        tables = []
        for run in Project(setting.data).runs("test"):
            volume = normalise(read_tomogram(run.tomogram_path()).volume_zyx, pipeline.normalisation)
            found = method.find([network], torch.from_numpy(volume))
            tables.append(picks_of(found, pipeline, volume.shape, voxel_A).assign(experiment=run.name))
        picks = pd.concat(tables, ignore_index=True)
    return Trained(truth, picks, pipeline, trained - start, time.process_time() - trained)


def measure(setting: Setting, arm: str, seed: int) -> dict[str, Any]:
    """Train an arm and score it; or read what an earlier call found."""
    speed = seconds_per_step(setting, arm)
    steps = max(1, round(setting.minutes * 60 / speed["seconds"]))
    recipe = digest_of(arm, steps, speed["precision"], seed)
    asked = {**setting.asked(), "minutes": setting.minutes, "arm": arm, "steps": steps, "recipe": recipe}

    def find(folder: Path) -> dict[str, Any]:
        found = train_and_predict(setting, arm, steps, speed["precision"], seed, folder)
        options = CalibrationOptions(floor=found.pipeline.decoding.floor)
        groups = {name: (name,) for name in found.truth}
        left_out = calibrate(found.truth, found.picks, groups, found.pipeline.particles, options).left_out
        assert left_out is not None
        return {
            "score": left_out.score,
            "classes": {name: item.f_beta for name, item in left_out.per_class.items()},
            "steps": steps,
            "precision": speed["precision"],
            "training_s": found.training_s,
            "prediction_s": found.prediction_s / setting.n_test,
        }

    return kept(setting.out / "arms", f"{arm}-{seed}", asked, find)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3.0, help="of the processor, of every training")
    parser.add_argument("--arms", default=",".join(ARMS), help="default all")
    parser.add_argument("--seeds", default="0", help="of weights and crops")
    parser.add_argument("--shape", default=",".join(map(str, SHAPE)), help="of all runs")
    parser.add_argument("--runs", default=f"{N_TRAIN},{N_TEST}", help="training and test runs; of the latter 2 or more")
    parser.add_argument("--side-by-side", type=int, default=1, help="trainings at a time, one thread each")
    parser.add_argument("--out", type=Path, default=Path("work/bench-baselines"))
    words = parser.parse_args()
    arms = [arm.strip() for arm in words.arms.split(",")]
    if unknown := set(arms) - set(ARMS):
        parser.error(f"unknown arm {', '.join(sorted(unknown))}; known are {', '.join(ARMS)}")
    n_train, n_test = (int(n) for n in words.runs.split(","))
    setting = Setting(words.minutes, parse_zyx("shape", words.shape), n_train, n_test, words.out)

    # One thread each: threads of two trainings that wait for each other's cores cost more than the cores give.
    os.environ["OMP_NUM_THREADS"] = "1"
    plan = ProjectPlan(setting.data, n_train, n_test, setting.shape_zyx, DATA_SEED, SimulationOptions(), "cpu")
    write_project(plan, words.side_by_side)
    found: dict[str, list[dict[str, Any]]] = {}
    context = get_context("spawn")
    for arm in dict.fromkeys(FIRST_DETECTOR if arm in DETECTORS else arm for arm in arms):
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            speed = pool.submit(seconds_per_step, setting, arm).result()
        print(f"{arm}: {speed['seconds']:.3f} processor seconds a step ({speed['precision']})", flush=True)
    with ProcessPoolExecutor(words.side_by_side, mp_context=context) as pool:
        tasks = [(arm, int(seed)) for seed in words.seeds.split(",") for arm in arms]
        futures = {pool.submit(measure, setting, *task): task for task in tasks}
        for done, future in enumerate(as_completed(futures), start=1):
            arm, seed = futures[future]
            found.setdefault(arm, []).append(figures := future.result())
            print(f"{done}/{len(tasks)} {arm}, seed {seed}: simulated F4 {figures['score']:.3f}", flush=True)
    print_table({arm: found[arm] for arm in arms}, setting)


def print_table(found: Mapping[str, list[dict[str, Any]]], setting: Setting) -> None:
    """Mean simulated F4 over seeds, per arm and class."""
    n_seeds = len(next(iter(found.values())))
    print(f"\n{setting.minutes:g} processor minutes each, {n_seeds} seeds, simulated F4")
    head = ["arm", "steps", "training min", "prediction s", "F4", "spread", *CLASSES]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    table = {}
    for arm, own in found.items():
        scores = [figures["score"] for figures in own]
        spread = f"{statistics.stdev(scores):.3f}" if len(scores) > 1 else ""
        classes = [statistics.mean(figures["classes"].get(name, 0.0) for figures in own) for name in CLASSES]
        training, prediction = (statistics.mean(f[key] for f in own) for key in ("training_s", "prediction_s"))
        cells = [arm, str(own[0]["steps"]), f"{training / 60:.1f}", f"{prediction:.1f}"]
        cells += [f"{statistics.mean(scores):.3f}", spread, *(f"{value:.2f}" for value in classes)]
        print(f"| {' | '.join(cells)} |")
        table[arm] = {"runs": own}
    print(json.dumps(table))


if __name__ == "__main__":
    main()
