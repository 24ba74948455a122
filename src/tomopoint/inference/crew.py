"""The workers of one prediction: start them, watch them, replace them while that helps."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence

from tomopoint.inference.budget import Budget
from tomopoint.inference.crash_policy import CrashPolicy
from tomopoint.inference.worker import ENGINE_FAILED, OUT_OF_TIME, Job
from tomopoint.inference.worker_process import WorkerProcess
from tomopoint.progress import track

POLL_SECONDS = 0.1

HANG_FACTOR = 10.0
"""A worker that is silent for so many times the longest run so far hangs."""

HANG_FLOOR_SECONDS = 20 * 60.0
"""But never sooner than this; and so long may a worker load its engine."""

LAST_REPORT_SECONDS = 10.0
"""A report takes milliseconds; more only where the machine is busy beyond measure."""

FIRST_RUN_SECONDS = 3 * 3600.0
"""The first run, with nothing to compare it to, may take this long: ten networks on a CPU take more than an hour."""

logger = logging.getLogger(__name__)


class Crew:
    """The workers of one prediction.

    Attributes
    ----------
    policy
        Which workers died, and why they were given up.
    budget
        Seconds per run.
    why_broken
        Set where no worker was left although runs and time were; then another engine may do better.
    """

    def __init__(self, job: Job, gpu_indices: Sequence[int]) -> None:
        self.job = job
        self.gpu_indices = list(gpu_indices)
        self.budget = Budget(job.limit, job.n_workers)
        self.policy = CrashPolicy(job.n_workers)
        self.why_broken: str | None = None
        self._processes: dict[int, WorkerProcess] = {}
        self._out_of_time: set[int] = set()
        self._open = [run.name for run in job.runs]
        self._to_retry: list[str] = []
        self._is_second_pass = False

    def run(self) -> None:
        """Work until every run is settled, the time is up, or no worker is left."""
        warned = projected = False
        try:
            for n_settled, _ in enumerate(track(self._settled(), "predict", total=len(self.job.runs)), start=1):
                self.budget.n_workers = max(1, self.job.n_workers - len(self.policy.lost))
                elapsed, n_left = time.time() - self.job.started, len(self.job.runs) - n_settled
                if not projected and (projection := self.budget.projection(elapsed, n_left)):
                    projected = True
                    logger.info("%s", projection)
                    self.job.folder.log("projection", message=projection)
                warning = self.budget.warning(elapsed, n_left)
                if warning and not warned:
                    warned = True
                    self._warn(warning)
        finally:
            for process in self._processes.values():
                process.terminate()
            for process in self._processes.values():
                process.end()

    def _settled(self) -> Iterator[str]:
        """Yield each run's name once it is done or finally failed."""
        while True:
            self._look_after_workers()
            yield from self._newly_settled()
            if not self._open and self._to_retry:
                self._start_second_pass()
            if not self._open:
                self._hear_last_reports()
                return
            if self._time_is_up():
                return
            self._fill_places()
            if not self._processes:
                self.why_broken = self._why_nobody_is_left()
                return
            time.sleep(POLL_SECONDS)

    def _hear_last_reports(self) -> None:
        """Wait a moment for who has written its last part and not yet said so: its seconds belong to the figures."""
        deadline = time.monotonic() + LAST_REPORT_SECONDS
        while any(process.run is not None for process in self._processes.values()) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            self._look_after_workers()

    def _newly_settled(self) -> Iterator[str]:
        folder = self.job.folder
        for run in list(self._open):
            failure = folder.failure_path(run)
            if failure.exists():
                logger.error("%s failed: %s", run, failure.read_text().strip())
            elif not folder.part_path(run).exists():
                continue
            self._open.remove(run)
            if failure.exists() and not self._is_second_pass and not self.policy.gave_up_on(run):
                self._to_retry.append(run)
            else:
                yield run

    def _start_second_pass(self) -> None:
        """Open the failed runs once more: what failed while a disk was away may be read now."""
        retried, self._to_retry = self._to_retry, []
        self._is_second_pass = True
        if not self._places() or not self.budget.allows_another(time.time() - self.job.started):
            return
        logger.warning("%d runs that failed are tried once more", len(retried))
        self.job.folder.log("second_pass", runs=retried)
        for run in retried:
            self.job.folder.failure_path(run).unlink(missing_ok=True)
        self._open = retried

    def _places(self) -> list[int]:
        """Return the workers that are alive or may be started again."""
        lost = self.policy.lost
        return [
            worker for worker in range(self.job.n_workers) if worker not in lost and worker not in self._out_of_time
        ]

    def _fill_places(self) -> None:
        """Start a worker in each free place while there are runs that nobody holds.

        A worker is not started for runs that it died over while another one lives to try them: two deaths of
        different workers tell more than two of one.
        """
        idle = [worker for worker in self._places() if worker not in self._processes]
        if not idle:
            return
        free = [run for run in self._open if self.job.folder.is_free(run)]
        n_spoken_for = sum(process.run is None for process in self._processes.values())
        for worker in idle:
            if n_spoken_for < len(free) and self.policy.has_untried(worker, free):
                self._start(worker)
                n_spoken_for += 1
        if free and not self._processes:
            self._start(idle[0])

    def _start(self, worker: int) -> None:
        self._processes[worker] = WorkerProcess(self.job, worker, self.gpu_indices)

    def _look_after_workers(self) -> None:
        """Take note of what the workers report, and of those that ended or hang."""
        for worker, process in list(self._processes.items()):
            status = process.exit_status  # before its last reports, so that none is missed
            for report in process.reports():
                if report.status == "done":
                    self.budget.add(report.seconds)
                    self.policy.finished(worker)
            if status is None and process.silence > self._patience(process):
                self._warn(f"worker {worker} was silent for {process.silence:.0f} s: it is ended and replaced")
                process.end(grace=0.0)
                self._after_crash(worker, process, "no answer")
            elif status is not None:
                process.end()
                self._after_end(worker, process, status)

    def _patience(self, process: WorkerProcess) -> float:
        """Return the seconds for which a worker may be silent."""
        if process.run is not None and not self.budget.costs:
            return FIRST_RUN_SECONDS
        return max(HANG_FACTOR * max(self.budget.costs, default=0.0), HANG_FLOOR_SECONDS)

    def _after_end(self, worker: int, process: WorkerProcess, status: int) -> None:
        if status == ENGINE_FAILED:
            del self._processes[worker]
            self.policy.load_failed(worker, self._last_engine_failure(worker))
            self._say_if_lost(worker)
        elif status == OUT_OF_TIME:
            del self._processes[worker]
            self._out_of_time.add(worker)
        elif status != 0:
            self._after_crash(worker, process, f"exit status {status}")
        else:
            del self._processes[worker]

    def _after_crash(self, worker: int, process: WorkerProcess, why: str) -> None:
        """Free the runs that a dead worker held, and give up those that kill workers."""
        del self._processes[worker]
        folder = self.job.folder
        held = folder.claims_of(process.pid)
        given_up = self.policy.crashed(
            worker, held, f"{why} over {', '.join(held)}" if held else f"{why}, without a run"
        )
        logger.error("worker %d died (%s) over %s", worker, why, ", ".join(held) or "no run")
        if not held:
            folder.log("crashed", held=None, worker=worker, message=why)
        for run in held:
            folder.log("crashed", held=run, worker=worker, message=why)
            if run in given_up:
                folder.fail(run, f"its worker process died twice ({why}); see the machine's memory and the file")
            else:
                folder.suspect(run)
        self._say_if_lost(worker)

    def _say_if_lost(self, worker: int) -> None:
        """Report a worker that is given up, and clear the runs that only it had cast a doubt on."""
        if (why := self.policy.lost.get(worker)) is None:
            return
        self._warn(f"worker {worker} is lost, the others go on: it {why}")
        for run in self._open:
            if not self.policy.is_suspect(run):
                self.job.folder.suspect_path(run).unlink(missing_ok=True)

    def _last_engine_failure(self, worker: int) -> str:
        failures = (e for e in reversed(self.job.folder.events()) if e["event"] == "engine_failed")
        return next((e["message"] for e in failures if e["worker"] == worker), "see log.jsonl")

    def _why_nobody_is_left(self) -> str | None:
        """Say why runs are left without workers; None where that is the clock's doing, or others hold them."""
        lost = self.policy.lost
        if len(lost) < self.job.n_workers:
            return None
        return f"no worker is left: {'; '.join(f'worker {worker} {why}' for worker, why in lost.items())}"

    def _time_is_up(self) -> bool:
        """Whether the limit is reached; workers stop before it unless one hangs or errs in its estimate."""
        if self.job.limit is None or time.time() - self.job.started < self.job.limit:
            return False
        self._warn(f"the limit of {self.job.limit / 3600:.2f} h is reached; workers that still run are ended")
        return True

    def _warn(self, message: str) -> None:
        logger.warning("%s", message)
        self.job.folder.log("warning", message=message)
