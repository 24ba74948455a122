"""Many tomograms, one process per device: share the runs out, join what the workers leave.

Workers pull runs by claiming them, so uneven runs end together and a dead worker loses at most the run it held, which
another takes over.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tomopoint import __version__
from tomopoint.data.project import Run
from tomopoint.errors import EngineError, TomopointError
from tomopoint.files import sha256_of
from tomopoint.inference.crew import Crew
from tomopoint.inference.engines.gpus import find_gpus
from tomopoint.inference.engines.graph_metadata import read_pipeline
from tomopoint.inference.engines.load import PROVIDERS
from tomopoint.inference.folder import PredictionFolder
from tomopoint.inference.submission import join_parts
from tomopoint.inference.summary import PredictionSummary, RunOutcome
from tomopoint.inference.worker import Job

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
    started
        Time (as :func:`time.time`) from which `limit_hours` count; None: the call's.
    read_pause
        Seconds that a worker first waits when reads fail one after the other.
    """

    workers: int = 0
    provider: str = "auto"
    tomo_type: str | None = None
    limit_hours: float | None = None
    record_path: Path | None = None
    started: float | None = None
    read_pause: float = 2.0

    def __post_init__(self) -> None:
        if self.provider not in PROVIDERS:
            raise EngineError(f"--provider {self.provider!r} is unknown; use {', '.join(PROVIDERS)}")
        if self.workers < 0:
            raise TomopointError(f"--workers must not be negative, got {self.workers}; 0 takes one per GPU")
        if self.limit_hours is not None and self.limit_hours <= 0:
            raise TomopointError(f"--limit-hours must be positive, got {self.limit_hours}; leave it out for no limit")


class WorkersLost(EngineError):
    """Every worker was given up while runs and time were left; another engine may do better.

    Attributes
    ----------
    summary
        What is done so far. It is joined already: ``submission.csv`` holds it.
    """

    def __init__(self, message: str, summary: PredictionSummary) -> None:
        super().__init__(message)
        self.summary = summary


def predict_runs(runs: Sequence[Run], model_path: Path, out: Path, options: PredictOptions) -> PredictionSummary:
    """Predict runs with worker processes and write ``picks.csv`` and ``submission.csv``.

    Runs that are done already in `out` are not repeated. A valid submission comes out whatever happens to single
    runs; ``ok`` of the summary and its outcomes tell.

    Raises
    ------
    WorkersLost
        Runs are left, but every worker failed to load an engine or died over and over.
    EngineError, PipelineError
        `model_path` is no graph with a Pipeline.
    TomopointError
        `out` holds picks of another graph or of other data.
    """
    started = time.time() if options.started is None else options.started
    pipeline = read_pipeline(model_path)
    gpus = [] if options.provider == "cpu" else find_gpus()
    workers = options.workers or max(1, len(gpus))
    tomo_type = options.tomo_type or pipeline.tomo_type
    folder = PredictionFolder(out)
    data = sorted({f"{run.root.resolve() / run.split}" for run in runs})
    folder.open({"graph": sha256_of(model_path), "tomogram type": tomo_type, "data folder": data})
    pipeline.save(folder.pipeline_path)
    folder.log("prediction", tomopoint=__version__, n_runs=len(runs), workers=workers, model=str(model_path))
    todo = tuple(run for run in runs if not folder.part_path(run.name).exists())
    if len(todo) < len(runs):
        logger.info("%d of %d runs are done already in %s", len(runs) - len(todo), len(runs), out)
    n_workers = max(1, min(workers, len(todo)))
    job = Job(
        runs=todo,
        folder=folder,
        model_path=model_path,
        provider=options.provider,
        record_path=options.record_path,
        threads=max(1, len(os.sched_getaffinity(0)) // n_workers),
        tomo_type=tomo_type,
        n_workers=n_workers,
        started=started,
        limit=options.limit_hours * 3600 if options.limit_hours else None,
        read_pause=options.read_pause,
    )
    crew = Crew(job, [gpu.index for gpu in gpus])
    if todo:
        crew.run()
    # Join what is done, and say what became of every run.
    notes = folder.notes()
    outcomes = []
    for name in (run.name for run in runs):
        if folder.part_path(name).exists():
            outcomes.append(RunOutcome(name, "done", notes=notes.get(name, ())))
        elif (failure := folder.failure_path(name)).exists():
            outcomes.append(RunOutcome(name, "failed", failure.read_text().strip()))
        else:
            why = "the time was up, no worker was left, or another process holds it"
            outcomes.append(RunOutcome(name, "not processed", why))
    n_picks, counts = join_parts(folder, pipeline)
    seconds = time.time() - started
    folder.log("joined", n_picks=n_picks, n_submitted=sum(counts.values()), total_seconds=round(seconds, 2))
    lost = tuple(f"worker {worker} was lost: it {why}" for worker, why in crew.policy.lost.items())
    mean, n_productive = crew.budget.mean_cost, crew.policy.n_productive
    summary = PredictionSummary(tuple(outcomes), n_picks, counts, folder, seconds, mean, n_productive, lost)
    if crew.why_broken:
        raise WorkersLost(f"{crew.why_broken}; {summary.n_done} of {len(runs)} runs are done, see {out}", summary)
    return summary
