"""Crew: processes that each carry out one training at a time. One that dies takes nothing with it but its training."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType

from tomopoint.errors import TomopointError, machine_fault
from tomopoint.experiments.training import Result, Training, carry_out
from tomopoint.inference.engines.gpus import find_gpus
from tomopoint.inference.worker_process import BoundedProcess, visible_gpu

logger = logging.getLogger(__name__)

Answer = Result | str
"""What came of a training, or why nothing did."""


class Crew:
    """Some processes, each with its share of the cores and, where there are several, a GPU of its own.

    A context manager: whatever still runs when it is left is killed; it goes on from its last checkpoint when it is
    begun again.

    Parameters
    ----------
    size
        Trainings side by side.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise TomopointError(f"--side-by-side must be at least 1, got {size}")
        self._gpus = [gpu.index for gpu in find_gpus()]
        self._threads = max(1, len(os.sched_getaffinity(0)) // size) if size > 1 else None
        self._workers: list[_Worker | None] = [None] * size

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            if worker is not None:
                worker.kill()

    @property
    def at_work(self) -> list[Training]:
        """The trainings that run."""
        return [training for _, _, training in self._busy()]

    @property
    def has_room(self) -> bool:
        """Whether a process is free."""
        return len(self.at_work) < len(self._workers)

    def begin(self, training: Training) -> None:
        """Hand a training to a free process, started where there is none."""
        free = next(place for place, worker in enumerate(self._workers) if worker is None or worker.training is None)
        worker = self._workers[free]
        if worker is None:
            with visible_gpu(self._gpus if len(self._workers) > 1 else [], free):
                worker = self._workers[free] = _Worker(self._threads)
        worker.begin(training)

    def stop(self, training: Training) -> None:
        """End a training that runs, at once."""
        for place, worker, busy_with in list(self._busy()):
            if busy_with == training:
                worker.kill()
                self._workers[place] = None

    def ended(self, seconds: float) -> Iterator[tuple[Training, Answer]]:
        """Wait for at most so long until one ends, and yield those that have."""
        wait([worker.pipe for _, worker, _ in self._busy()], timeout=seconds)
        for place, worker, training in list(self._busy()):
            try:
                if not worker.pipe.poll():
                    continue
                answer: Answer = worker.pipe.recv()
                worker.training = None
            except (EOFError, OSError):
                worker.kill()
                self._workers[place] = None
                answer = f"its process ended ({_how(worker.exit_status)}); its last words are in {training.log}"
            yield training, answer

    def _busy(self) -> Iterator[tuple[int, _Worker, Training]]:
        for place, worker in enumerate(self._workers):
            if worker is not None and worker.training is not None:
                yield place, worker, worker.training


class _Worker:
    """One process, and the training that it is at."""

    def __init__(self, n_threads: int | None) -> None:
        self.training: Training | None = None
        self.pipe, theirs = multiprocessing.Pipe()
        self._process = BoundedProcess(target=serve, args=(theirs, n_threads), name="tomopoint-training")
        self._process.start()
        theirs.close()  # only the process holds it now, so that the pipe ends with it

    @property
    def exit_status(self) -> int | None:
        return self._process.exitcode

    def begin(self, training: Training) -> None:
        self.training = training
        with suppress(OSError):  # it is gone, which the next look at the pipe says
            self.pipe.send(training)

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self.pipe.close()


def serve(pipe: Connection, n_threads: int | None) -> None:
    """Carry out the trainings that come through the pipe, one after the other; what the processes of a crew do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if n_threads is not None:  # before torch is imported, which asks then
        os.environ["OMP_NUM_THREADS"] = str(n_threads)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("tomopoint").setLevel(logging.INFO)
    with suppress(EOFError, OSError):
        while True:
            pipe.send(_answer(pipe.recv()))


def _answer(training: Training) -> Answer:
    _write_to(training.log)
    try:
        return carry_out(training)
    except TomopointError as error:
        return str(error)
    except Exception as error:
        logger.exception("%s broke down", training.label)
        return machine_fault(error) or f"{type(error).__name__}: {error}; see {training.log}"


def _write_to(log: Path) -> None:
    """Let all that this process says, down to the last words of a library that crashes it, go into a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)


def _end_with_parent() -> None:
    """End this process when the one that started it is gone: nobody would hear of its training, or stop another."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _how(status: int | None) -> str:
    if status is None or status >= 0:
        return f"exit status {status}"
    name = signal.Signals(-status).name
    return f"{name}: most likely out of memory" if name == "SIGKILL" else name
