"""TensorRT inside ONNX Runtime: what its provider is given, so that an engine built once is found again.

None of this has met a GPU. The wheel of ONNX Runtime 1.26.0 takes these options and no other values of them, which was
tried with empty stand-ins for the libraries of TensorRT and CUDA; what the options do was read in its source, not seen.
"""

from __future__ import annotations

import importlib
from pathlib import Path

BYTES_PER_GIB = 1 << 30
CACHE_FOLDER = "onnxruntime-tensorrt"
"""Beside ``engine.json``: the provider's engine, its timing cache, the EP-context model that refers to it."""
CONTEXT_NAME = "ensemble_ctx.onnx"


def build_options(cache_folder: Path, workspace_gib: float, optimization_level: int) -> dict[str, str]:
    """Return the provider's options for the session that builds and leaves everything in `cache_folder`.

    Loading the EP-context model takes no options: it names its engine, which lies beside it.

    Nothing is said of fp16: the graph's own types count then (a strongly typed network), which is what was compared
    with PyTorch. Nothing is said of ``trt_engine_cache_path`` either. It is taken relative to the folder of the
    EP-context model and written into it; an absolute one is refused when that model is loaded, an empty one at once,
    and where there is none the engine lies beside the model. The engine stays a file of its own, also by default
    (``trt_ep_context_embed_mode``): a protobuf holds no 2 GB.
    """
    return {
        "trt_engine_cache_enable": "True",  # not "1", which these switches refuse
        "trt_dump_ep_context_model": "True",
        "trt_ep_context_file_path": str(cache_folder / CONTEXT_NAME),
        "trt_max_workspace_size": str(int(workspace_gib * BYTES_PER_GIB)),
        "trt_builder_optimization_level": str(optimization_level),
        "trt_auxiliary_streams": "0",  # branches in parallel could not share memory for activations
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(cache_folder),
    }


def preload_tensorrt() -> None:
    """Load TensorRT's libraries from its wheel, where there is one: the provider finds only loaded ones."""
    try:
        importlib.import_module("tensorrt_libs")
    except ImportError:
        return  # installed for the whole system, or missing: then the session says so
