"""``tomopoint predict --cluster``: the same prediction, with workers of a Dask cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tomopoint.cluster.scheduler import connected
from tomopoint.data.sources.run import ReadableRun
from tomopoint.errors import TomopointError
from tomopoint.inference.budget import Budget
from tomopoint.inference.folder import PredictionFolder
from tomopoint.inference.predict_runs import Crew, PredictOptions, predict_runs
from tomopoint.inference.summary import PredictionSummary
from tomopoint.inference.worker import Job

if TYPE_CHECKING:
    from distributed import Client


def predict_on_cluster(
    runs: Sequence[ReadableRun], model_path: Path, out: Path, options: PredictOptions, where: str
) -> PredictionSummary:
    """Predict runs on a cluster; see :func:`~tomopoint.inference.predict_runs.predict_runs`.

    Parameters
    ----------
    where
        Which cluster, see :func:`~tomopoint.cluster.scheduler.connected`.

    Raises
    ------
    TomopointError
        As `predict_runs`; no such cluster; or options that say how one machine is shared.
    """
    if options.workers:
        raise TomopointError("--workers is for one machine; with --cluster say how many there: local:N, slurm:N")
    with connected(where) as client:
        return predict_runs(runs, model_path.resolve(), out.resolve(), options, _hire(client, options))


def _hire(client: Client, options: PredictOptions) -> Callable[..., Crew]:
    from tomopoint.cluster.predict import ClusterCrew

    def hire(runs: Sequence[ReadableRun], job: Job, folder: PredictionFolder, budget: Budget) -> Crew:
        record_path = None if job.record_path is None else job.record_path.resolve()
        return ClusterCrew(client, runs, replace(job, record_path=record_path), folder, budget, options.outage_pause)

    return hire
