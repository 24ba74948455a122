"""What a graph costs, and how many hours that makes: known before anything is uploaded.

The figures of a graph are counted when it is written (:mod:`tomopoint.export.graph_cost`) and travel in its metadata;
here they are read and projected. Neither onnx nor torch: staging, pushing and the kernels use it.

**No rate in this module was measured by this project on a T4.** Each constant says where it is from. The build notebook
replaces the projection by its own measurement (:func:`measured_hours`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from math import ceil, prod
from pathlib import Path

from tomopoint.errors import EngineError
from tomopoint.inference.engines.graph_metadata import COST_KEY, read_metadata
from tomopoint.inference.tiles import Size, TilePlan
from tomopoint.pipeline import Pipeline
from tomopoint.strict_json import Malformed, build, parse, reading

HOURS_TO_WARN = 10.0
"""Projected hours above which staging warns and pushing refuses. The limit is 12; rates are estimates."""

HOURS_TO_STOP = 11.0
"""Measured hours above which the build_engine notebook stops."""

TENSORRT, ONNX_RUNTIME = "tensorrt", "onnxruntime-cuda"
TITLES = {TENSORRT: "TensorRT", ONNX_RUNTIME: "ONNX Runtime CUDA"}

TENSORRT_FLOP_PER_S = {"fp16": 9e12, "fp32": 3.3e12}
"""All in. Public anchor: a 3-D nnU-Net of 0.966 TFLOP per 128^3 window on one T4 (TorchScript on Triton) made 9.1 to
9.8 windows per second in fp16 and 3.3 to 3.6 in fp32, 8.8-9.5 and 3.2-3.5 TFLOP/s. That TensorRT is no slower than
TorchScript was is a guess."""

ONNX_RUNTIME_FLOP_PER_S = {"fp16": 10e12, "fp32": 3.3e12}
"""Of the convolutions alone. fp16: a guess, a little above the anchor, whose rate includes what lies between them."""

ONNX_RUNTIME_BYTES_PER_S = 250e9
"""A guess: what is left in practice of a T4's 320 GB/s. Nothing is fused, so every node reads and writes memory."""

MERGE_S_PER_VOXEL = 4.1 / (81 * 192 * 128 * 128)
"""Cutting and merging: 4.1 s for 81 windows of 192x128x128, measured on one core of a workstation, not on Kaggle."""

HOST_S_PER_VOXEL = (0.5 + 1.7 + 1.6) / (184 * 630 * 630)
"""Per voxel of the tomogram, however it is tiled: 0.5 s of normalising and 1.7 s of decoding, measured as above, and
1.6 s of reading and starting, a guess. With the merging of 81 windows 0.55 h for 250 tomograms."""


@dataclass(frozen=True)
class GraphCost:
    """What one window costs, counted from the graph.

    Attributes
    ----------
    window_zyx
        Input size, voxels.
    n_networks
        How often a network runs per window: networks times views.
    precision
        ``"fp32"`` or ``"fp16"``.
    flop
        Arithmetic; a multiply-add counts two.
    unfused_bytes
        Inputs read and outputs written of every node: the traffic where nothing is fused, as in ONNX Runtime's CUDA
        provider.
    convolution_bytes
        The same of convolutions, transposed ones too, alone: the traffic where all else is fused into them.
    peak_activation_bytes
        Largest sum of tensors alive at once in one call, nodes in the graph's order, no tensor overwritten in place;
        a call takes as many windows as the graph's batch.
    weight_bytes
        All weights.
    """

    window_zyx: Size
    n_networks: int
    precision: str
    flop: float
    unfused_bytes: float
    convolution_bytes: float
    peak_activation_bytes: float
    weight_bytes: float

    def to_json(self) -> str:
        """Return the JSON text, keys sorted."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str, source: str) -> GraphCost:
        """Read the text written by :meth:`to_json`; `source` names it in errors.

        Raises
        ------
        EngineError
            Damaged: not JSON, a field missing, unknown or out of range.
        """
        with reading(source, EngineError, "holds no cost of a graph", "write the graph with `tomopoint export`"):
            cost = build(cls, parse(text))
            figures = (cost.flop, cost.unfused_bytes, cost.convolution_bytes, cost.peak_activation_bytes)
            if min(*cost.window_zyx, cost.n_networks) < 1 or min(*figures, cost.weight_bytes) < 0:
                raise Malformed("a figure is out of range")
            if cost.precision not in TENSORRT_FLOP_PER_S:
                raise Malformed(f"unknown precision {cost.precision!r}")
        return cost


def read_cost(model_path: Path) -> GraphCost | None:
    """Read the cost in a graph's metadata.

    Returns
    -------
    GraphCost or None
        None: the graph is of an earlier version, which did not count.

    Raises
    ------
    EngineError
        No such file, not an ONNX file, or a damaged entry.
    """
    text = read_metadata(model_path).get(COST_KEY)
    return None if text is None else GraphCost.from_json(text, f"the metadata of {model_path}")


@dataclass(frozen=True)
class Workload:
    """How much is to be predicted, on how much hardware.

    Attributes
    ----------
    n_tomograms
        Tomograms in all.
    shape_zyx
        Of each, voxels.
    n_gpus
        T4s that share them.
    """

    n_tomograms: int = 500
    shape_zyx: Size = (184, 630, 630)
    n_gpus: int = 2

    @property
    def tomograms_per_gpu(self) -> int:
        """Share of the busiest GPU."""
        return ceil(self.n_tomograms / self.n_gpus)


COMPETITION = Workload()
"""The competition's hidden test set on Kaggle's two T4s: the one place where these numbers are stated."""


@dataclass(frozen=True)
class Projection:
    """Hours with a runtime, estimated or measured.

    Attributes
    ----------
    runtime
        ``"tensorrt"``, which stands for TensorRT-RTX too, or ``"onnxruntime-cuda"``.
    hours
        From the first tomogram to the last.
    basis
        The assumed rates, in words.
    """

    runtime: str
    hours: float
    basis: str = "measured"

    @classmethod
    def of_engine(cls, runtime: str, hours: float) -> Projection:
        """Take a runtime's name from ``engine.json``; whatever is built by TensorRT counts as TensorRT."""
        return cls(ONNX_RUNTIME if runtime == ONNX_RUNTIME else TENSORRT, hours)


