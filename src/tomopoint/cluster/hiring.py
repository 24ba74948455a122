"""``--cluster``: workers of a Dask cluster instead of processes of this machine, for a prediction and for tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tomopoint.cluster.scheduler import connected, most_workers
from tomopoint.data.sources.run import ReadableRun
from tomopoint.errors import TomopointError
from tomopoint.inference.budget import Budget
from tomopoint.inference.folder import PredictionFolder
from tomopoint.inference.predict_runs import Crew, PredictOptions, predict_runs, terminated_like_interrupted
from tomopoint.inference.summary import PredictionSummary
from tomopoint.inference.worker import Job

if TYPE_CHECKING:
    from distributed import Client

    from tomopoint.cluster.task_crew import TaskCrew


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


@contextmanager
def hired(where: str, device: Literal["auto", "cpu", "cuda"]) -> Iterator[TaskCrew[Any]]:
    """Yield workers of a cluster that carry out tasks; what they are at when the context ends is stopped.

    Parameters
    ----------
    where
        Which cluster, see :func:`~tomopoint.cluster.scheduler.connected`.
    device
        ``cuda``: only workers that have a GPU get tasks; ``auto``: only these, if there are any.

    Raises
    ------
    TomopointError
        No such cluster.
    """
    with terminated_like_interrupted(), connected(where) as client:
        from tomopoint.cluster.task_crew import TaskCrew

        with TaskCrew[Any](client, most_workers(where), device) as crew:
            yield crew
