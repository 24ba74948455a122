from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import nn

from tomopoint.export.graph import OPSET, Graph
from tomopoint.export.graph_form import (
    HalfNetwork,
    graph_form,
    with_graph_norms,
    with_groups_of_eight,
    with_half_networks,
)
from tomopoint.inference.parity import FP16, Outputs, compare
from tomopoint.inference.reference import synthetic_windows
from tomopoint.networks.ensemble import Ensemble
from tomopoint.pipeline import ScoreMap


@pytest.fixture(scope="module")
def ensemble(merged):
    return Ensemble(merged.networks[:2]).eval()


def _export(module, path, window=(32, 32, 40)):
    Graph(module, window, 1).save(path, {"key": "value"})
    return path


@pytest.fixture(scope="module")
def whole_path(ensemble, tmp_path_factory):
    return _export(graph_form(ensemble, "fp32"), tmp_path_factory.mktemp("graph") / "whole.onnx")


@pytest.fixture(scope="module")
def half_path(ensemble, tmp_path_factory):
    return _export(graph_form(ensemble, "fp16"), tmp_path_factory.mktemp("graph") / "half.onnx")


def _weights(model):
    return [tensor for tensor in model.graph.initializer if len(tensor.dims) == 5]


def test_ports_shapes_and_opset(whole_path):
    model = onnx.load(whole_path)
    onnx.checker.check_model(model, full_check=True)
    shapes = {
        port.name: [dim.dim_value for dim in port.type.tensor_type.shape.dim]
        for port in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {"volume": [1, 1, 32, 32, 40], "scores": [1, 6, 16, 16, 20], "offsets": [1, 3, 16, 16, 20]}
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", OPSET)]
    assert {prop.key: prop.value for prop in model.metadata_props} == {"key": "value"}


def test_nothing_of_this_machine_travels(whole_path):
    assert all(not node.metadata_props and not node.doc_string for node in onnx.load(whole_path).graph.node)
    assert str(__file__).encode() not in whole_path.read_bytes()
    assert b"site-packages" not in whole_path.read_bytes()


def test_views_share_weights_and_every_initialiser_is_used(merged, tmp_path):
    plain = onnx.load(_export(merged.networks[0], tmp_path / "plain.onnx"))
    several = Ensemble(merged.networks[:1], views=("identity", "flip_x", "rot90")).eval()
    viewed = onnx.load(_export(several, tmp_path / "viewed.onnx"))
    assert len(_weights(viewed)) == len(_weights(plain)) == len({t.raw_data for t in _weights(viewed)})
    used = {name for node in viewed.graph.node for name in node.input}
    assert {tensor.name for tensor in viewed.graph.initializer} <= used
    counts = Counter(node.op_type for node in viewed.graph.node)
    assert counts["Conv"] == 3 * Counter(node.op_type for node in plain.graph.node)["Conv"]


def _kinds(model):
    """Element type of every tensor, by name."""
    model = onnx.shape_inference.infer_shapes(model)
    values = (*model.graph.value_info, *model.graph.input, *model.graph.output)
    kinds = {value.name: value.type.tensor_type.elem_type for value in values}
    return kinds | {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def _nodes_after_the_networks(model):
    """Nodes between the casts back to float32 and the graph's outputs."""
    makers = {name: node for node in model.graph.node for name in node.output}
    names, found = {"scores", "offsets"}, []
    while names:
        node = makers.pop(names.pop(), None)
        if node is not None and node.op_type != "Cast":
            found.append(node)
            names |= set(node.input)
    return found


def test_half_graphs_are_float16_up_to_the_sigmoid_and_float32_from_there(half_path):
    model = onnx.load(half_path)
    kinds, after = _kinds(model), _nodes_after_the_networks(model)
    found, behind = Counter(), Counter(node.op_type for node in after)
    for node in model.graph.node:
        if node.op_type == "Cast":
            continue
        floats = {
            kinds[n] for n in (*node.input, *node.output) if kinds.get(n) in (TensorProto.FLOAT, TensorProto.FLOAT16)
        }
        scales = {TensorProto.FLOAT} if node.op_type == "Resize" else set()  # its factors are float32 in the standard
        assert floats - scales == {TensorProto.FLOAT if node in after else TensorProto.FLOAT16}, node.op_type
        found[node.op_type] += node not in after
    for operator in (
        "Conv",
        "ConvTranspose",
        "InstanceNormalization",
        "BatchNormalization",
        "Relu",
        "LeakyRelu",
        "Tanh",
    ):
        assert found[operator] > 0, operator
        assert behind[operator] == 0
    assert behind["Sigmoid"] == 2  # one per network; those of SiLU lie between convolutions
    assert behind["Mul"] == 4  # shares of scores and offsets
    # The entry, which the exporter finds to be common to both, and scores and offsets of each.
    assert Counter(node.op_type for node in model.graph.node)["Cast"] == 1 + 2 * 2
    assert {kinds[name] for name in ("volume", "scores", "offsets")} == {TensorProto.FLOAT}


def test_a_blend_is_plain_float32_arithmetic_behind_the_networks(merged, tmp_path):
    """Views, maps and weights per class: no gathering, no loop, no float16, and constants that are no weights."""
    score_map = ScoreMap("segmentation", "ribosome", (0.0, 0.01, 0.1, 1.0), (0.0, 0.4, 0.9, 1.0))
    first, second, _ = merged.pipeline.members
    pipeline = replace(
        merged.pipeline,
        views=("identity", "antitranspose_flip_z"),
        view_merge="gmean",
        members=(replace(first, class_weights=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0)), replace(second, kind="segmentation")),
        score_maps=(score_map,),
    )
    blend = Ensemble.of_pipeline(merged.networks[:2], pipeline).eval()
    assert not any("share" in name or "score_maps" in name for name in blend.state_dict())
    model = onnx.load(_export(graph_form(blend, "fp16"), tmp_path / "blend.onnx", (32, 32, 32)))
    kinds, after = _kinds(model), _nodes_after_the_networks(model)
    assert all(kinds[name] != TensorProto.FLOAT16 for node in after for name in (*node.input, *node.output))
    found = Counter(node.op_type for node in after)
    assert found["Clip"] == 2 * 2 + 3  # a logarithm's floor per network and view, and a segment each
    assert found["Log"] == 4
    assert found["Exp"] == 2
    assert set(found) <= {
        "Sigmoid",
        "Transpose",
        "Slice",
        "Clip",
        "Log",
        "Exp",
        "Mul",
        "Add",
        "Div",
        "Concat",
        "Neg",
        "Constant",
    }
    used = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= used


@pytest.mark.parametrize("index", [0, 1])
def test_half_graphs_agree_with_pytorch_in_float32(index, merged, tmp_path):
    network = merged.networks[index]
    path = _export(graph_form(network, "fp16"), tmp_path / "half.onnx")
    volume = synthetic_windows(merged.pipeline, (32, 32, 40), 1)
    with torch.inference_mode():
        expected = network(torch.from_numpy(volume))
    got = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"volume": volume})
    row = compare("one", "cpu", Outputs(*(t.numpy() for t in expected)), Outputs(*got), FP16, 2)
    assert row.ok, row
    assert row.scores_max > 1e-5  # it did compute in float16


