"""One worker process as its parent sees it: started on its GPU, dealt runs, listened to, ended."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess

from tomopoint.inference.stream import Deal
from tomopoint.inference.worker import Job, Message, work
from tomopoint.processes import leave_no_semaphores

GRACE_SECONDS = 10.0
"""A worker that is told to end has this long to do so, and as long again to be gone once it is killed."""


class BoundedProcess(SpawnProcess):
    """A process that is never waited for without end.

    One that sleeps uninterruptibly (a dead disk, a lost GPU) outlives its killing, and Python joins every child
    when it exits.
    """

    def run(self) -> None:
        """Call the target, in the process itself; any process that is started from there is of this class."""
        leave_no_semaphores()
        super().run()

    def join(self, timeout: float | None = None) -> None:
        """Wait for the process to end, at most `GRACE_SECONDS` unless told otherwise."""
        super().join(GRACE_SECONDS if timeout is None else timeout)


@dataclass
class Patience:
    """For how long a worker may be silent, from what was measured so far; seconds throughout.

    Attributes
    ----------
    load, window
        The longest that loading an engine and predicting a window took; or, before any was measured, what they are
        expected to take.
    factor
        A worker hangs that is silent for so many times that.
    shortest
        But never sooner than this: decoding and writing come after the last window, and machines stall.
    reading
        For a tomogram to come from its disk, which says nothing while it lasts.
    """

    load: float = 120.0
    window: float = 360.0
    factor: float = 20.0
    shortest: float = 90.0
    reading: float = 600.0
    measured_load: bool = False
    measured_window: bool = False

    def loaded(self, seconds: float) -> None:
        """Note what loading an engine took."""
        self.load = max(self.load, seconds) if self.measured_load else seconds
        self.measured_load = True

    def predicted(self, seconds: float) -> None:
        """Note what a window took."""
        self.window = max(self.window, seconds) if self.measured_window else seconds
        self.measured_window = True

    def of(self, worker: WorkerProcess) -> float:
        """Return how long a worker may be silent, at what it is at."""
        if not worker.is_ready:
            return max(self.shortest, self.factor * self.load)
        if worker.begun:
            return max(self.shortest, self.factor * self.window)
        return self.reading if worker.dealt else float("inf")


class WorkerProcess:
    """A running worker.

    Parameters
    ----------
    job, number
        What it is told, and its number among the workers, from 0.
    gpu_indices
        GPUs to share out between the workers; empty: none.

    Attributes
    ----------
    pipe
        Becomes readable when the worker says something, and when it ends.
    is_ready, is_gone
        Whether its engine is loaded; whether it has closed its end of the pipe.
    dealt
        Runs that it was dealt and has not settled, in that order.
    reading, begun
        Which of them it reads, and which it computes, decodes or writes: two at most.
    """

    def __init__(self, job: Job, number: int, gpu_indices: Sequence[int]) -> None:
        self.number = number
        self.pipe, theirs = multiprocessing.Pipe()
        self._process = BoundedProcess(target=work, args=(job, theirs), name=f"tomopoint-worker-{number}")
        with visible_gpu(gpu_indices, number):
            self._process.start()
        theirs.close()  # only the worker holds it now, so that the pipe ends with the worker
        self.is_ready = self.is_gone = False
        self.dealt: dict[str, Deal] = {}
        self.reading: str | None = None
        self.begun: list[str] = []
        self.heard = time.monotonic()

    @property
    def exit_status(self) -> int | None:
        """Exit status; None while it lives."""
        return self._process.exitcode

    @property
    def silence(self) -> float:
        """Seconds since the start, the last deal to an idle worker, or the last message."""
        return time.monotonic() - self.heard

    @property
    def in_work(self) -> list[str]:
        """The runs that it is at: a death is theirs, or the machine's."""
        return [*self.begun, *([] if self.reading is None else [self.reading])]

    def deal(self, deal: Deal) -> None:
        """Hand it a run."""
        if not self.dealt:
            self.heard = time.monotonic()
        self.dealt[deal.run.name] = deal
        with suppress(OSError):  # it is gone, which its exit status says
            self.pipe.send(deal)

    def messages(self) -> Iterator[tuple[Message, float]]:
        """Yield what the worker said since the last call, each with the seconds that it was silent before."""
        try:
            while self.pipe.poll():
                message: Message = self.pipe.recv()
                silence, self.heard = self.silence, time.monotonic()
                if message.kind == "ready":
                    self.is_ready = True
                elif message.kind == "reading":
                    self.reading = message.run
                elif message.kind == "begun":
                    self.begun.append(message.run)
                    self.reading = None if self.reading == message.run else self.reading
                elif message.kind in ("done", "failed"):
                    self.begun = [run for run in self.begun if run != message.run]
                    self.reading = None if self.reading == message.run else self.reading
                elif message.kind == "broke":
                    self.begun = [message.run]  # the engine says itself which of them it failed over
                yield message, silence
        except (EOFError, OSError):
            self.is_gone = True  # its exit status says the rest

    def dismiss(self) -> None:
        """Tell it that there is no more; one that is still at work is told to end at once."""
        if self.dealt or not self.is_ready:
            self._process.terminate()
        with suppress(OSError):
            self.pipe.send(None)

    def end(self, grace: float = GRACE_SECONDS) -> None:
        """Give it some seconds to end, then kill it, and go on even if it is not gone then."""
        self._process.join(grace)
        self._process.kill()
        self._process.join()
        self.pipe.close()


@contextmanager
def visible_gpu(gpu_indices: Sequence[int], worker: int) -> Iterator[None]:
    """Let a process started inside see one GPU only, as its device 0.

    ONNX Runtime's TensorRT provider fails on other device numbers (onnxruntime issue 21276).
    """
    name = "CUDA_VISIBLE_DEVICES"
    before = os.environ.get(name)
    if gpu_indices:
        index = gpu_indices[worker % len(gpu_indices)]
        os.environ[name] = before.split(",")[index] if before else str(index)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before
