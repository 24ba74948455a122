"""The manifest of a kit: what belongs in the dataset, by hash, and what ties it together."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from tomopoint.errors import DataError
from tomopoint.files import is_local_path, sha256_of, write_atomically
from tomopoint.inference.engines.graph_metadata import GRAPH_NAME
from tomopoint.strict_json import Malformed, build, read, reading, shown

MANIFEST = "manifest.json"
MODEL = GRAPH_NAME

FORMAT: Final = "tomopoint-kit"

_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9._+!]*")
"""What may reach pip: no option, no path, no address. The notebooks check the same before this can be imported."""


@dataclass(frozen=True)
class KitFile:
    """Hash and size of one file of a kit."""

    sha256: str
    bytes: int

    @classmethod
    def of(cls, path: Path) -> KitFile:
        """Measure a file."""
        return cls(sha256_of(path), path.stat().st_size)


@dataclass(frozen=True)
class Manifest:
    """What a kit consists of.

    Attributes
    ----------
    tomopoint
        Version of the package in it.
    onnx_sha256
        Hash of the graph; an ``engine.json`` must name the same.
    pipeline_digest
        Digest of the Pipeline in the graph.
    install
        What to give to ``pip install --no-index --no-deps --find-links KIT``.
    versions
        Tools that made the graph.
    time
        Projected hours, with the runtime they are reckoned with; None where the graph does not know its cost.
    files
        Every file of the kit but the manifest itself and Kaggle's own metadata, by name. A kit has no folders: the
        kaggle command line skips them.
    """

    tomopoint: str
    onnx_sha256: str
    pipeline_digest: str
    install: tuple[str, ...]
    versions: Mapping[str, str]
    files: Mapping[str, KitFile]
    time: Mapping[str, Any] | None = None
    format: Literal["tomopoint-kit"] = FORMAT
    format_version: Literal[1] = 1

    @staticmethod
    def is_ours(path: Path) -> bool:
        """Tell a kit's manifest from another dataset's file of that name."""
        try:
            return bool(read(path)["format"] == FORMAT)
        except (OSError, Malformed, KeyError, TypeError, IndexError):
            return False

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read the manifest of a kit.

        Raises
        ------
        DataError
            None there, not one this version reads, or one that names files outside the kit or anything but packages.
        """
        path = folder / MANIFEST
        with reading(path, DataError, "is no kit's manifest", "stage the kit again with `tomopoint stage`"):
            manifest = build(cls, read(path))
            for name in manifest.files:
                if not is_local_path(name):
                    raise Malformed(f"the file {shown(name)} does not lie in the kit")
            for requirement in manifest.install:
                if not _REQUIREMENT.fullmatch(requirement):
                    raise Malformed(f"install must name packages as name==version, got {shown(requirement)}")
        return manifest

    def save(self, folder: Path) -> None:
        """Write ``manifest.json``."""
        write_atomically(folder / MANIFEST, json.dumps(asdict(self), indent=2, sort_keys=True) + "\n")

    def verify(self, folder: Path) -> None:
        """Compare every listed file with its hash.

        Raises
        ------
        DataError
            A file is missing or differs; the message names the first.
        """
        for name, expected in self.files.items():
            path = folder / name
            if not path.is_file():
                raise DataError(f"{path} is missing, the manifest lists it; stage and upload the kit again")
            if path.stat().st_size != expected.bytes:
                raise DataError(
                    f"{path} has {path.stat().st_size} bytes, the manifest says {expected.bytes}; "
                    "stage and upload the kit again"
                )
            if sha256_of(path) != expected.sha256:
                raise DataError(f"{path} is not what was staged (its SHA-256 differs); stage and upload the kit again")
