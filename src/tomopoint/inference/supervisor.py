"""The supervisor of a prediction: deals runs to worker processes, and keeps the ledger of what became of each.

It knows its workers by their pipes: what they were dealt, what they are at, and since when. A worker that dies gives
back what it was dealt; :mod:`~tomopoint.inference.crash_policy` says what its death means.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait

from tomopoint.data.sources.run import ReadableRun
from tomopoint.inference.budget import Budget
from tomopoint.inference.crash_policy import CrashPolicy
from tomopoint.inference.folder import PredictionFolder
from tomopoint.inference.stream import Deal
from tomopoint.inference.worker import ENGINE_FAILED, Job, Message
from tomopoint.inference.worker_process import Patience, WorkerProcess

TURN_SECONDS = 0.5
"""A turn is taken at least this often, for hangs, pauses and the clock; messages and deaths are heard at once."""

OUTAGES_BEFORE_FAILED = 6
"""So often a run is put back that could not be read for an outage of its disk; the pauses between double."""

LONGEST_OUTAGE_PAUSE = 120.0

logger = logging.getLogger(__name__)

Plan = tuple[tuple[int, int, int], float]
"""Overlap of windows, voxels, z, y, x, and what a run then costs as a share of its full cost."""


class Supervisor:
    """One prediction.

    Parameters
    ----------
    runs
        What to predict.
    job
        What every worker is told.
    folder
        Where the log is.
    gpu_indices
        GPUs to share out between the workers; empty: none.
    budget
        How many workers, seconds per run, and how much time there is.
    patience
        How long a worker may be silent.
    cheaper
        From a run and the share of its full cost that there is time for to a plan for it; None: nothing can be saved.
    outage_pause
        Seconds to wait first where the disk of the tomograms is away; doubled each time.

    Attributes
    ----------
    waiting
        Runs that are not done, not failed, and in nobody's hands.
    notes
        Of each run that is done: what is to be known of it, such as missing chunks.
    failed
        Run -> why it cannot be done.
    why_broken
        Set where no worker can be started any more although runs and time are left; another engine may do better.
    """

    def __init__(
        self,
        runs: Sequence[ReadableRun],
        job: Job,
        folder: PredictionFolder,
        gpu_indices: Sequence[int],
        budget: Budget,
        patience: Patience,
        cheaper: Callable[[ReadableRun, float], Plan | None],
        outage_pause: float,
    ) -> None:
        self.job, self.folder, self.gpu_indices, self.budget = job, folder, gpu_indices, budget
        self.patience, self.cheaper, self.outage_pause = patience, cheaper, outage_pause
        self.policy = CrashPolicy(budget.n_workers)
        self.waiting = {run.name: run for run in runs}
        self.notes: dict[str, tuple[str, ...]] = {}
        self.failed: dict[str, str] = {}
        self.why_broken: str | None = None
        self._n_runs = len(runs)
        self._workers: dict[int, WorkerProcess] = {}
        self._shares: dict[str, float] = {}
        self._failed_once: set[str] = set()
        self._retry: dict[str, ReadableRun] = {}
        self._outages: Counter[str] = Counter()
        self._n_outages = 0
        self._deal_after = 0.0
        self._start_after = [0.0] * budget.n_workers
        self._said: set[str] = set()

    @property
    def troubles(self) -> tuple[str, ...]:
        """One sentence per worker that was given up."""
        return tuple(self.policy.troubles)

    @property
    def n_productive(self) -> int:
        """Workers that finished a run."""
        return self.policy.n_productive

    def settle(self) -> Iterator[None]:
        """Work until every run is settled, the time is up, or no worker is worth starting; yield per settled run."""
        n_settled = 0
        try:
            while True:
                # Hear what the workers say, and take note of those that ended or say nothing for too long.
                for number, worker in list(self._workers.items()):
                    status = worker.exit_status  # before its last messages, so that none is missed
                    for message, silence in worker.messages():
                        self._note(worker, message, silence)
                    if status is None and worker.silence > self.patience.of(worker):
                        self._warn(f"worker {number} was silent for {worker.silence:.0f} s: it is ended and replaced")
                        worker.end(grace=0.0)
                        self._after_death(worker, "no answer")
                    elif status is not None or worker.is_gone:
                        worker.end()
                        status = worker.exit_status
                        self._after_death(worker, "" if status == ENGINE_FAILED else f"exit status {status}")
                while n_settled < len(self.notes) + len(self.failed):
                    n_settled += 1
                    yield

                # Is there anything left to do, and the time and the workers to do it?
                dealt = any(worker.dealt for worker in self._workers.values())
                if not self.waiting and not dealt and self._retry:
                    logger.warning("%d runs that failed are tried once more", len(self._retry))
                    self.folder.log("second_pass", runs=list(self._retry))
                    self.waiting, self._retry = self._retry, {}
                if not self.waiting and not dealt:
                    return
                if self.budget.is_over:
                    self._warn(
                        f"the limit of {(self.budget.limit or 0) / 3600:.2f} h is reached: what is done is joined"
                    )
                    return
                if not dealt and not self.budget.allows_another():
                    self._warn("no further run would end within the limit: what is done is joined")
                    return
                if self.policy.is_hopeless and not self._workers:
                    self.why_broken = f"no worker is left: {'; '.join(self.policy.troubles)}"
                    return
                self._say_the_end(self._n_runs - n_settled)

                # Start workers for the runs that nobody has, and deal: three to each, one to finish, one to compute and
                # one to read ahead.
                now = time.monotonic()
                for number in range(self.budget.n_workers):
                    n_idle = sum(not worker.dealt for worker in self._workers.values())
                    may_start = number not in self._workers and now >= self._start_after[number]
                    if may_start and len(self.waiting) > n_idle and not self.policy.is_hopeless:
                        self._workers[number] = WorkerProcess(self.job, number, self.gpu_indices)
                if now >= self._deal_after:
                    for depth in (1, 2, 3):
                        for worker in self._workers.values():
                            if worker.is_ready and len(worker.dealt) < depth and (deal := self._choose(worker)):
                                del self.waiting[deal.run.name]
                                worker.deal(deal)
                if self._workers:
                    wait([worker.pipe for worker in self._workers.values()], timeout=TURN_SECONDS)
                else:
                    time.sleep(TURN_SECONDS)
        finally:
            for worker in self._workers.values():
                worker.dismiss()
            for worker in self._workers.values():
                worker.end()

    def _choose(self, worker: WorkerProcess) -> Deal | None:
        """Return what to deal to a worker: healthy runs first, then those that are dealt alone, the worst ones last."""
        if not self.budget.allows_another(len(worker.dealt)):
            return None
        alone = self.policy.alone
        if any(run in alone for run in worker.dealt):
            return None
        usual = [name for name in self.waiting if name not in alone]
        if worker.dealt:  # another one, if there are enough for everybody
            chosen = usual[0] if len(usual) > self.budget.n_workers else None
        else:
            single = [name for name in self.waiting if name in alone]
            chosen = next(iter([*usual, *sorted(single, key=self.policy.is_put_off)]), None)
        if chosen is None:
            return None
        run, overlap_zyx = self.waiting[chosen], None
        self._shares.pop(chosen, None)  # of an earlier deal, whose worker died
        if (share := self.budget.affordable_share(self._n_left)) < 1 and (plan := self.cheaper(run, share)):
            overlap_zyx, self._shares[chosen] = plan
            self._warn_once(
                f"the time does not suffice for the rest at {self.budget.mean_cost:.0f} s per run: "
                f"windows overlap less ({overlap_zyx[0]}, {overlap_zyx[1]}, {overlap_zyx[2]} voxels)"
            )
        return Deal(run, overlap_zyx)

    @property
    def _n_left(self) -> int:
        return self._n_runs - len(self.notes) - len(self.failed)

    def _note(self, worker: WorkerProcess, message: Message, silence: float) -> None:
        """Enter what a worker says into the ledger and the log."""
        name, details = message.run, message.details
        if message.kind == "ready":
            self.patience.loaded(silence)
            self.folder.log("engine", worker=worker.number, **details)
        elif message.kind == "no engine":
            self.policy.load_failed(worker.number, details["message"])
            self.folder.log("engine_failed", worker=worker.number, **details)
        elif message.kind == "begun":
            self.folder.log("begun", run=name, worker=worker.number)
        elif message.kind == "window":
            self.patience.predicted(silence)
        elif message.kind == "broke":
            self.folder.log("engine_broke", run=name, worker=worker.number, **details)
            self._warn(f"worker {worker.number}: {details['message']}")
        elif message.kind == "done":
            del worker.dealt[name]
            share = self._shares.pop(name, 1.0)
            self.notes[name] = (*details["notes"], *(["windows overlapped less, for time"] if share < 1 else []))
            self.budget.add(details["seconds"] / share)
            self.policy.finished(worker.number)
            self._n_outages = 0
            self.folder.log("done", run=name, worker=worker.number, **{**details, "notes": self.notes[name]})
        elif message.kind == "failed":
            run = worker.dealt.pop(name).run
            self.folder.log("failed", run=name, worker=worker.number, **details)
            if message.outage and self._outages[name] < OUTAGES_BEFORE_FAILED:
                self._outages[name] += 1
                self._n_outages += 1
                self.waiting[name] = run
                pause = min(self.outage_pause * 2.0 ** (self._n_outages - 1), LONGEST_OUTAGE_PAUSE)
                self._deal_after = time.monotonic() + pause
                self._warn(
                    f"{name} cannot be read for now ({details['message']}): the next run is dealt in {pause:.0f} s"
                )
            elif name in self._failed_once:
                self.failed[name] = details["message"]
                logger.error("%s failed: %s", name, details["message"])
            else:
                self._failed_once.add(name)
                self._retry[name] = run
                logger.warning("%s failed: %s; it is tried once more at the end", name, details["message"])

    def _after_death(self, worker: WorkerProcess, why: str) -> None:
        """Take back what a dead worker was dealt, and decide what its death means."""
        number = worker.number
        del self._workers[number]
        returned = {name: deal.run for name, deal in worker.dealt.items()}
        self.waiting = {**returned, **self.waiting}
        if why:
            in_work = [name for name in worker.in_work if name in returned]
            self.policy.died(number, in_work, why)
            logger.error("worker %d died (%s) over %s", number, why, ", ".join(in_work) or "no run")
            self.folder.log("died", worker=number, runs=in_work, message=why)
            for name in in_work:
                if self.policy.has_failed(name):
                    del self.waiting[name]
                    self.failed[name] = f"workers die over it ({why}); see the machine's memory and the file"
                    self.folder.log("failed", run=name, worker=number, message=self.failed[name])
                    logger.error("%s failed: %s", name, self.failed[name])
        pause = self.policy.pause_seconds(number)
        self._start_after[number] = time.monotonic() + pause
        if pause:
            self._warn(f"worker {number} is started again in {pause:.0f} s: it {self.policy.trouble(number)}")

    def _say_the_end(self, n_left: int) -> None:
        """Say once when it will be over, and once if that is late."""
        for event, text in (("projection", self.budget.projection(n_left)), ("warning", self.budget.warning(n_left))):
            if text and event not in self._said:
                self._said.add(event)
                (logger.warning if event == "warning" else logger.info)("%s", text)
                self.folder.log(event, message=text)

    def _warn_once(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            self._warn(message)

    def _warn(self, message: str) -> None:
        logger.warning("%s", message)
        self.folder.log("warning", message=message)
