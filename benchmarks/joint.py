"""Two training folders in one graph: thresholds calibrated for their average, against the average of their thresholds.

    tomopoint train --data DATA --recipe narrow --out trained/narrow      # then validate, export, predict --out picks
    python benchmarks/joint.py --trained trained/narrow --data DATA --picks picks/picks.csv [--out work/bench-joint]

DATA is a simulated project. Takes the networks of the recipe `narrow` apart into two training folders, SegResNets and
DynUNets, and validates each alone and both together. Thresholds are then chosen on random draws of seven training
runs, as many as the competition has, in two ways: for the average of all networks from its own out-of-fold picks
(what `tomopoint validate A B` does), and as the mean of the thresholds that each half would get alone. Both are
scored on the training runs that were not drawn (picks of the average of the two networks that never saw them) and on
the test runs (picks of all four).
What is predicted is not predicted again; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from tomopoint.data.project import TRUTH_FOLDER
from tomopoint.data.tables import PICK_COLUMNS, passing, read_pick_table
from tomopoint.data.truth import read_truth
from tomopoint.evaluation.calibration import CalibrationOptions, calibrate
from tomopoint.evaluation.score import score_picks
from tomopoint.pipeline import PIPELINE_NAME, Pipeline
from tomopoint.training.checkpoints import RECIPE, find_members

DRAWS, RUNS_PER_DRAW = 100, 7


def take_apart(trained: Path, out: Path) -> list[Path]:
    """Copy the members of each architecture into a training folder of its own."""
    folders = []
    for member in find_members(trained):
        folder = out / member.name
        target = folder / member.parent.name / member.name
        if not target.exists():
            shutil.copytree(member, target, ignore=shutil.ignore_patterns("last.safetensors", "tensorboard"))
        shutil.copyfile(trained / RECIPE, folder / RECIPE)
        folders += [folder] if folder not in folders else []
    return folders


def out_of_fold_picks(folder: Path) -> pd.DataFrame:
    tables = [read_pick_table(path) for path in sorted((folder / "validation").glob("*.csv"))]
    return pd.concat(tables, ignore_index=True).loc[:, list(PICK_COLUMNS)]


def measure(trained: Path, data: Path, predicted: Path, out: Path) -> dict[str, dict[str, float]]:
    folders, together = take_apart(trained, out), out / "together"
    window = ",".join(map(str, Pipeline.load(trained / PIPELINE_NAME).tiling.window_zyx))
    for given in (*([str(folder)] for folder in folders), [*map(str, folders), "--out", str(together)]):
        words = [sys.executable, "-m", "tomopoint", "validate", *given, "--window", window]
        subprocess.run(words, check=True, stdout=subprocess.PIPE)
    particles = Pipeline.load(together / PIPELINE_NAME).particles
    names = [particle.name for particle in particles]
    truth, test_truth = read_truth(data, names), read_truth(data / TRUTH_FOLDER, names)
    picks = {folder: out_of_fold_picks(folder) for folder in (*folders, together)}
    test_picks = read_pick_table(predicted)

    def thresholds(folder: Path, chosen: list[str]) -> dict[str, float]:
        own = picks[folder].loc[picks[folder]["experiment"].isin(chosen)]
        groups = {name: (name,) for name in chosen}
        return calibrate({n: truth[n] for n in chosen}, own, groups, particles, CalibrationOptions()).thresholds

    rng = np.random.default_rng(0)
    scores: dict[str, list[list[float]]] = {"training runs not drawn": [], "test runs": []}
    for _ in range(DRAWS):
        drawn = sorted(rng.permutation(sorted(truth))[:RUNS_PER_DRAW].tolist())
        halves = [thresholds(folder, drawn) for folder in folders]
        averaged = {name: sum(half[name] for half in halves) / len(halves) for name in names}
        left = {name: points for name, points in truth.items() if name not in drawn}
        left_picks = picks[together].loc[picks[together]["experiment"].isin(list(left))]
        both = (thresholds(together, drawn), averaged)
        for title, (points, found) in {
            "training runs not drawn": (left, left_picks),
            "test runs": (test_truth, test_picks),
        }.items():
            scores[title].append([score_picks(points, passing(found, given), particles).score for given in both])
    return {title: _figures(np.array(values)) for title, values in scores.items()}


def _figures(scores: np.ndarray) -> dict[str, float]:
    gain = scores[:, 0] - scores[:, 1]
    return {
        "joint": round(float(scores[:, 0].mean()), 4),
        "averaged": round(float(scores[:, 1].mean()), 4),
        "gain": round(float(gain.mean()), 4),
        "gain_sd": round(float(gain.std(ddof=1)), 4),
        "share_ahead": float((gain > 0).mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trained", type=Path, required=True, help="validated training folder of the recipe narrow")
    parser.add_argument("--data", type=Path, required=True, help="simulated project that it was trained on")
    parser.add_argument(
        "--picks", type=Path, required=True, help="picks.csv of the project's test runs by all networks"
    )
    parser.add_argument("--out", type=Path, default=Path("work/bench-joint"))
    given = parser.parse_args()
    figures = measure(*(path.resolve() for path in (given.trained, given.data, given.picks, given.out)))
    for title, values in figures.items():
        print(f"{title}: {values}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
