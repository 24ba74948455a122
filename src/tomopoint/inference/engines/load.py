"""Choosing an engine for a graph, and saying why."""

from __future__ import annotations

import logging
from pathlib import Path

from tomopoint.errors import EngineError
from tomopoint.inference.engines.gpus import find_gpus
from tomopoint.inference.engines.protocol import Engine
from tomopoint.pipeline import Pipeline

logger = logging.getLogger(__name__)


def load_engine(model_path: Path, prefer: str = "auto", threads: int = 0) -> tuple[Engine, Pipeline]:
    """Return an engine for a graph, and the Pipeline in its metadata.

    Parameters
    ----------
    model_path
        ``ensemble.onnx``.
    prefer
        A provider of :class:`~tomopoint.inference.engines.onnx.OnnxEngine`, which must then work; or ``"auto"``:
        the fastest that works here, every candidate explained in one line of the log.
    threads
        CPU threads; 0: all cores.

    Raises
    ------
    EngineError, PipelineError
        As :class:`~tomopoint.inference.engines.onnx.OnnxEngine`.
    """
    from tomopoint.inference.engines.onnx import OnnxEngine, SessionOptions

    options = SessionOptions(threads=threads)
    if prefer == "auto" and find_gpus():
        try:
            engine = OnnxEngine(model_path, "cuda", options)
        except EngineError as error:
            logger.warning("ONNX Runtime on CUDA passed over: %s", error)
        else:
            return engine, engine.pipeline
    engine = OnnxEngine(model_path, "cpu" if prefer == "auto" else prefer, options)
    return engine, engine.pipeline
