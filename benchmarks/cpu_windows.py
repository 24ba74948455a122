"""Which window on a CPU: F4, voxels computed and CPU seconds of the model `small`, on simulated tomograms of full size.

    make bench-cpu_windows [ARGS="--runs 2 --out work/bench-cpu-windows"]

The model is exported once per tiling from the weights in it, and predicts tomograms of 184x630x630 of both simulated
worlds with the engine and precision that `tomopoint predict` would choose. Every tomogram is predicted with all tilings
in turn, so that a machine's changing load falls on all of them. Thresholds are the model's own; "at best" is the F4 at
thresholds chosen on these very runs. What is finished is not made again. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from math import prod
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd

from tomopoint.data.picks import read_run_picks
from tomopoint.data.project import TRUTH_FOLDER, Project
from tomopoint.data.tomograms import read_tomogram
from tomopoint.evaluation.calibration import CalibrationOptions
from tomopoint.evaluation.score import score_picks
from tomopoint.evaluation.tuning import tune_thresholds
from tomopoint.export.onnx_export import ExportOptions, export_merged
from tomopoint.export.rebuilt import rebuilt_networks
from tomopoint.inference.cpu_engine import try_precisions
from tomopoint.inference.engines.graph_metadata import read_pipeline
from tomopoint.inference.engines.openvino import OpenVinoEngine, options_in
from tomopoint.inference.predict import predict_tomogram
from tomopoint.inference.tiles import TilePlan
from tomopoint.models.box import find_model
from tomopoint.pipeline import Tiling
from tomopoint.simulate.command import simulate
from tomopoint.simulate.options import SimulationOptions

SHAPE = (184, 630, 630)
WORLDS = {"own": SimulationOptions(difficulty=1.5), "other": SimulationOptions(world="other")}
"""As `small` is trained, and what it never saw."""
TILINGS = (
    ((128, 192, 192), 64),
    ((184, 256, 256), 64),
    ((184, 240, 240), 32),
    ((184, 352, 352), 64),
    ((184, 336, 336), 32),
    ((184, 632, 632), 0),
)
"""Window and smallest overlap along y and x, voxels; along z as much as the window allows."""


@dataclass(frozen=True)
class Case:
    """One tiling, and the graph that was exported for it."""

    tiling: Tiling
    model: Path

    @property
    def title(self) -> str:
        """For the table."""
        return f"{'x'.join(map(str, self.tiling.window_zyx))}, overlap {self.tiling.overlap_zyx[2]}"

    @property
    def plan(self) -> TilePlan:
        """Where its windows lie."""
        return TilePlan.for_volume(SHAPE, self.tiling, read_pipeline(self.model).stride)

    @property
    def voxels_per_voxel(self) -> float:
        """Voxels computed per voxel of the tomogram."""
        return len(self.plan.starts_zyx) * prod(self.tiling.window_zyx) / prod(SHAPE)


def exported(out: Path) -> list[Case]:
    """Export `small` once per tiling."""
    rebuilt = rebuilt_networks(find_model(Path("small")))
    cases = []
    for window_zyx, overlap in TILINGS:
        overlap_zyx = (min(64, window_zyx[0] // 4 * 2), overlap, overlap)
        tiling = replace(rebuilt.pipeline.tiling, window_zyx=window_zyx, overlap_zyx=overlap_zyx)
        path = out / f"{'-'.join(map(str, (*window_zyx, overlap)))}.onnx"
        if not path.exists():
            changed = replace(rebuilt, pipeline=replace(rebuilt.pipeline, tiling=tiling))
            export_merged(changed, path, ExportOptions())
        cases.append(Case(tiling, path))
    return cases


def peak_gb() -> float:
    """Return the peak of this process's memory; what `getrusage` says is at least the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e6 for line in lines if line.startswith("VmHWM"))


def predict_one(model: Path, store: Path, picks: Path) -> dict[str, Any]:
    """Predict one tomogram in a process of its own, so that its peak of memory is its own, too."""
    pipeline, tomogram = read_pipeline(model), read_tomogram(store)
    record = try_precisions(model)
    with closing(OpenVinoEngine(model, options_in(record.options, record.precision))) as engine:
        wall, cpu = time.perf_counter(), time.process_time()
        found = predict_tomogram(tomogram, engine, pipeline)
        figures = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    found.to_csv(picks, index=False)
    return {**figures, "precision": record.precision, "peak_gb": peak_gb()}


def scores(found: pd.DataFrame, truth: dict[str, Any], case: Case) -> dict[str, float]:
    """Return the F4 at the model's thresholds, and at the best for these runs."""
    pipeline = read_pipeline(case.model)
    thresholds = found["particle_type"].map(pipeline.thresholds)
    at_own = score_picks(truth, found[found["score"] >= thresholds], pipeline.particles)
    tuned = tune_thresholds(truth, found, pipeline.particles, CalibrationOptions())
    return {"f4": at_own.score, "f4_at_best": tuned.calibration.score.score}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2, help="of each world")
    parser.add_argument("--out", type=Path, default=Path("work/bench-cpu-windows"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    cases = exported(given.out)
    rows: dict[str, dict[str, Any]] = {case.title: {} for case in cases}
    for world, options in WORLDS.items():
        project = Project(given.out / world)
        shape = ",".join(map(str, SHAPE))
        simulate(project.root, train_runs=0, test_runs=given.runs, shape=shape, workers=1, content=options)
        truth: dict[str, Any] = {}
        found: dict[str, list[pd.DataFrame]] = {case.title: [] for case in cases}
        for run in project.runs("test"):
            truth[run.name] = read_run_picks(
                project.root / TRUTH_FOLDER / run.name, [p.name for p in read_pipeline(cases[0].model).particles]
            )
            for case in cases:
                path = given.out / f"{case.model.stem}-{world}-{run.name}.csv"
                figures = path.with_suffix(".json")
                if not figures.exists():
                    with ProcessPoolExecutor(1, get_context("spawn")) as process:
                        took = process.submit(predict_one, case.model, run.tomogram_path(), path).result()
                    figures.write_text(json.dumps(took))
                found[case.title].append(pd.read_csv(path).assign(experiment=run.name))
                took = json.loads(figures.read_text())
                print(world, run.name, case.title, took, flush=True)
                for name in ("seconds", "cpu_seconds", "peak_gb"):
                    rows[case.title].setdefault(name, []).append(took[name])
                rows[case.title]["precision"] = took["precision"]
        for case in cases:
            rows[case.title][world] = scores(pd.concat(found[case.title]), truth, case)
    print(
        "| window, overlap | windows | voxels per voxel | CPU s | GB | own world, at best | other world, at best |\n"
        "|---|---|---|---|---|---|---|"
    )
    for case in cases:
        row = rows[case.title]
        worlds = [f"{row[world]['f4']:.3f}, {row[world]['f4_at_best']:.3f}" for world in WORLDS]
        cpu, memory = statistics.mean(row["cpu_seconds"]), max(row["peak_gb"])
        n_windows, ratio = len(case.plan.starts_zyx), case.voxels_per_voxel
        print(f"| {case.title} | {n_windows} | {ratio:.2f} | {cpu:.1f} | {memory:.1f} | {' | '.join(worlds)} |")
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
