"""One process that pulls runs and predicts them until none is left."""

from __future__ import annotations

import logging
import os
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal, NamedTuple

from tomopoint.data.project import Run
from tomopoint.data.tables import write_pick_table
from tomopoint.data.tomograms import Tomogram, read_tomogram
from tomopoint.errors import EngineError, TomopointError, machine_fault
from tomopoint.inference.budget import Budget
from tomopoint.inference.engines.engine import Engine
from tomopoint.inference.engines.load import load_engine
from tomopoint.inference.folder import HEARTBEAT_SECONDS, PredictionFolder
from tomopoint.inference.predict import predict_tomogram
from tomopoint.pipeline import Pipeline

ENGINE_FAILED = 3
"""Exit status of a worker that could not load its engine."""

ENGINE_BROKE = 4
"""Exit status of a worker whose engine failed on a run; it still holds the run, for the parent to see."""

OUT_OF_TIME = 5
"""Exit status of a worker that left runs to nobody because the time is up."""

READS_BEFORE_PAUSE = 3
"""So many reads must fail in a row before a worker pauses: one damaged store is no outage."""

LONGEST_PAUSE_SECONDS = 120.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What a worker is told. Everything in it can be sent to another process.

    Attributes
    ----------
    runs
        All runs of the prediction, in the order in which they are offered.
    folder
        Where results go.
    model_path
        The graph.
    provider
        Of the engine; see :func:`~tomopoint.inference.engines.load.load_engine`.
    record_path
        ``engine.json`` of a TensorRT engine, or None.
    threads
        CPU threads of the engine.
    tomo_type
        Reconstruction to read.
    n_workers
        How many share the runs.
    started, limit
        Time (as :func:`time.time`) at which the clock of `limit` seconds started.
    read_pause
        Seconds of the first pause after reads that failed in a row; each further one is twice as long.
    """

    runs: tuple[Run, ...]
    folder: PredictionFolder
    model_path: Path
    provider: str
    record_path: Path | None
    threads: int
    tomo_type: str
    n_workers: int
    started: float
    limit: float | None
    read_pause: float


class Report(NamedTuple):
    """What a worker tells its parent: it began a run, finished it within some seconds, or recorded its failure."""

    status: Literal["begun", "done", "failed"]
    run: str
    seconds: float = 0.0


def work(job: Job, worker: int, outbox: Connection) -> None:
    """Pull and predict runs until none is left or the time is up; the entry point of a worker process.

    A run that cannot be predicted, for whatever reason, is recorded as failed, and the next one follows: nothing that
    is wrong with one tomogram may cost another.
    """
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        engine, pipeline = load_engine(job.model_path, job.provider, job.threads, job.record_path)
    except Exception as error:
        # Not only TomopointError: whatever a driver or a library throws here means that this worker has no engine.
        job.folder.log("engine_failed", worker=worker, message=str(error) or repr(error))
        raise SystemExit(ENGINE_FAILED) from error
    job.folder.log("engine", worker=worker, **engine.describe())
    loop = _Loop(job, worker, outbox, engine, pipeline)
    try:
        loop.run()
        if loop.out_of_time:
            raise SystemExit(OUT_OF_TIME)
    except OSError as error:
        if (fault := machine_fault(error)) is None:
            raise
        logger.error("worker %d: %s", worker, fault)
        raise SystemExit(1) from error
    finally:
        engine.close()


class _Loop:
    """A worker's state: its engine, what it costs, and the run it holds."""

    def __init__(self, job: Job, worker: int, outbox: Connection, engine: Engine, pipeline: Pipeline) -> None:
        self.job, self.worker, self.outbox, self.engine, self.pipeline = job, worker, outbox, engine, pipeline
        self.budget = Budget(job.limit, job.n_workers)
        self.not_done = list(job.runs)
        self.held: set[str] = set()
        self.failed_reads = 0
        self.out_of_time = False
        self.parent = os.getppid()
        self.ended = threading.Event()

    def run(self) -> None:
        heartbeat = threading.Thread(target=self._beat, daemon=True)
        heartbeat.start()
        try:
            with ThreadPoolExecutor(max_workers=1) as reader:
                for run, reading in self._claimed(reader):
                    self._predict(run, reading)
                    self._pause()
        finally:
            self.ended.set()

    def _beat(self) -> None:
        while not self.ended.wait(HEARTBEAT_SECONDS):
            for run in tuple(self.held):
                self.job.folder.touch(run)

    def _claimed(self, reader: ThreadPoolExecutor) -> Iterator[tuple[Run, Future[Tomogram]]]:
        """Yield claimed runs with their tomograms being read; one is read ahead while that is no risk to it."""
        ahead: tuple[Run, Future[Tomogram]] | None = None
        while True:
            current = ahead or self._claim_next(self._waiting(), reader)
            if current is None:
                return
            ahead = self._claim_next(self._to_read_ahead(current[0]), reader)
            yield current

    def _waiting(self) -> list[Run]:
        """Return the runs to choose from, those that a worker died over last; looked up anew before each choice.

        A run that a dead worker gave back is among them, and one whose failure was cleared for a second try.
        """
        folder = self.job.folder
        self.not_done = [run for run in self.not_done if not folder.part_path(run.name).exists()]
        free = [run for run in self.not_done if folder.is_free(run.name)]
        return sorted(free, key=self._is_suspect)

    def _is_suspect(self, run: Run) -> bool:
        return self.job.folder.suspect_path(run.name).exists()

    def _to_read_ahead(self, current: Run) -> list[Run]:
        """Return the runs to choose from while `current` is predicted.

        None when there may be none left for the other workers, none while reads fail (there may be a pause first), and
        none beside a run that a worker died over: the next death must not be blamed on its neighbour.
        """
        waiting = self._waiting()
        if len(waiting) <= self.job.n_workers or self.failed_reads or self._is_suspect(current):
            return []
        return [run for run in waiting if not self._is_suspect(run)]

    def _claim_next(self, waiting: list[Run], reader: ThreadPoolExecutor) -> tuple[Run, Future[Tomogram]] | None:
        for run in waiting:
            if os.getppid() != self.parent:  # killed, and nobody is left to join what this worker makes
                return None
            if not self.budget.allows_another(time.time() - self.job.started):
                self.out_of_time = True
                return None
            if self.job.folder.claim(run.name, self.worker):
                self.held.add(run.name)
                return run, reader.submit(read_tomogram, run.tomogram_path(self.job.tomo_type))
        return None

    def _predict(self, run: Run, reading: Future[Tomogram]) -> None:
        """Predict one claimed run and leave its part, or why there is none."""
        start = time.monotonic()
        self._report(Report("begun", run.name))
        try:
            self.failed_reads += 1  # in a row: back to none below
            tomogram = reading.result()
            self.failed_reads = 0
            waited = time.monotonic() - start
            picks = predict_tomogram(tomogram, self.engine, self.pipeline)
            write_pick_table(picks.assign(experiment=run.name), self.job.folder.part_path(run.name))
        except EngineError as error:
            # Not the tomogram's fault as a rule (a lost GPU, its memory): start afresh rather than fail run after run.
            self.job.folder.log("engine_broke", held=run.name, worker=self.worker, message=str(error))
            raise SystemExit(ENGINE_BROKE) from error
        except TomopointError as error:
            self._fail(run, str(error))
        except Exception as error:  # noqa: BLE001
            # A bug, a full disk, memory: recorded with its origin; the other runs must still come out.
            self._fail(run, machine_fault(error) or f"{type(error).__name__}: {error}", traceback.format_exc())
        else:
            seconds = time.monotonic() - start
            self.budget.add(seconds)
            found = {"seconds": round(seconds, 2), "read_seconds": round(waited, 2), "notes": tomogram.notes}
            self.job.folder.log("done", run=run.name, worker=self.worker, n_picks=len(picks), **found)
            self.job.folder.release(run.name)
            self._report(Report("done", run.name, seconds))
        self.held.discard(run.name)

    def _fail(self, run: Run, message: str, trace: str = "") -> None:
        self.job.folder.log("failed", run=run.name, worker=self.worker, message=message, traceback=trace)
        self.job.folder.fail(run.name, message)
        self._report(Report("failed", run.name))

    def _pause(self) -> None:
        """After several reads that failed in a row, wait: an outage of the disk must not use up the runs."""
        n_more = self.failed_reads - READS_BEFORE_PAUSE
        if n_more < 0:
            return
        seconds = min(self.job.read_pause * 2.0 ** min(n_more, 30), LONGEST_PAUSE_SECONDS)
        message = f"{self.failed_reads} tomograms in a row could not be read: waiting {seconds:.0f} s"
        logger.warning("worker %d: %s", self.worker, message)
        self.job.folder.log("paused", worker=self.worker, message=message, seconds=seconds)
        time.sleep(seconds)

    def _report(self, report: Report) -> None:
        try:
            self.outbox.send(report)
        except OSError:  # the parent is gone, which the next claim sees
            return
