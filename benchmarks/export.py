"""Cost, hours, time, memory, size and parity of an exported graph of full-size networks with random weights, and its
sm_75 build.

Half SegResNet, half DynUNet, at the winner's widths; with `--segmentation` also the six networks of the recipe
`winner-segmentation`, in float16 alone (in float32 they do not fit into one file). Heads are spread so that scores and
offsets use their range (fresh ones answer almost constant maps, on which any graph agrees). Each precision runs in a
process of its own:

* at `--window`, the Pipeline's default unless given, the graph is made and counted, and the hours of the competition
  are projected. In float16 it then goes through TensorRT-RTX's parser and compiler for a T4, which needs no GPU
  (float32 convolutions it cannot compile);
* at `--compare`, which is smaller because PyTorch and ONNX Runtime compute all of it on the CPU, it is exported whole
  and compared with PyTorch, on a window cut from a simulated tomogram, whose statistics are those of real ones.

With `--count-only` the graph is made and counted, and neither compiled nor compared.

    python benchmarks/export.py [--folds 5] [--window 192,256,256] [--compare 192,128,128] [--precision fp16]
                                [--segmentation] [--count-only]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from tomopoint.command import parse_zyx
from tomopoint.data.project import Project
from tomopoint.export.advice import time_warning
from tomopoint.export.cost import COMPETITION, format_projections, project
from tomopoint.export.engine_build import BuildOptions, build_plan
from tomopoint.export.graph import Graph
from tomopoint.export.graph_cost import cost_of
from tomopoint.export.graph_form import graph_form
from tomopoint.export.onnx_export import ExportOptions, export_merged
from tomopoint.inference.cost import n_windows
from tomopoint.inference.engines.tensorrt_module import load_tensorrt
from tomopoint.inference.tiles import choose_tiling
from tomopoint.networks.build import build_network
from tomopoint.networks.config import NetworkConfig
from tomopoint.networks.ensemble import Ensemble
from tomopoint.networks.point_network import PointNetwork
from tomopoint.pipeline import COMPETITION_PARTICLES, Member, Pipeline, Tiling
from tomopoint.simulate.command import simulate
from tomopoint.training.recipe_files import load_recipe
from tomopoint.validation.validated import ValidatedEnsemble

ARCHITECTURES = ("segresnet", "dynunet")
COMPARE = "192,128,128"
SPREAD = 1.5
VOXEL_A = 10.0124

Size = tuple[int, int, int]


def random_network(config: NetworkConfig, seed: int) -> PointNetwork:
    torch.manual_seed(seed)
    network = build_network(config, len(COMPETITION_PARTICLES), stride=2).requires_grad_(False)
    for parameter in network.head.parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=SPREAD / parameter[0].numel() ** 0.5)
    if config.has_batch_norm:  # statistics of what they see, as training gives them
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm3d):
                layer.momentum = 1.0
        network.train()(torch.randn(2, 1, 64, 64, 64))
    return network.eval()


def measure(given: argparse.Namespace) -> dict[str, object]:
    precision, window_zyx = given.precision, parse_zyx("window", given.window)
    configs = tuple(NetworkConfig(name) for _ in range(given.folds) for name in ARCHITECTURES)
    if given.segmentation:
        configs += tuple(network.architecture for network in load_recipe("winner-segmentation").networks)
    networks = tuple(random_network(config, seed) for seed, config in enumerate(configs))
    members = tuple(
        Member(f"fold{k // 2}", config.title, (), None, f"{k:064x}", kind=config.kind)
        for k, config in enumerate(configs)
    )
    pipeline = Pipeline(
        COMPETITION_PARTICLES, VOXEL_A, tiling=choose_tiling([window_zyx], 1, window_zyx), members=members
    )
    with TemporaryDirectory() as name:
        full = count_and_build(networks, pipeline, precision, None if given.count_only else Path(name) / "full.onnx")
    sizes = {
        "networks": len(networks),
        "parameters_million": round(sum(p.numel() for n in networks for p in n.parameters()) / 1e6, 1),
    }
    if given.count_only:
        return {**sizes, **full, "peak_gigabytes": round(peak_gigabytes(), 2)}
    compare_zyx = parse_zyx("compare", given.compare)
    with TemporaryDirectory() as name:
        folder = Path(name)
        options = ExportOptions(precision=precision, tomogram_path=simulated_tomogram(folder, compare_zyx))
        smaller = replace(pipeline, tiling=choose_tiling([compare_zyx], 1, compare_zyx))
        report = export_merged(ValidatedEnsemble(networks, smaller, configs), folder / "ensemble.onnx", options)
        return {
            **sizes,
            "megabytes": round(report.n_bytes / 1e6, 1),
            **full,
            "compare_seconds": round(report.seconds, 1),
            "peak_gigabytes": round(peak_gigabytes(), 2),
            "parity": [row.to_dict() for row in report.rows],
        }


def count_and_build(
    networks: tuple[PointNetwork, ...], pipeline: Pipeline, precision: str, path: Path | None
) -> dict[str, object]:
    """Count the whole graph at the Pipeline's window, print its hours; with a path, compile it where RTX can."""
    start = time.monotonic()
    graph = Graph(graph_form(Ensemble(networks).eval(), precision), pipeline.tiling.window_zyx, 1)
    cost = cost_of(graph.model, pipeline, precision, 1)
    seconds = time.monotonic() - start
    print(f"{len(networks)} networks, {precision}\n{format_projections(cost, pipeline)}", file=sys.stderr)
    print(time_warning(cost, pipeline) or "no warning", file=sys.stderr, flush=True)
    figures: dict[str, object] = {
        "cost": asdict(cost),
        "windows_per_tomogram": n_windows(pipeline, COMPETITION.shape_zyx),
        "hours": {p.runtime: round(p.hours, 2) for p in project(cost, pipeline)},
        "graph_seconds": round(seconds, 1),
    }
    if precision == "fp16" and path is not None:
        graph.save(path)
        del graph
        figures["sm_75"] = build_for_t4(path)
    return figures


def simulated_tomogram(folder: Path, window_zyx: Size) -> Path:
    """Write a tomogram barely larger than the window; return its store."""
    shape = ",".join(str(size + 16) for size in window_zyx)
    simulate(folder / "project", train_runs=1, test_runs=0, shape=shape, workers=1)
    return Project(folder / "project").runs("train")[0].tomogram_path()


def build_for_t4(path: Path) -> dict[str, object]:
    trt = load_tensorrt("tensorrt_rtx")
    plan = build_plan(path, trt, BuildOptions())
    return {
        "tensorrt": trt.title,
        "layers": plan.n_layers,
        "parse_seconds": round(plan.parse_seconds, 2),
        "build_seconds": round(plan.build_seconds, 1),
        "plan_megabytes": round(plan.n_bytes / 1e6, 1),
    }


def peak_gigabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--window", default=",".join(map(str, Tiling().window_zyx)))
    parser.add_argument("--compare", default=COMPARE)
    parser.add_argument("--precision", choices=("fp32", "fp16"))
    parser.add_argument("--segmentation", action="store_true", help="with the winner's six segmentation networks")
    parser.add_argument("--count-only", action="store_true", help="neither compile nor compare the graph")
    given = parser.parse_args()
    if given.precision:
        print(json.dumps(measure(given)))
        return
    results = {}
    for precision in ("fp16",) if given.segmentation else ("fp32", "fp16"):
        words = [sys.executable, __file__, *sys.argv[1:], "--precision", precision]
        done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
        results[precision] = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps({"window_zyx": given.window, "compare_window_zyx": given.compare, **results}))


if __name__ == "__main__":
    main()
