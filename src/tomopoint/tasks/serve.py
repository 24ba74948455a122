"""What a process does that carries out tasks: ``python -m tomopoint.tasks.serve PIPE PATIENCE``.

Tasks come through the pipe, a descriptor that it was started with, and what came of each goes back through it. Its
parent holds the other end of its standard input, which ends with the parent.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tomopoint.errors import TomopointError, machine_fault
from tomopoint.processes import leave_no_semaphores
from tomopoint.tasks.task import Failed, Task

logger = logging.getLogger(__name__)


def serve(pipe: Connection, patience: float | None) -> None:
    """Carry out the tasks that come through the pipe, one after the other, until it ends."""
    threading.Thread(target=_end_with_parent, args=(patience,), daemon=True).start()
    leave_no_semaphores()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("tomopoint").setLevel(logging.INFO)
    own = os.dup(2)
    with suppress(EOFError, OSError):
        while True:
            try:
                task: Task = pipe.recv()
            except (ImportError, AttributeError) as error:
                version = "is the same version of tomopoint installed here?"
                pipe.send(Failed(f"{type(error).__name__}: {error}; {version} ({sys.executable})"))
                continue
            _write_to(task.log, own)
            pipe.send(_answer(task))


def _answer(task: Task) -> Any:
    try:
        return task.carry_out()
    except TomopointError as error:
        return Failed(str(error))
    except Exception as error:
        logger.exception("%s broke down", task.label)
        where = "" if task.log is None else f"; see {task.log}"
        return Failed(machine_fault(error) or f"{type(error).__name__}: {error}{where}")


def _write_to(log: Path | None, own: int) -> None:
    """Let all that this process says, down to the last words of a library that crashes it, go into a file."""
    if log is None:
        os.dup2(own, 1)
        os.dup2(own, 2)
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)


def _end_with_parent(patience: float | None) -> None:
    """End this process when the one that started it is gone or frozen: its task may have been given to another."""
    while select.select([0], [], [], patience)[0] and os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent decides
    serve(Connection(int(sys.argv[1])), float(sys.argv[2]) or None)
