"""What a graph costs, and how many hours that makes: known before anything is uploaded.

The figures of a graph are counted when it is written (:mod:`tomopoint.export.graph_cost`) and travel in its metadata;
here they are read and projected. Neither onnx nor torch: staging, pushing and the kernels use it.

**No rate in this module was measured by this project on a T4.** Each constant says where it is from. The build notebook
replaces the projection by its own measurement (:func:`measured_hours`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from math import ceil, prod
from pathlib import Path

from tomopoint.errors import EngineError
from tomopoint.inference.engines.graph_metadata import COST_KEY, read_metadata
from tomopoint.inference.tiles import Size, TilePlan
from tomopoint.pipeline import Pipeline, Tiling
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

LARGE_WINDOW_ZYX = (192, 256, 256)
"""What :func:`advice` proposes: 9 windows per tomogram of the competition. At 192x352x352 a tensor of
these networks would exceed 2^31 bytes."""


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
    """Estimated hours.

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
    basis: str


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


@dataclass(frozen=True)
class Measured:
    """Hours of the competition's tomograms as a runtime's measured speed makes them: what estimates are corrected by.

    Attributes
    ----------
    runtime
        As in :class:`Projection`.
    hours
        From the first tomogram to the last.
    """

    runtime: str
    hours: float

    @classmethod
    def of_engine(cls, runtime: str, hours: float) -> Measured:
        """Take a runtime's name from ``engine.json``; whatever is built by TensorRT counts as TensorRT."""
        return cls(ONNX_RUNTIME if runtime == "onnxruntime-cuda" else TENSORRT, hours)


def advice(
    cost: GraphCost,
    pipeline: Pipeline,
    workload: Workload = COMPETITION,
    *,
    kit_runtime: str | None = None,
    measured: Measured | None = None,
    limit_hours: float = HOURS_TO_WARN,
) -> str:
    """Say what would take fewer hours, each way with its figure: window, precision, views, networks, runtime.

    Parameters
    ----------
    cost, pipeline, workload
        As in :func:`project`.
    kit_runtime
        The faster runtime whose libraries are in the kit; None: there is no kit yet, and both are told.
    measured
        What the graph really took. All hours are then those of that runtime, and estimates times the one factor by
        which it missed its own estimate.
    limit_hours
        What is aimed at.
    """
    estimated = {p.runtime: p.hours for p in project(cost, pipeline, workload)}
    factor = 1.0 if measured is None else measured.hours / estimated[measured.runtime]
    runtime = kit_runtime if measured is None else measured.runtime
    shown = [name for name in TITLES if runtime in (None, name)]

    def hours(changed: GraphCost, other: Pipeline) -> dict[str, float]:
        return {p.runtime: factor * p.hours for p in project(changed, other, workload) if p.runtime in shown}

    def text(changed: GraphCost, other: Pipeline) -> str:
        return ", ".join(f"{TITLES[name]} {value:.1f} h" for name, value in hours(changed, other).items())

    def fitting(changed: GraphCost, other: Pipeline) -> str:
        host = factor * measured_hours(0.0, other, workload)
        n_networks = cost.n_networks // len(pipeline.views)
        whole = hours(changed, other)
        most = {n: int(n_networks * (limit_hours - host) / (whole[n] - host)) for n in shown}
        return ", ".join(f"{max(0, min(n_networks, count))} with {TITLES[name]}" for name, count in most.items())

    ways: list[str] = []
    enough: list[bool] = []
    all_changes = cost, pipeline

    def add(way: str, changed: GraphCost, other: Pipeline, then: str = "") -> None:
        ways.append(f"{way}: {text(changed, other)}{then}")
        enough.append(max(hours(changed, other).values()) <= limit_hours)

    larger = _with_window(cost, pipeline, LARGE_WINDOW_ZYX)
    if hours(*larger)[shown[0]] < hours(cost, pipeline)[shown[0]]:
        window = ",".join(map(str, LARGE_WINDOW_ZYX))
        add(
            f"a window of {_text(LARGE_WINDOW_ZYX)} ({n_windows(larger[1], workload.shape_zyx)} windows per tomogram "
            f"instead of {n_windows(pipeline, workload.shape_zyx)})",
            *larger,
            f"; `tomopoint validate RUN --window {window}` and export again",
        )
        all_changes = larger
    if cost.precision != "fp16":
        add("export with --precision fp16", _in_half(cost), pipeline)
        all_changes = _in_half(all_changes[0]), all_changes[1]
    if len(pipeline.views) > 1:
        share = 1 / len(pipeline.views)
        add(
            f"one view instead of {len(pipeline.views)}",
            _scaled(cost, share),
            pipeline,
            "; `tomopoint validate RUN` without the others and export again",
        )
        all_changes = _scaled(all_changes[0], share), all_changes[1]
    if TENSORRT not in (runtime, kit_runtime) and estimated[TENSORRT] < estimated[ONNX_RUNTIME]:
        better, now = factor * estimated[TENSORRT], factor * estimated[ONNX_RUNTIME]
        ways.append(f"TensorRT in the kit (`make wheels`): {better:.1f} h instead of {now:.1f} h without it")
        enough.append(better <= limit_hours)
    if max(hours(cost, pipeline).values()) > limit_hours:
        n_networks = cost.n_networks // len(pipeline.views)
        line = f"fewer networks: of {n_networks}, {fitting(cost, pipeline)} fit into {limit_hours:g} h"
        if all_changes[0] is not cost and not any(enough):
            line += f", with all of the above {fitting(*all_changes)}"
        ways.append(line)
    if not ways:
        return f"nothing has to change for {limit_hours:g} h"
    by = (
        ""
        if measured is None
        else f" (estimates, times the {factor:.2g} by which {TITLES[measured.runtime]} missed its)"
    )
    return f"what would help{by}:\n" + "\n".join(f"  - {way}" for way in ways)


