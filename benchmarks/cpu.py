"""From a tomogram to its picks on a CPU: PyTorch with MONAI's sliding window, ONNX Runtime, OpenVINO in each precision.

Two graphs: a full-size SegResNet and DynUNet with random weights and spread heads, and the model of the box, `small`,
for which F4 is told, of simulated tomograms. All compute the same windows of the same normalised volume, in one process
one after the other, so ratios hold on a busy machine as far as its load stays; CPU seconds are told beside wall seconds
for that reason. Whether a half precision may be used is what `tomopoint predict` decides for the graph; here it is
measured whatever the verdict.

    python benchmarks/cpu.py [--pair-window 64,128,128] [--pair-shape 64,128,176] [--shape 128,256,256] [--only small]

The volumes hold a few windows only. CPU seconds for a tomogram of 184x630x630 are extrapolated from them, window by
window, and say so. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.spatial import KDTree

from export import ARCHITECTURES, VOXEL_A, random_network
from predict import sliding_window
from tomopoint.command import parse_zyx
from tomopoint.data.normalisation import normalise
from tomopoint.data.picks import read_run_picks
from tomopoint.data.project import TRUTH_FOLDER, Project
from tomopoint.data.tomograms import Tomogram, read_tomogram
from tomopoint.errors import EngineError
from tomopoint.evaluation.score import score_picks
from tomopoint.export.onnx_export import ExportOptions, export_merged
from tomopoint.export.rebuilt import rebuild_ensemble
from tomopoint.inference.cpu_engine import KEPT_IN_FP32, try_precisions, verdict
from tomopoint.inference.decode import decode_maps
from tomopoint.inference.engines.engine import Engine
from tomopoint.inference.engines.graph_metadata import read_pipeline
from tomopoint.inference.engines.onnx import OnnxEngine
from tomopoint.inference.engines.openvino import OpenVinoEngine, OpenVinoOptions, installed_version, precisions_here
from tomopoint.inference.predict import predict_tomogram
from tomopoint.inference.tiles import TilePlan, VolumeMaps, choose_tiling
from tomopoint.models.box import find_model
from tomopoint.networks.config import NetworkConfig
from tomopoint.pipeline import COMPETITION_PARTICLES, Member, Pipeline
from tomopoint.simulate.command import simulate
from tomopoint.validation.validated import ValidatedEnsemble

PEER = "PyTorch fp32, MONAI's sliding window"
TRUTH = "ONNX Runtime"
"""Whose picks the others' are compared with: float32, with the same merging of windows."""
SAME_VOX = 0.1
COMPETITION_SHAPE = (184, 630, 630)
NOTHING_PICKED = 0.5
"""Threshold of random networks, whose scores mean nothing: enough picks to compare, not all cells."""

Size = tuple[int, int, int]


def write_pair(path: Path, window_zyx: Size) -> Path:
    """Export a full-size SegResNet and DynUNet with random weights and spread heads."""
    networks = tuple(random_network(NetworkConfig(name), seed) for seed, name in enumerate(ARCHITECTURES))
    members = tuple(Member(f"fold{k}", name, (), None, f"{k:064x}") for k, name in enumerate(ARCHITECTURES))
    tiling = choose_tiling([window_zyx], 1, window_zyx)
    pipeline = Pipeline(COMPETITION_PARTICLES, VOXEL_A, tiling=tiling, members=members)
    pipeline = pipeline.with_thresholds(dict.fromkeys(pipeline.particle_names, NOTHING_PICKED))
    configs = tuple(NetworkConfig(name) for name in ARCHITECTURES)
    return export_merged(ValidatedEnsemble(networks, pipeline, configs), path, ExportOptions()).path


def monai_picks(model: Path, tomogram: Tomogram, pipeline: Pipeline) -> Callable[[], pd.DataFrame]:
    """Return what finds the picks with the graph's networks in PyTorch and MONAI's inferer."""
    ensemble = rebuild_ensemble(model)

    def find() -> pd.DataFrame:
        volume = normalise(tomogram.volume_zyx, pipeline.normalisation)
        with torch.inference_mode():
            scores, offsets = sliding_window(volume, pipeline.tiling, ensemble)
        maps = VolumeMaps(scores, offsets, pipeline.stride, tomogram.volume_zyx.shape)
        return decode_maps(maps, pipeline, tomogram.voxel_A)

    return find


@contextmanager
def contender(
    name: str, model: Path, tomogram: Tomogram, pipeline: Pipeline, threads: int
) -> Iterator[Callable[[], pd.DataFrame]]:
    """Yield what finds the picks; loading is not part of the time."""
    if name == PEER:
        yield monai_picks(model, tomogram, pipeline)
        return
    engine: Engine = OnnxEngine(model) if name == TRUTH else OpenVinoEngine(model, openvino_options(threads)[name])
    with closing(engine):
        yield lambda: predict_tomogram(tomogram, engine, pipeline)


