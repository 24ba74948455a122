"""An engine on trial: built from the graph, compared with PyTorch on the device it will run on, and timed."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from tomopoint import __version__
from tomopoint.errors import EngineError
from tomopoint.export.engine_build import BuildOptions, build_plan
from tomopoint.export.parity import Outputs, ParityRow, compare, format_table, tolerance_for
from tomopoint.export.reference import REFERENCE_NAME, Reference
from tomopoint.files import sha256_of
from tomopoint.inference.engines.flavour import TensorRT, load_tensorrt, require_gpu
from tomopoint.inference.engines.graph_metadata import read_pipeline
from tomopoint.inference.engines.load import load_built
from tomopoint.inference.engines.protocol import Engine
from tomopoint.inference.engines.record import ENGINE_NAME, EngineRecord

TIMED_CALLS = 5
MAX_TIMING_SECONDS = 30.0


@dataclass(frozen=True)
class Finding:
    """What a trial found.

    Attributes
    ----------
    row
        Comparison with PyTorch.
    seconds_per_tile
        Time of one window once warm; None where the outputs were wrong, which nobody needs fast.
    """

    row: ParityRow
    seconds_per_tile: float | None


def build_native(model_path: Path, folder: Path, options: BuildOptions, flavour: str) -> str:
    """Build a plan into `folder`; return TensorRT's version.

    Raises
    ------
    EngineError
        No TensorRT or GPU, or TensorRT cannot build the graph.
    """
    trt = load_tensorrt(flavour)
    build_plan(model_path, trt, options).save(folder / ENGINE_NAME)
    return trt.version


def make_engine(model_path: Path, out: Path, flavour: str, options: BuildOptions) -> EngineRecord:
    """Build a plan on this machine's GPU, compare it with PyTorch, time it, and publish it with its record.

    Parameters
    ----------
    model_path
        Graph of ``export_onnx.py``, with its ``reference.npz`` beside it.
    out
        Folder for ``ensemble.engine`` and ``engine.json``; an engine that is not published is removed from it.
    flavour
        ``"tensorrt"``, ``"tensorrt_rtx"`` or ``"auto"``.
    options
        How to build; TensorRT-RTX builds for the GPU at hand, too.

    Raises
    ------
    EngineError
        No TensorRT or GPU, a graph that is not its reference's or cannot be built, or outputs that are not PyTorch's.
    """
    trt = load_tensorrt(flavour)
    pipeline = read_pipeline(model_path)
    reference = Reference.load(model_path.with_name(REFERENCE_NAME))
    onnx_sha256 = sha256_of(model_path)
    reference.require_graph(onnx_sha256, model_path)
    gpu = require_gpu(f"building an engine with {trt.title} (to check a graph without one: --check-only)")
    options = replace(options, compute_capability=gpu.compute_capability)
    plan_path = out / ENGINE_NAME
    try:
        build_native(model_path, out, options, trt.flavour)
        draft = EngineRecord(
            runtime=trt.flavour,
            runtime_version=trt.version,
            onnx_sha256=onnx_sha256,
            pipeline_digest=pipeline.digest,
            precision=reference.precision,
            window_zyx=reference.window_zyx,
            batch=len(reference.windows),
            compute_capability=gpu.compute_capability,
            device=gpu.name,
            files=hashes_of([plan_path], out),
            options=options.to_dict(),
            tomopoint=__version__,
        )
        record = _try_native(model_path, draft, out, (trt, reference))
    except BaseException:
        plan_path.unlink(missing_ok=True)
        raise
    record.save(out)
    return record


def _try_native(model_path: Path, draft: EngineRecord, out: Path, given: tuple[TensorRT, Reference]) -> EngineRecord:
    """Load a plan as its users will and measure it; EngineError where its outputs are not PyTorch's."""
    trt, reference = given
    with closing(load_built(model_path, draft, out)[0]) as engine:
        finding = measure(engine, trt.flavour, trt.title, reference)
    if not finding.row.ok:
        table = format_table([finding.row])
        raise EngineError(f"{trt.title} does not reproduce PyTorch here, so nothing is published:\n{table}")
    return proven(draft, finding)


def build_with_onnxruntime(model_path: Path, folder: Path, options: BuildOptions) -> str:
    """Let ONNX Runtime's TensorRT provider build an engine into `folder`; return ONNX Runtime's version.

    What the provider really does has never met a GPU.

    Raises
    ------
    EngineError
        ONNX Runtime cannot load its provider, TensorRT cannot build the graph, or no EP-context model was left.
    """
    from tomopoint.inference.engines.onnx import VERSION, OnnxEngine, SessionOptions
    from tomopoint.inference.engines.ort_tensorrt import CONTEXT_NAME, build_options

    folder.mkdir(parents=True, exist_ok=True)
    given = build_options(folder, options.workspace_gib, options.optimization_level)
    OnnxEngine(model_path, "tensorrt", SessionOptions(provider_options=given)).close()
    if not (folder / CONTEXT_NAME).is_file():
        raise EngineError("ONNX Runtime's TensorRT provider left no EP-context model: it did not take the whole graph")
    return VERSION


def proven(draft: EngineRecord, finding: Finding) -> EngineRecord:
    """Return the record of an engine with what its trial found."""
    return replace(draft, parity=finding.row.to_dict(), seconds_per_tile=finding.seconds_per_tile)


def measure(engine: Engine, runtime: str, provider: str, reference: Reference) -> Finding:
    """Compare an engine's outputs with PyTorch's and time it; the first call is the warm-up.

    Raises
    ------
    EngineError
        The engine failed.
    """
    windows = reference.windows[: engine.batch]
    expected = Outputs(reference.outputs.scores[: len(windows)], reference.outputs.offsets[: len(windows)])
    got = Outputs(*engine.infer(windows))
    tolerance = tolerance_for(reference.precision, reference.window_zyx)
    row = compare(runtime, provider, expected, got, tolerance, reference.stride)
    if not row.ok:
        return Finding(row, None)
    count, start = 0, time.perf_counter()
    while count < TIMED_CALLS and time.perf_counter() - start < MAX_TIMING_SECONDS:
        engine.infer(windows)
        count += 1
    return Finding(row, (time.perf_counter() - start) / (count * len(windows)))


def hashes_of(paths: Iterable[Path], base: Path) -> dict[str, str]:
    """Return the SHA-256 of files by their path relative to `base`, for ``EngineRecord.files``."""
    return {path.relative_to(base).as_posix(): sha256_of(path) for path in sorted(paths) if path.is_file()}
