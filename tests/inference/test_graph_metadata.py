"""Metadata is read as the onnx package reads it, without the weights."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession

from tomopoint.errors import EngineError
from tomopoint.inference.engines.graph_metadata import read_metadata

METADATA = {"tomopoint.pipeline": '{"a": "Å"}' * 50, "tomopoint.version": "0", "empty": ""}


@pytest.fixture
def graph(tmp_path):
    """Return a graph with a weight of a megabyte and three pieces of metadata."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [512, 512]) for name in "ab"]
    weight = numpy_helper.from_array(np.ones((512, 512), np.float32), "w")
    body = helper.make_graph([helper.make_node("Add", ["a", "w"], ["b"])], "g", ports[:1], ports[1:], [weight])
    model = helper.make_model(body, producer_name="test", ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    helper.set_model_props(model, METADATA)
    onnx.save(model, tmp_path / "graph.onnx")
    return tmp_path / "graph.onnx"


def test_metadata_is_what_onnx_runtime_finds(graph):
    assert read_metadata(graph) == METADATA
    assert InferenceSession(str(graph)).get_modelmeta().custom_metadata_map == METADATA


def test_a_cut_file_and_what_is_no_graph_are_refused(graph, tmp_path):
    graph.write_bytes(graph.read_bytes()[:-100])
    with pytest.raises(EngineError, match="not an ONNX file"):
        read_metadata(graph)
    graph.write_bytes(b"junk" * 10)
    with pytest.raises(EngineError, match="not an ONNX file"):
        read_metadata(graph)
    with pytest.raises(EngineError, match="cannot read"):
        read_metadata(tmp_path / "absent.onnx")
    graph.write_bytes(b"")
    assert read_metadata(graph) == {}
