"""Choosing an engine for a graph."""

from __future__ import annotations

from pathlib import Path

from tomopoint.inference.engines.protocol import Engine
from tomopoint.pipeline import Pipeline


def load_engine(model_path: Path, prefer: str = "auto", threads: int = 0) -> tuple[Engine, Pipeline]:
    """Return an engine for a graph, and the Pipeline in its metadata.

    Parameters
    ----------
    model_path
        ``ensemble.onnx``.
    prefer
        ``"auto"``, or one of the providers of :class:`~tomopoint.inference.engines.onnx.OnnxEngine`.
    threads
        CPU threads; 0: all cores.

    Raises
    ------
    EngineError, PipelineError
        As :class:`~tomopoint.inference.engines.onnx.OnnxEngine`.
    """
    from tomopoint.inference.engines.onnx import OnnxEngine, SessionOptions

    engine = OnnxEngine(model_path, prefer, SessionOptions(threads=threads))
    return engine, engine.pipeline
