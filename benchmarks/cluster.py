"""What a Dask cluster costs: overhead per run, and throughput on 1, 2, 4 workers, with an engine that sleeps.

    python benchmarks/cluster.py [--runs 48] [--sleep 0.5] [--workers 1,2,4] [--out work/bench-cluster]

Small tomograms of one window, whose engine sleeps and returns empty maps, so that two cores do not limit four workers.
Ideal: runs times seconds of sleep, divided by the workers. The clock runs from the first run that is begun to the last
that is done, so that starting processes, which imports the package in each, is told apart. The last
line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from tomopoint.cluster.predict import ClusterCrew
from tomopoint.cluster.scheduler import connected
from tomopoint.data.project import Project, Run
from tomopoint.data.tomograms import write_tomogram
from tomopoint.inference.engines.graph_metadata import read_pipeline
from tomopoint.inference.folder import PredictionFolder
from tomopoint.inference.predict_runs import PredictOptions, predict_runs
from tomopoint.pipeline import COMPETITION_PARTICLES, Pipeline, Tiling

SHAPE = (32, 64, 64)
VOXEL_A = 10.0


class SleepingEngine:
    """Returns empty maps after some time."""

    def __init__(self, pipeline: Pipeline, seconds: float) -> None:
        self.window_zyx, self.batch, self._seconds = pipeline.tiling.window_zyx, 1, seconds
        self._cells = tuple(size // pipeline.stride for size in self.window_zyx)
        self._n_classes = len(pipeline.particles)

    def infer(self, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sleep for each window."""
        time.sleep(self._seconds * len(windows))
        scores = np.zeros((len(windows), self._n_classes, *self._cells), np.float32)
        return scores, np.zeros((len(windows), 3, *self._cells), np.float32)

    def describe(self) -> dict[str, Any]:
        """Return what it is."""
        return {"runtime": "sleep"}

    def close(self) -> None:
        """Nothing is held."""


def loader(seconds: float) -> Any:
    """Return what loads a sleeping engine on a worker."""

    def load(model: Path, provider: str, threads: int, record: Path | None) -> tuple[SleepingEngine, Pipeline]:
        pipeline = read_pipeline(model)
        return SleepingEngine(pipeline, seconds), pipeline

    return load


def write_graph(path: Path) -> Path:
    """Write a graph that nobody runs: it carries the Pipeline."""
    pipeline = Pipeline(COMPETITION_PARTICLES, VOXEL_A, tiling=Tiling(SHAPE, (16, 16, 16), 0.1))
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1,)) for name in "ab"]
    graph = helper.make_graph([helper.make_node("Relu", ["a"], ["b"])], "none", ports[:1], ports[1:])
    model = helper.make_model(graph)
    helper.set_model_props(model, {"tomopoint.pipeline": pipeline.to_json(indent=None)})
    onnx.save(model, path)
    return path


def write_runs(root: Path, n_runs: int) -> None:
    noise = np.random.default_rng(0).normal(0, 1e-5, SHAPE).astype(np.float32)
    for index in range(n_runs):
        path = Run(f"TS_{index}_1", "test", root).tomogram_path()
        if not path.exists():
            write_tomogram(path, noise)


def measure(data: Path, model: Path, out: Path, n_workers: int, seconds: float) -> dict[str, float]:
    """Predict all runs on a cluster of some workers; return what it took."""
    shutil.rmtree(out, ignore_errors=True)
    runs = Project(data).runs("test")
    began = time.monotonic()
    with connected(f"local:{n_workers}") as client:
        client.wait_for_workers(n_workers)
        client.run(lambda: __import__("tomopoint.cluster.engine_plugin"))  # their imports are told apart
        ready = time.monotonic()
        summary = predict_runs(
            runs,
            model,
            out,
            PredictOptions(provider="cpu"),
            lambda todo, job, folder, budget: ClusterCrew(client, todo, job, folder, budget, 1.0, loader(seconds)),
        )
    assert summary.ok, summary.text()
    events = PredictionFolder(out).events()
    begun = min(event["time"] for event in events if event["event"] == "begun")
    done = max(event["time"] for event in events if event["event"] == "done")
    ideal = len(runs) * seconds / n_workers
    return {
        "workers": n_workers,
        "seconds": round(done - begun, 2),
        "ideal": round(ideal, 2),
        "share_of_ideal": round(ideal / (done - begun), 3),
        "overhead_ms_per_run": round(1000 * (done - begun - ideal) / len(runs), 1),
        "start_s": round(ready - began, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=48)
    parser.add_argument("--sleep", type=float, default=0.5, help="seconds per run")
    parser.add_argument("--workers", default="1,2,4")
    parser.add_argument("--out", type=Path, default=Path("work/bench-cluster"))
    given = parser.parse_args()
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    write_runs(out / "data", given.runs)
    model = write_graph(out / "sleep.onnx")
    rows = []
    for n_workers in map(int, given.workers.split(",")):
        rows.append(measure(out / "data", model, out / f"picks-{n_workers}", n_workers, given.sleep))
        print(rows[-1], flush=True)
    print(json.dumps({"runs": given.runs, "sleep": given.sleep, "rows": rows}))


if __name__ == "__main__":
    main()
