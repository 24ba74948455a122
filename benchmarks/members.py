"""Few networks trained long, or many trained briefly: simulated F4 at equal training time.

    make bench-members [ARGS="--steps 1600 --seeds 0,1 --out work/bench-members"]

Every arm has the same number of optimiser steps in all, divided among its networks: one SegResNet on each of two folds
(the recipe `demo-scratch`), a SegResNet and a DynUNet on each of two folds (`narrow`), one SegResNet on each of four
folds. The runs are the demo's; the networks of each fold are trained one after the other, two folds side by side with
one thread each. A step of the narrow DynUNet takes about as long as one of the SegResNet ("Training" in
docs/benchmarks.md). Scored are the held-out runs at thresholds of the other folds, each by all networks that never saw
it, and test runs by all networks. What is finished is not made again; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tomopoint.demo import FULL
from tomopoint.strict_json import read

TOMOPOINT = [sys.executable, "-m", "tomopoint"]
STEPS_PER_EPOCH = 100


@dataclass(frozen=True)
class Arm:
    """One way to spend the steps.

    Attributes
    ----------
    title
        For the table.
    recipe
        As YAML.
    folds, networks
        How many, so that the steps are divided by their product.
    """

    title: str
    recipe: str
    folds: int
    networks: int


ARMS = (
    Arm("SegResNet on 2 folds", "base: demo-scratch\nfit: {max_minutes: 0}\n", 2, 1),
    Arm("SegResNet and DynUNet on 2 folds", "base: narrow\nfit: {max_minutes: 0}\n", 2, 2),
    Arm("SegResNet on 4 folds", "base: demo-scratch\nfolds: kfold-4\nfit: {max_minutes: 0}\n", 4, 1),
)


def run(words: Sequence[str]) -> str:
    done = subprocess.run([*TOMOPOINT, *words], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def train(words: Sequence[str], folds: int) -> None:
    """Train the folds, two side by side, each with half of the cores."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // 2))}
    shares = [range(first, folds, 2) for first in (0, 1)]
    commands = [[*TOMOPOINT, *words, "--folds", ",".join(map(str, share))] for share in shares]
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) for command in commands]
    statuses = [process.wait() for process in processes]
    if any(statuses):
        sys.exit("a training failed, see above")


def measure(arm: Arm, seed: int, steps: int, data: Path, out: Path) -> dict[str, float]:
    """Train one arm, validate it, and predict the test runs with all its networks."""
    folder = out / f"{ARMS.index(arm)}-{steps}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    recipe = folder / "recipe.yaml"
    recipe.write_text(arm.recipe)
    epochs = steps // (STEPS_PER_EPOCH * arm.folds * arm.networks)
    length = ("--epochs", str(epochs), "--steps-per-epoch", str(STEPS_PER_EPOCH), "--seed", str(seed))
    trained, graph, picks = folder / "trained", folder / "ensemble.onnx", folder / "picks"
    train(["train", "--data", str(data), "--recipe", str(recipe), *length, "--out", str(trained)], arm.folds)
    if not graph.exists():
        run(["validate", str(trained), "--window", FULL.window])
        run(["export", str(trained), "-o", str(graph)])
    run(["predict", "--data", str(data), "--model", str(graph), "--out", str(picks)])
    scored = json.loads(run(["score", str(picks / "submission.csv"), "--truth", str(data / "truth"), "--json"]))
    return {"out of fold": read(trained / "validation.json")["score_left_out"], "test": scored["score"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3200, help="in all, of every arm")
    parser.add_argument("--seeds", default="0,1", help="of weights, crops and augmentation")
    parser.add_argument("--out", type=Path, default=Path("work/bench-members"))
    words = parser.parse_args()
    seeds = [int(seed) for seed in words.seeds.split(",")]
    data = words.out / "data"
    runs = ["--train-runs", str(FULL.train_runs), "--test-runs", str(FULL.test_runs), "--shape", FULL.shape]
    run(["simulate", str(data), *runs, "--seed", "0"])
    figures: dict[str, dict[str, list[float]]] = {}
    print(f"| networks, {words.steps} steps in all | steps of each | out of fold | test runs |\n|---|---|---|---|")
    for arm in ARMS:
        found = [measure(arm, seed, words.steps, data, words.out) for seed in seeds]
        figures[arm.title] = {key: [round(one[key], 4) for one in found] for key in ("out of fold", "test")}
        cells = [
            f"{statistics.mean(values):.3f} ({', '.join(map(str, values))})" for values in figures[arm.title].values()
        ]
        print(f"| {arm.title} | {words.steps // (arm.folds * arm.networks)} | {' | '.join(cells)} |", flush=True)
    print(json.dumps({"steps": words.steps, **figures}))


if __name__ == "__main__":
    main()
