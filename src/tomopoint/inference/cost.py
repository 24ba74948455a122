"""What a graph costs on a tomogram: windows, voxels, arithmetic, memory. Known before anything is computed.

The figures of a graph are counted when it is written (:mod:`tomopoint.export.graph_cost`) and travel in its metadata;
here they are read. Neither onnx nor torch: predicting, staging, pushing and the kernels use it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path

from tomopoint.errors import EngineError
from tomopoint.inference.engines.graph_metadata import COST_KEY, read_metadata
from tomopoint.inference.parity import PRECISIONS
from tomopoint.inference.tiles import Size, TilePlan
from tomopoint.pipeline import Pipeline
from tomopoint.strict_json import Malformed, build, parse, reading


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
            if cost.precision not in PRECISIONS:
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


def n_windows(pipeline: Pipeline, shape_zyx: Size) -> int:
    """Return how many windows a tomogram of that shape is read in."""
    return len(TilePlan.for_volume(shape_zyx, pipeline.tiling, pipeline.stride).starts_zyx)


def size_text(size: Size) -> str:
    """Return a size as ``192x128x128``."""
    return "x".join(map(str, size))


@dataclass(frozen=True)
class TomogramCost:
    """What one tomogram costs with a graph.

    Attributes
    ----------
    shape_zyx
        Of the tomogram, voxels.
    window_zyx
        Of the graph's windows, voxels.
    n_windows
        It is read in so many.
    covered_zyx
        Voxels from the first to the last that a window shows; what lies beyond the tomogram is its mirror image.
    flop
        Arithmetic of all of them; None: the graph does not say.
    activation_bytes
        Of the largest tensors alive at once in one call, in the precision of the graph (a runtime that computes in
        float32 takes twice as much where that is fp16); None: the graph does not say.
    host_bytes
        Two tomograms in float32 and their maps: one is in the engine while another is read, or decoded.
    """

    shape_zyx: Size
    window_zyx: Size
    n_windows: int
    covered_zyx: Size
    flop: float | None
    activation_bytes: float | None
    host_bytes: float

    @property
    def voxels_per_voxel(self) -> float:
        """Voxels computed for each of the tomogram's; what is above 1 is overlap and padding."""
        return self.n_windows * prod(self.window_zyx) / prod(self.shape_zyx)

    @property
    def lies_mostly_beyond(self) -> bool:
        """Whether more is computed beyond the tomogram's end than of it: another window would serve it better."""
        return prod(self.covered_zyx) > 2 * prod(self.shape_zyx)

    def text(self) -> str:
        """Say it in one line."""
        parts = [
            f"{self.n_windows} window{'s' * (self.n_windows != 1)} of {size_text(self.window_zyx)} "
            f"for {size_text(self.shape_zyx)} voxels",
            f"{self.voxels_per_voxel:.2f} voxels computed per voxel",
        ]
        if self.flop is not None:
            parts.append(f"{self.flop / 1e12:.3g} TFLOP")
        memory = [] if self.activation_bytes is None else [f"{self.activation_bytes / 1e9:.2g} GB of activations"]
        memory.append(f"{self.host_bytes / 1e9:.2g} GB of tomograms and maps")
        return f"{', '.join(parts)}; {' and '.join(memory)} at once"


def tomogram_cost(pipeline: Pipeline, cost: GraphCost | None, shape_zyx: Size) -> TomogramCost:
    """Return what a tomogram of that shape costs.

    Parameters
    ----------
    pipeline
        Of the graph: windows, overlap, stride, classes.
    cost
        Of the graph, see :func:`read_cost`.
    shape_zyx
        Voxels along z, y, x.
    """
    windows = n_windows(pipeline, shape_zyx)
    plan = TilePlan.for_volume(shape_zyx, pipeline.tiling, pipeline.stride)
    maps = (len(pipeline.particles) + 3) * prod(plan.map_shape_zyx)
    return TomogramCost(
        shape_zyx=plan.shape_zyx,
        window_zyx=pipeline.tiling.window_zyx,
        n_windows=windows,
        covered_zyx=plan.covered_zyx,
        flop=None if cost is None else cost.flop * windows,
        activation_bytes=None if cost is None else cost.peak_activation_bytes,
        host_bytes=2 * 4.0 * (prod(shape_zyx) + maps),
    )
