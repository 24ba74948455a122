"""Many tomograms, one process per device: from the runs of a project to a submission that is valid whatever happens."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from tomopoint import __version__
from tomopoint.data.sources.run import ReadableRun
from tomopoint.errors import EngineError, TomopointError
from tomopoint.files import sha256_of
from tomopoint.inference.budget import Budget
from tomopoint.inference.cost import read_cost, tomogram_cost
from tomopoint.inference.cpu_engine import TRIAL_SECONDS, choose_cpu_engine, is_of_openvino
from tomopoint.inference.engines.engine_record import RECORD_NAME, EngineRecord
from tomopoint.inference.engines.gpus import Gpu, find_gpus
from tomopoint.inference.engines.graph_metadata import read_pipeline
from tomopoint.inference.engines.load import ON_THE_CPU, PROVIDERS
from tomopoint.inference.folder import PredictionFolder
from tomopoint.inference.parts import PartOrigin, part_path
from tomopoint.inference.submission import join_parts
from tomopoint.inference.summary import N_TOLD, PredictionSummary, RunOutcome
from tomopoint.inference.supervisor import Standing, Supervisor
from tomopoint.inference.tiles import TilePlan
from tomopoint.inference.worker import Job
from tomopoint.inference.worker_process import Patience
from tomopoint.locks import LockLost
from tomopoint.models.box import is_in_box
from tomopoint.pipeline import Pipeline
from tomopoint.progress import Progress

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
        Time within which the submission must be there; None: no limit.
    record_path
        ``engine.json`` of an engine built or tried for the graph, TensorRT's or OpenVINO's; None: there is none.
    started
        Time (as :func:`time.monotonic`) from which `limit_hours` count; None: the call's.
    outage_pause
        Seconds to wait first where the disk of the tomograms is away; doubled each time.
    """

    workers: int = 0
    provider: str = "auto"
    tomo_type: str | None = None
    limit_hours: float | None = None
    record_path: Path | None = None
    started: float | None = None
    outage_pause: float = 2.0

    def __post_init__(self) -> None:
        if self.provider not in PROVIDERS:
            raise EngineError(f"--provider {self.provider!r} is unknown; use {', '.join(PROVIDERS)}")
        if self.workers < 0:
            raise TomopointError(f"--workers must not be negative, got {self.workers}; 0 takes one per GPU")
        if self.limit_hours is not None and self.limit_hours <= 0:
            raise TomopointError(f"--limit-hours must be positive, got {self.limit_hours}; leave it out for no limit")


class WorkersLost(EngineError):
    """Every worker died, or failed to load an engine, over and over while runs and time were left.

    Another engine may do better.

    Attributes
    ----------
    summary
        What is done so far. It is joined already: ``submission.csv`` holds it.
    """

    def __init__(self, message: str, summary: PredictionSummary) -> None:
        super().__init__(message)
        self.summary = summary


class Crew(Protocol):
    """Who predicts: worker processes of this machine, or of a cluster.

    Attributes
    ----------
    notes
        Of each run that is done: what is to be known of it, such as missing chunks.
    failed
        Run -> why it cannot be done.
    why_broken
        Set where runs are left and nobody can predict them; another engine may do better.
    """

    notes: dict[str, tuple[str, ...]]
    failed: dict[str, str]
    why_broken: str | None

    @property
    def troubles(self) -> tuple[str, ...]:
        """One sentence per worker that was given up."""
        ...

    @property
    def n_productive(self) -> int:
        """Workers that finished a run."""
        ...

    def settle(self) -> Iterator[Standing]:
        """Work until every run is settled or there is no time or nobody left; yield what has moved."""
        ...


Hire = Callable[[Sequence[ReadableRun], Job, PredictionFolder, Budget], Crew]
"""Makes a crew for runs, from what every worker is told, the folder with the log, and the time that there is."""


