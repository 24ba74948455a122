"""An engine on trial: built from the graph, compared with PyTorch on the device it will run on, and timed."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tomopoint.export.engine_build import BuildOptions, build_plan
from tomopoint.export.parity import Outputs, ParityRow, compare, tolerance_for
from tomopoint.export.reference import Reference
from tomopoint.files import sha256_of
from tomopoint.inference.engines.flavour import load_tensorrt
from tomopoint.inference.engines.protocol import Engine
from tomopoint.inference.engines.record import ENGINE_NAME

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


def build_native(model_path: Path, folder: Path, options: BuildOptions, flavour: str) -> Engine:
    """Build a plan into `folder` and load it onto the GPU. Beyond the build, this has never met a GPU.

    Raises
    ------
    EngineError
        No TensorRT, GPU or pycuda, or TensorRT cannot build or run the graph.
    """
    from tomopoint.inference.engines.tensorrt import load_plan

    trt = load_tensorrt(flavour)
    build_plan(model_path, trt, options).save(folder / ENGINE_NAME)
    return load_plan(folder / ENGINE_NAME, trt)


def build_with_onnxruntime(model_path: Path, folder: Path, options: BuildOptions) -> Engine:
    """Let ONNX Runtime's TensorRT provider build an engine into `folder`. This has never met a GPU.

    Raises
    ------
    EngineError
        ONNX Runtime cannot load its provider, or TensorRT the graph.
    """
    from tomopoint.inference.engines.onnx import OnnxEngine, SessionOptions
    from tomopoint.inference.engines.ort_tensorrt import build_options

    folder.mkdir(parents=True, exist_ok=True)
    given = build_options(folder, options.workspace_gib, options.optimization_level)
    return OnnxEngine(model_path, "tensorrt", SessionOptions(provider_options=given))


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
