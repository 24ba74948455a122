"""One worker: a process that loads an engine, and predicts the runs that its parent deals it."""

from __future__ import annotations

import errno
import logging
import signal
import threading
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from tomopoint.data.sources.run import ReadableRun
from tomopoint.data.tomograms import Tomogram
from tomopoint.errors import EngineError, TomopointError, machine_fault
from tomopoint.inference.engines.load import load_engine
from tomopoint.inference.parts import PartOrigin, write_part
from tomopoint.inference.stream import Found, Inbox, TomogramStream

ENGINE_FAILED = 3
"""Exit status of a worker that could not load its engine."""

ENGINE_BROKE = 4
"""Exit status of a worker whose engine failed on a run."""

_OUTAGES = {errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENXIO, errno.ENODEV}
"""What reading gives while a disk is away: not the fault of the store that was asked for."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What every worker of a prediction is told once. Everything in it can be sent to another process.

    Attributes
    ----------
    model_path
        The graph.
    provider
        Of the engine; see :func:`~tomopoint.inference.engines.load.load_engine`.
    record_path
        ``engine.json`` of a TensorRT engine, or None.
    threads
        CPU threads of the engine.
    parts_folder
        Where the picks of each run go.
    origin
        What every part is marked with.
    """

    model_path: Path
    provider: str
    record_path: Path | None
    threads: int
    parts_folder: Path
    origin: PartOrigin


@dataclass(frozen=True)
class Message:
    """What a worker tells its parent.

    Attributes
    ----------
    kind
        ``ready``: the engine is loaded. ``reading``, ``begun``, ``window``, ``done``, ``failed``: where a run is.
        ``no engine`` and ``broke`` come before the worker ends.
    run
        Which run it is about; empty for ``ready`` and ``no engine``.
    details
        For the log; ``message`` of what failed, ``seconds`` of what is done.
    outage
        Of ``failed``: reading failed in a way that is not the store's fault.
    """

    kind: Literal["ready", "no engine", "reading", "begun", "window", "done", "failed", "broke"]
    run: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    outage: bool = False


def work(job: Job, pipe: Connection) -> None:
    """Predict what comes out of the pipe; the entry point of a worker process.

    What happens in which order is told by :mod:`~tomopoint.inference.stream`. A run that cannot be predicted, for
    whatever reason, is reported as failed, and the next one follows: nothing that is wrong with one tomogram may cost
    another.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    parent = _Parent(job, pipe)
    try:
        engine, pipeline = load_engine(job.model_path, job.provider, job.threads, job.record_path)
    except Exception as error:
        # Not only TomopointError: whatever a driver or a library throws here means that this worker has no engine.
        parent.tell("no engine", message=str(error) or repr(error))
        raise SystemExit(ENGINE_FAILED) from error
    parent.tell("ready", **engine.describe())

    def listen() -> None:
        try:
            while (deal := pipe.recv()) is not None:
                inbox.put(deal)
        except (EOFError, OSError):
            parent.is_gone.set()
        inbox.end()

    inbox = Inbox()
    threading.Thread(target=listen, daemon=True).start()
    try:
        TomogramStream(engine, pipeline, parent).run(inbox)
    except EngineError as error:
        # Not the tomogram's fault as a rule (a lost GPU, its memory): start afresh.
        raise SystemExit(ENGINE_BROKE) from error
    engine.close()


class _Parent:
    """A worker's parent as the stream sees it: it deals runs, and hears what becomes of them.

    Attributes
    ----------
    is_gone
        Set once the pipe is closed: another prediction may hold the folder by now, so nothing more is written.
    """

    def __init__(self, job: Job, pipe: Connection) -> None:
        self.is_gone = threading.Event()
        self._job, self._pipe, self._lock = job, pipe, threading.Lock()

    def tell(self, kind: Any, run: str = "", outage: bool = False, **details: Any) -> None:
        """Send a message, from any thread."""
        with self._lock, suppress(OSError):  # the parent may be gone
            self._pipe.send(Message(kind, run, details, outage))

    def read(self, run: ReadableRun) -> Tomogram:
        """Read what the job says."""
        return run.read(self._job.origin.tomo_type)

    def write(self, run: ReadableRun, picks: pd.DataFrame) -> None:
        """Write the part of a run."""
        self._leave_if_gone()
        write_part(self._job.parts_folder, run.name, picks.assign(experiment=run.name), self._job.origin)

    def reading(self, run: ReadableRun) -> None:
        """Tell it."""
        self.tell("reading", run.name)

    def begun(self, run: ReadableRun) -> None:
        """Tell it."""
        self.tell("begun", run.name)

    def window(self, run: ReadableRun) -> None:
        """Tell it."""
        self._leave_if_gone()
        self.tell("window", run.name)

    def done(self, run: ReadableRun, found: Found) -> None:
        """Tell it, with the figures that the budget counts by."""
        counts: dict[str, Any] = {"n_picks": found.n_picks, "notes": found.notes}
        if found.record is not None:
            counts["read"] = asdict(found.record)
        seconds = {"seconds": round(found.seconds, 3), "read_seconds": round(found.read_seconds, 2)}
        self.tell("done", run.name, False, **counts, **seconds)

    def failed(self, run: ReadableRun, error: Exception) -> None:
        """Tell it; what is no user's mistake with its origin."""
        if isinstance(error, TomopointError):
            self.tell("failed", run.name, is_outage(error), message=str(error))
            return
        # A bug, a full disk, memory.
        message = machine_fault(error) or f"{type(error).__name__}: {error}"
        origin = "".join(traceback.format_exception(error))
        self.tell("failed", run.name, is_outage(error), message=message, traceback=origin)

    def broke(self, run: ReadableRun, error: EngineError) -> None:
        """Tell it."""
        self.tell("broke", run.name, message=str(error))

    def _leave_if_gone(self) -> None:
        if self.is_gone.is_set():
            raise SystemExit(0)


def is_outage(error: BaseException) -> bool:
    """Whether what failed was the place where tomograms lie, and not one of them."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _OUTAGES:
            return True
        cause = cause.__cause__
    return False
