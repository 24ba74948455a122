"""Time, memory, size and parity of an exported graph of full-size networks with random weights, and its sm_75 build.

Half SegResNet, half DynUNet, at the winner's widths. Heads are spread so that scores and offsets use their range (fresh
ones answer almost constant maps, on which any graph agrees). The window is cut from a simulated tomogram, whose
statistics are those of real ones. Each precision runs in a process of its own. The graph with float16 convolutions
then goes through TensorRT-RTX's parser and compiler for a T4, which needs no GPU (float32 ones it cannot compile).

    python benchmarks/export.py [--folds 5] [--window 192,128,128] [--precision fp32]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from tomopoint.command import parse_zyx
from tomopoint.data.project import Project
from tomopoint.export.engine_build import BuildOptions, build_plan
from tomopoint.export.onnx_export import ExportOptions, export_merged
from tomopoint.inference.engines.flavour import load_tensorrt
from tomopoint.networks.build import build_network
from tomopoint.networks.config import NetworkConfig
from tomopoint.networks.contract import PointNetwork
from tomopoint.pipeline import COMPETITION_PARTICLES, Member, Pipeline, Tiling
from tomopoint.simulate.command import simulate
from tomopoint.validation.ensemble_folder import ValidatedEnsemble

ARCHITECTURES = ("segresnet", "dynunet")
SPREAD = 1.5
VOXEL_A = 10.0124


def random_network(name: str, seed: int) -> PointNetwork:
    torch.manual_seed(seed)
    network = build_network(NetworkConfig(name), len(COMPETITION_PARTICLES)).eval().requires_grad_(False)
    for parameter in network.head.parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=SPREAD / parameter[0].numel() ** 0.5)
    return network


def measure(precision: str, folds: int, window_zyx: tuple[int, int, int]) -> dict[str, object]:
    names = [name for _ in range(folds) for name in ARCHITECTURES]
    networks = tuple(random_network(name, seed) for seed, name in enumerate(names))
    members = tuple(Member(f"fold{k // 2}", name, (), None, f"{k:064x}") for k, name in enumerate(names))
    z, y, x = (size // 4 // 2 * 2 for size in window_zyx)
    pipeline = Pipeline(COMPETITION_PARTICLES, VOXEL_A, tiling=Tiling(window_zyx, (z, y, x), 0.1), members=members)
    with TemporaryDirectory() as name:
        folder = Path(name)
        options = ExportOptions(precision=precision, tomogram_path=simulated_tomogram(folder, window_zyx))
        report = export_merged(ValidatedEnsemble(networks, pipeline), folder / "ensemble.onnx", options)
        figures: dict[str, object] = {
            "networks": len(networks),
            "parameters_million": round(sum(p.numel() for n in networks for p in n.parameters()) / 1e6, 1),
            "megabytes": round(report.n_bytes / 1e6, 1),
            "seconds": round(report.seconds, 1),
            "peak_gigabytes": round(peak_gigabytes(), 2),
            "parity": [row.to_dict() for row in report.rows],
        }
        if precision == "fp16":
            figures["sm_75"] = build_for_t4(report.path)
    return figures


def simulated_tomogram(folder: Path, window_zyx: tuple[int, int, int]) -> Path:
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--window", default="192,128,128")
    parser.add_argument("--precision", choices=("fp32", "fp16"))
    given = parser.parse_args()
    if given.precision:
        print(json.dumps(measure(given.precision, given.folds, parse_zyx("window", given.window))))
        return
    results = {}
    for precision in ("fp32", "fp16"):
        words = [sys.executable, __file__, "--precision", precision, "--folds", str(given.folds)]
        done = subprocess.run([*words, "--window", given.window], check=True, stdout=subprocess.PIPE, text=True)
        results[precision] = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps({"window_zyx": given.window, **results}))


if __name__ == "__main__":
    main()