def test_group_norms_leave_no_multiplication_and_no_addition(merged, whole_path):
    nodes = Counter(node.op_type for node in onnx.load(_plain(merged, whole_path.parent)).graph.node)
    lean = Counter(node.op_type for node in onnx.load(whole_path).graph.node)
    n_norms = sum(isinstance(module, nn.GroupNorm) for module in merged.networks[0].modules())
    assert n_norms > 0
    assert lean["BatchNormalization"] == n_norms == nodes["Mul"] - lean["Mul"] == nodes["Add"] - lean["Add"]
    assert lean["InstanceNormalization"] == nodes["InstanceNormalization"]


def _plain(merged, folder):
    return _export(Ensemble(merged.networks[:2]).eval(), folder / "plain.onnx")


def test_norms_without_scale_and_shift_are_one_operator(merged, tmp_path):
    # DynUNet's: scale one and shift zero are inside InstanceNormalization, nothing follows.
    model = onnx.load(_export(graph_form(merged.networks[1], "fp32"), tmp_path / "dynunet.onnx"))
    nodes = Counter(node.op_type for node in model.graph.node)
    n_norms = sum(isinstance(module, nn.InstanceNorm3d) for module in merged.networks[1].modules())
    assert nodes["InstanceNormalization"] == n_norms
    assert nodes["Mul"] == nodes["Sigmoid"]  # SiLU's, and one for the offsets' scale in place of the last sigmoid
    assert nodes["Add"] == 0