def format_projections(cost: GraphCost, pipeline: Pipeline, workload: Workload = COMPETITION) -> str:
    """Return what a graph costs and how long it takes, for people: what export, staging and pushing print."""
    hours = "; ".join(f"{TITLES[p.runtime]} {p.hours:.1f} h (at {p.basis})" for p in project(cost, pipeline, workload))
    task = f"{workload.n_tomograms} tomograms of {_text(workload.shape_zyx)} on {workload.n_gpus} T4s"
    return (
        f"cost: {cost.flop / 1e12:.2f} TFLOP and {cost.unfused_bytes / 1e9:.1f} GB of traffic per window of "
        f"{_text(cost.window_zyx)}, {n_windows(pipeline, workload.shape_zyx)} windows per tomogram, "
        f"{cost.peak_activation_bytes / 1e9:.2f} GB of activations at once\n"
        f"time: {task}, estimated: {hours}"
    )


def time_warning(cost: GraphCost, pipeline: Pipeline, workload: Workload = COMPETITION) -> str | None:
    """Return a warning with advice where some runtime would take more than ``HOURS_TO_WARN``, else None."""
    slow = [p for p in project(cost, pipeline, workload) if p.hours > HOURS_TO_WARN]
    if not slow:
        return None
    names = " and ".join(f"{TITLES[p.runtime]} ({p.hours:.1f} h)" for p in slow)
    return (
        f"warning: with {names} this is above {HOURS_TO_WARN:g} h, too close to the notebook's limit of 12 h\n"
        f"{advice(cost, pipeline, workload)}"
    )


def _with_window(cost: GraphCost, pipeline: Pipeline, window_zyx: Size) -> tuple[GraphCost, Pipeline]:
    """Scale everything but the weights with the window's volume: convolutions are the same everywhere in it."""
    ratio = prod(window_zyx) / prod(cost.window_zyx)
    z, y, x = (
        min(overlap, window // 2) for overlap, window in zip(pipeline.tiling.overlap_zyx, window_zyx, strict=True)
    )
    tiling = Tiling(window_zyx, (z, y, x), pipeline.tiling.edge_weight)
    scaled = replace(
        _scaled(cost, ratio),
        window_zyx=window_zyx,
        weight_bytes=cost.weight_bytes,
        peak_activation_bytes=cost.peak_activation_bytes * ratio,
    )
    return scaled, replace(pipeline, tiling=tiling)


def _in_half(cost: GraphCost) -> GraphCost:
    return replace(cost, precision="fp16", unfused_bytes=cost.unfused_bytes / 2)


def _scaled(cost: GraphCost, ratio: float) -> GraphCost:
    return replace(
        cost,
        flop=cost.flop * ratio,
        unfused_bytes=cost.unfused_bytes * ratio,
        convolution_bytes=cost.convolution_bytes * ratio,
    )


def _text(size: Size) -> str:
    return "x".join(str(n) for n in size)
