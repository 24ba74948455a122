"""Files that are whole or absent, and the hashes that tie them together."""

from __future__ import annotations

import hashlib
import os
import time
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


SETTLED_NS = 2_000_000_000
"""A file whose last change is younger may change again without a new time stamp, which some file systems keep in steps
of up to two seconds: its hash is not remembered."""

_known_hashes: dict[tuple[str | int, ...], str] = {}


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, as hexadecimal text; reads it in pieces, so size does not matter.

    A file is read once per process: a graph or a plan of a gigabyte is asked about by several checks in turn. It is
    read again if its size, its times (the one that no program can set among them) or its place on the disk changed.
    """
    with path.open("rb") as stream:
        stat = os.fstat(stream.fileno())
        settled = time.time_ns() - stat.st_mtime_ns > SETTLED_NS
        key = (str(path), stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        if key in _known_hashes:
            return _known_hashes[key]
        digest = hashlib.sha256()
        while piece := stream.read(1 << 20):
            digest.update(piece)
    if settled:
        _known_hashes[key] = digest.hexdigest()
    return digest.hexdigest()
