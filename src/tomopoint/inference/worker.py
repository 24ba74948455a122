"""One worker: a process that loads an engine, and predicts the runs that its parent deals it."""

from __future__ import annotations

import errno
import logging
import queue
import signal
import threading
import time
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tomopoint.data.sources.run import ReadableRun
from tomopoint.data.tomograms import Tomogram
from tomopoint.errors import EngineError, TomopointError, machine_fault
from tomopoint.inference.engines.load import load_engine
from tomopoint.inference.parts import PartOrigin, write_part
from tomopoint.inference.predict import predict_tomogram

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


class Deal(NamedTuple):
    """One run to predict, and the overlap of its windows where that is not the Pipeline's (voxels, z, y, x)."""

    run: ReadableRun
    overlap_zyx: tuple[int, int, int] | None = None


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

    While one run is computed the next one that was dealt is read. A run that cannot be predicted, for whatever reason,
    is reported as failed, and the next one follows: nothing that is wrong with one tomogram may cost another.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    lock = threading.Lock()

    def tell(kind: Any, run: str = "", outage: bool = False, **details: Any) -> None:
        with lock, suppress(OSError):  # the reader speaks while the engine works; the parent may be gone
            pipe.send(Message(kind, run, details, outage))

    try:
        engine, pipeline = load_engine(job.model_path, job.provider, job.threads, job.record_path)
    except Exception as error:
        # Not only TomopointError: whatever a driver or a library throws here means that this worker has no engine.
        tell("no engine", message=str(error) or repr(error))
        raise SystemExit(ENGINE_FAILED) from error
    tell("ready", **engine.describe())

    def read(deal: Deal) -> tuple[Tomogram, float]:
        tell("reading", deal.run.name)
        start = time.monotonic()
        return deal.run.read(job.origin.tomo_type), time.monotonic() - start

    def window_done(run: str) -> None:
        if orphaned.is_set():  # another prediction may hold the folder by now
            raise SystemExit(0)
        tell("window", run)

    def listen() -> None:
        # Runs are read as they are dealt; the parent deals no more than two at a time.
        try:
            while (deal := pipe.recv()) is not None:
                dealt.put((deal, reader.submit(read, deal)))
        except (EOFError, OSError):
            orphaned.set()
        dealt.put(None)

    dealt: queue.Queue[tuple[Deal, Future[tuple[Tomogram, float]]] | None] = queue.Queue()
    orphaned = threading.Event()
    with ThreadPoolExecutor(max_workers=1) as reader:
        threading.Thread(target=listen, daemon=True).start()
        while (item := dealt.get()) is not None:
            deal, reading = item
            name = deal.run.name
            start = time.monotonic()  # waiting for the disk is part of what a run takes
            try:
                tomogram, read_seconds = reading.result()
                own = pipeline
                if deal.overlap_zyx is not None:
                    own = replace(pipeline, tiling=replace(pipeline.tiling, overlap_zyx=deal.overlap_zyx))
                tell("begun", name)
                picks = predict_tomogram(tomogram, engine, own, on_window=partial(window_done, name))
                write_part(job.parts_folder, name, picks.assign(experiment=name), job.origin)
            except EngineError as error:
                # Not the tomogram's fault as a rule (a lost GPU, its memory): start afresh.
                tell("broke", name, message=str(error))
                raise SystemExit(ENGINE_BROKE) from error
            except TomopointError as error:
                tell("failed", name, _is_outage(error), message=str(error))
            except Exception as error:  # noqa: BLE001
                # A bug, a full disk, memory: reported with its origin; the other runs must still come out.
                message = machine_fault(error) or f"{type(error).__name__}: {error}"
                tell("failed", name, _is_outage(error), message=message, traceback=traceback.format_exc())
            else:
                seconds = round(time.monotonic() - start, 3)
                found: dict[str, Any] = {"n_picks": len(picks), "notes": tomogram.notes}
                if tomogram.record is not None:
                    found["read"] = asdict(tomogram.record)
                tell("done", name, False, **found, seconds=seconds, read_seconds=round(read_seconds, 2))
    engine.close()


def _is_outage(error: BaseException) -> bool:
    """Whether what failed was the place where tomograms lie, and not one of them."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _OUTAGES:
            return True
        cause = cause.__cause__
    return False
