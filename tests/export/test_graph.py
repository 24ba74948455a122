from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from tomopoint.export.graph import OPSET, Graph
from tomopoint.export.precision import HalfConvolution, with_half_convolutions
from tomopoint.networks.ensemble import Ensemble


@pytest.fixture(scope="module")
def ensemble(merged):
    return Ensemble(merged.networks[:2]).eval()


def _export(module, path, window=(32, 32, 40)):
    Graph(module, window, 1).save(path, {"key": "value"})
    return path


@pytest.fixture(scope="module")
def whole_path(ensemble, tmp_path_factory):
    return _export(ensemble, tmp_path_factory.mktemp("graph") / "whole.onnx")


@pytest.fixture(scope="module")
def half_path(ensemble, tmp_path_factory):
    return _export(with_half_convolutions(ensemble), tmp_path_factory.mktemp("graph") / "half.onnx")


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


def test_half_graphs_convolve_in_float16_and_nothing_else(half_path):
    model = onnx.shape_inference.infer_shapes(onnx.load(half_path))
    values = (*model.graph.value_info, *model.graph.input, *model.graph.output)
    kinds = {value.name: value.type.tensor_type.elem_type for value in values}
    kinds |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    found = Counter()
    for node in model.graph.node:
        if node.op_type == "Cast":
            continue
        expected = TensorProto.FLOAT16 if node.op_type in ("Conv", "ConvTranspose") else TensorProto.FLOAT
        floats = [kinds[name] for name in (*node.input, *node.output) if kinds.get(name) in (1, 10)]
        assert set(floats) == {expected}, node.op_type
        found[node.op_type] += 1
    assert min(found["Conv"], found["ConvTranspose"], found["InstanceNormalization"], found["Sigmoid"]) > 0
    assert {kinds[name] for name in ("volume", "scores", "offsets")} == {TensorProto.FLOAT}


def test_half_weights_take_half_the_space(whole_path, half_path):
    def n_bytes(path):
        return sum(numpy_helper.to_array(tensor).nbytes for tensor in _weights(onnx.load(path)))

    assert 2 * n_bytes(half_path) == n_bytes(whole_path)


def test_the_module_itself_stays_as_it_is(ensemble):
    volume = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 1, 32, 32, 40), dtype=np.float32))
    before = ensemble(volume)
    half = with_half_convolutions(ensemble)
    assert not any(isinstance(module, HalfConvolution) for module in ensemble.modules())
    assert any(isinstance(module, HalfConvolution) for module in half.modules())
    after = ensemble(volume)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
