"""Many tomograms, one process per device: start the workers, watch them, join what they leave.

Workers pull runs by claiming them, so uneven runs end together and a dead worker loses at most the run it held, which
another takes over.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from tomopoint import __version__
from tomopoint.data.project import Run
from tomopoint.errors import EngineError, TomopointError
from tomopoint.files import sha256_of
from tomopoint.inference.budget import Budget
from tomopoint.inference.engines.gpus import find_gpus
from tomopoint.inference.engines.graph_metadata import read_pipeline
from tomopoint.inference.engines.load import PROVIDERS
from tomopoint.inference.folder import PredictionFolder
from tomopoint.inference.submission import join_parts
from tomopoint.inference.summary import PredictionSummary, RunOutcome
from tomopoint.inference.worker import ENGINE_FAILED, Job, work
from tomopoint.progress import track

MAX_CRASHES = 2
"""A run that took this many workers down with it is given up."""

POLL_SECONDS = 0.1
GRACE_SECONDS = 10.0
"""A worker that is told to end has this long to do so."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictOptions:
    """How a prediction is spread over the machine.

    Attributes
    ----------
    workers
        Processes; 0: one per GPU, or one where there is none.
    provider
        See :func:`~tomopoint.inference.engines.load.load_engine`.
    tomo_type
        Reconstruction to read; None: the one the graph was validated on.
    limit_hours
        Time after which no further run is started; None: no limit.
    record_path
        ``engine.json`` of a TensorRT engine built for the graph; None: there is none.
    """

    workers: int = 0
    provider: str = "auto"
    tomo_type: str | None = None
    limit_hours: float | None = None
    record_path: Path | None = None

    def __post_init__(self) -> None:
        if self.provider not in PROVIDERS:
            raise EngineError(f"--provider {self.provider!r} is unknown; use {', '.join(PROVIDERS)}")
        if self.workers < 0:
            raise TomopointError(f"--workers must not be negative, got {self.workers}; 0 takes one per GPU")
        if self.limit_hours is not None and self.limit_hours <= 0:
            raise TomopointError(f"--limit-hours must be positive, got {self.limit_hours}; leave it out for no limit")


