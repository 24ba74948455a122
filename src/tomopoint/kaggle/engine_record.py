"""``engine.json``: which runtime may be trusted with which graph on which machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tomopoint.errors import EngineError
from tomopoint.files import write_atomically
from tomopoint.kaggle.manifest import Manifest

FORMAT_VERSION = 1


@dataclass(frozen=True)
class EngineRecord:
    """The build_engine notebook's finding.

    Attributes
    ----------
    runtime
        Name of the runtime that passed, one of `engine_kernel.RUNTIMES`.
    provider
        What computes in it, e.g. ``"CPUExecutionProvider"``.
    onnx_sha256, pipeline_digest
        Of the graph that was tested.
    parity
        The parity table's row: errors against PyTorch in float32, measured on that machine.
    seconds_per_tile
        Mean over warm windows, seconds.
    gpu
        Name of the GPU, or None: the CPU.
    versions
        Of Python and the packages that computed.
    passed_over
        Runtimes tried before, with the reason.
    """

    runtime: str
    provider: str
    onnx_sha256: str
    pipeline_digest: str
    parity: Mapping[str, Any]
    seconds_per_tile: float
    gpu: str | None
    versions: Mapping[str, str]
    passed_over: Mapping[str, str]
    format_version: int = FORMAT_VERSION

    @classmethod
    def load(cls, path: Path) -> EngineRecord:
        """Read ``engine.json``; EngineError where it is damaged or of another version."""
        try:
            record = cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise EngineError(f"{path} is damaged or of another version ({error}); run build_engine again") from error
        if record.format_version != FORMAT_VERSION:
            raise EngineError(f"{path} has format {record.format_version}, not {FORMAT_VERSION}; run build_engine")
        return record

    def save(self, path: Path) -> None:
        """Write ``engine.json``, atomically."""
        write_atomically(path, json.dumps(asdict(self), indent=2) + "\n")

    def require_kit(self, manifest: Manifest, path: Path) -> None:
        """Raise EngineError where this is not the finding about the graph of `manifest`; `path` names the record."""
        if self.onnx_sha256 != manifest.onnx_sha256:
            raise EngineError(
                f"{path} was made for another graph (SHA-256 {self.onnx_sha256[:12]}, the kit's is "
                f"{manifest.onnx_sha256[:12]}): run build_engine again with this kit"
            )
        if self.pipeline_digest != manifest.pipeline_digest:
            raise EngineError(f"{path} was made for another Pipeline than the kit's: run build_engine again")
