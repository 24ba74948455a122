"""Time, memory, size and parity of an exported graph of full-size networks with random weights.

Half SegResNet, half DynUNet, at the winner's widths. Heads are spread so that scores and offsets use their range (fresh
ones answer almost constant maps, on which any graph agrees). Each precision runs in a process of its own.

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

from tomopoint.export.command import parse_window
from tomopoint.export.merge import Merged
from tomopoint.export.onnx_export import ExportOptions, export_merged
from tomopoint.networks.build import build_network
from tomopoint.networks.config import NetworkConfig
from tomopoint.networks.contract import PointNetwork
from tomopoint.pipeline import COMPETITION_PARTICLES, Member, Pipeline, Tiling

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
    overlap_zyx = tuple(size // 4 // 2 * 2 for size in window_zyx)
    pipeline = Pipeline(COMPETITION_PARTICLES, VOXEL_A, tiling=Tiling(window_zyx, overlap_zyx, 0.1), members=members)
    with TemporaryDirectory() as folder:
        options = ExportOptions(precision=precision)
        report = export_merged(Merged(networks, pipeline), Path(folder) / "ensemble.onnx", options)
    return {
        "networks": len(networks),
        "parameters_million": round(sum(p.numel() for n in networks for p in n.parameters()) / 1e6, 1),
        "megabytes": round(report.n_bytes / 1e6, 1),
        "seconds": round(report.seconds, 1),
        "peak_gigabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "parity": [row.to_dict() for row in report.rows],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--window", default="192,128,128")
    parser.add_argument("--precision", choices=("fp32", "fp16"))
    given = parser.parse_args()
    if given.precision:
        print(json.dumps(measure(given.precision, given.folds, parse_window(given.window))))
        return
    results = {}
    for precision in ("fp32", "fp16"):
        words = [sys.executable, __file__, "--precision", precision, "--folds", str(given.folds)]
        done = subprocess.run([*words, "--window", given.window], check=True, stdout=subprocess.PIPE, text=True)
        results[precision] = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps({"window_zyx": given.window, **results}))


if __name__ == "__main__":
    main()