def n_windows(pipeline: Pipeline, shape_zyx: Size) -> int:
    """Return how many windows a tomogram of that shape is read in."""
    return len(TilePlan.for_volume(shape_zyx, pipeline.tiling, pipeline.stride).starts_zyx)


def measured_hours(seconds_per_window: float, pipeline: Pipeline, workload: Workload = COMPETITION) -> float:
    """Return the hours that a measured time per window makes, with the host's share, which is in series with it."""
    windows = n_windows(pipeline, workload.shape_zyx)
    merge_s = windows * prod(pipeline.tiling.window_zyx) * MERGE_S_PER_VOXEL
    host_s = prod(workload.shape_zyx) * HOST_S_PER_VOXEL
    return workload.tomograms_per_gpu * (windows * seconds_per_window + merge_s + host_s) / 3600


def project(cost: GraphCost, pipeline: Pipeline, workload: Workload = COMPETITION) -> tuple[Projection, ...]:
    """Estimate the hours of a workload, per runtime, at the rates stated in this module; the faster runtime first."""
    tensorrt, convolutions = TENSORRT_FLOP_PER_S[cost.precision], ONNX_RUNTIME_FLOP_PER_S[cost.precision]
    seconds = {
        TENSORRT: cost.flop / tensorrt,
        ONNX_RUNTIME: cost.flop / convolutions + cost.unfused_bytes / ONNX_RUNTIME_BYTES_PER_S,
    }
    basis = {
        TENSORRT: f"{tensorrt / 1e12:g} TFLOP/s",
        ONNX_RUNTIME: f"{convolutions / 1e12:g} TFLOP/s and {ONNX_RUNTIME_BYTES_PER_S / 1e9:g} GB/s",
    }
    return tuple(
        Projection(runtime, measured_hours(seconds[runtime], pipeline, workload), basis[runtime]) for runtime in seconds
    )


def format_projections(cost: GraphCost, pipeline: Pipeline) -> str:
    """Return what a graph costs and how long it takes, for people: what export, staging and pushing print."""
    hours = "; ".join(f"{TITLES[p.runtime]} {p.hours:.1f} h (at {p.basis})" for p in project(cost, pipeline))
    task = f"{COMPETITION.n_tomograms} tomograms of {size_text(COMPETITION.shape_zyx)} on {COMPETITION.n_gpus} T4s"
    return (
        f"cost: {cost.flop / 1e12:.2f} TFLOP and {cost.unfused_bytes / 1e9:.1f} GB of traffic per window of "
        f"{size_text(cost.window_zyx)}, {n_windows(pipeline, COMPETITION.shape_zyx)} windows per tomogram, "
        f"{cost.peak_activation_bytes / 1e9:.2f} GB of activations at once\n"
        f"time: {task}, estimated: {hours}"
    )


def size_text(size: Size) -> str:
    """Return a size as ``192x128x128``."""
    return "x".join(map(str, size))
