"""What a Dask worker holds while a prediction lasts: one engine, and the stream of tomograms through it.

A task deals its run to the stream and waits for it. A worker has three tasks at a time: one to finish, one to compute
and one to read ahead, as a worker of one machine has (:mod:`tomopoint.inference.stream`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pandas as pd
from distributed import Worker, WorkerPlugin, get_worker, secede

from tomopoint.cluster.plugins import n_threads, offer
from tomopoint.data.sources.run import ReadableRun
from tomopoint.data.tomograms import Tomogram
from tomopoint.errors import EngineError, TomopointError, machine_fault
from tomopoint.inference.cpu_engine import choose_cpu_engine
from tomopoint.inference.engines.engine import Engine
from tomopoint.inference.engines.engine_record import RECORD_NAME
from tomopoint.inference.engines.gpus import find_gpus
from tomopoint.inference.engines.load import ON_THE_CPU, load_engine
from tomopoint.inference.parts import write_part
from tomopoint.inference.stream import Deal, Found, Inbox, TomogramStream
from tomopoint.inference.supervisor import SECONDS_BETWEEN_WINDOWS
from tomopoint.inference.worker import ENGINE_BROKE, Job, is_outage
from tomopoint.pipeline import Pipeline

SLOT = "tomopoint-slot"
"""Dask's resource that a run takes one of, and that bounds what a worker has in memory."""

SLOTS = 3
"""Of a worker."""

IDLE_SECONDS = 300.0
"""An engine that is dealt nothing for so long is closed, and loaded again if need be: its prediction's command may have
been killed, which nobody tells the worker."""

