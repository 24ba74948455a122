"""A prediction on a Dask cluster: the runs are dealt to workers, and heard of, until every one is settled."""

from __future__ import annotations

import logging
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from distributed import Client, KilledWorker

from tomopoint.cluster.employment import completed, employed, workers_of
from tomopoint.cluster.engine_plugin import SLOT, SLOTS, EnginePlugin, Load, Settled, decide_engine, predict_run
from tomopoint.data.sources.run import ReadableRun
from tomopoint.errors import EngineError
from tomopoint.inference.budget import Budget
from tomopoint.inference.engines.load import load_engine
from tomopoint.inference.folder import PredictionFolder
from tomopoint.inference.supervisor import LONGEST_OUTAGE_PAUSE, OUTAGES_BEFORE_FAILED, Standing
from tomopoint.inference.worker import Job
from tomopoint.locks import LockLost

if TYPE_CHECKING:
    from distributed import Future

TURN_SECONDS = 1.0
"""How often the clock, and the number of workers, are looked at while nothing is heard."""

SPARE = 1
"""Runs per worker that wait at the scheduler beyond what it takes at a time. The others wait here: whatever is assigned
to a worker counts as suspicious when it dies."""

ENGINE_RETRIES = 3
"""So often a run goes to a worker again that has no engine: to another one, as a rule."""

logger = logging.getLogger(__name__)


