"""Cost, hours, time, memory, size and parity of an exported graph of full-size networks with random weights, and its
sm_75 build.

Half SegResNet, half DynUNet, at the winner's widths; with `--segmentation` also the six networks of the recipe
`winner-segmentation`, in float16 alone (in float32 they do not fit into one file). Heads are spread so that scores and
offsets use their range (fresh ones answer almost constant maps, on which any graph agrees), and batch norms have the
statistics of a simulated tomogram (with those of white noise an EfficientNet's activations grow from block to block,
beyond what float16 holds). Each precision runs in a process of its own:

* at `--window`, the Pipeline's default unless given, the graph is made and counted, and the hours of the competition
  are projected;
* at `--compare`, which is smaller because PyTorch and ONNX Runtime compute all of it on the CPU, it is exported whole
  and compared with PyTorch, on a window cut from a simulated tomogram, whose statistics are those of real ones;
* in float16 the graph of `--window` then goes through TensorRT-RTX's parser and compiler for a T4, which needs no GPU
  (float32 convolutions it cannot compile).

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
from torch import Tensor, nn

from tomopoint.command import parse_zyx
from tomopoint.data.project import Project
from tomopoint.export.advice import time_warning
from tomopoint.export.cost import COMPETITION, format_projections, project
from tomopoint.export.engine_build import BuildOptions, build_plan
from tomopoint.export.graph import Graph
from tomopoint.export.graph_cost import cost_of
from tomopoint.export.graph_form import graph_form
from tomopoint.export.onnx_export import ExportOptions, export_merged, reference_windows
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


def random_network(config: NetworkConfig, seed: int, windows: Tensor | None = None) -> PointNetwork:
    """Return a network with spread heads; windows (B,1,D,H,W) of a tomogram are for its batch norms, if it has any."""
    torch.manual_seed(seed)
    network = build_network(config, len(COMPETITION_PARTICLES), stride=2).requires_grad_(False)
    for parameter in network.head.parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=SPREAD / parameter[0].numel() ** 0.5)
    if config.has_batch_norm:  # statistics of tomograms, as training gives them
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm3d):
                layer.momentum = 1.0
        assert windows is not None
        network.train()(windows)
    return network.eval()


def measure(given: argparse.Namespace) -> dict[str, object]:
    """Make and count the graph at `--window`, keep it where it is to be built, and compare it at `--compare`."""
    precision, window_zyx = given.precision, parse_zyx("window", given.window)
    configs = tuple(NetworkConfig(name) for _ in range(given.folds) for name in ARCHITECTURES)
    if given.segmentation:
        configs += tuple(network.architecture for network in load_recipe("winner-segmentation").networks)
    members = tuple(
        Member(f"fold{k // 2}", config.title, (), None, f"{k:064x}", kind=config.kind)
        for k, config in enumerate(configs)
    )
    pipeline = Pipeline(
        COMPETITION_PARTICLES, VOXEL_A, tiling=choose_tiling([window_zyx], 1, window_zyx), members=members
    )
    compare_zyx = parse_zyx("compare", given.compare)
    smaller = replace(pipeline, tiling=choose_tiling([compare_zyx], 1, compare_zyx))
    with TemporaryDirectory() as name:
        folder = Path(name)
        options = ExportOptions(precision=precision, tomogram_path=simulated_tomogram(folder, compare_zyx))
        windows = torch.from_numpy(reference_windows(smaller, replace(options, batch=2)))
        networks = tuple(random_network(config, seed, windows) for seed, config in enumerate(configs))
        sizes = {
            "networks": len(networks),
            "parameters_million": round(sum(p.numel() for n in networks for p in n.parameters()) / 1e6, 1),
        }
        full = count(networks, pipeline, precision, given.keep)
        if given.count_only:
            return {**sizes, **full, "peak_gigabytes": round(peak_gigabytes(), 2)}
        report = export_merged(ValidatedEnsemble(networks, smaller, configs), folder / "ensemble.onnx", options)
        return {
            **sizes,
            "megabytes": round(report.n_bytes / 1e6, 1),
            **full,
            "compare_seconds": round(report.seconds, 1),
            "peak_gigabytes": round(peak_gigabytes(), 2),
            "parity": [row.to_dict() for row in report.rows],
        }


def count(
    networks: tuple[PointNetwork, ...], pipeline: Pipeline, precision: str, keep: Path | None
) -> dict[str, object]:
    """Count the whole graph at the Pipeline's window, print its hours; write it where it is to be kept."""
    start = time.monotonic()
    graph = Graph(graph_form(Ensemble(networks).eval(), precision), pipeline.tiling.window_zyx, 1)
    cost = cost_of(graph.model, pipeline, precision, 1)
    seconds = time.monotonic() - start
    print(f"{len(networks)} networks, {precision}\n{format_projections(cost, pipeline)}", file=sys.stderr)
    print(time_warning(cost, pipeline) or "no warning", file=sys.stderr, flush=True)
    if keep is not None:
        graph.save(keep)
    return {
        "cost": asdict(cost),
        "windows_per_tomogram": n_windows(pipeline, COMPETITION.shape_zyx),
        "hours": {p.runtime: round(p.hours, 2) for p in project(cost, pipeline)},
        "graph_seconds": round(seconds, 1),
    }


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
        "build_peak_gigabytes": round(peak_gigabytes(), 2),
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
    parser.add_argument("--keep", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.build or given.measure:
        print(json.dumps(build_for_t4(given.build) if given.build else measure(given)))
        return
    results = {}
    for precision in [given.precision] if given.precision else ["fp16"] if given.segmentation else ["fp32", "fp16"]:
        with TemporaryDirectory() as name:
            path = Path(name) / "full.onnx"
            builds = precision == "fp16" and not given.count_only
            results[precision] = in_process(
                *sys.argv[1:], "--measure", "--precision", precision, *(("--keep", str(path)) if builds else ())
            )
            print(json.dumps(results[precision]), file=sys.stderr, flush=True)  # lost otherwise, if it does not build
            if builds:
                results[precision]["sm_75"] = in_process("--build", str(path))
    print(json.dumps({"window_zyx": given.window, "compare_window_zyx": given.compare, **results}))


def in_process(*words: str) -> dict[str, object]:
    """Return what this script prints last with these words."""
    done = subprocess.run([sys.executable, __file__, *words], check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return figures


if __name__ == "__main__":
    main()
