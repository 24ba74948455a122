"""What the build_engine notebook calls: find the fastest runtime that reproduces PyTorch's outputs on this machine."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from tomopoint import __version__
from tomopoint.errors import EngineError
from tomopoint.export.engine_build import BuildOptions
from tomopoint.export.engine_trial import build_native, build_with_onnxruntime, hashes_of, measure, proven
from tomopoint.export.parity import ParityRow, format_table
from tomopoint.export.reference import REFERENCE_NAME, Reference
from tomopoint.inference.engines.flavour import CLASSIC, why_no_gpu
from tomopoint.inference.engines.gpus import Gpu, find_gpus
from tomopoint.inference.engines.load import ORT_TENSORRT, TENSORRT_RUNTIMES, load_built
from tomopoint.inference.engines.onnx import VERSION, OnnxEngine
from tomopoint.inference.engines.protocol import Engine
from tomopoint.inference.engines.record import RECORD_NAME, EngineRecord
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
        Whether it is passed over where there is no GPU; what does not need one is not good enough where one is.
    build
        From the graph's path, leave what must be kept in the given folder, which need not exist, and return the
        runtime's version; EngineError where it cannot be had.
    load
        Make an engine from the graph's path, the record of what was built and the folder where its paths begin, in the
        way in which the submit notebook will.
    """

    name: str
    provider: str
    needs_gpu: bool
    build: Callable[[Path, Path], str]
    load: Callable[[Path, EngineRecord, Path], Engine]


def _build_nothing(model: Path, folder: Path) -> str:
    return VERSION


def _load_built(model: Path, record: EngineRecord, folder: Path) -> Engine:
    return load_built(model, record, folder)[0]


RUNTIMES: tuple[Runtime, ...] = (
    Runtime(CLASSIC, "TensorRT", True, lambda model, folder: build_native(model, folder, BUILD, CLASSIC), _load_built),
    Runtime(
        ORT_TENSORRT,
        "TensorrtExecutionProvider",
        True,
        lambda model, folder: build_with_onnxruntime(model, folder, BUILD),
        _load_built,
    ),
    Runtime(
        "onnxruntime-cuda", "CUDAExecutionProvider", True, _build_nothing, lambda model, *_: OnnxEngine(model, "cuda")
    ),
    Runtime(
        "onnxruntime-cpu", "CPUExecutionProvider", False, _build_nothing, lambda model, *_: OnnxEngine(model, "cpu")
    ),
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
        As written to ``engine.json``, or None where no runtime may be trusted.
    """

    text: str
    record: EngineRecord | None

    @property
    def ok(self) -> bool:
        """Whether there is an ``engine.json``."""
        return self.record is not None


def run(root: Path, runtimes: Sequence[Runtime] = RUNTIMES) -> EngineReport:
    """Try `runtimes` in order on the attached kit; write ``<root>/working/engine.json`` for the first that passes.

    Where there is a GPU, a runtime that does not use it is compared with PyTorch, which tells whether the graph or the
    GPU is at fault, but not recorded: a submission on the CPU would not end in time.

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
    trial = _Trial(kit / MODEL, root / "working", manifest, reference, tuple(find_gpus()))
    (trial.working / RECORD_NAME).unlink(missing_ok=True)  # an earlier run of the notebook's
    lines: list[str] = []
    rows: list[ParityRow] = []
    for runtime in runtimes:
        tried = trial.of(runtime)
        rows += [] if tried.row is None else [tried.row]
        if tried.record is None:
            shutil.rmtree(trial.working / runtime.name, ignore_errors=True)  # a bad engine is not published
            lines.append(f"{runtime.name}: passed over, {tried.reason}")
            continue
        record = replace(tried.record, passed_over=tuple(lines))
        record.save(trial.working)
        lines.append(f"{runtime.name}: taken, {record.seconds_per_tile:.3g} s per window on {record.device}")
        return EngineReport("\n".join([*lines, format_table(rows)]), record)
    lines.append("no engine.json is left: mend what one of these lines says, then run again")
    return EngineReport("\n".join([*lines, format_table(rows)]), None)


@dataclass(frozen=True)
class _Tried:
    """The comparison where the runtime computed at all; the record where it may be trusted, or why it may not."""

    row: ParityRow | None = None
    record: EngineRecord | None = None
    reason: str = ""


@dataclass(frozen=True)
class _Trial:
    """What every runtime is tried with."""

    model: Path
    working: Path
    manifest: Manifest
    reference: Reference
    gpus: tuple[Gpu, ...]

    def of(self, runtime: Runtime) -> _Tried:
        """Build, load as the submit notebook will, compare with PyTorch and time."""
        unfit = why_no_gpu(self.gpus) if runtime.needs_gpu else None
        if unfit is not None:
            return _Tried(reason=f"{unfit} (on Kaggle: Settings > Accelerator > GPU T4 x2)")
        logger.info("try %s", runtime.name)
        try:
            version = runtime.build(self.model, self.working / runtime.name)
            draft = self._draft(runtime, version)
            with closing(runtime.load(self.model, draft, self.working)) as engine:
                finding = measure(engine, runtime.name, runtime.provider, self.reference)
        except Exception as error:  # noqa: BLE001 - whatever a driver or a library throws, the next is to be tried
            return _Tried(reason=_said(error))
        if not finding.row.ok:
            return _Tried(finding.row, reason="its outputs are not PyTorch's, see the table")
        if self.gpus and not runtime.needs_gpu:
            reason = f"it reproduces PyTorch, but leaves the {self.gpus[0].name} idle: no submission would end in time"
            return _Tried(finding.row, reason=reason)
        return _Tried(finding.row, proven(draft, finding))

    def _draft(self, runtime: Runtime, version: str) -> EngineRecord:
        """Return the record of what was built, before it was tried."""
        gpu = self.gpus[0] if runtime.needs_gpu else None
        return EngineRecord(
            runtime=runtime.name,
            runtime_version=version,
            onnx_sha256=self.manifest.onnx_sha256,
            pipeline_digest=self.manifest.pipeline_digest,
            precision=self.reference.precision,
            window_zyx=self.reference.window_zyx,
            batch=len(self.reference.windows),
            compute_capability=gpu.compute_capability if gpu else None,
            device=gpu.name if gpu else "the CPU",
            files=hashes_of((self.working / runtime.name).rglob("*"), self.working),
            options={"provider": runtime.provider, **(BUILD.to_dict() if runtime.name in TENSORRT_RUNTIMES else {})},
            tomopoint=__version__,
        )


def _said(error: Exception) -> str:
    """Return the message of an error of ours; of a foreign one its kind, too."""
    return str(error) if isinstance(error, EngineError) else f"{type(error).__name__}: {error}"
