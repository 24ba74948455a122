"""One worker process as its parent sees it: started on its GPU, listened to, ended."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.context import SpawnProcess

from tomopoint.inference.worker import Job, Report, work

GRACE_SECONDS = 10.0
"""A worker that is told to end has this long to do so, and as long again to be gone once it is killed."""


class BoundedProcess(SpawnProcess):
    """A process that is never waited for without end.

    One that sleeps uninterruptibly (a dead disk, a lost GPU) outlives its killing, and Python joins every child
    when it exits.
    """

    def join(self, timeout: float | None = None) -> None:
        """Wait for the process to end, at most `GRACE_SECONDS` unless told otherwise."""
        super().join(GRACE_SECONDS if timeout is None else timeout)


class WorkerProcess:
    """A running worker.

    Parameters
    ----------
    job, worker
        The prediction that it works on, and its number among the workers, from 0.
    gpu_indices
        GPUs to share out between the workers; empty: none.

    Attributes
    ----------
    run
        What it works on; None while it loads its engine or looks for more.
    """

    def __init__(self, job: Job, worker: int, gpu_indices: Sequence[int]) -> None:
        self._inbox, outbox = multiprocessing.Pipe(duplex=False)
        self._process = BoundedProcess(target=work, args=(job, worker, outbox), name=f"tomopoint-worker-{worker}")
        with _visible_gpu(gpu_indices, worker):
            self._process.start()
        outbox.close()  # only the worker holds it now, so that the inbox ends with the worker
        self.run: str | None = None
        self._last_heard = time.monotonic()

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid or -1

    @property
    def exit_status(self) -> int | None:
        """Exit status; None while it lives."""
        return self._process.exitcode

    @property
    def silence(self) -> float:
        """Seconds since the start or the last report."""
        return time.monotonic() - self._last_heard

    def reports(self) -> Iterator[Report]:
        """Yield what the worker reported since the last call."""
        try:
            while self._inbox.poll():
                report: Report = self._inbox.recv()
                self._last_heard = time.monotonic()
                self.run = report.run if report.status == "begun" else None
                yield report
        except (EOFError, OSError):
            return  # it is gone; its exit status says the rest

    def terminate(self) -> None:
        """Ask it to end."""
        self._process.terminate()

    def end(self, grace: float = GRACE_SECONDS) -> None:
        """Give it some seconds to end, then kill it, and go on even if it is not gone then."""
        self._process.join(grace)
        self._process.kill()
        self._process.join()
        self._inbox.close()


@contextmanager
def _visible_gpu(gpu_indices: Sequence[int], worker: int) -> Iterator[None]:
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
