"""ONNX Runtime: the exported graph with TensorRT, on CUDA or on the CPU.

ONNX Runtime lists providers it cannot load and hands back a CPU session without an error, so what a session really
got is checked after it is made.

Of its TensorRT provider nothing has met a GPU. The wheel of ONNX Runtime 1.26.0 takes the options given here and no
other values of them, which was tried with empty stand-ins for the libraries of TensorRT and CUDA; what they do was read
in its source, not seen.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from tomopoint.errors import EngineError, PipelineError
from tomopoint.inference.engines.cuda_libraries import preload_cuda
from tomopoint.inference.engines.engine import INPUT, OFFSETS, SCORES, Array
from tomopoint.inference.engines.graph_metadata import pipeline_in
from tomopoint.pipeline import Pipeline

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}

DEFAULT_OPTIONS: dict[str, dict[str, str]] = {
    # The arena's own way, doubling what it asks for, may want more than a card of 15 GiB has left for large windows.
    "cuda": {"arena_extend_strategy": "kSameAsRequested"},
}
"""What a provider is given where nobody says otherwise."""

VERSION = str(onnxruntime.__version__)
"""Of ONNX Runtime."""

BYTES_PER_GIB = 1 << 30
CACHE_FOLDER = "onnxruntime-tensorrt"
"""Beside ``engine.json``: the provider's engine, its timing cache, the EP-context model that refers to it."""
CONTEXT_NAME = "ensemble_ctx.onnx"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SessionOptions:
    """What the session is given beside its provider.

    Attributes
    ----------
    threads
        Threads of the CPU provider; 0: all cores.
    provider_options
        Options of the provider, as ONNX Runtime names them; they come on top of ``DEFAULT_OPTIONS``.
    pipeline
        Pipeline of a graph that carries none in its metadata: a provider's own rewriting of an exported graph.
    """

    threads: int = 0
    provider_options: dict[str, str] | None = None
    pipeline: Pipeline | None = None


class OnnxEngine:
    """An exported graph in ONNX Runtime.

    Parameters
    ----------
    path
        The graph, with its Pipeline in the metadata.
    provider
        ``"tensorrt"``, ``"cuda"`` or ``"cpu"``; it is what the session gets, or there is an error.
    options
        See :class:`SessionOptions`.

    Raises
    ------
    EngineError
        The file is no graph, is damaged, or the provider asked for cannot be had.
    PipelineError
        The metadata is missing, or the graph's inputs and outputs are not those of its Pipeline.
    """

    def __init__(self, path: Path, provider: str = "cpu", options: SessionOptions | None = None) -> None:
        if provider not in PROVIDERS:
            raise EngineError(f"unknown provider {provider!r}; use auto, {' or '.join(PROVIDERS)}")
        self.path = path
        self.provider = provider
        options = options or SessionOptions()
        self._session = make_session(path, provider, options)
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.pipeline = options.pipeline or pipeline_in(metadata, path)
        self.batch, self.window_zyx = _check_signature(self._session, self.pipeline, path)
        shapes = {node.name: tuple(node.shape) for node in self._session.get_outputs()}
        self._output_shapes = shapes[SCORES], shapes[OFFSETS]

    def infer(self, windows: Array) -> tuple[Array, Array]:
        """Run the graph, see :class:`~tomopoint.inference.engines.engine.Engine`."""
        count = len(windows)
        if count < self.batch:  # the graph's batch is fixed
            padding = np.zeros((self.batch - count, *windows.shape[1:]), dtype=np.float32)
            windows = np.concatenate([windows, padding])
        scores, offsets = (np.empty(shape, dtype=np.float32) for shape in self._output_shapes)
        windows = np.ascontiguousarray(windows, dtype=np.float32)
        try:
            # Arrays that ONNX Runtime reads and writes in place, or copies once, to and from a GPU. A binding of its
            # own for every call: it holds addresses, which must not outlive the arrays.
            binding = self._session.io_binding()
            binding.bind_cpu_input(INPUT, windows)
            for name, array in ((SCORES, scores), (OFFSETS, offsets)):
                binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()
        except Exception as error:  # ONNX Runtime's exceptions have no common base but Exception
            raise EngineError(f"ONNX Runtime failed on {self.path} ({self.provider}): {error}") from error
        return scores[:count], offsets[:count]

    def describe(self) -> dict[str, Any]:
        """Return runtime, version, provider and input shape."""
        return {
            "runtime": f"onnxruntime-{self.provider}",
            "version": VERSION,
            "provider": self._session.get_providers()[0],
            "model": str(self.path),
            "batch": self.batch,
            "window_zyx": list(self.window_zyx),
        }

    def close(self) -> None:
        """Let go of the session, and with it its memory."""
        del self._session


