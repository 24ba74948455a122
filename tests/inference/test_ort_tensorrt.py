"""Options of ONNX Runtime's TensorRT provider: what is said, and what must not be."""

import sys

import onnxruntime
import pytest

from tomopoint.errors import EngineError
from tomopoint.inference.engines import onnx
from tomopoint.inference.engines.onnx import OnnxEngine, SessionOptions, tensorrt_build_options

SWITCHES = {"trt_engine_cache_enable", "trt_dump_ep_context_model", "trt_timing_cache_enable"}


def test_building_leaves_engine_and_context_in_one_folder(tmp_path):
    options = tensorrt_build_options(tmp_path, workspace_gib=1.5, optimization_level=3)
    assert options["trt_max_workspace_size"] == str(3 << 29)
    assert options["trt_builder_optimization_level"] == "3"
    assert options["trt_ep_context_file_path"] == str(tmp_path / "ensemble_ctx.onnx")
    # The engine's path is written into the context model relative to its folder: absolute, "" and ".." are refused.
    assert "trt_engine_cache_path" not in options
    # The graph's own types count: any of these flags would let the builder choose.
    assert not {"trt_fp16_enable", "trt_bf16_enable", "trt_int8_enable"} & set(options)


def test_values_are_what_the_provider_reads(tmp_path):
    """ONNX Runtime 1.26.0: "The value for the key 'trt_engine_cache_enable' should be 'True' or 'False'"."""
    options = tensorrt_build_options(tmp_path, workspace_gib=4, optimization_level=4)
    assert options["trt_auxiliary_streams"] == "0"  # "-1", the provider's own, gives branches memory of their own
    assert {options[name] for name in SWITCHES} == {"True"}
    assert all(isinstance(value, str) and value for value in options.values())
    numbers = set(options) - SWITCHES - {"trt_ep_context_file_path", "trt_timing_cache_path"}
    assert all(options[name].isdigit() for name in numbers)


@pytest.fixture
def session(monkeypatch):
    """Write down what is asked of ONNX Runtime, and in which order libraries are loaded before it."""
    asked = []

    def make(path, providers, provider_options, **others):
        asked.append(("session", providers[0], provider_options[0]))
        raise RuntimeError("no such provider here")

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(onnx.PROVIDERS.values()))
    monkeypatch.setattr(onnxruntime, "InferenceSession", make)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: asked.append("ONNX Runtime's"))
    monkeypatch.setattr(onnx, "preload_cuda", lambda: asked.append("CUDA's"))
    return asked


def _open(model, provider, **options):
    with pytest.raises(EngineError, match="no such provider here"):
        OnnxEngine(model, provider, SessionOptions(**options))


def test_tensorrts_wheel_is_loaded_before_the_session_is_made(blob_model, session, monkeypatch, tmp_path):
    (tmp_path / "tensorrt_libs.py").write_text("import onnxruntime\nonnxruntime.preload_dlls()  # leaves its mark\n")
    monkeypatch.setitem(sys.modules, "tensorrt_libs", None)
    _open(blob_model, "tensorrt")
    assert session == ["CUDA's", "ONNX Runtime's", ("session", "TensorrtExecutionProvider", {})]  # not installed
    session.clear()
    monkeypatch.delitem(sys.modules, "tensorrt_libs")
    monkeypatch.syspath_prepend(tmp_path)
    _open(blob_model, "tensorrt")
    assert session == ["CUDA's", "ONNX Runtime's", "ONNX Runtime's", ("session", "TensorrtExecutionProvider", {})]
    monkeypatch.delitem(sys.modules, "tensorrt_libs")
    session.clear()
    _open(blob_model, "cuda")
    assert "ONNX Runtime's" not in session[2:]  # only where it is TensorRT that is asked for


def test_cudas_arena_grows_as_requested(blob_model, session):
    _open(blob_model, "cuda")
    _open(blob_model, "cuda", provider_options={"device_id": "0"})
    _open(blob_model, "cuda", provider_options={"arena_extend_strategy": "kNextPowerOfTwo"})
    options = [entry[2] for entry in session if isinstance(entry, tuple)]
    assert options == [
        {"arena_extend_strategy": "kSameAsRequested"},
        {"arena_extend_strategy": "kSameAsRequested", "device_id": "0"},
        {"arena_extend_strategy": "kNextPowerOfTwo"},
    ]