def predict_runs(
    runs: Sequence[ReadableRun], model_path: Path, out: Path, options: PredictOptions, hire: Hire | None = None
) -> PredictionSummary:
    """Predict runs with worker processes and write ``submission.csv`` and ``picks.csv``.

    Runs that are done already in `out` are not repeated. A valid submission comes out whatever happens to single runs,
    to workers, to the clock or to this process, as long as it is not killed outright; ``ok`` of the summary tells.

    Raises
    ------
    WorkersLost
        Runs are left, but every worker died or failed to load an engine over and over.
    EngineError, PipelineError
        `model_path` is no graph with a Pipeline.
    TomopointError
        `out` holds picks of another graph or of other data, or another prediction works there.
    LockLost
        Another prediction took `out` over, while this process was frozen.
    """
    started = time.monotonic() if options.started is None else options.started
    pipeline = read_pipeline(model_path)
    gpus = [] if options.provider in ON_THE_CPU else find_gpus()
    with PredictionFolder(out).held() as folder:
        # What is done already, and what is to be done.
        origin = PartOrigin(sha256_of(model_path), options.tomo_type or pipeline.tomo_type)
        identity: dict[str, Any] = {"graph": origin.graph_sha256, "tomogram type": origin.tomo_type}
        identity["data folder"] = sorted({run.place for run in runs})
        if ways := sorted({run.way for run in runs if run.way is not None}):
            identity["way of reading"] = ways
        done = folder.enter(identity, origin)
        pipeline.save(folder.pipeline_path)
        todo = [run for run in runs if run.name not in done]
        if len(todo) < len(runs):
            logger.info("%d of %d runs are done already in %s", len(runs) - len(todo), len(runs), out)
        limit = options.limit_hours * 3600 if options.limit_hours else None
        n_workers = max(1, min(options.workers or max(1, len(gpus)), len(todo)))
        folder.log(
            "prediction",
            **{"tomopoint": __version__, "n_runs": len(runs), "runs": [run.name for run in todo], "workers": n_workers},
            **{"model": str(model_path), "graph_sha256": origin.graph_sha256, "limit_s": limit},
        )

        # What the first of them costs; the others are mostly of its shape.
        with suppress(TomopointError):  # reading will say why
            if todo:
                cost = tomogram_cost(pipeline, read_cost(model_path), todo[0].describe(origin.tomo_type).shape_zyx)
                logger.info("%s: %s", todo[0].name, cost.text())
                if cost.lies_mostly_beyond:
                    logger.warning(
                        "the windows of this graph are much larger than %s: most of what is computed lies beyond it; "
                        "`tomopoint adapt %s --shape %s -o FILE.onnx` makes a graph that takes less",
                        todo[0].name,
                        model_path.stem if is_in_box(model_path) else model_path,
                        ",".join(map(str, cost.shape_zyx)),
                    )
                folder.log("plan", run=todo[0].name, **asdict(cost))

        # Who predicts.
        job = Job(
            model_path=model_path,
            provider=options.provider,
            record_path=options.record_path,
            threads=0,
            parts_folder=folder.parts_path,
            origin=origin,
        )
        budget = Budget(limit, n_workers, started=started)
        crew = (hire or _machine(options, gpus, pipeline))(todo, job, folder, budget)
        ended_by: BaseException | None = None
        trouble: list[str] = []
        try:
            with terminated_like_interrupted(), Progress("predict", len(todo)) as progress:
                for standing in crew.settle():
                    progress.show(standing.n_done, standing.text)
        except LockLost:
            raise  # another prediction joins
        except KeyboardInterrupt as error:
            ended_by = error
        except Exception as error:
            # A bug, or a machine that fails below this process: the runs that are done must come out all the same.
            trouble.append(f"the supervisor broke down ({type(error).__name__}: {error}); run the same command again")
            folder.log("broke_down", message=str(error), traceback=traceback.format_exc())
            logger.exception("%s", trouble[-1])

        # Join what is done, and say what became of every run.
        parts = {path.stem: path for path in sorted(folder.parts_path.glob("[!.]*.csv"))}
        n_picks, counts, damaged = join_parts(folder, parts.values(), origin, pipeline)
        notes, readings = {**folder.notes(), **crew.notes}, folder.readings()
        outcomes = []
        for name in (run.name for run in runs):
            if part_path(folder.parts_path, name).exists():
                outcomes.append(RunOutcome(name, "done", notes=notes.get(name, ()), read=readings.get(name, "")))
            elif name in crew.failed:
                outcomes.append(RunOutcome(name, "failed", crew.failed[name]))
            else:
                outcomes.append(RunOutcome(name, "not processed", "the time was up, or no worker was left"))
        n_others = len(set(parts) - {run.name for run in runs})
        seconds = time.monotonic() - started
        folder.log("joined", n_picks=n_picks, n_submitted=sum(counts.values()), total_seconds=round(seconds, 2))
        summary = PredictionSummary(
            tuple(outcomes),
            n_picks,
            counts,
            PredictionFolder(out),  # held no longer
            seconds,
            budget.mean_cost,
            crew.n_productive,
            (*crew.troubles, *damaged, *trouble),
            n_others,
            N_TOLD * budget.usual_cost / budget.n_workers,
        )
    if ended_by is not None:
        logger.warning("stopped; %d of %d runs are done and joined in %s", summary.n_done, len(runs), out)
        raise ended_by
    if crew.why_broken:
        raise WorkersLost(f"{crew.why_broken}; {summary.n_done} of {len(runs)} runs are done, see {out}", summary)
    return summary


