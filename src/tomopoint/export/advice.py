"""What would take fewer hours, where a graph takes too many: window, precision, views, runtime, networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod

from tomopoint.export.cost import (
    COMPETITION,
    HOURS_TO_WARN,
    ONNX_RUNTIME,
    TENSORRT,
    TITLES,
    Projection,
    project,
)
from tomopoint.inference.cost import GraphCost, n_windows, size_text
from tomopoint.pipeline import Pipeline, Tiling

LARGE_WINDOW_ZYX = (192, 256, 256)
"""What :func:`advice` proposes: 9 windows per tomogram of the competition. At 192x352x352 a tensor of
these networks would exceed 2^31 bytes."""

Change = Callable[[GraphCost, Pipeline], tuple[GraphCost, Pipeline]]


def advice(
    cost: GraphCost,
    pipeline: Pipeline,
    *,
    kit_runtime: str | None = None,
    measured: Projection | None = None,
    limit_hours: float = HOURS_TO_WARN,
) -> str:
    """Say what would take fewer hours, each way with its figure.

    Parameters
    ----------
    cost, pipeline
        As in :func:`~tomopoint.export.cost.project`.
    kit_runtime
        The faster runtime whose libraries are in the kit; None: there is no kit yet, and both are told.
    measured
        What the graph really took. All hours are then those of that runtime, and estimates times the one factor by
        which it missed its own estimate.
    limit_hours
        Hours that are aimed at, below the notebook's 12.
    """
    estimated = {p.runtime: p.hours for p in project(cost, pipeline)}
    factor = 1.0 if measured is None else measured.hours / estimated[measured.runtime]
    runtime = kit_runtime if measured is None else measured.runtime
    shown = [name for name in TITLES if runtime in (None, name)]

    def hours(changed: GraphCost, other: Pipeline) -> dict[str, float]:
        return {p.runtime: factor * p.hours for p in project(changed, other) if p.runtime in shown}

    def fitting(changed: GraphCost, other: Pipeline) -> str:
        def enough(n: int, name: str) -> bool:
            return hours(_scaled(changed, n / n_networks), other)[name] <= limit_hours

        most = {name: next((n for n in range(n_networks, 0, -1) if enough(n, name)), 0) for name in shown}
        return ", ".join(f"{count} with {TITLES[name]}" for name, count in most.items())

    # Changes of the graph, each with what it is and how it is made.
    changes: list[tuple[str, Change, str]] = []
    larger = _with_large_window(cost, pipeline)
    if hours(*larger)[shown[0]] < hours(cost, pipeline)[shown[0]]:
        now, then = (n_windows(p, COMPETITION.shape_zyx) for p in (pipeline, larger[1]))
        what = f"a window of {size_text(LARGE_WINDOW_ZYX)} ({then} windows per tomogram instead of {now})"
        window = ",".join(map(str, LARGE_WINDOW_ZYX))
        changes.append((what, _with_large_window, f"; `tomopoint validate RUN --window {window}` and export again"))
    if cost.precision != "fp16":
        changes.append(("export with --precision fp16", _in_half, ""))
    if (n_views := len(pipeline.views)) > 1:
        how = "; `tomopoint validate RUN` without the others and export again"
        changes.append((f"one view instead of {n_views}", lambda c, p: (_scaled(c, 1 / n_views), p), how))
    ways, is_enough, all_changed = [], [], (cost, pipeline)
    for what, change, how in changes:
        taking = hours(*change(cost, pipeline))
        ways.append(f"{what}: {', '.join(f'{TITLES[name]} {value:.1f} h' for name, value in taking.items())}{how}")
        is_enough.append(max(taking.values()) <= limit_hours)
        all_changed = change(*all_changed)
    # Another runtime for the same graph.
    if TENSORRT not in (runtime, kit_runtime) and estimated[TENSORRT] < estimated[ONNX_RUNTIME]:
        better, slower = factor * estimated[TENSORRT], factor * estimated[ONNX_RUNTIME]
        ways.append(f"TensorRT in the kit (`tomopoint wheels`): {better:.1f} h instead of {slower:.1f} h without it")
        is_enough.append(better <= limit_hours)
    # Fewer networks, which costs accuracy: last.
    if max(hours(cost, pipeline).values()) > limit_hours:
        n_networks = cost.n_networks // n_views
        line = f"fewer networks: of {n_networks}, {fitting(cost, pipeline)} fit into {limit_hours:g} h"
        ways.append(
            line + (f", with all of the above {fitting(*all_changed)}" if changes and not any(is_enough) else "")
        )
    if not ways:
        return f"nothing has to change for {limit_hours:g} h"
    missed = "" if measured is None else f"the {factor:.2g} by which {TITLES[measured.runtime]} missed its"
    by = f" (estimates, times {missed})" if missed else ""
    return f"what would help{by}:\n" + "\n".join(f"  - {way}" for way in ways)


def time_warning(cost: GraphCost, pipeline: Pipeline) -> str | None:
    """Return a warning with advice where some runtime would take more than ``HOURS_TO_WARN``, else None."""
    slow = [p for p in project(cost, pipeline) if p.hours > HOURS_TO_WARN]
    if not slow:
        return None
    names = " and ".join(f"{TITLES[p.runtime]} ({p.hours:.1f} h)" for p in slow)
    return (
        f"warning: with {names} this is above {HOURS_TO_WARN:g} h, too close to the notebook's limit of 12 h\n"
        f"{advice(cost, pipeline)}"
    )


def _with_large_window(cost: GraphCost, pipeline: Pipeline) -> tuple[GraphCost, Pipeline]:
    """Scale everything but the weights with the window's volume: convolutions are the same everywhere in it."""
    window_zyx = LARGE_WINDOW_ZYX
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


def _in_half(cost: GraphCost, pipeline: Pipeline) -> tuple[GraphCost, Pipeline]:
    return replace(cost, precision="fp16", unfused_bytes=cost.unfused_bytes / 2), pipeline


def _scaled(cost: GraphCost, ratio: float) -> GraphCost:
    return replace(
        cost,
        flop=cost.flop * ratio,
        unfused_bytes=cost.unfused_bytes * ratio,
        convolution_bytes=cost.convolution_bytes * ratio,
    )
