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
from pathlib import Path

from tomopoint.data.project import Run
from tomopoint.data.tables import write_pick_table
from tomopoint.data.tomograms import Tomogram, read_tomogram
from tomopoint.errors import EngineError, TomopointError, machine_fault
from tomopoint.inference.budget import Budget
from tomopoint.inference.engines.load import load_engine
from tomopoint.inference.engines.protocol import Engine
from tomopoint.inference.folder import HEARTBEAT_SECONDS, PredictionFolder
from tomopoint.inference.predict import predict_tomogram
from tomopoint.pipeline import Pipeline

ENGINE_FAILED = 3
"""Exit status of a worker that could not load its engine."""

ENGINE_BROKE = 4
"""Exit status of a worker whose engine failed on a run; it still holds the run, for the parent to see."""

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


def work(job: Job, worker: int) -> None:
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
    loop = _Loop(job, worker, engine, pipeline)
    try:
        loop.run()
    except OSError as error:
        if (fault := machine_fault(error)) is None:
            raise
        logger.error("worker %d: %s", worker, fault)
        raise SystemExit(1) from error
    finally:
        engine.close()


class _Loop:
    """A worker's state: its engine, what it costs, and the run it holds."""

    def __init__(self, job: Job, worker: int, engine: Engine, pipeline: Pipeline) -> None:
        self.job, self.worker, self.engine, self.pipeline = job, worker, engine, pipeline
        self.budget = Budget(job.limit, job.n_workers)
        self.held: set[str] = set()
        self.parent = os.getppid()
        self.ended = threading.Event()

    def run(self) -> None:
        heartbeat = threading.Thread(target=self._beat, daemon=True)
        heartbeat.start()
        try:
            with ThreadPoolExecutor(max_workers=1) as reader:
                for run, reading in self._claimed(reader):
                    self._predict(run, reading)
        finally:
            self.ended.set()

    def _beat(self) -> None:
        while not self.ended.wait(HEARTBEAT_SECONDS):
            for run in tuple(self.held):
                self.job.folder.touch(run)

    def _claimed(self, reader: ThreadPoolExecutor) -> Iterator[tuple[Run, Future[Tomogram]]]:
        """Yield claimed runs with their tomograms being read; one is read ahead while that is no risk to it."""
        waiting = list(self.job.runs)
        ahead: tuple[Run, Future[Tomogram]] | None = None
        while True:
            current = ahead or self._claim_next(waiting, reader)
            if current is None:
                return
            ahead = self._claim_next(waiting, reader) if self._may_read_ahead(current[0], waiting) else None
            yield current

    def _may_read_ahead(self, current: Run, waiting: list[Run]) -> bool:
        """Whether to hold a second run.

        Not when there may be none left for the other workers, and not beside a run that a worker died over: the next
        death must not be blamed on its neighbour.
        """
        suspects = [run for run in (current, *waiting[:1]) if self.job.folder.suspect_path(run.name).exists()]
        return len(waiting) > self.job.n_workers and not suspects

    def _claim_next(self, waiting: list[Run], reader: ThreadPoolExecutor) -> tuple[Run, Future[Tomogram]] | None:
        while waiting:
            if os.getppid() != self.parent:  # killed, and nobody is left to join what this worker makes
                return None
            if not self.budget.allows_another(time.time() - self.job.started):
                return None
            run = waiting.pop(0)
            if self.job.folder.claim(run.name, self.worker):
                self.held.add(run.name)
                return run, reader.submit(read_tomogram, run.tomogram_path(self.job.tomo_type))
        return None

    def _predict(self, run: Run, reading: Future[Tomogram]) -> None:
        """Predict one claimed run and leave its part, or why there is none."""
        start = time.monotonic()
        try:
            tomogram = reading.result()
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
            times = {"seconds": round(seconds, 2), "read_seconds": round(waited, 2)}
            self.job.folder.log("done", run=run.name, worker=self.worker, n_picks=len(picks), **times)
            self.job.folder.release(run.name)
        self.held.discard(run.name)

    def _fail(self, run: Run, message: str, trace: str = "") -> None:
        self.job.folder.log("failed", run=run.name, worker=self.worker, message=message, traceback=trace)
        self.job.folder.fail(run.name, message)