@pytest.mark.parametrize("batch", [1, 2])
def test_group_norm_in_the_graphs_form_is_group_norm(batch):
    torch.manual_seed(0)
    norm = nn.GroupNorm(4, 8, eps=1e-2).requires_grad_(False)  # an eps that shows
    norm.weight.uniform_(0.5, 2)
    norm.bias.normal_()
    x = 0.2 * torch.randn(batch, 8, 4, 6, 10) + torch.arange(8).reshape(8, 1, 1, 1)
    torch.testing.assert_close(with_graph_norms(nn.Sequential(norm))(x), norm(x), rtol=1e-5, atol=1e-5)
    bare = nn.Sequential(nn.GroupNorm(4, 8, affine=False))
    assert type(with_graph_norms(bare)[0]) is nn.GroupNorm  # nothing to be saved


def test_graph_norms_share_the_weights_of_the_module(ensemble):
    lean = with_graph_norms(ensemble)
    assert {id(p) for p in lean.parameters()} == {id(p) for p in ensemble.parameters()}
    assert any(isinstance(module, nn.GroupNorm) for module in ensemble.modules())
    assert not any(isinstance(module, nn.GroupNorm) for module in lean.modules())


@pytest.mark.parametrize(("kernel", "stride", "bias"), [(3, 1, True), (5, 2, False)])
def test_depthwise_convolutions_compute_the_same_in_groups_of_eight(kernel, stride, bias):
    torch.manual_seed(0)
    own = nn.Conv3d(24, 24, kernel, stride=stride, padding=1, groups=24, bias=bias)
    grouped = with_groups_of_eight(nn.Sequential(own))[0]
    assert (grouped.groups, grouped.weight.shape[1]) == (3, 8)
    x = torch.randn(2, 24, 9, 10, 11)
    torch.testing.assert_close(grouped(x), own(x))
    assert own.groups == 24  # the module itself stays as it is


def test_other_convolutions_keep_their_groups():
    convs = nn.Sequential(
        nn.Conv3d(12, 12, 3, groups=12),  # eight does not divide them
        nn.Conv3d(12, 16, 3),
        nn.Conv3d(16, 16, 3, groups=2),
        nn.Conv3d(16, 32, 3, groups=16),  # two channels out of each
        nn.Conv3d(32, 1, 1),
        nn.Conv3d(1, 1, 3),
    )
    copy = with_groups_of_eight(convs)
    assert [conv.groups for conv in copy] == [conv.groups for conv in convs]
    assert {id(p) for p in copy.parameters()} == {id(p) for p in convs.parameters()}


def test_half_weights_take_half_the_space(whole_path, half_path):
    def n_bytes(path):
        return sum(numpy_helper.to_array(tensor).nbytes for tensor in _weights(onnx.load(path)))

    assert 2 * n_bytes(half_path) == n_bytes(whole_path)


def test_the_module_itself_stays_as_it_is(ensemble):
    volume = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 1, 32, 32, 40), dtype=np.float32))
    before = ensemble(volume)
    half = with_half_networks(ensemble)
    assert not any(isinstance(module, HalfNetwork) for module in ensemble.modules())
    assert all(isinstance(network, HalfNetwork) for network in half.networks)
    after = ensemble(volume)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_network_held_twice_keeps_one_set_of_weights(merged):
    half = with_half_networks(Ensemble([merged.networks[1], merged.networks[1]]))
    assert half.networks[0] is half.networks[1]
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float16}
