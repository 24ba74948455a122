"""Choose and load an engine for a graph: the fastest that works here, or the one that was asked for."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from tomopoint.errors import EngineError
from tomopoint.files import sha256_of
from tomopoint.inference.engines.engine import Engine
from tomopoint.inference.engines.engine_record import (
    REBUILD,
    RECORD_NAME,
    EngineRecord,
    Expected,
    check_fit,
    check_tried,
)
from tomopoint.inference.engines.gpus import find_gpus
from tomopoint.inference.engines.graph_metadata import read_pipeline
from tomopoint.inference.engines.tensorrt_module import TENSORRTS
from tomopoint.pipeline import Pipeline

PROVIDERS = ("auto", "tensorrt", "cuda", "openvino", "cpu")
"""What :func:`load_engine` can be asked for."""
ON_THE_CPU = ("openvino", "cpu")
"""Those of them that leave a GPU alone; ``"cpu"`` is ONNX Runtime."""

ORT_TENSORRT = "onnxruntime-tensorrt"
TENSORRT_RUNTIMES = (*TENSORRTS, ORT_TENSORRT)
"""Runtimes that need what was built before: an ``engine.json`` names their files."""

Loaded = tuple[Engine, Pipeline]

logger = logging.getLogger(__name__)


def load_engine(model_path: Path, prefer: str = "auto", threads: int = 0, record_path: Path | None = None) -> Loaded:
    """Return an engine for a graph, and the Pipeline in its metadata.

    Parameters
    ----------
    model_path
        ``ensemble.onnx``.
    prefer
        ``"tensorrt"`` (what `record_path` vouches for), ``"cuda"``, ``"openvino"`` or ``"cpu"`` (ONNX Runtime), which
        must then work; or ``"auto"``: where there is a GPU the fastest that works on it, where there is none OpenVINO,
        or ONNX Runtime where OpenVINO is missing or fails. ``"auto"`` never leaves a GPU idle: the CPU would need days
        for what the GPU does in hours, so whoever wants it must say so.
    threads
        CPU threads, unless the record says how many; 0: all cores.
    record_path
        ``engine.json`` of an engine that was built or tried for the graph, TensorRT's or OpenVINO's; None: there is
        none, and in which precision OpenVINO computes is found here (:mod:`tomopoint.inference.cpu_engine`).

    Raises
    ------
    EngineError, PipelineError
        What was asked for cannot be had; for ``"auto"``, nothing works on the GPU that is here (the reason of each
        candidate is in the message), or without a GPU not even the CPU can run the graph.
    """
    from tomopoint.inference.engines.onnx import OnnxEngine, SessionOptions

    def with_onnx(provider: str) -> Loaded:
        engine = OnnxEngine(model_path, provider, SessionOptions(threads=threads))
        return engine, engine.pipeline

    def with_tensorrt() -> Loaded:
        if record_path is None:
            raise EngineError(f"no engine.json given, which says what TensorRT engine may be used; {REBUILD}")
        return load_recorded(model_path, record_path)

    if prefer == "tensorrt":
        return with_tensorrt()
    if prefer == "openvino":
        return load_openvino(model_path, record_path, threads)
    if prefer != "auto":
        return with_onnx(prefer)
    gpus = find_gpus()
    if not gpus:
        from tomopoint.inference.cpu_engine import choose_cpu_engine, is_of_openvino

        if record_path is not None and is_of_openvino(record_path):
            return load_openvino(model_path, record_path, threads)
        record = choose_cpu_engine(model_path)
        return with_onnx("cpu") if record is None else _as_recorded(model_path, record, threads)
    fastest_first = {"TensorRT": with_tensorrt, "ONNX Runtime on CUDA": lambda: with_onnx("cuda")}
    reasons = []
    for name, load in fastest_first.items():
        try:
            loaded = load()
        except EngineError as error:
            reasons.append(f"{name}: {error}")
            logger.info("passed over, %s", reasons[-1])
        else:
            logger.info("%s taken: the fastest that works here", name)
            return loaded
    raise EngineError(
        f"there is a GPU here ({gpus[0].name}), but nothing that is installed works on it:\n"
        + "\n".join(f"  {reason}" for reason in reasons)
        + "\nmend one of these; --provider cpu is for small graphs: with networks of full size a run takes it an hour"
    )


def load_openvino(model_path: Path, record_path: Path | None = None, threads: int = 0) -> Loaded:
    """Load a graph into OpenVINO as an ``engine.json`` says, or, where there is none, as is found out here.

    Raises
    ------
    EngineError
        OpenVINO is missing or fails, or the record is not of OpenVINO, this graph, this version and this CPU.
    """
    from tomopoint.inference.cpu_engine import check_openvino_record, choose_cpu_engine

    if record_path is None:
        record = choose_cpu_engine(model_path, by_name=True)
        assert record is not None
    else:
        record = EngineRecord.load(record_path)
        check_openvino_record(record, record_path.parent, model_path)
    return _as_recorded(model_path, record, threads)


def _as_recorded(model_path: Path, record: EngineRecord, threads: int) -> Loaded:
    from tomopoint.inference.engines.openvino import OpenVinoEngine, options_in

    options = options_in(record.options, record.precision)
    engine = OpenVinoEngine(model_path, options if options.threads else replace(options, threads=threads))
    return engine, engine.pipeline


def load_recorded(model_path: Path, record_path: Path) -> Loaded:
    """Load the TensorRT engine that an ``engine.json`` vouches for, and the Pipeline of the graph it was built from.

    Raises
    ------
    EngineError
        It was never found to reproduce PyTorch, does not fit the graph, the installed TensorRT or the GPU, is
        damaged, or is no TensorRT engine.
    PipelineError
        The graph carries no Pipeline.
    """
    record, folder = EngineRecord.load(record_path), record_path.parent
    check_tried(record, folder)
    return load_built(model_path, record, folder)


def load_built(model_path: Path, record: EngineRecord, folder: Path) -> Loaded:
    """Load a TensorRT engine that may never have been compared with PyTorch; the rest is :func:`load_recorded`'s.

    Trials load what they built by this, so that nothing is published that its users cannot load.

    Parameters
    ----------
    model_path
        ``ensemble.onnx``.
    record, folder
        What was built, and where the record's paths begin.
    """
    pipeline = read_pipeline(model_path)
    onnx_sha256 = sha256_of(model_path)
    if record.runtime in TENSORRTS:
        from tomopoint.inference.engines.tensorrt import load_recorded_plan

        return load_recorded_plan(record, folder, onnx_sha256, pipeline.digest), pipeline
    if record.runtime != ORT_TENSORRT:
        raise EngineError(f"{folder / RECORD_NAME} is of {record.runtime}, not of a TensorRT engine; {REBUILD}")
    # The EP-context model that ONNX Runtime's TensorRT provider left, and with it the engine beside it.
    from tomopoint.inference.engines.onnx import CACHE_FOLDER, CONTEXT_NAME, VERSION, OnnxEngine, SessionOptions

    gpus = find_gpus()
    capability = gpus[0].compute_capability if gpus else None
    check_fit(record, folder, Expected(onnx_sha256, pipeline.digest, VERSION, capability))
    options = SessionOptions(pipeline=pipeline)
    return OnnxEngine(folder / CACHE_FOLDER / CONTEXT_NAME, "tensorrt", options), pipeline
