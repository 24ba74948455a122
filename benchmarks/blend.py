"""What networks of two kinds are worth together: detection, segmentation, and their blend with and without score maps.

    make bench-blend [ARGS="--recipes narrow,narrow-segmentation --steps 600 --seeds 0,1,2 --side-by-side 2"]

Per seed both recipes train all their networks on all their folds, the same number of steps each, on the same simulated
runs. Each is validated alone; then both together: with scores as they come, with score maps, and with maps and weights
out of fold. Every average is scored on runs that none of its networks has seen, at the thresholds that its validation
chose: what a user would get. A blend averages more networks than either part, so `detection twice` is the fair
comparison: the first recipe trained once more, from other weights, and averaged with itself. `fused picks` needs no
common graph: the picks of both parts as `tomopoint fuse` makes one table of them, calibrated out of fold.

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
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd

from one_network import CLASSES, kept, predict_test_runs, recipe_of_steps
from tomopoint.command import parse_zyx
from tomopoint.data.tables import passing, read_pick_table, write_pick_table
from tomopoint.evaluation.score import TruthMapping, score_picks
from tomopoint.inference.engines.torch import TorchEngine
from tomopoint.networks.ensemble import Ensemble
from tomopoint.pipeline import PIPELINE_NAME, Pipeline
from tomopoint.simulate.options import SimulationOptions
from tomopoint.simulate.project import ProjectPlan, write_project
from tomopoint.training.recipe_files import load_recipe
from tomopoint.validation.validated import ValidatedEnsemble, load_validated

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
FUSED = "fused picks"


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
    """Train, validate and score everything of one seed, but for what an earlier call found."""
    asked = {**asdict(setting), "out": "", "seed": seed, "data seed": DATA_SEED}
    asked["networks"] = [asdict(load_recipe(recipe)) for recipe in setting.recipes]
    seeds = setting.out / "seeds"
    trained = seeds / kept(seeds, str(seed), asked, lambda folder: train(setting, seed, folder))["folder"]
    arms = trained / "arms"
    found = {arm.title: kept(arms, arm.title, asdict(arm), partial(score, setting, arm, trained)) for arm in ARMS}
    return {**found, FUSED: kept(arms, FUSED, {}, partial(score_fused, setting, trained))}


def train(setting: Setting, seed: int, folder: Path) -> dict[str, Any]:
    """Train what is averaged, and say where."""
    first, second = setting.recipes
    for place, (name, recipe) in enumerate(zip(TRAININGS, (first, second, first), strict=True)):
        path = folder / f"{name}.yaml"
        own = replace(load_recipe(recipe), seed=seed + place * SEED_STEP)
        recipe_of_steps(own, setting.steps).save(path)
        tomopoint("train", "--data", setting.data, "--recipe", path, "--out", folder / name, "--device", "cpu")
    return {"folder": folder.name}


def score(setting: Setting, arm: Arm, trained: Path, folder: Path) -> dict[str, Any]:
    """Validate an average, and score it on runs that no network has seen."""
    parts = [trained / name for name in arm.trained]
    several = () if len(parts) == 1 else ("--out", folder / "validated")
    tomopoint("validate", *parts, *several, *arm.options, "--device", "cpu")
    merged = load_validated([several[1]] if several else parts)
    weights = {m.kind: merged.pipeline.class_weights(m) for m in merged.pipeline.members}
    figures = score_at_thresholds(*picks_of_test_runs(setting, merged), merged.pipeline)
    return {**figures, "networks": len(merged.networks), "weights": weights}


def score_fused(setting: Setting, trained: Path, folder: Path) -> dict[str, Any]:
    """Fuse the picks of both parts, whose scores and thresholds come of runs held out from their networks."""
    networks = 0
    for name in (FIRST, SECOND):
        merged = load_validated([trained / name])
        truth, picks = picks_of_test_runs(setting, merged)
        held_out = [read_pick_table(path) for path in sorted((trained / name / "validation").glob("*.csv"))]
        (folder / name).mkdir(exist_ok=True)
        write_pick_table(pd.concat([picks, *held_out], ignore_index=True), folder / name / "picks.csv")
        merged.pipeline.save(folder / name / PIPELINE_NAME)
        networks += len(merged.networks)
    out = folder / "out"
    tomopoint("fuse", folder / FIRST, folder / SECOND, "--truth", setting.data / "train", "--out", out)
    fused = read_pick_table(out / "picks.csv")
    of_test = fused[fused["experiment"].isin(truth)]
    return {**score_at_thresholds(truth, of_test, Pipeline.load(out / PIPELINE_NAME)), "networks": networks}


def picks_of_test_runs(setting: Setting, merged: ValidatedEnsemble) -> tuple[TruthMapping, pd.DataFrame]:
    """Return the truth of the runs that no network has seen, and what an ensemble finds in them."""
    engine = TorchEngine(Ensemble.of_pipeline(merged.networks, merged.pipeline), merged.pipeline.tiling.window_zyx)
    return predict_test_runs(setting.data, engine, merged.pipeline)


def score_at_thresholds(truth: TruthMapping, picks: pd.DataFrame, pipeline: Pipeline) -> dict[str, Any]:
    """Simulated F4, in all and by particle."""
    found = score_picks(truth, passing(picks, pipeline.thresholds), pipeline.particles)
    return {"f4": found.score, "per_class": {name: item.f_beta for name, item in found.per_class.items()}}


def print_table(found: Mapping[int, dict[str, Any]], seeds: Sequence[int]) -> None:
    """Simulated F4 of every arm, and what it gains over detection, seed by seed."""
    columns = ["average", "networks", *(f"seed {seed}" for seed in seeds), "mean", "gain over detection", *CLASSES]
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    table: dict[str, Any] = {}
    for title in found[seeds[0]]:
        own = [found[seed][title] for seed in seeds]
        scores = [figures["f4"] for figures in own]
        gains = [figures["f4"] - found[seed][ARMS[0].title]["f4"] for figures, seed in zip(own, seeds, strict=True)]
        spread = statistics.stdev(gains) if len(gains) > 1 else 0.0
        gain = "" if title == ARMS[0].title else f"{statistics.mean(gains):+.3f} (sd {spread:.3f})"
        classes = [f"{statistics.mean(figures['per_class'][name] for figures in own):.3f}" for name in CLASSES]
        cells = [title, str(own[0]["networks"]), *(f"{value:.3f}" for value in scores)]
        print(f"| {' | '.join([*cells, f'{statistics.mean(scores):.3f}', gain, *classes])} |")
        table[title] = {"scores": scores, "gains": gains, "weights": [figures.get("weights") for figures in own]}
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
