"""Options of ONNX Runtime's TensorRT provider: what is said, and what must not be."""

import sys
import types

from tomopoint.inference.engines.ort_tensorrt import build_options, cached_options, preload_tensorrt


def test_building_leaves_engine_and_context_in_one_folder(tmp_path):
    options = build_options(tmp_path, workspace_gib=1.5, optimization_level=3)
    assert options["trt_max_workspace_size"] == str(3 << 29)
    assert options["trt_builder_optimization_level"] == "3"
    assert options["trt_engine_cache_path"] == str(tmp_path)
    assert options["trt_ep_context_file_path"] == str(tmp_path / "ensemble_ctx.onnx")
    assert all(isinstance(value, str) for value in options.values())  # the provider takes nothing else
    # The graph's own types count: any of these flags would let the builder choose.
    assert not {"trt_fp16_enable", "trt_bf16_enable", "trt_int8_enable"} & set(options)


def test_loading_writes_nothing_into_the_folder(tmp_path):
    options = cached_options(tmp_path)
    assert options == {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(tmp_path)}


def test_tensorrts_wheel_is_loaded_where_there_is_one(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt_libs", None)
    preload_tensorrt()  # not installed: ONNX Runtime will say so
    monkeypatch.setitem(sys.modules, "tensorrt_libs", types.ModuleType("tensorrt_libs"))
    preload_tensorrt()
