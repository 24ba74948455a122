"""The counter against graphs counted by hand and against torch's own counter."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.utils.flop_counter import FlopCounterMode

from tomopoint.errors import EngineError
from tomopoint.export.graph import Graph
from tomopoint.export.graph_cost import cost_of, count_graph

FLOAT = 4


def graph_of(nodes, shape_in, shape_out, weights=(), kind=TensorProto.FLOAT):
    """A graph from tensor a to tensor b; weights are zeros, by name and shape."""
    ports = [helper.make_tensor_value_info(n, kind, s) for n, s in (("a", shape_in), ("b", shape_out))]
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    tensors = [numpy_helper.from_array(np.zeros(shape, dtype), name) for name, shape in weights]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], tensors)
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))


def test_a_convolution_by_hand():
    node = helper.make_node("Conv", ["a", "w", "v"], ["b"], pads=[1] * 6)
    count = count_graph(graph_of([node], (1, 2, 4, 5, 6), (1, 3, 4, 5, 6), [("w", (3, 2, 3, 3, 3)), ("v", (3,))]))
    cells = 4 * 5 * 6
    assert count.flop == count.convolution_flop == 2 * (3 * cells) * (2 * 27) + 3 * cells
    assert count.unfused_bytes == count.convolution_bytes == FLOAT * (2 * cells + 3 * cells + 3 * 2 * 27 + 3)
    assert count.weight_bytes == FLOAT * (3 * 2 * 27 + 3)
    assert count.peak_activation_bytes == FLOAT * (2 + 3) * cells


def test_strides_groups_and_float16_by_hand():
    node = helper.make_node("Conv", ["a", "w"], ["b"], strides=[2, 2, 2], group=2)
    weights = [("w", (4, 1, 2, 2, 2))]
    count = count_graph(graph_of([node], (1, 2, 4, 4, 4), (1, 4, 2, 2, 2), weights, TensorProto.FLOAT16))
    assert count.flop == 2 * (4 * 8) * 8
    assert count.unfused_bytes == 2 * (2 * 64 + 4 * 8 + 4 * 8)


def test_a_transposed_convolution_by_hand():
    node = helper.make_node("ConvTranspose", ["a", "w"], ["b"], strides=[2, 2, 2])
    count = count_graph(graph_of([node], (1, 4, 3, 3, 3), (1, 2, 6, 6, 6), [("w", (4, 2, 2, 2, 2))]))
    assert count.convolution_flop == 2 * (4 * 27) * (2 * 8)  # every input element meets the kernel
    assert count.convolution_bytes == FLOAT * (4 * 27 + 2 * 216 + 4 * 2 * 8)


def test_norms_read_their_input_twice():
    node = helper.make_node("InstanceNormalization", ["a", "s", "t"], ["b"])
    count = count_graph(graph_of([node], (1, 2, 3, 3, 3), (1, 2, 3, 3, 3), [("s", (2,)), ("t", (2,))]))
    assert count.unfused_bytes == FLOAT * (3 * 54 + 4)
    assert (count.flop, count.convolution_flop, count.convolution_bytes) == (8 * 54, 0, 0)


def test_upsampling_by_hand():
    node = helper.make_node("Resize", ["a", "", "s"], ["b"], mode="linear")
    model = graph_of([node], (1, 2, 3, 3, 3), (1, 2, 6, 6, 6))
    scales = ir.tensor(np.array([1, 1, 2, 2, 2], np.float32), name="s")
    model.graph.register_initializer(
        ir.Value(name="s", const_value=scales, shape=scales.shape, type=ir.TensorType(ir.DataType.FLOAT))
    )
    model.graph[0].replace_input_with(2, model.graph.initializers["s"])
    count = count_graph(model)
    assert count.flop == 16 * 2 * 216
    assert count.unfused_bytes == FLOAT * (2 * 27 + 2 * 216 + 5)


def test_what_is_alive_is_what_is_still_read():
    # a (10) -> c (10) -> d (10) -> b = d + a; c is gone when b is made, its alias e keeps it until d exists.
    nodes = [
        helper.make_node("Relu", ["a"], ["c"]),
        helper.make_node("Flatten", ["c"], ["e"]),
        helper.make_node("Exp", ["e"], ["d"]),
        helper.make_node("Add", ["d", "a"], ["b"]),
    ]
    count = count_graph(graph_of(nodes, (1, 10), (1, 10)))
    assert count.peak_activation_bytes == 3 * 10 * FLOAT
    assert count.unfused_bytes == (2 + 2 + 3) * 10 * FLOAT  # flattening moves nothing
    assert count.flop == 3 * 10


@pytest.mark.parametrize(
    ("nodes", "shape", "message"),
    [
        ([helper.make_node("Relu", ["a"], ["b"])], ("n", 3), r"shape of tensor b is \(n, 3\); .*static window"),
        (
            [helper.make_node("NonZero", ["a"], ["c"]), helper.make_node("Cast", ["c"], ["b"], to=1)],
            (2, 3),
            "shape of tensor c",
        ),
    ],
)
def test_open_sizes_are_refused(nodes, shape, message):
    with pytest.raises(EngineError, match=message):
        count_graph(graph_of(nodes, shape, shape))


def test_graphs_inside_nodes_are_refused():
    inner = helper.make_graph(
        [helper.make_node("Relu", ["a"], ["c"])], "i", [], [helper.make_tensor_value_info("c", 1, (3,))]
    )
    node = helper.make_node("If", ["k"], ["b"], then_branch=inner, else_branch=inner)
    model = graph_of([node], (3,), (3,))
    with pytest.raises(EngineError, match="If holds a graph of its own"):
        count_graph(model)


@pytest.mark.parametrize("index", [0, 1])
def test_networks_agree_with_torchs_counter(index, merged):
    network, window = merged.networks[index], (32, 32, 40)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 1, *window))
    count = count_graph(Graph(network, window, 1).model)
    # torch counts convolutions without their biases; these are one addition per output element.
    assert counter.get_total_flops() < count.convolution_flop < 1.03 * counter.get_total_flops()
    assert count.convolution_flop < count.flop < 1.3 * count.convolution_flop


def test_the_cost_of_a_window_does_not_depend_on_the_batch(merged):
    network, pipeline = merged.networks[1], replace(merged.pipeline, views=("identity", "flip_x"))
    window = pipeline.tiling.window_zyx
    one, two = (cost_of(Graph(network, window, batch).model, pipeline, "fp32", batch) for batch in (1, 2))
    assert one.flop == two.flop
    assert (one.window_zyx, one.n_networks) == (window, 6)  # three members in two views
    assert two.peak_activation_bytes == 2 * one.peak_activation_bytes
    assert two.unfused_bytes < one.unfused_bytes  # weights are read once per call
