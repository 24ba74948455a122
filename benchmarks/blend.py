"""What networks of two kinds are worth together: detection, segmentation, and their blend with and without score maps.

    make bench-blend [ARGS="--recipes narrow,narrow-segmentation --steps 600 --seeds 0,1,2 --side-by-side 2"]

Per seed both recipes train all their networks on all their folds, the same number of steps each, on the same simulated
runs. Each is validated alone; then both together: with scores as they come, with score maps, and with maps and weights
out of fold. Every average is scored on runs that none of its networks has seen, at the thresholds that its validation
chose: what a user would get. A blend averages more networks than either part, so `detection twice` is the fair
comparison: the first recipe trained once more, from other weights, and averaged with itself.

All scores are simulated. What is simulated, trained or validated is not made again; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from one_network import CLASSES, kept, predict_test_runs, recipe_of_steps
from tomopoint.command import parse_zyx
from tomopoint.data.tables import passing
from tomopoint.evaluation.score import score_picks
from tomopoint.inference.engines.torch import TorchEngine
from tomopoint.networks.ensemble import Ensemble
from tomopoint.simulate.options import SimulationOptions
from tomopoint.simulate.project import ProjectPlan, write_project
from tomopoint.training.recipe_files import load_recipe
from tomopoint.validation.validated import load_validated

SHAPE = "128,320,320"
N_TRAIN, N_TEST, DATA_SEED = 8, 6, 61
FIRST, SECOND, AGAIN = TRAININGS = "first", "second", "again"
SEED_STEP = 1000
"""Between the seeds of the three, so that two of one recipe never begin with the same weights."""


@dataclass(frozen=True)
class Arm:
    """An average: the trainings that are in it, and what `tomopoint validate` is told."""

    title: str
    trained: tuple[str, ...]
    options: tuple[str, ...] = ()


ARMS = (
    Arm("detection", (FIRST,)),
    Arm("detection twice", (FIRST, AGAIN)),
    Arm("segmentation", (SECOND,)),
    Arm("blend, scores as they come", (FIRST, SECOND), ("--score-maps", "none")),
    Arm("blend, score maps", (FIRST, SECOND)),
    Arm("blend, score maps and weights", (FIRST, SECOND), ("--weights", "out-of-fold")),
)


@dataclass(frozen=True)
class Setting:
    """What is compared, and how much is simulated and trained."""

    recipes: tuple[str, str]
    steps: int
    shape_zyx: tuple[int, int, int]
    train_runs: int
    test_runs: int
    out: Path

    @property
    def data(self) -> Path:
        """The project."""
        return self.out / "data"


def tomopoint(*words: object) -> None:
    """Run a command, on one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tomopoint", *map(str, words)]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


def measure(setting: Setting, seed: int) -> dict[str, Any]:
    """Train, validate and score everything of one seed; or read what an earlier call found."""
    asked = {**asdict(setting), "out": "", "seed": seed, "data seed": DATA_SEED, "arms": [asdict(arm) for arm in ARMS]}
    asked["networks"] = [asdict(load_recipe(recipe)) for recipe in setting.recipes]
    return kept(setting.out / "seeds", str(seed), asked, lambda folder: _measure(setting, seed, folder))


def _measure(setting: Setting, seed: int, folder: Path) -> dict[str, Any]:
    first, second = setting.recipes
    for place, (name, recipe) in enumerate(zip(TRAININGS, (first, second, first), strict=True)):
        path = folder / f"{name}.yaml"
        own = replace(load_recipe(recipe), seed=seed + place * SEED_STEP)
        recipe_of_steps(own, setting.steps).save(path)
        tomopoint("train", "--data", setting.data, "--recipe", path, "--out", folder / name, "--device", "cpu")
    return {arm.title: score(setting, arm, folder) for arm in ARMS}