class ClusterCrew:
    """Workers of a cluster, as :func:`~tomopoint.inference.predict_runs.predict_runs` sees a crew.

    A run whose worker dies goes to another one: so often as Dask's scheduler allows
    (``distributed.scheduler.allowed-failures``), and then once more with a worker for itself. A run that fails is tried
    once more at the end; one that cannot be read for an outage of its disk, after pauses that double.

    Parameters
    ----------
    client
        Of the cluster.
    runs
        What to predict.
    job
        What every worker is told.
    folder
        Where the log is, and the record of a CPU's engine; the workers see it under the same path.
    budget
        How much time there is.
    outage_pause
        Seconds to wait first after an outage.
    load
        Loads a worker's engine.

    Attributes
    ----------
    notes, failed, why_broken
        As of a :class:`~tomopoint.inference.supervisor.Supervisor`.
    """

    def __init__(
        self,
        client: Client,
        runs: Sequence[ReadableRun],
        job: Job,
        folder: PredictionFolder,
        budget: Budget,
        outage_pause: float,
        load: Load = load_engine,
    ) -> None:
        self._load = load
        self.client, self.job, self.folder, self.budget, self.outage_pause = client, job, folder, budget, outage_pause
        self.notes: dict[str, tuple[str, ...]] = {}
        self.failed: dict[str, str] = {}
        self.why_broken: str | None = None
        self.troubles: tuple[str, ...] = ()
        self._waiting = {run.name: run for run in runs}
        self._n_runs = len(runs)
        self._futures: dict[Future[Settled], ReadableRun] = {}
        self._alone: set[str] = set()
        self._retry: dict[str, ReadableRun] = {}
        self._failed_once: set[str] = set()
        self._outages: Counter[str] = Counter()
        self._productive: set[str] = set()
        self._workers: set[str] = set()
        self._begun: dict[str, str] = {}
        self._name = f"tomopoint-{uuid.uuid4().hex[:12]}"

    @property
    def n_productive(self) -> int:
        """Workers that finished a run."""
        return len(self._productive)

    def settle(self) -> Iterator[Standing]:
        """Work until every run is settled, the time is up, or no worker has an engine; yield what has moved."""
        # What computes the graph, as the first worker finds out; and the engine for every worker, now or later.
        job = self._decided()
        if job is None:
            return
        plugin = EnginePlugin(self._name, job, self._load)
        n_settled, pause_until = 0, 0.0
        with employed(self.client, plugin, self._hear, self._futures):
            while True:
                # Deal as many runs as there are workers for.
                room = self._room()
                is_time = self.budget.allows_another()
                while is_time and time.monotonic() >= pause_until and self._waiting and len(self._futures) < room:
                    self._submit(self._waiting.pop(next(iter(self._waiting))))
                if not self._futures and not self._waiting and self._retry:
                    logger.warning("%d runs that failed are tried once more", len(self._retry))
                    self.folder.log("second_pass", runs=list(self._retry))
                    self._waiting, self._retry = self._retry, {}
                    continue
                if not self._futures and (not self._waiting or not is_time):
                    if self._waiting:
                        self._warn("no further run would end within the limit: what is done is joined")
                    return
                if self.budget.is_over:
                    self._warn(
                        f"the limit of {(self.budget.limit or 0) / 3600:.2f} h is reached: what is done is joined"
                    )
                    return

                # Hear what became of them.
                outages = sum(self._outages.values())
                for future in completed(self.client, self._futures, TURN_SECONDS):
                    self._note(future, self._futures.pop(future))
                    if self.why_broken:
                        return
                if (n_outages := sum(self._outages.values()) - outages) > 0:
                    pause = min(self.outage_pause * 2.0 ** (max(self._outages.values()) - 1), LONGEST_OUTAGE_PAUSE)
                    self._warn(f"{n_outages} runs cannot be read for now: the next run is dealt in {pause:.0f} s")
                    pause_until = time.monotonic() + pause
                if n_settled < len(self.notes) + len(self.failed):
                    n_settled = len(self.notes) + len(self.failed)
                    yield Standing(n_settled, f"{n_settled} of {self._n_runs} runs")

    def _decided(self) -> Job | None:
        """Return the job with what computes the graph, as the first worker says; None where none came in time."""
        logger.info("waiting for a worker")
        asked = {self.client.submit(decide_engine, self.job, self.folder.path, pure=False)}
        while not (answers := completed(self.client, asked, TURN_SECONDS)):
            if self.budget.is_over:
                self.client.cancel(list(asked))
                self._warn(
                    f"the limit of {(self.budget.limit or 0) / 3600:.2f} h is reached before a worker was there: what "
                    "is done is joined"
                )
                return None
        job: Job = answers[0].result()
        return job

    def _room(self) -> int:
        """Return how many runs may be with the scheduler: at least one, for workers that are still to come.

        Of workers that are gone, it is logged which runs they had begun.
        """
        known = workers_of(self.client)
        workers = self._workers if known is None else set(known)
        for worker in self._workers - workers:
            if runs := [run for run, its in list(self._begun.items()) if its == worker]:
                self._log_gone(worker, runs)
                for run in runs:
                    self._begun.pop(run, None)
        self._workers = workers
        return max(1, len(workers) * (SLOTS + SPARE))

    def _submit(self, run: ReadableRun) -> None:
        slots = SLOTS if run.name in self._alone else 1
        future = self.client.submit(
            predict_run,
            run,
            self._name,
            key=f"{run.name}-{uuid.uuid4().hex[:8]}",
            resources={SLOT: slots},
            retries=ENGINE_RETRIES,
            pure=False,
        )
        self._futures[future] = run

    def _note(self, future: Future[Settled], run: ReadableRun) -> None:
        """Enter what became of a run into the log, and give it again where that may help."""
        self._begun.pop(run.name, None)
        error = future.exception() if future.status != "finished" else None
        if isinstance(error, KilledWorker):
            self._worker_died_over(run, str(error.last_worker))
            return
        if isinstance(error, EngineError):
            self.why_broken = f"no worker has an engine: {error}"
            self.troubles = (str(error),)
            return
        settled = future.result() if error is None else Settled("", f"{type(error).__name__}: {error}")
        future.release()
        name = run.name
        if not settled.message:
            self.notes[name] = tuple(settled.details["notes"])
            self.budget.add(settled.details["seconds"])
            self._productive.add(settled.worker)
            self.budget.n_workers = max(1, len(self._productive))
            self.folder.log("done", run=name, worker=settled.worker, **settled.details)
            return
        self.folder.log("failed", run=name, worker=settled.worker, message=settled.message, **settled.details)
        if settled.outage and self._outages[name] < OUTAGES_BEFORE_FAILED:
            self._outages[name] += 1
            self._waiting[name] = run
        elif name in self._failed_once:
            self.failed[name] = settled.message
            logger.error("%s failed: %s", name, settled.message)
        else:
            self._failed_once.add(name)
            self._retry[name] = run
            logger.warning("%s failed: %s; it is tried once more at the end", name, settled.message)

    def _worker_died_over(self, run: ReadableRun, last_worker: str) -> None:
        """Set a run aside whose workers died: it may be the reason, or may have been beside it."""
        self.folder.log("died", worker=last_worker, runs=[run.name], message="several workers died")
        if run.name in self._alone:
            self.failed[run.name] = "workers die over it; see the machines' memory and the file"
            self.folder.log("failed", run=run.name, worker=last_worker, message=self.failed[run.name])
            logger.error("%s failed: %s", run.name, self.failed[run.name])
            return
        self._alone.add(run.name)
        self._retry[run.name] = run
        logger.warning("workers died while they had %s: it is tried once more at the end, alone", run.name)

    def _log_gone(self, worker: str, runs: list[str]) -> None:
        message = "it is gone (killed, frozen, or its job at an end), and its runs go to others"
        self.folder.log("died", worker=worker, runs=runs, message=message)

    def _hear(self, event: tuple[float, dict[str, Any]]) -> None:
        """Enter what a worker says into the log."""
        _, details = event
        with suppress(LockLost):  # this thread is the client's: the main one finds out for itself
            if details["event"] == "begun":
                before = self._begun.get(details["run"], details["worker"])
                self._begun[details["run"]] = details["worker"]
                if before != details["worker"]:  # another has it before anybody looked who is there
                    self._log_gone(before, [details["run"]])
            self.folder.log(details["event"], **{key: value for key, value in details.items() if key != "event"})

    def _warn(self, message: str) -> None:
        logger.warning("%s", message)
        self.folder.log("warning", message=message)
