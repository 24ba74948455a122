"""Which Dask cluster is meant by ``--cluster``, and a client to it."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tomopoint.errors import TomopointError, reason_of
from tomopoint.strict_json import Malformed, read, reading

if TYPE_CHECKING:
    from distributed import Client

INSTALL = "`pip install 'tomopoint[cluster]'`"

QUEUES = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "lsf": "LSFCluster", "sge": "SGECluster"}
"""Batch systems, and what dask-jobqueue calls them."""

WORKER_TTL = "5 minutes"
"""A worker of our own scheduler that says nothing for so long is given up, and its tasks go to others. Its heartbeat
comes from a thread of its own: computing does not delay it."""

QUIET = "error"
"""What Dask logs, here and in the workers of this machine."""

CONNECT_SECONDS = 30
"""For a scheduler to answer."""

_LOCAL = re.compile(r"local:(\d{1,4})")
_QUEUE = re.compile(rf"({'|'.join(QUEUES)}):(\d{{1,5}})(?:-(\d{{1,5}}))?")

KINDS = (
    "local:N (so many processes here), tcp://HOST:PORT or the path of a scheduler file, or one of "
    f"{', '.join(f'{name}:N or {name}:MIN-MAX' for name in QUEUES)}"
)

logger = logging.getLogger(__name__)


@contextmanager
def connected(where: str) -> Iterator[Client]:
    """Yield a client of the cluster that is meant; one that was started for it ends with it.

    Parameters
    ----------
    where
        ``local:4``: worker processes on this machine. ``tcp://host:8786`` or the path of a scheduler file: a cluster
        that runs already. ``slurm:10``, ``slurm:0-50`` (adaptive), likewise ``pbs``, ``lsf``, ``sge``: jobs of a batch
        system, by dask-jobqueue and its configuration.

    Raises
    ------
    TomopointError
        Nothing of these, a scheduler that does not answer, a queue that is not configured, or Dask is not installed.
    """
    try:
        import dask

        # Read when distributed is imported: what its parts tell each other is not for the user of a command.
        dask.config.set({"logging.distributed": QUIET})
        from distributed import Client
    except ImportError as error:
        raise TomopointError(f"--cluster needs Dask, which is not installed; {INSTALL}") from error
    except ValueError as error:  # it reads ~/.config/dask/*.yaml when it is imported
        raise TomopointError(f"Dask's configuration cannot be read: {reason_of(error)}; mend that file") from error
    with _cluster_of(where) as address:
        try:
            client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise TomopointError(f"--cluster {where}: no scheduler answers there ({error})") from error
        with closing(client):
            logger.info("cluster: %s, dashboard %s", client.scheduler_info()["address"], client.dashboard_link)
            yield client


def most_workers(where: str) -> int:
    """Return how many workers a cluster that is started for us may come to, as far as `where` says; 0: it does not."""
    if match := _LOCAL.fullmatch(where):
        return int(match[1])
    if match := _QUEUE.fullmatch(where):
        return int(match[3] or match[2])
    return 0


@contextmanager
def _cluster_of(where: str) -> Iterator[Any]:
    """Yield what a client connects to."""
    if match := _LOCAL.fullmatch(where):
        with _local(int(match[1])) as cluster:
            yield cluster
    elif match := _QUEUE.fullmatch(where):
        kind, least, most = match[1], int(match[2]), int(match[3]) if match[3] else None
        with _queue(kind, least, most) as cluster:
            yield cluster
    elif where.startswith(("tcp://", "tls://", "ucx://")):
        yield where
    elif Path(where).is_file():
        with reading(where, TomopointError, "is no scheduler file", "name one that `dask scheduler` wrote"):
            content = read(Path(where))
            if not isinstance(content, dict) or not isinstance(content.get("address"), str):
                raise Malformed("it holds no address")
        yield content["address"]
    else:
        raise TomopointError(f"--cluster {where!r} is neither a file nor one of these: {KINDS}")


@contextmanager
def _local(n_workers: int) -> Iterator[Any]:
    """Start worker processes on this machine, each with its GPU where there are any, and its share of the cores."""
    import dask
    from distributed import Nanny, Scheduler, SpecCluster

    from tomopoint.inference.engines.gpus import find_gpus

    if n_workers < 1:
        raise TomopointError(f"--cluster local:{n_workers}: give one worker or more")
    gpus = find_gpus()
    threads = max(1, len(os.sched_getaffinity(0)) // n_workers)
    workers = {}
    for number in range(n_workers):
        environment = {"OMP_NUM_THREADS": str(threads)}
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = str(gpus[number % len(gpus)].index)
        # Memory is bounded by the stream of tomograms, not by Dask, which would pause or kill a worker that decodes.
        options = {"nthreads": 1, "memory_limit": 0, "env": environment, "preload": ["tomopoint.cluster.local_worker"]}
        workers[number] = {"cls": Nanny, "options": options}
    os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", QUIET)  # workers read it when they import distributed
    ttl = dask.config.get("distributed.scheduler.worker-ttl", None) or WORKER_TTL
    with dask.config.set({"distributed.scheduler.worker-ttl": ttl}):
        scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "port": 0, "dashboard_address": ":0"}}
        cluster = SpecCluster(workers=workers, scheduler=scheduler, silence_logs=logging.ERROR)
        with closing(cluster):
            yield cluster


@contextmanager
def _queue(kind: str, least: int, most: int | None) -> Iterator[Any]:
    """Start a scheduler here whose workers are jobs of a batch system, as dask-jobqueue's configuration says."""
    try:
        import dask_jobqueue
    except ImportError as error:
        raise TomopointError(f"--cluster {kind} needs dask-jobqueue, which is not installed; {INSTALL}") from error
    if (least if most is None else most) < max(least, 1):
        raise TomopointError(
            f"--cluster {kind}:{least}-{most}: the second number must not be less than the first, or 0"
        )
    try:
        cluster = getattr(dask_jobqueue, QUEUES[kind])()
    except (ValueError, TypeError) as error:  # what its configuration lacks
        raise TomopointError(
            f"dask-jobqueue cannot make jobs of {kind}: {error}; say cores, memory, queue and walltime under "
            f"jobqueue.{kind} in ~/.config/dask/jobqueue.yaml (docs/cluster.md)"
        ) from error
    with closing(cluster):
        # A fixed number, too: what is only scaled is not submitted again when jobs end, at their time limit or before.
        cluster.adapt(minimum_jobs=least, maximum_jobs=least if most is None else most)
        yield cluster