Load = Callable[[Path, str, int, Path | None], tuple[Engine, Pipeline]]
"""Like :func:`~tomopoint.inference.engines.load.load_engine`."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settled:
    """What became of a run on a worker.

    Attributes
    ----------
    worker
        Its address.
    message
        Why it failed; empty: it is done.
    outage
        It could not be read in a way that is not the store's fault.
    details
        For the log.
    """

    worker: str
    message: str = ""
    outage: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)


class EnginePlugin(WorkerPlugin):  # type: ignore[misc]  # distributed is not typed
    """The engine of a prediction in a worker; loaded with the first run, closed with the prediction.

    Parameters
    ----------
    name
        Of the prediction, by which its tasks find it.
    job
        What is computed with what.
    load
        Loads the engine.
    """

    idempotent = False

    def __init__(self, name: str, job: Job, load: Load = load_engine) -> None:
        self.name, self.job, self.load = name, job, load
        self._lock = threading.Lock()
        self._desk: _Desk | None = None
        self._caretaker: asyncio.Task[None] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"name": self.name, "job": self.job, "load": self.load}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    async def setup(self, worker: Worker) -> None:
        """Say how many runs the worker takes at a time."""
        await offer(worker, {SLOT: SLOTS})
        self._caretaker = asyncio.create_task(self._end_what_idles())

    async def teardown(self, worker: Worker) -> None:
        """Let the stream end; the process goes on."""
        if self._caretaker is not None:  # else it ends before it has begun
            self._caretaker.cancel()
        await asyncio.to_thread(self._end, 0.0)  # not here: an engine may be loading, and the worker must be heard of

    async def _end_what_idles(self) -> None:
        while True:
            await asyncio.sleep(IDLE_SECONDS / 10)
            await asyncio.to_thread(self._end, IDLE_SECONDS)

    def _end(self, idle_seconds: float) -> None:
        """Let the stream end where it was dealt nothing for so long."""
        with self._lock:
            if self._desk is not None and self._desk.idle_seconds >= idle_seconds:
                self._desk.end()
                self._desk = None

    def deal(self, run: ReadableRun) -> Future[Settled]:
        """Put a run into the stream, and return what will become of it. The first one loads the engine."""
        with self._lock:
            if self._desk is None or self._desk.is_over:
                self._desk = _Desk(self.name, self.job, self.load, get_worker())
            return self._desk.deal(run)


def predict_run(run: ReadableRun, name: str) -> Settled:
    """Predict a run on the worker that this is called on; a task.

    Raises
    ------
    EngineError
        The worker has no engine.
    """
    plugin = cast(EnginePlugin, get_worker().plugins[name])
    settled = plugin.deal(run)
    secede()  # the slot is held, the thread is not: others may deal meanwhile
    return settled.result()


def decide_engine(job: Job, folder: Path) -> Job:
    """Return the job with what computes the graph on the workers, as found on the one that this is called on; a task.

    Beside a GPU that is what the job says. On a CPU it is OpenVINO's record in the prediction's folder, once for all
    workers and for all that is resumed there.
    """
    if (job.provider not in ON_THE_CPU and find_gpus()) or job.provider not in ("auto", "openvino"):
        return job
    if job.record_path is None:
        record = choose_cpu_engine(job.model_path, folder, job.provider == "openvino")
        job = replace(job, record_path=None if record is None else folder / RECORD_NAME)
    return replace(job, provider="cpu" if job.record_path is None else "openvino")


class _Desk:
    """A worker's stream, in a thread of its own, and the runs that were dealt to it.

    Raises
    ------
    EngineError
        No engine can be loaded.
    """

    def __init__(self, name: str, job: Job, load: Load, worker: Worker) -> None:
        self._name, self._job, self._worker = name, job, worker
        self._dealt: dict[str, Future[Settled]] = {}
        self._inbox = Inbox()
        self._last_deal = self._windows_said = time.monotonic()
        try:
            threads = job.threads or n_threads(worker)
            self._engine, pipeline = load(job.model_path, job.provider, threads, job.record_path)
        except Exception as error:
            raise EngineError(f"{worker.address} has no engine: {error}") from error
        self._say("engine", **self._engine.describe())
        self._thread = threading.Thread(
            target=self._run, args=(TomogramStream(self._engine, pipeline, self),), name="tomopoint", daemon=True
        )
        self._thread.start()

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    @property
    def idle_seconds(self) -> float:
        """How long nothing was dealt; what is in work does not count, for it is done before the stream ends."""
        return time.monotonic() - self._last_deal

    def deal(self, run: ReadableRun) -> Future[Settled]:
        """Put a run into the stream; once more where a task that was taken back is given again."""
        self._last_deal = time.monotonic()
        settled: Future[Settled] = Future()
        self._dealt[run.name] = settled
        self._inbox.put(Deal(run))
        return settled

    def end(self) -> None:
        """Take no more runs."""
        self._inbox.end()

    def _run(self, stream: TomogramStream) -> None:
        try:
            stream.run(self._inbox)
        except BaseException:
            # As on one machine: the process is not to be trusted any more. Its nanny starts another, and Dask gives its
            # runs to whoever is there.
            logger.exception("the engine broke: this worker ends")
            os._exit(ENGINE_BROKE)
        with suppress(EngineError):
            self._engine.close()

    def _say(self, event: str, **details: Any) -> None:
        self._worker.log_event(self._name, {"event": event, "worker": self._worker.address, **details})

    def _settle(self, run: ReadableRun, settled: Settled) -> None:
        if (dealt := self._dealt.pop(run.name, None)) is not None:
            dealt.set_result(settled)

    # What the stream asks and tells.

    def read(self, run: ReadableRun) -> Tomogram:
        return run.read(self._job.origin.tomo_type)

    def write(self, run: ReadableRun, picks: pd.DataFrame) -> None:
        write_part(self._job.parts_folder, run.name, picks.assign(experiment=run.name), self._job.origin)

    def reading(self, run: ReadableRun) -> None:
        pass

    def begun(self, run: ReadableRun) -> None:
        self._windows_said = time.monotonic()  # of the one run that is computed
        self._say("begun", run=run.name, host=socket.gethostname())

    def window(self, run: ReadableRun, n_done: int, n_windows: int) -> None:
        if time.monotonic() - self._windows_said >= SECONDS_BETWEEN_WINDOWS:
            self._windows_said = time.monotonic()
            self._say("windows", run=run.name, n_done=n_done, n_windows=n_windows)

    def done(self, run: ReadableRun, found: Found) -> None:
        details: dict[str, Any] = {"n_picks": found.n_picks, "notes": found.notes}
        if found.record is not None:
            details["read"] = asdict(found.record)
        details |= {"seconds": round(found.seconds, 3), "read_seconds": round(found.read_seconds, 2)}
        self._settle(run, Settled(self._worker.address, details=details))

    def failed(self, run: ReadableRun, error: Exception) -> None:
        details = {}
        if isinstance(error, TomopointError):
            message = str(error)
        else:  # a bug, a full disk, memory
            message = machine_fault(error) or f"{type(error).__name__}: {error}"
            details["traceback"] = "".join(traceback.format_exception(error))
        self._settle(run, Settled(self._worker.address, message, is_outage(error), details))

    def broke(self, run: ReadableRun, error: EngineError) -> None:
        self._say("engine_broke", run=run.name, message=str(error))
