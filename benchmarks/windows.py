"""Which window and overlap: F4 out of fold, windows per tomogram and hours, on simulated tomograms of full size.

    python benchmarks/windows.py [--runs 6] [--out work/bench-windows]

Simulates runs of 184x630x630, trains the narrow SegResNet and DynUNet of the recipe `narrow` on each of two folds (on
crops nearer to the windows than its own), then validates the same four networks once per tiling with `tomopoint
validate`, two tilings side by side. The norms of the networks take their statistics from the whole window, so a window
is not free to choose: the table shows what a larger one costs or gains. What is finished is not made again.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

from tomopoint.inference.tiles import TilePlan
from tomopoint.pipeline import Tiling
from tomopoint.training.recipe_files import recipes_folder

SHAPE = (184, 630, 630)
SEED = 77
CROP = [64, 96, 96]
FIT = {"epochs": 10, "steps_per_epoch": 100, "max_minutes": 0.0}
STRIDE = 2

TILINGS = (
    ((192, 256, 256), 64),
    ((192, 128, 128), 64),
    ((192, 352, 352), 64),
    ((192, 192, 192), 64),
)
"""Window and smallest overlap, voxels."""

TOMOPOINT = [sys.executable, "-m", "tomopoint"]


def text(window_zyx: tuple[int, int, int]) -> str:
    return ",".join(map(str, window_zyx))


def n_windows(window_zyx: tuple[int, int, int], overlap: int) -> int:
    tiling = Tiling(window_zyx, (overlap, overlap, overlap))
    return len(TilePlan.for_volume(SHAPE, tiling, STRIDE).starts_zyx)


def write_recipe(path: Path) -> None:
    recipe = yaml.safe_load((recipes_folder() / "narrow.yaml").read_text())
    recipe["crops"]["size_zyx"] = CROP
    recipe["fit"].update(FIT)
    path.write_text(yaml.safe_dump(recipe))


def side_by_side(commands: list[list[str]]) -> list[str]:
    """Run commands on one thread each; return what they print."""

    def run(words: list[str]) -> str:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(run, commands))


def validated(trained: Path, folder: Path, window_zyx: tuple[int, int, int], overlap: int) -> list[str]:
    """Return the command that validates a copy of the trained run, so that two can go side by side."""
    if not folder.exists():
        shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("last.safetensors", "tensorboard"))
    return [
        *TOMOPOINT,
        "validate",
        str(folder),
        "--window",
        text(window_zyx),
        "--overlap",
        text((overlap,) * 3),
        "--json",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=6)
    parser.add_argument("--out", type=Path, default=Path("work/bench-windows"))
    given = parser.parse_args()
    data, trained, recipe = given.out / "data", given.out / "trained", given.out / "recipe.yaml"
    given.out.mkdir(parents=True, exist_ok=True)
    runs = ["--train-runs", str(given.runs), "--test-runs", "0", "--shape", text(SHAPE), "--seed", str(SEED)]
    subprocess.run([*TOMOPOINT, "simulate", str(data), *runs], check=True)
    write_recipe(recipe)
    train = [*TOMOPOINT, "train", "--data", str(data), "--recipe", str(recipe), "--out", str(trained)]
    side_by_side([[*train, "--folds", fold] for fold in ("0", "1")])
    commands = [validated(trained, given.out / f"{text(w)}-{o}", w, o) for w, o in TILINGS]
    found = [json.loads(output.splitlines()[-1]) for output in side_by_side(commands)]
    rows = []
    for (window_zyx, overlap), figures in zip(TILINGS, found, strict=True):
        rows.append(
            {
                "window": text(window_zyx),
                "overlap": overlap,
                "windows": n_windows(window_zyx, overlap),
                "volumes": round(n_windows(window_zyx, overlap) * _volume(window_zyx) / _volume(SHAPE), 2),
                "score": figures["score"],
                "score_left_out": figures["score_left_out"],
                "per_class": {name: item["f_beta"] for name, item in figures["per_class"].items()},
            }
        )
        print(rows[-1])
    print(json.dumps(rows))


def _volume(sizes: tuple[int, int, int]) -> int:
    z, y, x = sizes
    return z * y * x


if __name__ == "__main__":
    main()
