"""Call a function in a process of its own, so that a crash, an abort or a hang in it becomes an EngineError.

Native libraries end the process they are in: a segmentation fault in a compiler or an ``abort()`` in a driver's wrapper
would take a notebook's kernel with it, and with that everything it had found out.
"""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from tomopoint.errors import EngineError, TomopointError
from tomopoint.inference.worker_process import BoundedProcess

Result = TypeVar("Result")

POLL_SECONDS = 0.1
CRASH = ".crash"
LAST_LINES = 5
"""Of what it wrote, so many lines are told of a process that did not answer; its log has the rest."""
LONGEST_LINE = 300
STACK_LINES = 3
"""Of the Python stack at a crash, innermost first."""

_LINE = logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S")

logger = logging.getLogger(__name__)


def call_in_child(function: Callable[..., Result], *args: Any, limit_seconds: float, log_path: Path) -> Result:
    """Call a function in a new process and return what it returns.

    Parameters
    ----------
    function, args
        Must be importable and picklable: the process is spawned, not forked, for CUDA does not survive a fork.
    limit_seconds
        Time after which the process is ended.
    log_path
        Gets what the process and its libraries write; the same is passed on, line by line, to ``logging``. The stack at
        a crash is written beside it.

    Raises
    ------
    EngineError
        The function raised (its message, with the kind of exception where that is none of tomopoint's), or the process
        crashed, ended or hung without an answer: the signal's name, where in Python it was, and its last lines.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    log_path.write_bytes(b"")
    log_path.with_suffix(CRASH).write_bytes(b"")

    def pass_on(written: bytes) -> None:
        for line in _readable(written):
            logger.info("%s: %s", log_path.stem, line)

    inbox, outbox = multiprocessing.Pipe(duplex=False)
    process = BoundedProcess(target=_answer, args=(function, args, outbox, log_path), name=f"tomopoint-{log_path.stem}")
    deadline = time.monotonic() + limit_seconds
    process.start()
    outbox.close()  # only the child holds it now, so that the inbox ends with it
    try:
        with log_path.open("rb") as log:
            while not inbox.poll(POLL_SECONDS):
                pass_on(log.read())
                if time.monotonic() > deadline:
                    process.kill()
                    raise EngineError(
                        f"no answer in {limit_seconds:.0f} s, so its process was ended{_last_words(log_path)}"
                    )
            pass_on(log.read())
        answer: tuple[bool, Any] | None = None
        try:
            answer = inbox.recv()
        except EOFError:
            pass  # the process ended without
        except Exception as error:  # noqa: BLE001 - half an answer of a process that died over it can raise anything
            answer = False, f"its answer cannot be read ({type(error).__name__}: {error})"
        process.join()
    finally:
        process.kill()  # an interrupted notebook leaves none behind; no effect on one that has ended
        process.join()
        inbox.close()
    if answer is None:
        raise EngineError(f"its process {_how_it_ended(process.exitcode)}{_last_words(log_path)}")
    returned, value = answer
    if not returned:
        raise EngineError(value)
    result: Result = value
    return result


def _answer(function: Callable[..., Any], args: tuple[Any, ...], outbox: Connection, log_path: Path) -> None:
    """Entry point of the child: whatever its libraries print goes into the log, and a crash leaves its stack."""
    with log_path.open("ab", buffering=0) as log, log_path.with_suffix(CRASH).open("wb", buffering=0) as crash:
        for descriptor in (1, 2):  # of the process itself: libraries do not write through Python
            os.dup2(log.fileno(), descriptor)
        faulthandler.enable(crash, all_threads=False)
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_LINE)
        logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
        try:
            answer = True, function(*args)
        except TomopointError as error:
            answer = False, str(error)
        except BaseException as error:
            logger.info("the call raised", exc_info=True)
            answer = False, f"{type(error).__name__}: {error}"
        outbox.send(answer)
        outbox.close()
        sys.stderr.flush()
        faulthandler.disable()


def _how_it_ended(status: int | None) -> str:
    if status is None:
        return "ended without an answer"
    if status >= 0:
        return f"ended with exit status {status} and no answer"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"was ended by {name}"


def _last_words(log_path: Path) -> str:
    """Return where a process was when it crashed, and the last lines that it wrote."""
    words = ""
    stack = [
        line.strip()
        for line in _readable(log_path.with_suffix(CRASH).read_bytes())
        if line.lstrip().startswith("File ")
    ]
    if stack:
        words += f", in {' from '.join(stack[:STACK_LINES])}"
    if last := _readable(log_path.read_bytes())[-LAST_LINES:]:
        words += f"; its last lines: {' | '.join(last)}"
    return words


def _readable(written: bytes) -> list[str]:
    """Return the lines that are not empty, of characters that can be shown, none without end."""
    lines = written.decode(errors="replace").splitlines()
    shown = ("".join(letter if letter.isprintable() else "?" for letter in line.strip()) for line in lines)
    return [line[:LONGEST_LINE] for line in shown if line]
