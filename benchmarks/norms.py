"""Forms in which a graph can hold group norm, compared on a SegResNet at the winner's widths with random weights.

Per form: nodes and memory traffic of the float16 graph where nothing is fused; nodes of the float32 graph as ONNX
Runtime lays it out, which takes apart what it has no kernel for; layers, build time and plan of TensorRT-RTX for a T4,
which needs no GPU; error of the float16 graph on ONNX Runtime's CPU provider against PyTorch in float32, at a small
window. What a form costs on a T4 is not measured here: nothing was.

    python benchmarks/norms.py [--window 192,128,128] [--compare 32,64,64]
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx_ir as ir
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn import functional

from tomopoint.command import parse_zyx
from tomopoint.export.engine_build import BuildOptions, build_plan
from tomopoint.export.graph import OPSET, Graph
from tomopoint.export.graph_cost import count_graph
from tomopoint.export.graph_form import with_graph_norms, with_half_networks
from tomopoint.inference.engines.tensorrt_module import load_tensorrt
from tomopoint.inference.parity import FP16, Outputs, compare
from tomopoint.inference.reference import synthetic_windows
from tomopoint.networks.build import build_network
from tomopoint.networks.config import NetworkConfig
from tomopoint.pipeline import COMPETITION_PARTICLES, Pipeline

Size = tuple[int, int, int]
SPREAD = 1.5
OPSET_WITH_GROUP_NORM = 21


class FiveAxes(nn.Module):
    """Instance norm on a reshape that keeps five axes; scale and shift as multiplication and addition."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        n, c, d, h, w = x.shape
        groups = x.reshape(n, self.norm.num_groups, c // self.norm.num_groups * d, h, w)
        normal = functional.instance_norm(groups, eps=self.norm.eps).reshape(x.shape)
        return normal * self.norm.weight.reshape(1, -1, 1, 1, 1) + self.norm.bias.reshape(1, -1, 1, 1, 1)


class PerChannel(nn.Module):
    """Mean and variance per channel in float32, combined over the groups; then one scale and shift."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        n, c = x.shape[:2]
        groups, whole = (n, self.norm.num_groups, -1), (n, c, 1, 1, 1)
        values = x.float()
        means = values.mean((2, 3, 4), keepdim=True)
        variances = ((values - means) ** 2).mean((2, 3, 4), keepdim=True)
        mean = means.reshape(groups).mean(2, keepdim=True)
        spread = (means.reshape(groups) - mean) ** 2
        variance = (variances.reshape(groups) + spread).mean(2, keepdim=True)
        scale = self.norm.weight.float().reshape(1, *groups[1:]) * torch.rsqrt(variance + self.norm.eps)
        shift = self.norm.bias.float().reshape(1, *groups[1:]) - mean * scale
        return x * scale.reshape(whole).to(x.dtype) + shift.reshape(whole).to(x.dtype)


def replaced(module: nn.Module, form: Callable[[nn.GroupNorm], nn.Module]) -> nn.Module:
    norms = {id(part): form(part) for part in module.modules() if isinstance(part, nn.GroupNorm)}
    result: nn.Module = copy.deepcopy(module, dict(norms))
    return result.eval()


FORMS: dict[str, tuple[Callable[[nn.Module], nn.Module], int]] = {
    "as exported: three axes, Mul, Add": (copy.deepcopy, OPSET),
    "five axes, Mul, Add": (lambda module: replaced(module, FiveAxes), OPSET),
    "five axes, BatchNormalization (used)": (with_graph_norms, OPSET),
    "per-channel statistics in float32": (lambda module: replaced(module, PerChannel), OPSET),
    "GroupNormalization (opset 21)": (copy.deepcopy, OPSET_WITH_GROUP_NORM),
}


def random_network() -> nn.Module:
    torch.manual_seed(0)
    network = (
        build_network(NetworkConfig("segresnet"), len(COMPETITION_PARTICLES), stride=2).eval().requires_grad_(False)
    )
    for parameter in network.head.parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=SPREAD / parameter[0].numel() ** 0.5)
    for module in network.modules():
        if isinstance(module, nn.GroupNorm):  # fresh ones scale by one and shift by nothing
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.3)
    return network


def measure(
    network: nn.Module, form: tuple[Callable[[nn.Module], nn.Module], int], window_zyx: Size, compare_zyx: Size
) -> dict[str, object]:
    change, opset = form
    whole = change(network)
    half = with_half_networks(whole)
    with TemporaryDirectory() as name:
        folder = Path(name)
        graph = Graph(half, window_zyx, 1, opset)
        count = count_graph(graph.model)
        graph.save(folder / "half.onnx")
        plan = build_plan(folder / "half.onnx", load_tensorrt("tensorrt_rtx"), BuildOptions())
        Graph(whole, window_zyx, 1, opset).save(folder / "whole.onnx")
        laid_out = as_onnx_runtime_lays_it_out(folder / "whole.onnx", folder / "laid-out.onnx")
        Graph(half, compare_zyx, 1, opset).save(folder / "small.onnx")
        scores, offsets, seconds = errors(network, folder / "small.onnx", compare_zyx)
    return {
        "nodes": sum(count.nodes.values()),
        "fp16_gigabytes": round(count.unfused_bytes / 1e9, 1),
        "nodes_in_onnx_runtime": len(laid_out.graph),
        "sm_75_layers": plan.n_layers,
        "sm_75_build_seconds": round(plan.build_seconds, 1),
        "sm_75_megabytes": round(plan.n_bytes / 1e6, 1),
        "scores_max_error": round(scores, 5),
        "offsets_max_error_vox": round(offsets, 4),
        "cpu_seconds": round(seconds, 1),
    }


def as_onnx_runtime_lays_it_out(path: Path, out: Path) -> ir.Model:
    """Return the graph after ONNX Runtime has inlined functions and folded constants; it is not run."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(out)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return ir.load(out)


def errors(network: nn.Module, path: Path, window_zyx: Size) -> tuple[float, float, float]:
    pipeline = Pipeline(COMPETITION_PARTICLES, 10.0124)
    volume = synthetic_windows(pipeline, window_zyx, 1)
    with torch.inference_mode():
        scores, offsets = network(torch.from_numpy(volume))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    start = time.process_time()
    got = Outputs(*session.run(None, {"volume": volume}))
    seconds = time.process_time() - start
    row = compare("", "cpu", Outputs(scores.numpy(), offsets.numpy()), got, FP16, pipeline.stride)
    return row.scores_max, row.offsets_max_vox, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--window", default="192,128,128")
    parser.add_argument("--compare", default="32,64,64")
    given = parser.parse_args()
    window_zyx, compare_zyx = parse_zyx("window", given.window), parse_zyx("compare", given.compare)
    network, results = random_network(), {}
    for name, form in FORMS.items():
        results[name] = measure(network, form, window_zyx, compare_zyx)
        print(name, results[name], flush=True)
    print(json.dumps({"window_zyx": given.window, "compare_window_zyx": given.compare, "forms": results}))


if __name__ == "__main__":
    main()
