"""What the build_engine notebook calls: find the fastest runtime that reproduces PyTorch's outputs on this machine."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tomopoint import __version__
from tomopoint.errors import EngineError
from tomopoint.export.engine_build import BuildOptions
from tomopoint.export.engine_trial import Finding, build_native, build_with_onnxruntime, hashes_of, measure
from tomopoint.export.parity import ParityRow, format_table
from tomopoint.export.reference import REFERENCE_NAME, Reference
from tomopoint.inference.engines.flavour import CLASSIC, why_no_gpu
from tomopoint.inference.engines.gpus import Gpu, find_gpus
from tomopoint.inference.engines.load import ORT_TENSORRT, TENSORRT_RUNTIMES
from tomopoint.inference.engines.onnx import OnnxEngine
from tomopoint.inference.engines.protocol import Engine
from tomopoint.inference.engines.record import EngineRecord
from tomopoint.kaggle.inputs import find_kit
from tomopoint.kaggle.manifest import MODEL, Manifest

BUILD = BuildOptions()

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Runtime:
    """One way to compute a graph.

    Attributes
    ----------
    name
        As ``runtime`` in ``engine.json``.
    provider
        What does the work in it.
    needs_gpu
        Whether it is passed over where there is no GPU.
    start
        Make an engine from the graph's path, leaving what must be kept in the given folder, which need not exist;
        EngineError where it cannot be had.
    """

    name: str
    provider: str
    needs_gpu: bool
    start: Callable[[Path, Path], Engine]


RUNTIMES: tuple[Runtime, ...] = (
    Runtime(CLASSIC, "TensorRT", True, lambda model, folder: build_native(model, folder, BUILD, CLASSIC)),
    Runtime(
        ORT_TENSORRT,
        "TensorrtExecutionProvider",
        True,
        lambda model, folder: build_with_onnxruntime(model, folder, BUILD),
    ),
    Runtime("onnxruntime-cuda", "CUDAExecutionProvider", True, lambda model, _: OnnxEngine(model, provider="cuda")),
    Runtime("onnxruntime-cpu", "CPUExecutionProvider", False, lambda model, _: OnnxEngine(model, provider="cpu")),
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
    reference = Reference.load(kit / REFERENCE_NAME)
    reference.require_graph(manifest.onnx_sha256, kit / MODEL)
    gpus = find_gpus()
    lines: list[str] = []
    rows: list[ParityRow] = []
    working = root / "working"
    for runtime in runtimes:
        tried = _try(runtime, kit / MODEL, working / runtime.name, (reference, gpus))
        if tried.finding is not None:
            rows.append(tried.finding.row)
        if tried.finding is None or not tried.finding.row.ok:
            shutil.rmtree(working / runtime.name, ignore_errors=True)  # a bad engine is not published
            lines.append(f"{runtime.name}: passed over, {tried.reason}")
            continue
        record = _record(runtime, tried, (manifest, reference), gpus)
        files = hashes_of((working / runtime.name).rglob("*"), working)
        record = replace(record, files=files, passed_over=tuple(lines))
        record.save(working)
        lines.append(f"{runtime.name}: taken, {record.seconds_per_tile:.3g} s per window on {record.device}")
        return EngineReport("\n".join([*lines, format_table(rows)]), record)
    return EngineReport("\n".join([*lines, format_table(rows)]), None)


@dataclass(frozen=True)
class _Tried:
    """A finding where the runtime computed at all, its version, and why it is passed over where it is."""

    finding: Finding | None
    version: str = "unknown"
    reason: str = ""


def _try(runtime: Runtime, model: Path, folder: Path, given: tuple[Reference, list[Gpu]]) -> _Tried:
    """Start a runtime, compare it with PyTorch and time it."""
    reference, gpus = given
    unfit = why_no_gpu(gpus) if runtime.needs_gpu else None
    if unfit is not None:
        return _Tried(None, reason=f"{unfit} (on Kaggle: Settings > Accelerator > GPU T4 x2)")
    logger.info("try %s", runtime.name)
    try:
        engine = runtime.start(model, folder)
    except Exception as error:  # noqa: BLE001 - whatever a driver or a library throws, the next runtime is to be tried
        return _Tried(None, reason=_said(error))
    try:
        finding = measure(engine, runtime.name, runtime.provider, reference)
        version = str(engine.describe().get("version", "unknown"))
    except Exception as error:  # noqa: BLE001 - as above
        return _Tried(None, reason=_said(error))
    finally:
        engine.close()
    return _Tried(finding, version, "" if finding.row.ok else "its outputs are not PyTorch's, see the table")


def _said(error: Exception) -> str:
    """Return the message of an error of ours; of a foreign one its kind, too."""
    return str(error) if isinstance(error, EngineError) else f"{type(error).__name__}: {error}"


def _record(runtime: Runtime, tried: _Tried, kit: tuple[Manifest, Reference], gpus: list[Gpu]) -> EngineRecord:
    manifest, reference = kit
    assert tried.finding is not None
    gpu = gpus[0] if runtime.needs_gpu else None
    return EngineRecord(
        runtime=runtime.name,
        runtime_version=tried.version,
        onnx_sha256=manifest.onnx_sha256,
        pipeline_digest=manifest.pipeline_digest,
        precision=reference.precision,
        window_zyx=reference.window_zyx,
        batch=len(reference.windows),
        compute_capability=gpu.compute_capability if gpu else None,
        device=gpu.name if gpu else "the CPU",
        parity=tried.finding.row.to_dict(),
        seconds_per_tile=tried.finding.seconds_per_tile,
        options={"provider": runtime.provider, **(BUILD.to_dict() if runtime.name in TENSORRT_RUNTIMES else {})},
        tomopoint=__version__,
    )
