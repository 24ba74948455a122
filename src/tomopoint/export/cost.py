"""How many hours a graph takes for the competition: known before anything is uploaded.

What a graph costs (:mod:`tomopoint.inference.cost`) is projected here. Neither onnx nor torch: staging, pushing and the
kernels use it.

**No rate in this module was measured by this project on a T4.** Each constant says where it is from. The build notebook
replaces the projection by its own measurement (:func:`measured_hours`).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod

from tomopoint.inference.cost import GraphCost, n_windows, size_text, tomogram_cost
from tomopoint.inference.tiles import Size
from tomopoint.pipeline import Pipeline

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

MERGE_S_PER_VOXEL = 0.85 / (72 * 192 * 128 * 128)
"""Cutting and merging: 72 windows of 192x128x128 more or less are 0.85 s of one core of a workstation
(docs/benchmarks.md), not of Kaggle."""

HOST_S_PER_VOXEL = (1.0 + 1.6) / (184 * 630 * 630)
"""Per voxel of the tomogram, however it is tiled: 1.0 s of normalising and decoding, measured as above, and 1.6 s of
reading, a guess."""


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


def measured_hours(seconds_per_window: float, pipeline: Pipeline, workload: Workload = COMPETITION) -> float:
    """Return the hours that a measured time per window makes.

    The host reads, merges and decodes beside the engine (:mod:`tomopoint.inference.stream`): a tomogram takes as long
    as the slower of the two, and what the host does to the first before and to the last after comes on top.
    """
    windows = n_windows(pipeline, workload.shape_zyx)
    merge_s = windows * prod(pipeline.tiling.window_zyx) * MERGE_S_PER_VOXEL
    host_s = merge_s + prod(workload.shape_zyx) * HOST_S_PER_VOXEL
    return (workload.tomograms_per_gpu * max(windows * seconds_per_window, host_s) + host_s) / 3600


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
        f"cost: {cost.flop / 1e12:.2f} TFLOP and {cost.unfused_bytes / 1e9:.1f} GB of traffic per window; "
        f"{tomogram_cost(pipeline, cost, COMPETITION.shape_zyx).text()}\n"
        f"time: {task}, estimated: {hours}"
    )