def openvino_options(threads: int) -> dict[str, OpenVinoOptions]:
    options = {"OpenVINO fp32": OpenVinoOptions(threads=threads)}
    for precision in precisions_here():
        options[f"OpenVINO {precision}"] = OpenVinoOptions(precision, threads=threads)
        for first, last in KEPT_IN_FP32:
            name = f"OpenVINO {precision}, first {first} and last {last} layers in fp32"
            options[name] = OpenVinoOptions(precision, first, last, threads)
    return options


def agreement(truth: pd.DataFrame, found: pd.DataFrame, pipeline: Pipeline) -> float:
    """Return the share of the picks above their threshold, of either, that the other has within `SAME_VOX`."""
    near = total = 0
    for particle in pipeline.particles:
        tables = [
            table[(table["particle_type"] == particle.name) & (table["score"] >= particle.threshold)]
            for table in (truth, found)
        ]
        everything = [
            table.loc[table["particle_type"] == particle.name, ["x", "y", "z"]].to_numpy() for table in (truth, found)
        ]
        # A pick whose score crosses the threshold is no other place: it is looked for among all of the other's.
        for picks, others in zip(tables, reversed(everything), strict=True):
            points = picks[["x", "y", "z"]].to_numpy()
            total += len(points)
            if len(points) and len(others):
                distances, _ = KDTree(others).query(points)
                near += int(np.count_nonzero(distances <= SAME_VOX * pipeline.voxel_A))
    return near / total if total else 1.0


def compare(model: Path, tomogram: Tomogram, truth: dict[str, Any] | None, threads: int) -> dict[str, Any]:
    """Let each contender find the picks of one tomogram."""
    pipeline = read_pipeline(model)
    plan = TilePlan.for_volume(tomogram.volume_zyx.shape, pipeline.tiling, pipeline.stride)
    whole = TilePlan.for_volume(COMPETITION_SHAPE, pipeline.tiling, pipeline.stride)
    rows: dict[str, dict[str, Any]] = {}
    picks: dict[str, pd.DataFrame] = {}
    for name in (PEER, TRUTH, *openvino_options(threads)):
        try:
            with contender(name, model, tomogram, pipeline, threads) as find:
                wall, cpu = time.perf_counter(), time.process_time()
                picks[name] = find()
                rows[name] = {
                    "seconds": round(time.perf_counter() - wall, 2),
                    "cpu_seconds": round(time.process_time() - cpu, 2),
                }
        except EngineError as error:
            rows[name] = {"failed": str(error)}
        print(name, rows[name], flush=True)
    for name, found in picks.items():
        row, peer = rows[name], rows[PEER]
        row["times_monai"] = round(peer["seconds"] / row["seconds"], 2)
        row["times_monai_in_cpu_seconds"] = round(peer["cpu_seconds"] / row["cpu_seconds"], 2)
        row["extrapolated_cpu_seconds_of_184x630x630"] = round(
            row["cpu_seconds"] * len(whole.starts_zyx) / len(plan.starts_zyx)
        )
        row["picks_within_0.1_voxel"] = round(agreement(picks[TRUTH], found, pipeline), 4)
        if truth is not None:
            thresholds = found["particle_type"].map(pipeline.thresholds)
            submitted = found[found["score"] >= thresholds].assign(experiment="run")
            row["simulated_f4"] = round(score_picks({"run": truth}, submitted, pipeline.particles).score, 4)
    print(json.dumps(rows), flush=True)
    record = try_precisions(model, asked=OpenVinoOptions(threads=threads))
    return {
        "window_zyx": list(pipeline.tiling.window_zyx),
        "shape_zyx": list(tomogram.volume_zyx.shape),
        "windows": len(plan.starts_zyx),
        "windows_of_184x630x630": len(whole.starts_zyx),
        "verdict": verdict(record),
        "rows": rows,
    }


def simulated(folder: Path, shape: Size) -> tuple[Tomogram, dict[str, Any]]:
    """Simulate one run; return it with its truth."""
    simulate(folder, train_runs=0, test_runs=1, shape=",".join(map(str, shape)), workers=1)
    (run,) = Project(folder).runs("test")
    names = [particle.name for particle in COMPETITION_PARTICLES]
    return read_tomogram(run.tomogram_path()), read_run_picks(folder / TRUTH_FOLDER / run.name, names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair-window", default="64,128,128")
    parser.add_argument("--pair-shape", default="64,128,176")
    parser.add_argument("--shape", default="128,256,256", help="of the simulated tomogram for `small`")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", choices=("pair", "small"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    results: dict[str, Any] = {"openvino": installed_version(), "threads": given.threads}
    with TemporaryDirectory() as name:
        folder = Path(name)
        if given.only != "pair":
            model = find_model(Path("small"))
            results["small"] = compare(
                model, *simulated(folder / "small", parse_zyx("shape", given.shape)), given.threads
            )
        if given.only != "small":
            tomogram, _ = simulated(folder / "pair", parse_zyx("shape", given.pair_shape))
            model = write_pair(folder / "pair.onnx", parse_zyx("window", given.pair_window))
            results["pair"] = compare(model, tomogram, None, given.threads)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
