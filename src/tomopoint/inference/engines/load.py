"""Choosing an engine for a graph, and saying why."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from tomopoint.errors import EngineError
from tomopoint.files import sha256_of
from tomopoint.inference.engines.flavour import FLAVOURS
from tomopoint.inference.engines.gpus import find_gpus
from tomopoint.inference.engines.graph_metadata import read_pipeline
from tomopoint.inference.engines.protocol import Engine
from tomopoint.inference.engines.record import REBUILD, EngineRecord, Expected, check_engine_record
from tomopoint.pipeline import Pipeline

PROVIDERS = ("auto", "tensorrt", "cuda", "cpu")
"""What :func:`load_engine` can be asked for."""

ORT_TENSORRT = "onnxruntime-tensorrt"
TENSORRT_RUNTIMES = (*FLAVOURS, ORT_TENSORRT)
"""Runtimes that need what was built before: an ``engine.json`` names their files."""

Loaded = tuple[Engine, Pipeline]

logger = logging.getLogger(__name__)


def load_engine(
    model_path: Path, prefer: str = "auto", threads: int = 0, record_path: Path | None = None
) -> tuple[Engine, Pipeline]:
    """Return an engine for a graph, and the Pipeline in its metadata.

    Parameters
    ----------
    model_path
        ``ensemble.onnx``.
    prefer
        ``"tensorrt"`` (what `record_path` vouches for), ``"cuda"`` or ``"cpu"``, which must then work; or ``"auto"``:
        the fastest that works here, every candidate explained in one line of the log.
    threads
        CPU threads; 0: all cores.
    record_path
        ``engine.json`` of a TensorRT engine that was built for the graph; None: there is none.

    Raises
    ------
    EngineError, PipelineError
        What was asked for cannot be had; for ``"auto"``, not even the CPU can run the graph.
    """
    from tomopoint.inference.engines.onnx import OnnxEngine, SessionOptions

    def with_onnx(provider: str) -> Loaded:
        engine = OnnxEngine(model_path, provider, SessionOptions(threads=threads))
        return engine, engine.pipeline

    def with_tensorrt() -> Loaded:
        if record_path is None:
            raise EngineError(f"no engine.json given, which says what TensorRT engine may be used; {REBUILD}")
        return load_recorded(model_path, record_path)

    if prefer != "auto":
        return with_tensorrt() if prefer == "tensorrt" else with_onnx(prefer)
    faster: list[tuple[str, Callable[[], Loaded]]] = []
    if record_path is not None:
        faster.append(("TensorRT", with_tensorrt))
    if find_gpus():
        faster.append(("ONNX Runtime on CUDA", lambda: with_onnx("cuda")))
    for name, load in faster:
        try:
            loaded = load()
        except EngineError as error:
            logger.warning("%s passed over: %s", name, error)
        else:
            logger.info("%s taken: the fastest that works here", name)
            return loaded
    logger.info("ONNX Runtime on the CPU taken: %s", "nothing faster works" if faster else "there is no GPU here")
    return with_onnx("cpu")


def load_recorded(model_path: Path, record_path: Path) -> Loaded:
    """Load the TensorRT engine that an ``engine.json`` vouches for, and the Pipeline of the graph it was built from.

    Raises
    ------
    EngineError
        It does not fit the graph, the installed TensorRT or the GPU, is damaged, or is no TensorRT engine.
    PipelineError
        The graph carries no Pipeline.
    """
    pipeline = read_pipeline(model_path)
    record = EngineRecord.load(record_path)
    onnx_sha256 = sha256_of(model_path)
    if record.runtime in FLAVOURS:
        from tomopoint.inference.engines.tensorrt import load_recorded_engine

        return load_recorded_engine(record_path, onnx_sha256, pipeline.digest), pipeline
    if record.runtime != ORT_TENSORRT:
        raise EngineError(f"{record_path} is of {record.runtime}, not of a TensorRT engine; {REBUILD}")
    return _load_ort_tensorrt(record, record_path.parent, onnx_sha256, pipeline), pipeline


def _load_ort_tensorrt(record: EngineRecord, folder: Path, onnx_sha256: str, pipeline: Pipeline) -> Engine:
    """Load the EP-context model that ONNX Runtime's TensorRT provider left, with its cached engine."""
    import onnxruntime

    from tomopoint.inference.engines.onnx import OnnxEngine, SessionOptions
    from tomopoint.inference.engines.ort_tensorrt import CACHE_FOLDER, CONTEXT_NAME, cached_options

    gpus = find_gpus()
    capability = gpus[0].compute_capability if gpus else None
    expected = Expected(onnx_sha256, pipeline.digest, onnxruntime.__version__, capability)
    check_engine_record(record, folder, expected)
    cache = folder / CACHE_FOLDER
    options = SessionOptions(provider_options=cached_options(cache), pipeline=pipeline)
    return OnnxEngine(cache / CONTEXT_NAME, "tensorrt", options)
