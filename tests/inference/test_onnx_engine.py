"""Bound inputs and outputs of ONNX Runtime: the same numbers as its plain call, in arrays that stay the caller's."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from tomopoint.errors import EngineError, PipelineError
from tomopoint.inference.engines.onnx import OnnxEngine

BATCH = 2


@pytest.fixture
def batched_model(blob_model, tmp_path):
    """Return the blob graph with a batch of two."""
    model = onnx.load(blob_model)
    for port in (*model.graph.input, *model.graph.output):
        port.type.tensor_type.shape.dim[0].dim_value = BATCH
    onnx.save(model, tmp_path / "batched.onnx")
    return tmp_path / "batched.onnx"


@pytest.fixture
def engine(batched_model):
    engine = OnnxEngine(batched_model)
    yield engine
    engine.close()


def _windows(engine, n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 1, *engine.window_zyx), dtype=np.float32)


def _plain(path, windows):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["scores", "offsets"], {"volume": windows})


def test_bound_arrays_hold_what_the_plain_call_returns(engine, batched_model):
    windows = _windows(engine, BATCH)
    for got, expected in zip(engine.infer(windows), _plain(batched_model, windows), strict=True):
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, expected)


def test_a_second_call_leaves_the_first_ones_results_alone(engine):
    first = engine.infer(_windows(engine, BATCH, seed=1))
    kept = [array.copy() for array in first]
    second = engine.infer(_windows(engine, BATCH, seed=2))
    for array, copy in zip(first, kept, strict=True):
        np.testing.assert_array_equal(array, copy)
    assert not np.array_equal(first[0], second[0])


def test_strided_and_fewer_windows_are_taken_as_they_are(engine, batched_model):
    windows = _windows(engine, BATCH)
    expected = _plain(batched_model, windows)
    flipped = np.ascontiguousarray(windows[..., ::-1])[..., ::-1]
    np.testing.assert_array_equal(engine.infer(flipped)[0], expected[0])
    scores, offsets = engine.infer(windows[:1])
    assert (len(scores), len(offsets)) == (1, 1)
    np.testing.assert_array_equal(scores, expected[0][:1])


def test_windows_of_another_size_are_an_error_not_memory_read_beyond_them(engine):
    with pytest.raises(EngineError, match="ONNX Runtime failed"):
        engine.infer(_windows(engine, BATCH)[..., :-2])
    with pytest.raises(EngineError, match="ONNX Runtime failed"):
        engine.infer(_windows(engine, BATCH + 1))


def test_outputs_of_another_type_are_refused(blob_model, tmp_path):
    model = onnx.load(blob_model)
    (producer,) = (node for node in model.graph.node if "scores" in node.output)
    producer.output[0] = "scores32"
    model.graph.node.append(helper.make_node("Cast", ["scores32"], ["scores"], to=TensorProto.FLOAT16))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    onnx.save(model, tmp_path / "half.onnx")
    with pytest.raises(PipelineError, match=r"scores of .* must be float32"):
        OnnxEngine(tmp_path / "half.onnx")
