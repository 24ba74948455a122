"""Files: whole or absent when written, in their place when named by others, and tied together by hashes."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from tomopoint.errors import TomopointError


def write_atomically(path: Path, text: str) -> None:
    """Write `text` to `path` by way of a temporary file, so that no reader ever sees half of it."""
    with whole_or_absent(path) as temporary:
        temporary.write_text(text)


@contextmanager
def whole_or_absent(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`: what is written there becomes `path`, or is removed where that fails.

    Raises
    ------
    TomopointError
        `path` is something that may not be replaced, see :func:`check_output`; nothing has been written then.
    """
    check_output(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Several processes may write the same file, on several machines.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        yield temporary
        put_in_place(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)  # on a full disk the half file would take the last of it
        raise


def put_in_place(temporary: Path, path: Path) -> None:
    """Rename a finished file to `path`, so that after a power cut `path` is whole: the earlier file or this one."""
    _to_disk(temporary)
    temporary.replace(path)
    _to_disk(path.parent)


def _to_disk(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that cannot, e.g. for folders
            raise
    finally:
        os.close(descriptor)


def check_output(path: Path, inputs: Iterable[Path] = ()) -> None:
    """Refuse an output that would replace more than an earlier output; call it before the work begins.

    Only a plain file may be replaced. A link to one is replaced itself: what it points to stays as it is, so that a
    link in a folder that came from elsewhere cannot send the output to another place.

    Parameters
    ----------
    path
        The file to be written.
    inputs
        Files that the same command reads; those that are not there do not matter.

    Raises
    ------
    TomopointError
        `path` is a folder, a device, a pipe or a socket, lies below a file, or is one of `inputs`, under whatever name.
    """
    if not path.exists():
        above = next(folder for folder in path.absolute().parents if folder.exists())
        if not above.is_dir():
            raise TomopointError(f"{path} cannot be written, for {above} is no folder; choose another path")
        return
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "a device, pipe or socket"
        raise TomopointError(f"{path} is {kind} and is not replaced; name a file, new or written before")
    for source in inputs:
        if source.exists() and path.samefile(source):
            raise TomopointError(
                f"{path} is read by this command, writing it would destroy its input; choose another name"
            )


def require_file(path: Path) -> None:
    """Raise OSError where there is no plain file, or link to one.

    In a folder that somebody sent, a pipe may stand in a file's place, which never begins, or a link to a device, which
    never ends.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "a device, pipe or socket, not a file", str(path))


PLAIN_NAME = "a plain name (printable, no slash, no dot in front, at most 200 bytes)"

_MAX_NAME_BYTES = 200
"""File systems take 255; an ending and the mark of a temporary file are added."""
_MAX_PATH_BYTES = 1000


def is_plain_name(name: str) -> bool:
    """Tell whether a text that came from a file may become part of a file's name: one step, never out of a folder."""
    return (
        name.isprintable()
        and 0 < len(name.encode()) <= _MAX_NAME_BYTES
        and not name.startswith(".")
        and not {"/", "\\"} & set(name)
    )


def is_local_path(name: str) -> bool:
    """Tell whether a path that came from a file stays in the folder that it is meant for: relative, without ``..``.

    Links are not asked about: a platform may mount its inputs as links, and what is named so is compared by its hash.
    """
    parts = PurePosixPath(name).parts
    if not name.isprintable() or not 0 < len(name.encode()) <= _MAX_PATH_BYTES or "\\" in name:
        return False
    return not (name.startswith("/") or ".." in parts or any(len(part.encode()) > _MAX_NAME_BYTES for part in parts))


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
        status = os.fstat(stream.fileno())
        settled = time.time_ns() - status.st_mtime_ns > SETTLED_NS
        key = (str(path), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if key in _known_hashes:
            return _known_hashes[key]
        digest = hashlib.sha256()
        while piece := stream.read(1 << 20):
            digest.update(piece)
    if settled:
        _known_hashes[key] = digest.hexdigest()
    return digest.hexdigest()