def score(setting: Setting, arm: Arm, folder: Path) -> dict[str, Any]:
    """Validate an average, and score it on runs that no network has seen."""
    trained = [folder / name for name in arm.trained]
    several = () if len(trained) == 1 else ("--out", folder / arm.title.replace(", ", "-").replace(" ", "-"))
    tomopoint("validate", *trained, *several, *arm.options, "--device", "cpu")
    merged = load_validated([several[1]] if several else trained)
    engine = TorchEngine(Ensemble.of_pipeline(merged.networks, merged.pipeline), merged.pipeline.tiling.window_zyx)
    truth, picks = predict_test_runs(setting.data, engine, merged.pipeline)
    found = score_picks(truth, passing(picks, merged.pipeline.thresholds), merged.pipeline.particles)
    weights = {m.kind: merged.pipeline.class_weights(m) for m in merged.pipeline.members}
    return {
        "f4": found.score,
        "per_class": {name: item.f_beta for name, item in found.per_class.items()},
        "networks": len(merged.networks),
        "weights": weights,
    }


def print_table(found: Mapping[int, dict[str, Any]], seeds: Sequence[int]) -> None:
    """Simulated F4 of every arm, and what it gains over detection, seed by seed."""
    columns = ["average", "networks", *(f"seed {seed}" for seed in seeds), "mean", "gain over detection", *CLASSES]
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    table: dict[str, Any] = {}
    for arm in ARMS:
        own = [found[seed][arm.title] for seed in seeds]
        scores = [figures["f4"] for figures in own]
        gains = [figures["f4"] - found[seed][ARMS[0].title]["f4"] for figures, seed in zip(own, seeds, strict=True)]
        spread = statistics.stdev(gains) if len(gains) > 1 else 0.0
        gain = "" if arm is ARMS[0] else f"{statistics.mean(gains):+.3f} (sd {spread:.3f})"
        classes = [f"{statistics.mean(figures['per_class'][name] for figures in own):.3f}" for name in CLASSES]
        cells = [arm.title, str(own[0]["networks"]), *(f"{value:.3f}" for value in scores)]
        print(f"| {' | '.join([*cells, f'{statistics.mean(scores):.3f}', gain, *classes])} |")
        table[arm.title] = {"scores": scores, "gains": gains, "weights": [figures["weights"] for figures in own]}
    print(json.dumps({"simulated": True, "arms": table}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", default="narrow,narrow-segmentation", help="of detection and of segmentation")
    parser.add_argument("--seeds", default="0,1,2", help="of weights and crops; the runs stay")
    parser.add_argument("--steps", type=int, default=600, help="of two crops each, of every network")
    parser.add_argument("--shape", default=SHAPE)
    parser.add_argument("--train-runs", type=int, default=N_TRAIN)
    parser.add_argument("--test-runs", type=int, default=N_TEST)
    parser.add_argument("--side-by-side", type=int, default=1, help="seeds at a time, one thread each")
    parser.add_argument("--out", type=Path, default=Path("work/bench-blend"))
    words = parser.parse_args()
    first, second = words.recipes.split(",")
    seeds = [int(seed) for seed in words.seeds.split(",")]
    shape = parse_zyx("shape", words.shape)
    setting = Setting((first, second), words.steps, shape, words.train_runs, words.test_runs, words.out)
    os.environ["OMP_NUM_THREADS"] = "1"
    options = SimulationOptions()
    plan = ProjectPlan(setting.data, setting.train_runs, setting.test_runs, shape, DATA_SEED, options, "cpu")
    write_project(plan, words.side_by_side)
    found: dict[int, dict[str, Any]] = {}
    with ProcessPoolExecutor(words.side_by_side, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(measure, setting, seed): seed for seed in seeds}
        for future in as_completed(futures):
            found[futures[future]] = future.result()
            figures = ", ".join(f"{name} {own['f4']:.3f}" for name, own in found[futures[future]].items())
            print(f"seed {futures[future]}: simulated F4 {figures}", flush=True)
    print_table(found, seeds)


if __name__ == "__main__":
    main()
