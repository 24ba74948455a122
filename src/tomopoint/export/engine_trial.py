"""Build an engine from a graph, compare it with PyTorch on the device it will run on, and time it."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tomopoint import __version__
from tomopoint.errors import EngineError
from tomopoint.export.cost import measured_hours
from tomopoint.export.engine_build import BuildOptions, build_plan, write_bytes
from tomopoint.files import sha256_of
from tomopoint.inference.cpu_engine import try_in_child
from tomopoint.inference.engines import tensorrt
from tomopoint.inference.engines.engine import Engine
from tomopoint.inference.engines.engine_record import ENGINE_NAME, RUNTIME_CACHE_NAME, EngineRecord
from tomopoint.inference.engines.gpus import Gpu
from tomopoint.inference.engines.graph_metadata import read_pipeline
from tomopoint.inference.engines.load import load_built
from tomopoint.inference.engines.openvino import OPENVINO, OpenVinoEngine, OpenVinoOptions, options_in
from tomopoint.inference.engines.tensorrt_module import RTX, load_tensorrt, require_gpu
from tomopoint.inference.parity import Outputs, ParityRow, compare, format_table, tolerance_for
from tomopoint.inference.reference import REFERENCE_NAME, Reference

TIMED_CALLS = 5
TIMED_SECONDS = 20.0
"""On a GPU the timing lasts at least so long: a T4 slows down once it is warm."""
MAX_TIMING_SECONDS = 60.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bench:
    """What every candidate of a graph is tried with. Can be sent to another process.

    Attributes
    ----------
    model, reference
        The graph, and the windows with PyTorch's outputs.
    out
        Where the paths in a record begin; a candidate's files lie in a folder of its own in it.
    timing_cache
        Where classic TensorRT keeps what it measured from one build to the next; None: nowhere.
    onnx_sha256, pipeline_digest
        Of the graph.
    gpu
        What computes; None: there is none.
    """

    model: Path
    reference: Path
    out: Path
    timing_cache: Path | None
    onnx_sha256: str
    pipeline_digest: str
    gpu: Gpu | None


@dataclass(frozen=True)
class Candidate:
    """One way to compute a graph. Can be sent to another process: its functions are of modules.

    Attributes
    ----------
    name
        Tells it from the others; names its folder.
    runtime
        As in ``engine.json``: which function loads it in the submit notebook.
    provider
        What does the work in it; for people.
    needs_gpu
        Whether it is passed over where there is no GPU; what does not need one is not good enough where one is.
    build
        Leave what must be kept in the given folder, which need not exist, and return the runtime's version; EngineError
        where it cannot be had.
    load
        Make an engine from the bench and the record of what was built, in the way in which the submit notebook will.
    options
        What the builder or provider is given, for the record.
    second_try
        What is tried where this one's outputs are not PyTorch's.
    """

    name: str
    runtime: str
    provider: str
    needs_gpu: bool
    build: Callable[[Bench, Path], str]
    load: Callable[[Bench, EngineRecord], Engine]
    options: Mapping[str, Any] = field(default_factory=dict)
    second_try: Candidate | None = None


def attempt(candidate: Candidate, bench: Bench) -> EngineRecord:
    """Build a candidate into a folder of its own and :func:`examine` it."""
    folder = bench.out / candidate.name
    shutil.rmtree(folder, ignore_errors=True)  # what an earlier run of the notebook may have left
    version = candidate.build(bench, folder)
    return examine(candidate, bench, version, folder.rglob("*"))


def examine(candidate: Candidate, bench: Bench, version: str, files: Iterable[Path]) -> EngineRecord:
    """Load what was built as the submit notebook will, compare it with PyTorch and time it.

    Parameters
    ----------
    candidate, bench
        What is tried, and with what.
    version
        Of the runtime, as ``candidate.build`` returned it.
    files
        What the build left in the candidate's folder; the record lists the hash of each.

    Returns
    -------
    EngineRecord
        With the comparison, whatever its verdict; with times where the outputs are PyTorch's.

    Raises
    ------
    EngineError
        It cannot be loaded or run here.
    """
    gpu = bench.gpu if candidate.needs_gpu else None
    reference = Reference.load(bench.reference)
    draft = EngineRecord(
        runtime=candidate.runtime,
        runtime_version=version,
        onnx_sha256=bench.onnx_sha256,
        pipeline_digest=bench.pipeline_digest,
        precision=reference.precision,
        window_zyx=reference.window_zyx,
        batch=len(reference.windows),
        compute_capability=gpu.compute_capability if gpu else None,
        device=gpu.name if gpu else "the CPU",
        files={p.relative_to(bench.out).as_posix(): sha256_of(p) for p in sorted(files) if p.is_file()},
        options={"provider": candidate.provider, **candidate.options},
        tomopoint=__version__,
    )
    with closing(candidate.load(bench, draft)) as engine:
        row, seconds = measure(engine, candidate.name, candidate.provider, reference, TIMED_SECONDS if gpu else 0.0)
    hours = None if seconds is None else measured_hours(seconds, read_pipeline(bench.model))
    return replace(draft, parity=row.to_dict(), seconds_per_tile=seconds, projected_hours=hours)


def measure(
    engine: Engine, subject: str, provider: str, reference: Reference, at_least_seconds: float = 0.0
) -> tuple[ParityRow, float | None]:
    """Compare an engine's outputs with PyTorch's and time it; the first call is the warm-up.

    Parameters
    ----------
    engine
        Takes at least the reference's batch.
    subject, provider
        Names in the table.
    reference
        Windows and PyTorch's outputs.
    at_least_seconds
        The timing lasts at least so long, and at most `MAX_TIMING_SECONDS`.

    Returns
    -------
    row : ParityRow
        The comparison.
    seconds : float or None
        Time of one window, as many at once as the engine takes, as in a submission; None where the outputs were wrong,
        which nobody needs fast.

    Raises
    ------
    EngineError
        The engine failed.
    """
    windows = reference.windows[: engine.batch]
    expected = Outputs(reference.outputs.scores[: len(windows)], reference.outputs.offsets[: len(windows)])
    got = Outputs(*engine.infer(windows))
    tolerance = tolerance_for(reference.precision, reference.window_zyx, provider)
    row = compare(subject, provider, expected, got, tolerance, reference.stride)
    if not row.ok:
        return row, None
    full = np.concatenate([windows] * -(-engine.batch // len(windows)))[: engine.batch]
    count, start, elapsed = 0, time.perf_counter(), 0.0
    while elapsed < MAX_TIMING_SECONDS and (count < TIMED_CALLS or elapsed < at_least_seconds):
        engine.infer(full)
        count, elapsed = count + 1, time.perf_counter() - start
    return row, elapsed / (count * len(full))


def native(name: str, runtime: str, options: BuildOptions, second_try: Candidate | None = None) -> Candidate:
    """Return the candidate that builds a plan with TensorRT or TensorRT-RTX for the GPU at hand."""
    build = partial(_build_plan, runtime=runtime, options=options)
    provider = "TensorRT-RTX" if runtime == RTX else "TensorRT"
    return Candidate(name, runtime, provider, True, build, load_as_submitted, options.to_dict(), second_try)


def load_as_submitted(bench: Bench, record: EngineRecord) -> Engine:
    """Load what was built by the function by which the submit notebook loads it."""
    return load_built(bench.model, record, bench.out)[0]


def _build_plan(bench: Bench, folder: Path, runtime: str, options: BuildOptions) -> str:
    """Build a plan into `folder`, finish it on the device where that is TensorRT-RTX's way; return the version."""
    trt = load_tensorrt(runtime)
    gpu = require_gpu(f"building an engine with {trt.title} (to check a graph without one: --check-only)")
    options = replace(options, compute_capability=gpu.compute_capability, timing_cache_path=bench.timing_cache)
    write_bytes(folder / ENGINE_NAME, build_plan(bench.model, trt, options).data)
    if trt.name == RTX:
        with closing(tensorrt.load_plan(folder / ENGINE_NAME, trt)) as engine:  # compiles for this GPU: half a minute
            engine.infer(Reference.load(bench.reference).windows[: engine.batch])
            compiled = engine.runtime_cache()
        if compiled is None:
            logger.info("%s left nothing to keep: it will compile again at every start", trt.title)
        else:
            write_bytes(folder / RUNTIME_CACHE_NAME, compiled)
    return trt.version


