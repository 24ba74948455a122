"""Options of ONNX Runtime's TensorRT provider: what is said, and what must not be."""

import sys
import types

from tomopoint.inference.engines.ort_tensorrt import build_options, preload_tensorrt

SWITCHES = {"trt_engine_cache_enable", "trt_dump_ep_context_model", "trt_timing_cache_enable"}


def test_building_leaves_engine_and_context_in_one_folder(tmp_path):
    options = build_options(tmp_path, workspace_gib=1.5, optimization_level=3)
    assert options["trt_max_workspace_size"] == str(3 << 29)
    assert options["trt_builder_optimization_level"] == "3"
    assert options["trt_ep_context_file_path"] == str(tmp_path / "ensemble_ctx.onnx")
    # The engine's path is written into the context model relative to its folder: absolute, "" and ".." are refused.
    assert "trt_engine_cache_path" not in options
    # The graph's own types count: any of these flags would let the builder choose.
    assert not {"trt_fp16_enable", "trt_bf16_enable", "trt_int8_enable"} & set(options)


def test_values_are_what_the_provider_reads(tmp_path):
    """ONNX Runtime 1.26.0: "The value for the key 'trt_engine_cache_enable' should be 'True' or 'False'"."""
    options = build_options(tmp_path, workspace_gib=12, optimization_level=4)
    assert {options[name] for name in SWITCHES} == {"True"}
    assert all(isinstance(value, str) and value for value in options.values())
    numbers = set(options) - SWITCHES - {"trt_ep_context_file_path", "trt_timing_cache_path"}
    assert all(options[name].isdigit() for name in numbers)


def test_tensorrts_wheel_is_loaded_where_there_is_one(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt_libs", None)
    preload_tensorrt()  # not installed: ONNX Runtime will say so
    monkeypatch.setitem(sys.modules, "tensorrt_libs", types.ModuleType("tensorrt_libs"))
    preload_tensorrt()
