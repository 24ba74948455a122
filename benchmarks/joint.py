"""Two run folders in one graph: thresholds calibrated for their average, against the average of their thresholds.

    python benchmarks/joint.py [--seeds 0,1] [--out work/bench-joint]

Per seed: simulates runs of the demo's size, trains its SegResNet and its DynUNet as two run folders of two folds, and
validates each alone and both together. The average of all four networks then predicts test runs that no network saw,
and its picks are scored twice: with the thresholds that the joint validation chose for this average, and with the mean
of those that were chosen for each half of it. Ten runs choose thresholds with some luck, so the same is done for many
random halves of them, about as many runs as the competition has: means over these draws say more than the one. What is
finished is not made again; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from tomopoint.data.tables import PICK_COLUMNS, passing, read_pick_table
from tomopoint.evaluation.calibration import CalibrationOptions, calibrate
from tomopoint.evaluation.score import score_picks
from tomopoint.evaluation.truth import read_truth
from tomopoint.pipeline import PIPELINE_NAME, Pipeline
from tomopoint.training.recipe_files import recipes_folder

CHECKOUT = Path(__file__).resolve().parents[1]
SHAPE, WINDOW = "128,320,320", "128,192,192"
TRAIN_RUNS, TEST_RUNS = 10, 10
DRAWS, RUNS_PER_DRAW = 40, 5
TOMOPOINT = [sys.executable, "-m", "tomopoint"]


def run(words: list[str], threads: int | None = None) -> str:
    environment = {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout


def train(seed: int, out: Path) -> list[Path]:
    """Train one run folder per network of the recipe `demo`, four members on two cores."""
    recipe = yaml.safe_load((recipes_folder() / "demo.yaml").read_text())
    folders, commands = [], []
    for network in recipe["networks"]:
        path = out / f"{network['name']}.yaml"
        path.write_text(yaml.safe_dump({**recipe, "networks": [network], "seed": seed}))
        folders.append(out / network["name"])
        words = [*TOMOPOINT, "train", "--data", str(out / "data"), "--recipe", str(path), "--out", str(folders[-1])]
        commands += [[*words, "--folds", fold] for fold in ("0", "1")]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(lambda words: run(words, threads=1), commands))
    return folders


def measure(seed: int, out: Path) -> dict[str, object]:
    data, model, picks = out / "data", out / "ensemble.onnx", out / "picks"
    runs = ["--train-runs", str(TRAIN_RUNS), "--test-runs", str(TEST_RUNS), "--shape", SHAPE, "--seed", str(seed)]
    run([*TOMOPOINT, "simulate", str(data), *runs])
    folders = train(seed, out)
    together = out / "together"
    for given in ([folders[0]], [folders[1]], [*folders, "--out", together]):
        run([*TOMOPOINT, "validate", *map(str, given), "--window", WINDOW])
    if not (picks / "picks.csv").is_file():
        run(
            [
                sys.executable,
                str(CHECKOUT / "export_onnx.py"),
                str(together),
                "--precision",
                "fp32",
                "--out",
                str(model),
            ]
        )
        run([*TOMOPOINT, "predict", "--data", str(data), "--model", str(model), "--out", str(picks)])
    joint = Pipeline.load(together / PIPELINE_NAME).thresholds
    halves = [Pipeline.load(folder / PIPELINE_NAME).thresholds for folder in folders]
    averaged = {name: sum(half[name] for half in halves) / len(halves) for name in joint}
    figures: dict[str, object] = {"seed": seed}
    for title, thresholds in (("joint", joint), ("averaged", averaged)):
        submission = out / f"{title}.csv"
        text = ",".join(f"{name}={value}" for name, value in thresholds.items())
        table = ["rethreshold", str(picks / "picks.csv"), "--thresholds", text, "--out", str(submission)]
        run([*TOMOPOINT, *table])
        scored = json.loads(
            run([*TOMOPOINT, "score", str(submission), "--truth", str(data / "truth"), "--json"]).splitlines()[-1]
        )
        per_class = {name: round(item["f_beta"], 4) for name, item in scored["per_class"].items()}
        rounded = {name: round(value, 3) for name, value in thresholds.items()}
        figures[title] = {"score": round(scored["score"], 4), "per_class": per_class, "thresholds": rounded}
    figures["draws"] = resampled(out, folders, together)
    print(figures, flush=True)
    return figures


def resampled(out: Path, folders: list[Path], together: Path) -> dict[str, float]:
    """Choose thresholds in both ways on random halves of the runs; mean scores of the test runs, and of the gain."""
    pipeline = Pipeline.load(together / PIPELINE_NAME)
    names, particles = pipeline.particle_names, pipeline.particles
    truth, test_truth = read_truth(out / "data", names), read_truth(out / "data" / "truth", names)
    picks = {folder: out_of_fold_picks(folder) for folder in (*folders, together)}
    predicted = read_pick_table(out / "picks" / "picks.csv")

    def thresholds(folder: Path, chosen: list[str]) -> dict[str, float]:
        own = picks[folder].loc[picks[folder]["experiment"].isin(chosen)]
        groups = {name: (name,) for name in chosen}
        return calibrate({n: truth[n] for n in chosen}, own, groups, particles, CalibrationOptions()).thresholds

    rng = np.random.default_rng(0)
    scores = []
    for _ in range(DRAWS):
        chosen = sorted(rng.permutation(sorted(truth))[:RUNS_PER_DRAW].tolist())
        halves = [thresholds(folder, chosen) for folder in folders]
        averaged = {name: sum(half[name] for half in halves) / len(halves) for name in names}
        both = (thresholds(together, chosen), averaged)
        scores.append([score_picks(test_truth, passing(predicted, given), particles).score for given in both])
    joint, mean = np.array(scores).T
    return {
        "joint": round(float(joint.mean()), 4),
        "averaged": round(float(mean.mean()), 4),
        "gain": round(float((joint - mean).mean()), 4),
        "gain_sd": round(float((joint - mean).std(ddof=1)), 4),
        "share_ahead": float((joint > mean).mean()),
    }


def out_of_fold_picks(folder: Path) -> pd.DataFrame:
    tables = [read_pick_table(path) for path in sorted((folder / "validation").glob("*.csv"))]
    return pd.concat(tables, ignore_index=True).loc[:, list(PICK_COLUMNS)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1", help="of the tomograms and of the networks")
    parser.add_argument("--out", type=Path, default=Path("work/bench-joint"))
    given = parser.parse_args()
    seeds = [int(seed) for seed in given.seeds.split(",")]
    for seed in seeds:
        (given.out / str(seed)).mkdir(parents=True, exist_ok=True)
    print(json.dumps([measure(seed, (given.out / str(seed)).resolve()) for seed in seeds]))


if __name__ == "__main__":
    main()
