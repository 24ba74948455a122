"""Locks that files stand for: a folder of one process, a trial of one process. They go with whoever holds them."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tomopoint.errors import TomopointError

LOCK = ".lock"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep others out of a folder, made where it is not there, for as long as this process works in it.

    Raises
    ------
    TomopointError
        Another process does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / LOCK, wait=False) as is_mine:
        if not is_mine:
            raise TomopointError(f"another process works in {folder}; wait for it, or choose another --out")
        yield


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold a lock; yield whether it is held, always so with `wait`."""
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
