"""Count what a graph costs: arithmetic, memory traffic and live tensors, every node, shapes from the graph itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from tomopoint.errors import EngineError
from tomopoint.inference.cost import GraphCost
from tomopoint.pipeline import Pipeline

CONVOLUTIONS = ("Conv", "ConvTranspose")

ALIASES = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")
"""Another name for the same memory: nothing is read, written or allocated."""

MOVES = (
    "Cast",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "Expand",
    "Gather",
    "Pad",
    "Shape",
    "Slice",
    "Split",
    "Transpose",
)
"""Memory is moved, nothing is computed."""

NORMS = ("InstanceNormalization", "GroupNormalization")
"""They read their input twice: for the statistics, then to normalise."""

FLOP_PER_INPUT = {"GlobalAveragePool": 1, "ReduceMax": 1, "ReduceMean": 1, "ReduceSum": 1, "ReduceSumSquare": 2}
"""Per element that is reduced."""

FLOP_PER_OUTPUT = {
    "GroupNormalization": 8,
    "HardSwish": 3,
    "InstanceNormalization": 8,
    "LeakyRelu": 2,
    "PRelu": 2,
    "Resize": 16,
    "Sigmoid": 4,
    "Swish": 5,
    "Tanh": 4,
}
"""Per element of the output where it is not one. Norms: mean (1), variance (3), normalising (2), scale and shift (2).
Resize: a trilinear mean of eight. Exponentials count as one operation. Next to the convolutions all of it is under one
percent, so these need not be exact."""


@dataclass(frozen=True)
class Count:
    """Figures of one call of a graph; see :class:`~tomopoint.inference.cost.GraphCost` for what they mean."""

    flop: float
    convolution_flop: float
    unfused_bytes: float
    convolution_bytes: float
    peak_activation_bytes: float
    weight_bytes: float
    nodes: Mapping[str, int]


def count_graph(model: ir.Model) -> Count:
    """Count a graph of one call.

    Parameters
    ----------
    model
        Static shapes; its intermediate shapes may be missing, they are inferred (and written into `model`).

    Raises
    ------
    EngineError
        A size that is not known before the graph runs, or a node with a graph inside (a loop, a branch, a function).
    """
    opaque = [function.name for function in model.functions.values()]
    opaque += [node.op_type for node in model.graph if _has_graph(node)]
    if opaque:
        raise EngineError(
            f"the cost of the graph cannot be counted: {opaque[0]} holds a graph of its own; export it inlined"
        )
    ShapeInferencePass()(model)
    nodes = [_Node(node) for node in model.graph]
    convolutions = [node for node in nodes if node.kind in CONVOLUTIONS]
    kinds = [node.kind for node in nodes]
    return Count(
        flop=float(sum(node.flop() for node in nodes)),
        convolution_flop=float(sum(node.flop() for node in convolutions)),
        unfused_bytes=float(sum(node.traffic() for node in nodes)),
        convolution_bytes=float(sum(node.traffic() for node in convolutions)),
        peak_activation_bytes=float(_peak(model, nodes)),
        weight_bytes=float(sum(_n_bytes(value) for value in model.graph.initializers.values())),
        nodes={kind: kinds.count(kind) for kind in sorted(set(kinds))},
    )


def cost_of(model: ir.Model, pipeline: Pipeline, precision: str, batch: int) -> GraphCost:
    """Return the cost of one window of the graph that belongs to `pipeline` and takes `batch` windows per call."""
    count = count_graph(model)
    return GraphCost(
        window_zyx=pipeline.tiling.window_zyx,
        n_networks=len(pipeline.members) * len(pipeline.views),
        precision=precision,
        flop=count.flop / batch,
        unfused_bytes=count.unfused_bytes / batch,
        convolution_bytes=count.convolution_bytes / batch,
        peak_activation_bytes=count.peak_activation_bytes,
        weight_bytes=count.weight_bytes,
    )


class _Node:
    """One node with the shapes it works on."""

    def __init__(self, node: ir.Node) -> None:
        self.kind = node.op_type
        self.inputs = [value for value in dict.fromkeys(node.inputs) if value is not None]
        self.outputs = [value for value in node.outputs if value.name]
        self._node = node

    def flop(self) -> int:
        """Arithmetic; a multiply-add counts two."""
        if self.kind in ALIASES + MOVES:
            return 0
        if self.kind in CONVOLUTIONS:
            return self._convolution_flop()
        if self.kind in ("MatMul", "Gemm"):
            first = _shape(self._value(0))  # of Gemm two axes, either of which may be the summed one
            rows = _shape(self.outputs[0])[0]
            return 2 * (first[-1] if self.kind == "MatMul" else prod(first) // rows) * self._n_outputs()
        if self.kind in FLOP_PER_INPUT:
            return FLOP_PER_INPUT[self.kind] * prod(_shape(self._value(0)))
        return FLOP_PER_OUTPUT.get(self.kind, 1) * self._n_outputs()

    def traffic(self) -> int:
        """Bytes read and written where this node is a kernel of its own."""
        if self.kind in ALIASES:
            return 0
        again = self.inputs[:1] if self.kind in NORMS else []
        return sum(_n_bytes(value) for value in (*self.inputs, *again, *self.outputs))

    def _convolution_flop(self) -> int:
        """Each output element (each input element, where transposed) meets the kernel once; a bias is one addition."""
        weight = _shape(self._value(1))  # (out, in / groups, ...), transposed: (in, out / groups, ...)
        meets = self._n_outputs() if self.kind == "Conv" else prod(_shape(self._value(0)))
        has_bias = len(self._node.inputs) > 2 and self._node.inputs[2] is not None
        return 2 * meets * prod(weight[1:]) + (self._n_outputs() if has_bias else 0)

    def _n_outputs(self) -> int:
        return prod(_shape(self.outputs[0]))

    def _value(self, index: int) -> ir.Value:
        value = self._node.inputs[index]
        assert value is not None
        return value


def _peak(model: ir.Model, nodes: Sequence[_Node]) -> int:
    """Return the largest sum of tensors alive at once: from the node that makes them to the last that reads them.

    Ports live throughout, as they belong to the caller. Weights are not counted.
    """
    owner: dict[ir.Value, ir.Value] = {}  # of an alias, the tensor whose memory it names
    for node in nodes:
        if node.kind in ALIASES and node.inputs:
            owner[node.outputs[0]] = owner.get(node.inputs[0], node.inputs[0])
    weights = set(model.graph.initializers.values())
    last_use: dict[ir.Value, int] = {}
    for index, node in enumerate(nodes):
        for value in (*node.outputs, *node.inputs):
            last_use[owner.get(value, value)] = index
    kept = {owner.get(value, value) for value in (*model.graph.inputs, *model.graph.outputs)}
    alive = peak = sum(_n_bytes(value) for value in model.graph.inputs)
    ends: dict[int, list[ir.Value]] = {}
    for value, index in last_use.items():
        if value not in kept and value not in weights:
            ends.setdefault(index, []).append(value)
    for index, node in enumerate(nodes):
        alive += sum(_n_bytes(value) for value in node.outputs if value not in owner)
        peak = max(peak, alive)
        alive -= sum(_n_bytes(value) for value in ends.get(index, []))
    return peak


def _has_graph(node: ir.Node) -> bool:
    kinds: Iterable[ir.AttributeType] = (attribute.type for attribute in node.attributes.values())
    return any(kind in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for kind in kinds)


def _n_bytes(value: ir.Value) -> int:
    if value.dtype is None:
        raise EngineError(f"the cost of the graph cannot be counted: the type of tensor {value.name} is not known")
    return int(prod(_shape(value)) * value.dtype.itemsize)


def _shape(value: ir.Value) -> tuple[int, ...]:
    if value.shape is None or not all(isinstance(size, int) for size in value.shape):
        known = "not known" if value.shape is None else f"({', '.join(str(size) for size in value.shape)})"
        raise EngineError(
            f"the cost of the graph cannot be counted: the shape of tensor {value.name} is {known}; "
            "export it with a static window and batch"
        )
    return tuple(int(size) for size in value.shape)  # type: ignore[arg-type]