def predict_runs(runs: Sequence[Run], model_path: Path, out: Path, options: PredictOptions) -> PredictionSummary:
    """Predict runs with worker processes and write ``picks.csv`` and ``submission.csv``.

    Runs that are done already in `out` are not repeated. A valid submission comes out whatever happens to single
    runs; ``ok`` of the summary and its outcomes tell.

    Raises
    ------
    EngineError, PipelineError
        `model_path` is no graph with a Pipeline, or no worker could load an engine for it.
    TomopointError
        `out` holds picks of another graph or of other data.
    """
    start = time.time()
    folder = PredictionFolder(out)
    pipeline = read_pipeline(model_path)
    gpus = [] if options.provider == "cpu" else find_gpus()
    n_workers = options.workers or max(1, len(gpus))
    data = sorted({f"{run.root.resolve() / run.split}" for run in runs})
    tomo_type = options.tomo_type or pipeline.tomo_type
    folder.open({"graph": sha256_of(model_path), "tomogram type": tomo_type, "data folder": data})
    pipeline.save(folder.pipeline_path)
    folder.log("prediction", tomopoint=__version__, n_runs=len(runs), workers=n_workers, model=str(model_path))
    todo = tuple(run for run in runs if not folder.part_path(run.name).exists())
    if len(todo) < len(runs):
        logger.info("%d of %d runs are done already in %s", len(runs) - len(todo), len(runs), out)
    n_workers = max(1, min(n_workers, len(todo)))
    job = Job(
        runs=todo,
        folder=folder,
        model_path=model_path,
        provider=options.provider,
        record_path=options.record_path,
        threads=max(1, len(os.sched_getaffinity(0)) // n_workers),
        tomo_type=tomo_type,
        n_workers=n_workers,
        started=start,
        limit=options.limit_hours * 3600 if options.limit_hours else None,
    )
    crew = _Crew(job, [gpu.index for gpu in gpus])
    if todo:
        crew.run()
    outcomes = tuple(_outcome(folder, run.name) for run in runs)
    joined = join_parts(folder, pipeline)
    seconds = time.time() - start
    folder.log("joined", n_picks=joined.n_picks, n_submitted=joined.n_submitted, total_seconds=round(seconds, 2))
    return PredictionSummary(outcomes, joined, folder, seconds, crew.budget.mean_cost, n_workers)


def _outcome(folder: PredictionFolder, run: str) -> RunOutcome:
    if folder.part_path(run).exists():
        return RunOutcome(run, "done")
    failure = folder.failure_path(run)
    if failure.exists():
        return RunOutcome(run, "failed", failure.read_text().strip())
    return RunOutcome(run, "not processed", "the time was up, no worker was left, or another process holds it")


class _Crew:
    """The worker processes of one prediction."""

    def __init__(self, job: Job, gpu_indices: Sequence[int]) -> None:
        self.job = job
        self.gpu_indices = list(gpu_indices)
        self.budget = Budget(job.limit, job.n_workers)
        self.crashes: Counter[str] = Counter()
        self.processes: dict[int, BaseProcess] = {}
        self.engine_failures = 0
        self.idle_crashes = 0

    def run(self) -> None:
        """Start the workers and wait until every run is settled or the time is up."""
        for worker in range(self.job.n_workers):
            self._start(worker)
        warned = False
        try:
            last = time.time()
            settled = track(self._settled(), "predict", total=len(self.job.runs))
            for n_settled, _ in enumerate(settled, start=1):
                # Workers run side by side: a run settles about every cost / n_workers seconds.
                self.budget.add((time.time() - last) * self.job.n_workers)
                last = time.time()
                warning = self.budget.warning(last - self.job.started, len(self.job.runs) - n_settled)
                if warning and not warned:
                    warned = True
                    logger.warning("%s", warning)
                    self.job.folder.log("warning", message=warning)
        finally:
            self._end()

    def _end(self) -> None:
        """End what still runs: politely, then a stopped or hanging process for good."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.join(GRACE_SECONDS)
            process.kill()
            process.join()

    def _time_is_up(self) -> bool:
        """Whether the limit is reached; workers stop before it unless one hangs or errs in its estimate."""
        if self.job.limit is None or time.time() - self.job.started < self.job.limit:
            return False
        message = f"the limit of {self.job.limit / 3600:.2f} h is reached; workers that still run are ended"
        logger.error("%s", message)
        self.job.folder.log("warning", message=message)
        return True

    def _start(self, worker: int) -> None:
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=work, args=(self.job, worker), name=f"tomopoint-worker-{worker}")
        with _visible_gpu(self.gpu_indices, worker):
            process.start()
        self.processes[worker] = process

    def _settled(self) -> Iterator[str]:
        """Yield each run's name once it is done or failed; end when no worker is left."""
        open_runs = [run.name for run in self.job.runs]
        while True:
            alive = self._look_after_workers()
            for run in list(open_runs):
                failure = self.job.folder.failure_path(run)
                if failure.exists():
                    logger.error("%s failed: %s", run, failure.read_text().strip())
                elif not self.job.folder.part_path(run).exists():
                    continue
                open_runs.remove(run)
                yield run
            if not open_runs or not alive or self._time_is_up():
                return
            time.sleep(POLL_SECONDS)

    def _look_after_workers(self) -> bool:
        """Deal with workers that ended; return whether any is left.

        Raises
        ------
        EngineError
            None of them could load an engine.
        """
        for worker, process in list(self.processes.items()):
            if process.exitcode is None:
                continue
            del self.processes[worker]
            if process.exitcode == ENGINE_FAILED:
                self.engine_failures += 1
                logger.error("worker %d has no engine, see %s", worker, self.job.folder.log_path)
                if self.engine_failures == self.job.n_workers:
                    raise EngineError(f"no worker could load an engine: {_last_engine_failure(self.job.folder)}")
            elif process.exitcode != 0:
                self._after_crash(worker, process)
        return bool(self.processes)

    def _after_crash(self, worker: int, process: BaseProcess) -> None:
        """Free the runs a dead worker held, give up those that kill workers, and start another in its place."""
        held = self.job.folder.claims_of(process.pid or -1)
        for run in held:
            self.crashes[run] += 1
            message = f"its worker process died (exit status {process.exitcode}) {self.crashes[run]} times"
            self.job.folder.log("crashed", held=run, worker=worker, message=message)
            logger.error("worker %d died (exit status %s) over %s", worker, process.exitcode, run)
            if self.crashes[run] >= MAX_CRASHES:
                self.job.folder.fail(run, f"{message}; see the machine's memory and the file")
            else:
                self.job.folder.suspect(run)
        if not held:
            self.idle_crashes += 1
        # Every restart is paid for by a run's crash or an idle one, so there is an end to them.
        if self.idle_crashes < MAX_CRASHES:
            self._start(worker)


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


def _last_engine_failure(folder: PredictionFolder) -> str:
    return next((e["message"] for e in reversed(folder.events()) if e["event"] == "engine_failed"), "see log.jsonl")
