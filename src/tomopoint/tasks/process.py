"""A process that carries out tasks, as its parent sees it. One that dies takes nothing with it but its task."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from tomopoint.tasks.task import Task

GRACE_SECONDS = 10.0
"""A process that is killed has this long to be gone; one that a dead disk holds up is not waited for any longer."""

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Variables that libraries take their number of threads from when they are loaded."""


class ProcessDied(Exception):
    """A process ended before its task did; says how."""


class TaskProcess:
    """One process, and the task that it is at.

    It is a program of its own and no child of Python's ``multiprocessing``, which does not let a worker of Dask have
    any. It ends when this process does.

    Parameters
    ----------
    n_threads
        That its libraries compute with; None: as they choose.
    patience
        It also ends when :meth:`beat` was not called for so many seconds; None: it does not.
    folder
        Where relative paths of its tasks begin, if there is such a folder here; None: where those of this process do.
    """

    def __init__(self, n_threads: int | None = None, patience: float | None = None, folder: Path | None = None) -> None:
        self.task: Task | None = None
        self.pipe, theirs = multiprocessing.Pipe()
        threads = {} if n_threads is None else dict.fromkeys(THREADS, str(n_threads))
        # Without -P Python would look for modules in whatever folder somebody happens to work in.
        command = [sys.executable, "-P", "-m", "tomopoint.tasks.serve", str(theirs.fileno()), str(patience or 0)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            pass_fds=[theirs.fileno()],
            env={**os.environ, **threads},
            cwd=folder if folder is not None and folder.is_dir() else None,
        )
        theirs.close()  # only the process holds it now, so that the pipe ends with it

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def begin(self, task: Task) -> None:
        """Hand it a task."""
        self.task = task
        with suppress(OSError):  # it is gone, which the next look at the pipe says
            self.pipe.send(task)

    def beat(self) -> None:
        """Let it know that this process lives."""
        assert self._process.stdin is not None
        with suppress(OSError, ValueError):
            self._process.stdin.write(b".")
            self._process.stdin.flush()

    def answer(self) -> Any:
        """Return what came of the task, once the pipe is readable; then it may be handed another.

        Raises
        ------
        ProcessDied
            Nothing came of it.
        """
        task, self.task = self.task, None
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            self.kill()
            log = None if task is None else task.log
            words = "" if log is None else f"; its last words are in {log}"
            raise ProcessDied(f"its process ended ({_how(self._process.poll())}){words}") from None

    def end(self) -> None:
        """End it; whoever waits for its answer hears that it died."""
        self._process.kill()

    def kill(self) -> None:
        """End it, and let go of it."""
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_SECONDS)
        self.pipe.close()
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()


def _how(status: int | None) -> str:
    if status is None or status >= 0:
        return f"exit status {status}"
    name = signal.Signals(-status).name
    return f"{name}: most likely out of memory" if name == "SIGKILL" else name