def _machine(options: PredictOptions, gpus: Sequence[Gpu], pipeline: Pipeline) -> Hire:
    """Return what makes a crew of this machine's worker processes."""

    def hire(runs: Sequence[ReadableRun], job: Job, folder: PredictionFolder, budget: Budget) -> Crew:
        # On a CPU: in which precision, decided once for all workers, and for all that is resumed here.
        provider, record_path = job.provider, job.record_path
        if not gpus and runs and provider in ("auto", "openvino"):
            if record_path is None or (provider == "auto" and not is_of_openvino(record_path)):
                with terminated_like_interrupted():  # which ends the trial's process, too
                    seconds = min(budget.limit or TRIAL_SECONDS, TRIAL_SECONDS)
                    record = choose_cpu_engine(job.model_path, folder.path, provider == "openvino", seconds)
                record_path = None if record is None else folder.path / RECORD_NAME
            provider = "cpu" if record_path is None else "openvino"
        threads = max(1, len(os.sched_getaffinity(0)) // budget.n_workers)
        return Supervisor(
            runs,
            replace(job, provider=provider, record_path=record_path, threads=threads),
            folder,
            [gpu.index for gpu in gpus],
            budget,
            Patience(window=expected_window_seconds(record_path)),
            lambda run, share: less_overlap(run, job.origin.tomo_type, pipeline, share),
            options.outage_pause,
        )

    return hire


class Terminated(KeyboardInterrupt):
    """SIGTERM, handled as Ctrl-C is; `status` is what the process then ends with, as a shell gives it."""

    status = 128 + signal.SIGTERM


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM raise where Ctrl-C would; only the main thread may say so to Python."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, frame: Any) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def expected_window_seconds(record_path: Path | None) -> float:
    """Return what ``engine.json`` measured for one window; a guess that is too long where it says nothing."""
    with suppress(EngineError):  # a worker that cannot read it says why
        if record_path is not None and (measured := EngineRecord.load(record_path).seconds_per_tile):
            return measured
    return Patience.window


def less_overlap(
    run: ReadableRun, tomo_type: str, pipeline: Pipeline, share: float
) -> tuple[tuple[int, int, int], float] | None:
    """Return the largest overlap with which a run takes at most `share` of its windows, and what it takes.

    Where there is none the smallest plan is returned, and None where windows that overlap less are not fewer. Views are
    part of the graph and the window is its shape: overlap is all that can be saved.
    """
    try:
        shape = run.describe(tomo_type).shape_zyx
    except TomopointError:
        return None  # reading will say why
    full = len(TilePlan.for_volume(shape, pipeline.tiling, pipeline.stride).starts_zyx)
    plans = []
    for quarters in (3, 2, 1, 0):
        z, y, x = (size * quarters // 4 // pipeline.stride * pipeline.stride for size in pipeline.tiling.overlap_zyx)
        tiling = replace(pipeline.tiling, overlap_zyx=(z, y, x))
        plans.append(((z, y, x), len(TilePlan.for_volume(shape, tiling, pipeline.stride).starts_zyx) / full))
    fitting = [plan for plan in plans if plan[1] <= share] or plans[-1:]
    return fitting[0] if fitting[0][1] < 1 else None
