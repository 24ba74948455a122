"""What a picker from the simulator is worth in another world: shapes and variety, at equal steps.

    make bench-transfer [ARGS="--steps 800 --seeds 0,1,2 --arms analytic,measured --side-by-side 2"]

Every arm simulates training runs of its own: with analytic or measured shapes of the particles, and with every copy
and every run nominal or varied as by default (`-variety`), at the real contrast or below it (`-fainter`). One
SegResNet of the recipe `demo-scratch` is trained on them for the same number of steps, and predicts runs of the arm's
own kind and of the other world (docs/simulator.md), which are the same for all arms and which no network has seen.
Thresholds are chosen on runs of the arm's own kind, half of those held out; the score at them, on the other half and
in the other world, is what a user gets who has no real annotations.
"at best" is the score at the best thresholds that there are in a world. All scores are simulated.

`--arms ...,trained-there` adds a network that was trained in the other world: the ceiling of its size and steps.
`--full` adds one run of the competition's size in the other world. What is simulated or trained is not made again; the
last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd

from one_network import CLASSES, kept, predict_test_runs, recipe_of_steps, train_network
from tomopoint.command import parse_zyx
from tomopoint.data.project import Project
from tomopoint.data.tables import passing
from tomopoint.evaluation.calibration import CalibrationOptions, calibrate
from tomopoint.evaluation.residual import shifted
from tomopoint.evaluation.score import TruthMapping, score_picks
from tomopoint.evaluation.thresholds import sweep, threshold_grid
from tomopoint.pipeline import Pipeline
from tomopoint.simulate.options import FULL_SHAPE_ZYX, NO_VARIETY, SimulationOptions
from tomopoint.simulate.project import ProjectPlan, write_project
from tomopoint.training.recipe import Recipe
from tomopoint.training.recipe_files import load_recipe

SHAPE = (128, 320, 320)
N_TRAIN, N_CALIBRATION, N_OWN, N_OTHER = 8, 4, 4, 4
DATA_SEED, OTHER_SEED, FULL_SEED = DATA_SEEDS = 31, 32, 33
CROP = (64, 64, 64)
PER_CLASS = ("f4", "best", "precision", "recall")
WORLDS = ("own", "other", "other-full")


ARMS = {
    "analytic": SimulationOptions(shapes="analytic", variety=NO_VARIETY),
    "analytic-variety": SimulationOptions(shapes="analytic"),
    "measured": SimulationOptions(shapes="measured", variety=NO_VARIETY),
    "measured-variety": SimulationOptions(shapes="measured"),
    "measured-variety-fainter": SimulationOptions(shapes="measured", difficulty=1.5),
}
"""What the runs hold that an arm is trained on."""

CEILING = {"trained-there": SimulationOptions(world="other")}
"""Nobody has it: what the same steps give on annotated runs of the other world. Only where it is asked for."""

OPTIONS = ARMS | CEILING


@dataclass(frozen=True)
class Sizes:
    """How much is simulated and trained."""

    shape_zyx: tuple[int, int, int]
    steps: int
    train_runs: int
    full: bool

    def recipe(self, seed: int) -> Recipe:
        """The demo's first network for so many steps, and nothing that depends on the machine's speed."""
        demo = load_recipe("demo-scratch")
        sized = replace(demo, networks=demo.networks[:1], crops=replace(demo.crops, size_zyx=CROP), seed=seed)
        return recipe_of_steps(sized, self.steps)


def simulate(arms: Sequence[str], sizes: Sizes, out: Path, workers: int) -> None:
    """Make every arm's runs, and those of the other world: real shapes there, whatever an arm was trained on."""
    own = N_CALIBRATION + N_OWN
    plans = [
        ProjectPlan(out / "data" / arm, sizes.train_runs, own, sizes.shape_zyx, DATA_SEED, OPTIONS[arm], "cpu")
        for arm in arms
    ]
    other = SimulationOptions(world="other")
    plans.append(ProjectPlan(out / "data" / "other", 0, N_OTHER, sizes.shape_zyx, OTHER_SEED, other, "cpu"))
    if sizes.full:
        plans.append(ProjectPlan(out / "data" / "other-full", 0, 1, FULL_SHAPE_ZYX, FULL_SEED, other, "cpu"))
    for plan in plans:
        write_project(plan, workers)


def measure(arm: str, seed: int, sizes: Sizes, out: Path) -> dict[str, Any]:
    """Train one network, choose thresholds, score in every world; or read what an earlier call found."""
    asked = {"options": asdict(OPTIONS[arm]), "seed": seed, **asdict(sizes), "data seeds": DATA_SEEDS}
    return kept(out / "arms", f"{arm}-{seed}", asked, lambda folder: _measure(arm, seed, sizes, out / "data", folder))