def answers_of(path: Path, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Run any graph once on the CPU, whoever wrote it, and return its outputs by name.

    Raises
    ------
    EngineError
        The file is no graph, or does not take what it is fed.
    """
    session = make_session(path, "cpu", SessionOptions())
    names = [node.name for node in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))
    except Exception as error:  # ONNX Runtime's exceptions have no common base but Exception
        raise EngineError(f"ONNX Runtime failed on {path}: {error}") from error


def make_session(path: Path, provider: str, options: SessionOptions) -> Any:
    """Return a session of any graph, whoever wrote it; EngineError where it or the provider cannot be had."""
    if not path.is_file():
        raise EngineError(f"no such graph: {path}; write one with `tomopoint export`")
    if PROVIDERS[provider] not in onnxruntime.get_available_providers():
        # Where both packages are installed, their files lie over each other, and the one that came last counts.
        raise EngineError(
            f"the ONNX Runtime installed here ({VERSION}) is a build without {PROVIDERS[provider]}, whatever GPU there "
            "is: run `pip uninstall onnxruntime onnxruntime-gpu`, then `pip install 'tomopoint[gpu]'` (for CUDA 12: "
            "'tomopoint[gpu-cu12]'; in a checkout: make setup GPU=1)"
        )
    if provider != "cpu":
        preload_cuda()
        onnxruntime.preload_dlls()  # the rest, from the system; it says what it cannot find
    if provider == "tensorrt":
        # Its wheel loads TensorRT's libraries, and the provider finds only loaded ones; where there is none they are
        # installed for the whole system, or missing: then the session says so.
        with contextlib.suppress(ImportError):
            importlib.import_module("tensorrt_libs")
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            str(path),
            sess_options=settings,
            providers=[PROVIDERS[provider]],
            provider_options=[{**DEFAULT_OPTIONS.get(provider, {}), **(options.provider_options or {})}],
            enable_fallback=0,  # no CPU session after an error, which would only be printed
        )
    except Exception as error:  # as above
        cause = "the file is damaged, export it again"
        if provider != "cpu":
            cause = f"the provider's libraries{_built_for()}, the GPU or its memory are at fault, or else the file"
        raise EngineError(f"ONNX Runtime cannot load {path} with {PROVIDERS[provider]} ({error}); {cause}") from error
    got = session.get_providers()[0]
    if got != PROVIDERS[provider]:
        raise EngineError(
            f"asked ONNX Runtime for {PROVIDERS[provider]}, it gave {got}: the libraries of that provider do not load "
            f"here{_built_for()}; check the GPU and the CUDA packages, or ask for the CPU"
        )
    return session


def _built_for() -> str:
    """Say which CUDA this ONNX Runtime needs: a wheel is built for one, and does not load with another."""
    cuda = getattr(onnxruntime, "cuda_version", "")
    extra = "gpu-cu12" if str(cuda).startswith("12.") else "gpu"
    return (
        f" (this build is for CUDA {cuda}, whose libraries `pip install 'tomopoint[{extra}]'` brings)" if cuda else ""
    )


def _check_signature(session: Any, pipeline: Pipeline, path: Path) -> tuple[int, tuple[int, int, int]]:
    """Return batch and window of a graph; PipelineError where its shapes are not those of its Pipeline."""
    inputs = {node.name: list(node.shape) for node in session.get_inputs()}
    outputs = {node.name: list(node.shape) for node in session.get_outputs()}
    shape = inputs.get(INPUT, [])
    if len(shape) != 5 or not all(isinstance(size, int) for size in shape):
        raise PipelineError(f"{path} takes {inputs}, not one static input {INPUT!r}; write it with `tomopoint export`")
    # Arrays are bound by their address, so a wrong type would be read and written as if it were right.
    wrong = [node.name for node in (*session.get_inputs(), *session.get_outputs()) if node.type != "tensor(float)"]
    if wrong:
        raise PipelineError(f"{', '.join(wrong)} of {path} must be float32; write the graph with `tomopoint export`")
    batch, channels, *window = shape
    cells = [size // pipeline.stride for size in window]
    expected = {SCORES: [batch, len(pipeline.particles), *cells], OFFSETS: [batch, 3, *cells]}
    if channels != 1 or tuple(window) != pipeline.tiling.window_zyx or outputs != expected:
        raise PipelineError(
            f"{path} maps {shape} to {outputs}, its Pipeline needs windows of {pipeline.tiling.window_zyx} and "
            f"{expected}; graph and metadata do not belong together, export it again"
        )
    return batch, (window[0], window[1], window[2])


def tensorrt_build_options(cache_folder: Path, workspace_gib: float, optimization_level: int) -> dict[str, str]:
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
