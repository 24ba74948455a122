"""OpenVINO: the same numbers as ONNX Runtime, in arrays that stay the caller's, in the precision that was asked for."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tomopoint.errors import EngineError, PipelineError
from tomopoint.inference.engines import openvino
from tomopoint.inference.engines.onnx import OnnxEngine
from tomopoint.inference.engines.openvino import OpenVinoEngine, OpenVinoOptions, first_and_last, options_in

pytest.importorskip("openvino")

BATCH = 2
SAME = 2e-6
"""Sums of 4096 products in float32, in another order, behind a sigmoid."""


@pytest.fixture(scope="module")
def core():
    return openvino.load_openvino().Core()


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
    engine = OpenVinoEngine(batched_model, OpenVinoOptions(threads=1))
    yield engine
    engine.close()


def _windows(engine, n, seed=0):
    """Noise as strong as blobs are: scores over the whole of (0, 1)."""
    return np.random.default_rng(seed).normal(0, 20, (n, 1, *engine.window_zyx)).astype(np.float32)


def test_it_computes_what_onnx_runtime_computes(engine, batched_model):
    windows = _windows(engine, BATCH)
    other = OnnxEngine(batched_model)
    expected = other.infer(windows)
    other.close()
    assert expected[0].max() - expected[0].min() > 0.1
    for got, array in zip(engine.infer(windows), expected, strict=True):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, array, atol=SAME, rtol=0)


def test_results_stay_the_callers_and_inputs_unchanged(engine):
    windows = _windows(engine, BATCH, seed=1)
    given = windows.copy()
    first = engine.infer(windows)
    kept = [array.copy() for array in first]
    engine.infer(_windows(engine, BATCH, seed=2))
    np.testing.assert_array_equal(windows, given)
    for array, copy in zip(first, kept, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_strided_read_only_and_fewer_windows_are_taken(engine):
    windows = _windows(engine, BATCH)
    expected = engine.infer(windows)[0]
    flipped = np.ascontiguousarray(windows[..., ::-1])[..., ::-1]
    np.testing.assert_array_equal(engine.infer(flipped)[0], expected)
    windows.flags.writeable = False
    np.testing.assert_array_equal(engine.infer(windows)[0], expected)
    scores, offsets = engine.infer(windows[:1])
    assert (len(scores), len(offsets)) == (1, 1)
    np.testing.assert_array_equal(scores, expected[:1])


def test_windows_of_another_size_are_an_error(engine):
    with pytest.raises(EngineError, match=r"OpenVINO failed on .*batched\.onnx"):
        engine.infer(_windows(engine, BATCH)[..., :-2])


def test_it_says_what_it_computes_in(engine):
    said = engine.describe()
    assert (said["runtime"], said["precision"], said["batch"]) == ("openvino", "fp32", BATCH)
    assert set(said["layers"]) == {"f32"}


def test_a_graph_of_another_pipeline_or_type_is_refused(blob_model, tmp_path):
    model = onnx.load(blob_model)
    (producer,) = (node for node in model.graph.node if "scores" in node.output)
    producer.output[0] = "scores32"
    model.graph.node.append(helper.make_node("Cast", ["scores32"], ["scores"], to=TensorProto.FLOAT16))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    onnx.save(model, tmp_path / "half.onnx")
    with pytest.raises(PipelineError, match=r"maps and takes .*f16.*export it again"):
        OpenVinoEngine(tmp_path / "half.onnx")
    with pytest.raises(EngineError, match="write the graph with `tomopoint export`"):
        OpenVinoEngine(tmp_path / "none.onnx")


def test_a_precision_the_graph_does_not_get_is_an_error(blob_model, monkeypatch):
    """As on a CPU without float16 units, where OpenVINO computes in bfloat16 and says nothing."""
    monkeypatch.setitem(openvino.HINTS, "fp16", "f16")
    monkeypatch.setattr(openvino, "_properties", lambda options: {"INFERENCE_PRECISION_HINT": "f32"})
    with pytest.raises(EngineError, match=r"asked for fp16 and computes .* in f32.*take another precision"):
        OpenVinoEngine(blob_model, OpenVinoOptions("fp16"))


@pytest.mark.parametrize("changed", [{"precision": "int8"}, {"first": -1}, {"threads": 1.5}, {"threads": True}])
def test_options_that_make_no_sense_are_refused(changed):
    with pytest.raises(EngineError, match="OpenVINO takes one of the precisions fp32, bf16, fp16"):
        OpenVinoOptions(**changed)
    with pytest.raises(EngineError, match="does not say how OpenVINO was asked"):
        options_in({"kept_in_fp32": [1]}, "bf16")


def _chain(path, n_layers=5):
    """Write a chain of convolutions with ReLU between, a branch of two, and a sum at the end."""
    nodes, last = [], "x"
    for layer in range(n_layers):
        nodes += [helper.make_node("Conv", [last, "w"], [f"c{layer}"], name=f"conv{layer}", pads=[1] * 6)]
        nodes += [helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"], name=f"relu{layer}")]
        last = f"r{layer}"
    nodes += [helper.make_node("Conv", ["r1", "v"], ["b"], name="branch", pads=[1] * 6)]
    nodes += [helper.make_node("Add", [last, "b"], ["y"], name="sum")]
    weights = np.random.default_rng(0).standard_normal((4, 4, 3, 3, 3), dtype=np.float32) / 8
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 8, 8, 8]) for name in "xy"]
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in (("w", weights), ("v", -weights))]
    graph = helper.make_graph(nodes, "chain", ports[:1], ports[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_first_and_last_layers_are_counted_along_the_longest_way(core, tmp_path):
    graph = core.read_model(_chain(tmp_path / "chain.onnx"))

    def convolutions(first, last):
        names = first_and_last(graph, first, last)
        return {name for name in names if name.startswith(("conv", "branch"))}

    assert convolutions(0, 0) == set()
    assert convolutions(1, 0) == {"conv0"}
    assert convolutions(0, 1) == {"conv4", "branch"}  # nothing follows either
    assert convolutions(2, 2) == {"conv0", "conv1", "conv3", "conv4", "branch"}
    assert {"relu0", "relu1"} & first_and_last(graph, 1, 0) == {"relu0"}


def test_marked_layers_are_computed_in_float32(core, tmp_path):
    """Where the CPU has bfloat16, so that there is something to be kept from it."""
    graph = core.read_model(_chain(tmp_path / "chain.onnx"))
    options = OpenVinoOptions("bf16", first=1, last=1, threads=1)
    try:
        whole = core.compile_model(graph, "CPU", openvino._properties(options))
    except RuntimeError:
        pytest.skip("OpenVINO cannot compile in bfloat16 for this CPU")
    if openvino._precisions_of(whole) != {"bf16": 6}:
        pytest.skip("this CPU has no units for bfloat16")
    marked = openvino._with_float32_kept(openvino.load_openvino(), core, graph, options)
    compiled = core.compile_model(marked, "CPU", openvino._properties(options))
    assert openvino._precisions_of(compiled) == {"f32": 3, "bf16": 3}


def test_importing_it_sends_nothing_and_writes_nothing(tmp_path):
    """Its telemetry would make a client's number in the home and open a connection."""
    code = (
        "import socket, sys\n"
        "def refuse(*arguments): raise SystemExit('a connection was tried')\n"
        "socket.socket.connect = refuse\n"
        "from tomopoint.inference.engines.openvino import load_openvino, precisions_here\n"
        "load_openvino(); precisions_here()\n"
        "print(sorted(name for name in sys.modules if name.startswith('openvino_telemetry')))"
    )
    environment = {"HOME": str(tmp_path), "PATH": "", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]"]
    assert list(tmp_path.iterdir()) == []


def test_where_it_is_missing_the_fix_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EngineError, match=r"cannot be imported .*pip install 'tomopoint\[openvino\]'"):
        openvino.load_openvino()


@pytest.mark.parametrize("n_windows", [1, 2, 3, 4])
def test_windows_that_are_computed_at_once_are_those_computed_one_after_the_other(batched_model, n_windows):
    engines = [OpenVinoEngine(batched_model, OpenVinoOptions(threads=2, streams=n)) for n in (1, 2)]
    assert [engine.batch for engine in engines] == [BATCH, 2 * BATCH]
    windows = _windows(engines[0], n_windows, seed=n_windows)
    parts = [engines[0].infer(windows[first : first + BATCH]) for first in range(0, n_windows, BATCH)]
    expected = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    for got, array in zip(engines[1].infer(windows), expected, strict=True):
        assert got.shape == array.shape
        np.testing.assert_allclose(got, array, atol=SAME, rtol=0)
    for engine in engines:
        engine.close()