def _measure(arm: str, seed: int, sizes: Sizes, data: Path, folder: Path) -> dict[str, Any]:
    names = sorted(run.name for run in Project(data / arm).runs("train"))
    engine, pipeline, seconds = train_network(data / arm, names, sizes.recipe(seed), sizes.shape_zyx, folder)

    everything, picks = predict_test_runs(data / arm, engine, pipeline)
    truth = dict(everything)
    for_thresholds = sorted(truth)[:N_CALIBRATION]
    chosen = calibrate(
        {name: truth.pop(name) for name in for_thresholds},
        picks.loc[picks["experiment"].isin(for_thresholds)],
        {"all": for_thresholds},
        pipeline.particles,
        CalibrationOptions(floor=pipeline.decoding.floor),
    )
    worlds: dict[str, tuple[TruthMapping, pd.DataFrame]] = {}
    worlds["own"] = (truth, picks.loc[~picks["experiment"].isin(for_thresholds)])
    for world in WORLDS[1:] if sizes.full else WORLDS[1:2]:
        worlds[world] = predict_test_runs(data / world, engine, pipeline)
    figures = {
        world: score(truth, shifted(picks, chosen.residual.correction_xyz_A), chosen.thresholds, pipeline)
        for world, (truth, picks) in worlds.items()
    }
    return {**figures, "seconds": seconds}


def score(
    truth: TruthMapping, picks: pd.DataFrame, thresholds: Mapping[str, float], pipeline: Pipeline
) -> dict[str, Any]:
    """Score picks at the given thresholds, and at each particle's best."""
    particles = pipeline.particles
    given = score_picks(truth, passing(picks, thresholds), particles)
    curves = sweep(truth, picks, particles, threshold_grid(pipeline.decoding.floor))
    best = {name: float(curve.f_beta.max(initial=0.0)) for name, curve in curves.items()}
    total = sum(particle.weight for particle in particles)
    return {
        "score": given.score,
        "best": sum(particle.weight * best[particle.name] for particle in particles) / total,
        "classes": {
            name: {"f4": item.f_beta, "best": best[name], "precision": item.precision, "recall": item.recall}
            for name, item in given.per_class.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", default=",".join(ARMS), help="of " + ", ".join(OPTIONS))
    parser.add_argument("--seeds", default="0,1,2", help="of weights and crops; the runs stay")
    parser.add_argument("--steps", type=int, default=800, help="of two crops each")
    parser.add_argument("--train-runs", type=int, default=N_TRAIN, help="per arm")
    parser.add_argument("--shape", default=",".join(map(str, SHAPE)), help="of all runs but the full-size one")
    parser.add_argument("--full", action="store_true", help="also one run of the competition's size in the other world")
    parser.add_argument("--side-by-side", type=int, default=1, help="trainings at a time, one thread each")
    parser.add_argument("--out", type=Path, default=Path("work/bench-transfer"))
    words = parser.parse_args()
    if unknown := set(words.arms.split(",")) - set(OPTIONS):
        parser.error(f"unknown arm {', '.join(sorted(unknown))}; known are {', '.join(OPTIONS)}")
    arms, seeds = words.arms.split(","), [int(seed) for seed in words.seeds.split(",")]
    sizes = Sizes(parse_zyx("shape", words.shape), words.steps, words.train_runs, words.full)

    # One thread each: threads of two trainings that wait for each other's cores cost more than the cores give.
    os.environ["OMP_NUM_THREADS"] = "1"
    simulate(arms, sizes, words.out, words.side_by_side)
    tasks = [(arm, seed) for seed in seeds for arm in arms]
    found: dict[tuple[str, int], dict[str, Any]] = {}
    with ProcessPoolExecutor(words.side_by_side, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(measure, *task, sizes, words.out): task for task in tasks}
        for done, future in enumerate(as_completed(futures), start=1):
            (arm, seed), figures = futures[future], future.result()
            found[arm, seed] = figures
            scores = ", ".join(
                f"{world} {figures[world]['score']:.3f} (at best {figures[world]['best']:.3f})"
                for world in WORLDS
                if world in figures
            )
            print(f"{done}/{len(tasks)} {arm}, seed {seed}: simulated F4 {scores}", flush=True)
    print_table(found, arms, seeds)


def print_table(found: Mapping[tuple[str, int], dict[str, Any]], arms: Sequence[str], seeds: Sequence[int]) -> None:
    """Mean simulated F4 over seeds, their spread, what was to be had at best; per class F4 (precision / recall)."""
    print(
        f"\n| world | arm | simulated F4 | spread | at best | {' | '.join(CLASSES)} |\n|{'---|' * (5 + len(CLASSES))}"
    )
    table: dict[str, dict[str, Any]] = {}
    for world in WORLDS:
        for arm in arms:
            own = [found[arm, seed][world] for seed in seeds if world in found[arm, seed]]
            if not own:
                continue
            scores = [figures["score"] for figures in own]
            spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
            classes = {
                name: {key: statistics.mean(figures["classes"][name][key] for figures in own) for key in PER_CLASS}
                for name in CLASSES
            }
            cells = [f"{c['f4']:.2f} ({c['precision']:.2f} / {c['recall']:.2f})" for c in classes.values()]
            mean, best = statistics.mean(scores), statistics.mean(figures["best"] for figures in own)
            print(f"| {world} | {arm} | {mean:.3f} | {spread:.3f} | {best:.3f} | {' | '.join(cells)} |")
            table[f"{world}: {arm}"] = {"scores": scores, "best": best, "classes": classes}
    print(json.dumps(table))


if __name__ == "__main__":
    main()
