"""TensorRT inside ONNX Runtime: what its provider is given, so that an engine built once is found again.

None of this has met a GPU: the option names are those of ONNX Runtime 1.26's provider, their effect was not seen.
"""

from __future__ import annotations

import importlib
from pathlib import Path

BYTES_PER_GIB = 1 << 30
CACHE_FOLDER = "onnxruntime-tensorrt"
"""Beside ``engine.json``: the provider's engine, its timing cache, the EP-context model that refers to it."""
CONTEXT_NAME = "ensemble_ctx.onnx"


def build_options(cache_folder: Path, workspace_gib: float, optimization_level: int) -> dict[str, str]:
    """Return the provider's options for the first load, which builds and leaves everything in `cache_folder`.

    Nothing is said of fp16: the graph's own types count then (a strongly typed network), which is what was compared
    with PyTorch.
    """
    return {
        **cached_options(cache_folder),
        "trt_max_workspace_size": str(int(workspace_gib * BYTES_PER_GIB)),
        "trt_builder_optimization_level": str(optimization_level),
        "trt_dump_ep_context_model": "1",
        "trt_ep_context_file_path": str(cache_folder / CONTEXT_NAME),
        "trt_ep_context_embed_mode": "0",  # the engine stays a file of its own: a protobuf holds no 2 GB
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(cache_folder),
    }


def cached_options(cache_folder: Path) -> dict[str, str]:
    """Return the provider's options for every later load: take what `cache_folder` has, which may be read-only."""
    return {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(cache_folder)}


def preload_tensorrt() -> None:
    """Load TensorRT's libraries from its wheel, where there is one: the provider finds only loaded ones."""
    try:
        importlib.import_module("tensorrt_libs")
    except ImportError:
        return  # installed for the whole system, or missing: then the session says so
