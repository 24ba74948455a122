"""EngineRecord: what ``engine.json`` says, and whether the engine may be trusted here. Imports no runtime."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from tomopoint.errors import EngineError
from tomopoint.files import is_local_path, sha256_of, write_atomically
from tomopoint.strict_json import Malformed, build, parse, read_bytes, reading, shown

RECORD_NAME = "engine.json"
ENGINE_NAME = "ensemble.engine"
RUNTIME_CACHE_NAME = "runtime.cache"
"""Beside a plan of TensorRT-RTX: the kernels it compiled for one kind of GPU, so that they are not compiled again."""

_MAX_SHOWN = 200
"""Characters of a name that goes into one line of a notebook."""

REBUILD = "run the build_engine notebook (or `tomopoint engine`) again"


@dataclass(frozen=True)
class EngineRecord:
    """A runtime that reproduced PyTorch's outputs with a graph, on one kind of machine.

    Attributes
    ----------
    runtime
        ``"tensorrt"``, ``"tensorrt_rtx"``, ``"onnxruntime-tensorrt"``, ``"onnxruntime-cuda"``, ``"onnxruntime-cpu"``,
        ``"openvino"``.
    runtime_version
        E.g. ``"10.16.1.11"``. A plan serves exactly the TensorRT that built it.
    onnx_sha256
        Hash of the graph.
    pipeline_digest
        Digest of the Pipeline in the graph.
    precision
        Of the graph: ``"fp32"`` or ``"fp16"``; of OpenVINO's what it computes in, which may be ``"bf16"``, too.
    window_zyx, batch
        Static input shape ``(batch, 1, D, H, W)``.
    compute_capability
        E.g. ``"7.5"``; None: no GPU involved.
    device
        Name of the device, e.g. ``"Tesla T4"``; for people.
    files
        SHA-256 of each file that belongs to the engine, by path relative to the record: the plan, or a provider's
        cache. Empty where the runtime needs nothing but the graph.
    parity
        Row of the comparison with PyTorch on the device, with its verdict in ``"ok"``; None: never compared.
    seconds_per_tile
        Time of one window after warm-up; None: never run.
    projected_hours
        Hours that the competition's test set would take on two such GPUs at this speed, the host's share included;
        None: never run, or on no GPU.
    options
        What the builder or provider was given.
    passed_over
        What else was tried, and why each was not taken: its reason, or its speed.
    tomopoint
        Version that made the record.
    """

    runtime: str
    runtime_version: str
    onnx_sha256: str
    pipeline_digest: str
    precision: str
    window_zyx: tuple[int, int, int]
    batch: int
    compute_capability: str | None = None
    device: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    parity: Mapping[str, Any] | None = None
    seconds_per_tile: float | None = None
    projected_hours: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    passed_over: tuple[str, ...] = ()
    tomopoint: str = ""
    format: Literal["tomopoint-engine"] = "tomopoint-engine"
    format_version: Literal[1] = 1

    def to_json(self) -> str:
        """Return the JSON text, keys sorted."""
        return json.dumps(asdict(self), indent=2, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes, source: str = "the engine record") -> EngineRecord:
        """Read what :meth:`to_json` wrote; `source` names it in errors.

        Raises
        ------
        EngineError
            Not JSON, a field missing, unknown or of another type, or another format version.
        """
        with reading(source, EngineError, "is no engine record", REBUILD):
            record = build(cls, parse(text))
            if min(*record.window_zyx, record.batch) < 1:
                raise Malformed(f"window {record.window_zyx} and batch {record.batch} must be positive")
            for text_shown in (record.runtime, record.runtime_version, record.compute_capability or "", record.device):
                if len(text_shown) > _MAX_SHOWN or not text_shown.isprintable():
                    raise Malformed(f"a name must be printable and short, got {shown(text_shown)}")
        return record

    def save(self, folder: Path) -> Path:
        """Write ``engine.json`` into `folder`, atomically; return its path."""
        path = folder / RECORD_NAME
        write_atomically(path, self.to_json() + "\n")
        return path

    @classmethod
    def load(cls, path: Path) -> EngineRecord:
        """Read an ``engine.json``; EngineError as for :meth:`from_json`, or where there is none."""
        with reading(path, EngineError, "is no engine record", REBUILD):
            text = read_bytes(path)
        return cls.from_json(text, source=str(path))


@dataclass(frozen=True)
class Expected:
    """What an engine must have been built for to be used here.

    Attributes
    ----------
    onnx_sha256, pipeline_digest
        Of the graph that is attached.
    runtime_version
        Of the runtime that is installed; None: not known, not compared.
    compute_capability
        Of the GPU that is here; None: not known, not compared.
    """

    onnx_sha256: str
    pipeline_digest: str
    runtime_version: str | None = None
    compute_capability: str | None = None


def check_engine_record(record: EngineRecord, folder: Path, expected: Expected) -> None:
    """Refuse an engine that may not be used: :func:`check_fit` and :func:`check_tried` in one."""
    check_fit(record, folder, expected)
    check_tried(record, folder)


def check_tried(record: EngineRecord, folder: Path) -> None:
    """Refuse an engine that never reproduced PyTorch's outputs; EngineError says what to do.

    OpenVINO in float32 need not have: on a CPU it is what ONNX Runtime is, which nobody asks for it either.
    """
    if record.runtime == "openvino" and record.precision == "fp32" and record.parity is None:
        return
    if record.parity is None or record.parity.get("ok") is not True:
        title = f"the {record.runtime} engine in {folder}"
        raise EngineError(f"{title} was never found to reproduce PyTorch's outputs on a device; {REBUILD}")


def check_fit(record: EngineRecord, folder: Path, expected: Expected) -> None:
    """Refuse an engine that does not belong to the graph, the runtime and the GPU at hand, or has lost its files.

    Parameters
    ----------
    record
        Of the engine.
    folder
        Where the record and the engine's files lie.
    expected
        The graph, the runtime and the GPU at hand.

    Raises
    ------
    EngineError
        One sentence that says which of them does not fit, and what to do.
    """
    title = f"the {record.runtime} engine in {folder}"
    if record.onnx_sha256 != expected.onnx_sha256:
        raise EngineError(
            f"{title} was built from another graph (SHA-256 {record.onnx_sha256[:12]}, attached is "
            f"{expected.onnx_sha256[:12]}); {REBUILD} with this graph"
        )
    if record.pipeline_digest != expected.pipeline_digest:
        raise EngineError(f"{title} was built for another pipeline than the one in the graph; {REBUILD}")
    if expected.runtime_version is not None and record.runtime_version != expected.runtime_version:
        raise EngineError(
            f"{title} was built with {record.runtime} {record.runtime_version}, installed is "
            f"{expected.runtime_version}; attach the wheels it was built with, or {REBUILD}"
        )
    if None not in (expected.compute_capability, record.compute_capability) and (
        record.compute_capability != expected.compute_capability
    ):
        raise EngineError(
            f"{title} was built for compute capability {record.compute_capability}, this GPU has "
            f"{expected.compute_capability}; choose the same accelerator in both notebooks, or {REBUILD}"
        )
    for name, sha256 in record.files.items():
        path = folder / name
        if not is_local_path(name):
            raise EngineError(f"{title} names {shown(name)}, which does not lie beside its record; {REBUILD}")
        if not path.is_file():
            raise EngineError(f"{title} has lost its file {name}; {REBUILD}")
        try:
            found = sha256_of(path)
        except OSError as error:
            raise EngineError(f"{title}: cannot read {name} ({error.strerror}); {REBUILD}") from error
        if found != sha256:
            raise EngineError(
                f"{title} is damaged: {name} is not the file that was tested (its SHA-256 differs); {REBUILD}"
            )
