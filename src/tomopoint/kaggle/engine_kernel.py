"""What the build_engine notebook calls: find the fastest runtime that reproduces PyTorch's outputs on this machine."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tomopoint import __version__
from tomopoint.errors import EngineError
from tomopoint.export.metadata import tool_versions
from tomopoint.export.parity import Outputs, ParityRow, compare, format_table, tolerance_for
from tomopoint.export.reference import Reference
from tomopoint.inference.engines.gpus import Gpu, find_gpus
from tomopoint.inference.engines.onnx import OnnxEngine
from tomopoint.inference.engines.protocol import Engine
from tomopoint.inference.engines.record import EngineRecord
from tomopoint.kaggle.inputs import find_kit
from tomopoint.kaggle.manifest import MODEL, REFERENCE, Manifest

TIMED_WINDOWS = 5
MAX_TIMING_SECONDS = 30.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Runtime:
    """One way to compute a graph.

    Attributes
    ----------
    name
        As ``runtime`` in ``engine.json``.
    provider
        ONNX Runtime's name of what must do the work.
    needs_gpu
        Whether it is passed over where there is no GPU.
    start
        Make an engine from the graph's path; EngineError where it cannot be had.
    """

    name: str
    provider: str
    needs_gpu: bool
    start: Callable[[Path], Engine]


RUNTIMES: tuple[Runtime, ...] = (
    Runtime("onnxruntime-cuda", "CUDAExecutionProvider", True, lambda path: OnnxEngine(path, provider="cuda")),
    Runtime("onnxruntime-cpu", "CPUExecutionProvider", False, lambda path: OnnxEngine(path, provider="cpu")),
)
"""In the order they are tried, fastest first; the first that passes parity is recorded."""


@dataclass(frozen=True)
class EngineReport:
    """What the notebook shows.

    Attributes
    ----------
    text
        Every runtime with why it was taken or passed over, and the parity table.
    record
        As written to ``engine.json``, or None where no runtime passed.
    """

    text: str
    record: EngineRecord | None

    @property
    def ok(self) -> bool:
        """Whether a runtime passed."""
        return self.record is not None


@dataclass(frozen=True)
class _Finding:
    row: ParityRow
    seconds_per_tile: float | None


def run(root: Path, runtimes: Sequence[Runtime] = RUNTIMES) -> EngineReport:
    """Try `runtimes` in order on the attached kit; write ``<root>/working/engine.json`` for the first that passes.

    Parameters
    ----------
    root
        ``/kaggle``, or the root of a rehearsal.

    Raises
    ------
    DataError
        No kit attached, or a damaged one.
    EngineError
        The kit's reference belongs to another graph.
    """
    kit = find_kit(root)
    manifest = Manifest.load(kit)
    manifest.verify(kit)
    reference = Reference.load(kit / REFERENCE)
    reference.require_graph(manifest.onnx_sha256, kit / MODEL)
    gpus = find_gpus()
    lines: list[str] = []
    rows: list[ParityRow] = []
    for runtime in runtimes:
        found, reason = _try(runtime, kit / MODEL, reference, gpus)
        if found is not None:
            rows.append(found.row)
        if found is None or not found.row.ok:
            lines.append(f"{runtime.name}: passed over, {reason}")
            continue
        record = _record(runtime, found, (manifest, reference), gpus, lines)
        record.save(root / "working")
        lines.append(f"{runtime.name}: taken, {found.seconds_per_tile:.3g} s per window on {record.device}")
        return EngineReport("\n".join([*lines, format_table(rows)]), record)
    return EngineReport("\n".join([*lines, format_table(rows)]), None)


def _try(runtime: Runtime, model: Path, reference: Reference, gpus: list[Gpu]) -> tuple[_Finding | None, str]:
    """Return a finding where the runtime computed at all, and why it is passed over where it is."""
    if runtime.needs_gpu and not gpus:
        return None, "there is no GPU here (on Kaggle: Settings > Accelerator > GPU T4 x2)"
    logger.info("try %s", runtime.name)
    try:
        engine = runtime.start(model)
    except EngineError as error:
        return None, str(error)
    try:
        row = _parity(runtime, engine, reference)
        if not row.ok:
            return _Finding(row, None), "its outputs are not PyTorch's, see the table"
        return _Finding(row, _seconds_per_window(engine, reference)), ""
    except EngineError as error:
        return None, str(error)
    finally:
        engine.close()


def _parity(runtime: Runtime, engine: Engine, reference: Reference) -> ParityRow:
    """Compare; this first call is the warm-up too."""
    got = Outputs(*engine.infer(reference.windows))
    tolerance = tolerance_for(reference.precision, reference.window_zyx)
    return compare(runtime.name, runtime.provider, reference.outputs, got, tolerance, reference.stride)


def _seconds_per_window(engine: Engine, reference: Reference) -> float:
    count, start = 0, time.perf_counter()
    while count < TIMED_WINDOWS and time.perf_counter() - start < MAX_TIMING_SECONDS:
        engine.infer(reference.windows)
        count += 1
    return (time.perf_counter() - start) / (count * len(reference.windows))


def _record(
    runtime: Runtime, found: _Finding, kit: tuple[Manifest, Reference], gpus: list[Gpu], passed_over: list[str]
) -> EngineRecord:
    manifest, reference = kit
    gpu = gpus[0] if runtime.needs_gpu else None
    return EngineRecord(
        runtime=runtime.name,
        runtime_version=_runtime_version(),
        onnx_sha256=manifest.onnx_sha256,
        pipeline_digest=manifest.pipeline_digest,
        precision=reference.precision,
        window_zyx=reference.window_zyx,
        batch=len(reference.windows),
        compute_capability=gpu.compute_capability if gpu else None,
        device=gpu.name if gpu else "the CPU",
        parity=found.row.to_dict(),
        seconds_per_tile=found.seconds_per_tile,
        options={"provider": runtime.provider},
        passed_over=tuple(passed_over),
        tomopoint=__version__,
    )


def _runtime_version() -> str:
    """Return the version of ONNX Runtime under either of its two package names."""
    versions = tool_versions(("onnxruntime", "onnxruntime-gpu"))
    return versions.get("onnxruntime") or versions.get("onnxruntime-gpu") or "unknown"
