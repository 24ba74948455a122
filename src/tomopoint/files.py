"""Files that are whole or absent, and the hashes that tie them together."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Write `text` to `path` by way of a temporary file, so that no reader ever sees half of it."""
    with whole_or_absent(path) as temporary:
        temporary.write_text(text)


@contextmanager
def whole_or_absent(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`: what is written there becomes `path`, or is removed where that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")  # several processes may write the same file
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)  # on a full disk the half file would take the last of it
        raise


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, as hexadecimal text; reads it in pieces, so size does not matter."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
