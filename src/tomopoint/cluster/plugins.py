"""What the plugins of Dask workers have in common: what a worker offers, and the threads that it computes with."""

from __future__ import annotations

import os
from collections.abc import Mapping

from distributed import Status, Worker


async def offer(worker: Worker, resources: Mapping[str, float]) -> None:
    """Say how much of some of Dask's resources a worker has."""
    new = {name: amount for name, amount in resources.items() if worker.state.total_resources.get(name) != amount}
    if not new:  # an earlier command has said so
        return
    await worker.set_resources(**new)
    # Tasks that no worker could take wait until a worker joins or goes on after a pause, and this one joined before it
    # had said what it takes. One that is paused or retires stays so.
    if worker.status == Status.running:
        worker.status = Status.paused
        worker.status = Status.running


def n_threads(worker: Worker) -> int:
    """Return how many threads a worker computes with: Dask's, or ``OMP_NUM_THREADS`` where that is more.

    Dask's nanny sets the variable to 1, whatever the worker has.
    """
    said = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]  # it may list those of nested regions
    return max(int(said) if said.isdecimal() else 0, worker.state.nthreads)