def build_with_onnxruntime(bench: Bench, folder: Path, options: BuildOptions) -> str:
    """Let ONNX Runtime's TensorRT provider build an engine into `folder`; return ONNX Runtime's version.

    What the provider really does has never met a GPU.

    Raises
    ------
    EngineError
        ONNX Runtime cannot load its provider, TensorRT cannot build the graph, or no EP-context model was left.
    """
    from tomopoint.inference.engines.onnx import (
        CONTEXT_NAME,
        VERSION,
        OnnxEngine,
        SessionOptions,
        tensorrt_build_options,
    )

    folder.mkdir(parents=True, exist_ok=True)
    given = tensorrt_build_options(folder, options.workspace_gib, options.optimization_level)
    OnnxEngine(bench.model, "tensorrt", SessionOptions(provider_options=given)).close()
    if not (folder / CONTEXT_NAME).is_file():
        raise EngineError("ONNX Runtime's TensorRT provider left no EP-context model: it did not take the whole graph")
    return VERSION


def make_engine(
    model_path: Path, out: Path, runtime: str, options: BuildOptions, reference_path: Path | None = None
) -> EngineRecord:
    """Build a plan on this machine's GPU, compare it with PyTorch, time it, and publish it with its record.

    Parameters
    ----------
    model_path
        Graph of ``tomopoint export``.
    out
        Folder for ``ensemble.engine`` and ``engine.json``; an engine that is not published is removed from it.
    runtime
        ``"tensorrt"``, ``"tensorrt_rtx"`` or ``"auto"``.
    options
        How to build; TensorRT-RTX builds for the GPU at hand, too.
    reference_path
        Its ``reference.npz``; None: the one beside it.

    Raises
    ------
    EngineError
        No TensorRT or GPU, a graph that is not its reference's or cannot be built, or outputs that are not PyTorch's.
    """
    trt = load_tensorrt(runtime)
    pipeline = read_pipeline(model_path)
    reference_path = reference_path or model_path.with_name(REFERENCE_NAME)
    onnx_sha256 = sha256_of(model_path)
    Reference.load(reference_path).require_graph(onnx_sha256, model_path)
    gpu = require_gpu(f"building an engine with {trt.title} (to check a graph without one: --check-only)")
    bench = Bench(model_path, reference_path, out, None, onnx_sha256, pipeline.digest, gpu)
    candidate = native(trt.name, trt.name, options)
    left = [out / ENGINE_NAME, out / RUNTIME_CACHE_NAME]
    try:
        (out / RUNTIME_CACHE_NAME).unlink(missing_ok=True)  # of an earlier engine
        record = examine(candidate, bench, candidate.build(bench, out), left)
        row = ParityRow.from_dict(record.parity or {})
        if not row.ok:
            raise EngineError(
                f"{trt.title} does not reproduce PyTorch here, so nothing is published:\n{format_table([row])}"
            )
    except BaseException:
        for path in left:
            path.unlink(missing_ok=True)
        raise
    record.save(out)
    return record


def record_cpu_engine(
    model_path: Path, out: Path, asked: OpenVinoOptions, reference_path: Path | None = None
) -> EngineRecord:
    """Find in which precision OpenVINO reproduces PyTorch on this machine's CPU, time it, and publish its record.

    Parameters
    ----------
    model_path
        Graph of ``tomopoint export``.
    out
        Folder for ``engine.json``; OpenVINO needs no file but the graph.
    asked
        Threads and pinning; the rest is found.
    reference_path
        Its ``reference.npz``; None: the one beside it.

    Raises
    ------
    EngineError
        OpenVINO is missing or fails, or does not reproduce PyTorch in any precision.
    """
    reference_path = reference_path or model_path.with_name(REFERENCE_NAME)
    found = try_in_child(model_path, reference_path, asked)
    with closing(OpenVinoEngine(model_path, options_in(found.options, found.precision))) as engine:
        row, seconds = measure(engine, found.precision, OPENVINO, Reference.load(reference_path))
    if not row.ok:
        raise EngineError(f"OpenVINO does not reproduce PyTorch here a second time:\n{format_table([row])}")
    record = replace(found, parity=row.to_dict(), seconds_per_tile=seconds)
    record.save(out)
    return record
