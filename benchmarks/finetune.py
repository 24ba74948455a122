"""What trained weights are worth where a few runs of another kind are annotated: fine-tuned against from scratch.

    make bench-finetune [ARGS="--weights small --steps 400 --seeds 0,1,2 --runs 1,2,4"]

The runs are of the other world (docs/simulator.md), which the weights have never seen; their labels are as imperfect as
annotators'. On 1, 2 and 4 of them a network is trained for the same number of steps, from scratch and from the weights
of the same architecture, and scored on other runs of that world, each at thresholds chosen on the rest of these. With
every seed the annotated runs begin with another one. `as it is` is the graph without any training: at thresholds chosen
like the others', and at its own. All scores are simulated.

`--arms` has more ways to fine-tune: the backbone at a tenth of the rate, or frozen for the first half, or throughout.
What is simulated or trained is not made again; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass, fields, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from one_network import CLASSES, kept, predict_test_runs, recipe_of_steps, train_network
from tomopoint.command import parse_zyx
from tomopoint.data.project import Project
from tomopoint.data.tables import passing
from tomopoint.evaluation.calibration import CalibrationOptions, calibrate
from tomopoint.evaluation.score import TruthMapping, score_picks
from tomopoint.files import sha256_of
from tomopoint.inference.engines.load import load_engine
from tomopoint.models.box import find_model
from tomopoint.networks.config import NetworkConfig
from tomopoint.pipeline import Pipeline
from tomopoint.simulate.options import SimulationOptions
from tomopoint.simulate.project import ProjectPlan, write_project
from tomopoint.training.pretrained import networks_in
from tomopoint.training.recipe import NetworkRecipe, Recipe
from tomopoint.training.recipe_files import load_recipe

SHAPE = (128, 320, 320)
N_TEST = 4
DATA_SEED = 51
AS_IT_IS, OWN_THRESHOLDS = "as it is", "as it is, own thresholds"
SCRATCH = "scratch"
ARMS: Mapping[str, Mapping[str, Any]] = {
    SCRATCH: {},
    "fine-tuned": {},
    "slow backbone": {"backbone_rate": 0.1},
    "frozen at first": {"freeze": "backbone"},
    "frozen": {"freeze": "backbone"},
}
"""Options of the optimiser; every arm but the first starts from the weights."""


@dataclass(frozen=True)
class Setting:
    """What is compared: the weights, and how much is simulated and trained."""

    weights: Path
    steps: int
    shape_zyx: tuple[int, int, int]
    world: Literal["own", "other"]
    out: Path

    @property
    def data(self) -> Path:
        """The project."""
        return self.out / f"data-{self.world}-{'x'.join(map(str, self.shape_zyx))}"

    @property
    def results(self) -> Path:
        """The folder of what is found."""
        return self.out / "arms"

    def asked(self) -> dict[str, Any]:
        """Say all that decides what is found, whatever is trained."""
        return {
            "weights": sha256_of(self.weights),
            "steps": self.steps,
            "shape_zyx": self.shape_zyx,
            "world": self.world,
            "data seed": DATA_SEED,
        }

    @property
    def architecture(self) -> NetworkConfig:
        """That of the best scored of the networks in `weights`, else of the first."""
        networks = networks_in(self.weights)
        assert networks is not None
        return max(networks, key=lambda network: network.score or 0.0).config

    def recipe(self, arm: str, seed: int) -> Recipe:
        """The demo's options for so many steps of one network, and nothing that depends on the machine's speed."""
        demo = load_recipe("demo-scratch")
        sizes = {f.name: getattr(self.architecture, f.name) for f in fields(NetworkConfig)}
        start = None if arm == SCRATCH else str(self.weights)
        network = NetworkRecipe(**{**sizes, "label": None, "learning_rate": None, "pretrained": start})
        optimiser = replace(demo.optimiser, **ARMS[arm])
        if arm == "frozen at first":
            optimiser = replace(optimiser, freeze_steps=self.steps // 2)
        own = replace(demo, networks=(network,), optimiser=optimiser, seed=seed)
        return recipe_of_steps(own, self.steps)


def measure(setting: Setting, arm: str, n_runs: int, seed: int) -> dict[str, Any]:
    """Train on so many runs and score on the others; or read what an earlier call found."""
    asked = {**setting.asked(), "arm": dict(ARMS[arm]), "pretrained": arm != SCRATCH, "runs": n_runs, "seed": seed}
    name = f"{arm}-{n_runs}-{seed}"
    return kept(setting.results, name, asked, lambda folder: _measure(setting, arm, n_runs, seed, folder))


def _measure(setting: Setting, arm: str, n_runs: int, seed: int, folder: Path) -> dict[str, Any]:
    names = sorted(run.name for run in Project(setting.data).runs("train"))
    chosen = [names[(seed + index) % len(names)] for index in range(n_runs)]
    recipe = setting.recipe(arm, seed)
    engine, pipeline, seconds = train_network(setting.data, chosen, recipe, setting.shape_zyx, folder)
    truth, picks = predict_test_runs(setting.data, engine, pipeline)
    return {**score(truth, picks, pipeline), "seconds": seconds}


def measure_as_it_is(setting: Setting) -> dict[str, dict[str, Any]]:
    """Score the graph without any training, at thresholds of that world and at its own."""

    def score_graph(folder: Path) -> dict[str, Any]:
        engine, pipeline = load_engine(setting.weights, prefer="cpu")
        with closing(engine):
            truth, picks = predict_test_runs(setting.data, engine, pipeline)
        own = score_picks(truth, passing(picks, pipeline.thresholds), pipeline.particles)
        classes = {name: item.f_beta for name, item in own.per_class.items()}
        return {
            AS_IT_IS: score(truth, picks, pipeline),
            OWN_THRESHOLDS: {"score": own.score, "classes": classes},
        }

    return kept(setting.results, AS_IT_IS, setting.asked(), score_graph)


def score(truth: TruthMapping, picks: pd.DataFrame, pipeline: Pipeline) -> dict[str, Any]:
    """Score every test run at thresholds chosen on the other test runs."""
    groups = {name: (name,) for name in truth}
    options = CalibrationOptions(floor=pipeline.decoding.floor)
    found = calibrate(truth, picks, groups, pipeline.particles, options).left_out
    assert found is not None
    return {"score": found.score, "classes": {name: item.f_beta for name, item in found.per_class.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=Path("small"), help="model of the box by name, or a graph")
    parser.add_argument("--arms", default="scratch,fine-tuned", help="of " + ", ".join(ARMS))
    parser.add_argument("--runs", default="1,2,4", help="how many annotated runs are trained on")
    parser.add_argument("--seeds", default="0,1,2", help="of weights and crops, and with which run they begin")
    parser.add_argument("--steps", type=int, default=400, help="of two crops each")
    parser.add_argument("--shape", default=",".join(map(str, SHAPE)), help="of all runs")
    parser.add_argument("--world", choices=("own", "other"), default="other", help="that the runs are of")
    parser.add_argument("--side-by-side", type=int, default=1, help="trainings at a time, one thread each")
    parser.add_argument("--out", type=Path, default=Path("work/bench-finetune"))
    words = parser.parse_args()
    arms = [arm.strip() for arm in words.arms.split(",")]
    if unknown := set(arms) - set(ARMS):
        parser.error(f"unknown arm {', '.join(sorted(unknown))}; known are {', '.join(ARMS)}")
    numbers, seeds = ([int(n) for n in text.split(",")] for text in (words.runs, words.seeds))
    setting = Setting(find_model(words.weights), words.steps, parse_zyx("shape", words.shape), words.world, words.out)

    # One thread each: threads of two trainings that wait for each other's cores cost more than the cores give.
    os.environ["OMP_NUM_THREADS"] = "1"
    content = SimulationOptions(world=setting.world)
    plan = ProjectPlan(setting.data, max(numbers), N_TEST, setting.shape_zyx, DATA_SEED, content, "cpu")
    write_project(plan, words.side_by_side)
    found = {(arm, 0, 0): figures for arm, figures in measure_as_it_is(setting).items()}
    tasks = [(arm, n_runs, seed) for seed in seeds for n_runs in numbers for arm in arms]
    with ProcessPoolExecutor(words.side_by_side, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(measure, setting, *task): task for task in tasks}
        for done, future in enumerate(as_completed(futures), start=1):
            arm, n_runs, seed = futures[future]
            found[arm, n_runs, seed] = figures = future.result()
            print(
                f"{done}/{len(tasks)} {arm}, {n_runs} annotated runs, seed {seed}: simulated F4 {figures['score']:.3f}",
                flush=True,
            )
    print_table(found, setting)


def print_table(found: Mapping[tuple[str, int, int], Mapping[str, Any]], setting: Setting) -> None:
    """Mean simulated F4 over seeds, their spread, and per class."""
    print(f"\nweights {setting.weights.name}, {setting.steps} steps, {setting.world} world, simulated F4")
    print(f"| annotated runs | start | F4 | spread | {' | '.join(CLASSES)} |\n|{'---|' * (4 + len(CLASSES))}")
    table: dict[str, dict[str, Any]] = {}
    order = [OWN_THRESHOLDS, AS_IT_IS, *ARMS]
    for arm, n_runs in sorted({(arm, n) for arm, n, _ in found}, key=lambda row: (row[1], order.index(row[0]))):
        own = [figures for (name, n, _), figures in found.items() if (name, n) == (arm, n_runs)]
        scores = [figures["score"] for figures in own]
        spread = f"{statistics.stdev(scores):.3f}" if len(scores) > 1 else ""
        classes = [statistics.mean(figures["classes"].get(name, 0.0) for figures in own) for name in CLASSES]
        cells = [f"{value:.2f}" for value in classes]
        print(f"| {n_runs} | {arm} | {statistics.mean(scores):.3f} | {spread} | {' | '.join(cells)} |")
        table[f"{n_runs}: {arm}"] = {"scores": scores, "classes": dict(zip(CLASSES, classes, strict=True))}
    print(json.dumps(table))


if __name__ == "__main__":
    main()
