"""Files that are whole or absent, and the hashes that tie them together."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Write `text` to `path` by way of a temporary file, so that no reader ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")  # several processes may write the same file
    temporary.write_text(text)
    temporary.replace(path)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, as hexadecimal text; reads it in pieces, so size does not matter."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
