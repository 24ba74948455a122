"""Tasks on a Dask cluster: handed to its workers, heard of, and given to others where a worker dies."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal

from distributed import Client, KilledWorker

from tomopoint.cluster.employment import completed, employed, workers_of
from tomopoint.cluster.task_plugin import GPU, SLOT, TaskPlugin, carry_out
from tomopoint.tasks.process import ProcessDied
from tomopoint.tasks.task import Failed, TaskT

if TYPE_CHECKING:
    from distributed import Future

TURN_SECONDS = 1.0
"""How often the workers are looked at while nothing is heard."""

DEATHS = 2
"""So often a task whose own process died is tried again. One whose worker died is, so often as
``distributed.scheduler.allowed-failures`` says."""

LOSSES = 3
"""So often a task is handed out again whose workers died before it began, most likely over what they were at beside it.
Every time Dask has tried as many workers as above."""

AGAIN = "run the same command again to go on from where it was"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Begun(Generic[TaskT]):
    """A task that Dask has, its name there, and how often it was lost before it began."""

    task: TaskT
    key: str
    losses: int = 0


class TaskCrew(Generic[TaskT]):
    """The workers of a cluster as a :class:`~tomopoint.tasks.task.Crew`; each is at one task at a time.

    A context manager: when it is left, the workers' processes are ended, and the workers are free for others.

    Parameters
    ----------
    client
        Of the cluster.
    most
        How many workers it may come to; 0: as many as it has.
    device
        ``cuda``: only workers that have a GPU get tasks; ``auto``: only these, if there are any.
    """

    def __init__(self, client: Client, most: int, device: Literal["auto", "cpu", "cuda"]) -> None:
        self.client, self.most, self.device = client, most, device
        self._begun: dict[Future[Any], _Begun[TaskT]] = {}
        self._heard: set[str] = set()
        self._name = f"tomopoint-{uuid.uuid4().hex[:12]}"
        self._stack = ExitStack()

    def __enter__(self) -> TaskCrew[TaskT]:
        self._stack.enter_context(employed(self.client, TaskPlugin(self._name, Path.cwd()), self._hear, self._begun))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def at_work(self) -> list[TaskT]:
        """The tasks that were begun and have not ended."""
        return [begun.task for begun in self._begun.values()]

    @property
    def has_room(self) -> bool:
        """Whether there is a worker for another, or may be soon."""
        return len(self._begun) < max(1, self.most, self._workers(GPU if self._on_gpus() else SLOT))

    def begin(self, task: TaskT) -> None:
        """Hand a task to Dask."""
        if not self._begun and self._workers(GPU if self._on_gpus() else SLOT) == 0:
            logger.info("waiting for a worker%s", " that has a GPU" if self.device == "cuda" else "")
        self._submit(task)

    def stop(self, task: TaskT) -> None:
        """End a task; its process is killed within a second or two."""
        future = next(future for future, begun in self._begun.items() if begun.task is task)
        del self._begun[future]
        self.client.cancel([future])

    def ended(self, seconds: float) -> Iterator[tuple[TaskT, Any]]:
        """Wait for at most so long until a task ends; yield those that have, with what came of each or `Failed`."""
        deadline = time.monotonic() + seconds
        done: list[Future[Any]] = []
        while not done and (left := deadline - time.monotonic()) > 0:
            done = completed(self.client, self._begun, min(left, TURN_SECONDS))
        for future in done:
            begun = self._begun.pop(future)
            waited = isinstance(self._error_of(future), KilledWorker) and begun.key not in self._heard
            if waited and begun.losses < LOSSES:  # beside the task that its workers died of
                self._submit(begun.task, begun.losses + 1)
                continue
            yield begun.task, self._answer(future)
            future.release()

    def _workers(self, resource: str = SLOT) -> int:
        """Return how many workers have something of a resource."""
        known = (workers_of(self.client) or {}).values()
        return sum(about["resources"].get(resource, 0) > 0 for about in known)

    def _on_gpus(self) -> bool:
        """Tell whether only workers with a GPU get tasks."""
        return self.device == "cuda" or (self.device == "auto" and self._workers(GPU) > 0)

    def _submit(self, task: TaskT, losses: int = 0) -> None:
        key = f"{task.label}-{uuid.uuid4().hex[:8]}"
        resources = {SLOT: 1, GPU: 1} if self._on_gpus() else {SLOT: 1}
        future = self.client.submit(
            carry_out, task, self._name, key=key, resources=resources, retries=DEATHS, pure=False
        )
        self._begun[future] = _Begun(task, key, losses)

    def _error_of(self, future: Future[Any]) -> BaseException | None:
        return None if future.status in ("finished", "cancelled") else future.exception()

    def _answer(self, future: Future[Any]) -> Any:
        """Return what came of a task that is over."""
        if future.status == "cancelled":
            return Failed(f"the cluster lost it, with its scheduler; {AGAIN}")
        error = self._error_of(future)
        if isinstance(error, KilledWorker):
            n = error.allowed_failures + 1
            return Failed(
                f"{n} workers that were at it died, the last one at {error.last_worker}: out of memory, or at the end "
                f"of their jobs' time (docs/cluster.md); {AGAIN}"
            )
        if isinstance(error, ProcessDied):
            return Failed(f"{error}, the last of {DEATHS + 1} times; {AGAIN}")
        if error is not None:
            return Failed(f"{type(error).__name__}: {error}")
        return future.result()

    def _hear(self, event: tuple[float, dict[str, str]]) -> None:
        """Note that a worker is at a task, and say so where there is something to follow it by."""
        _, said = event
        self._heard.add(said["key"])
        for begun in list(self._begun.values()):
            if begun.key == said["key"] and begun.task.log is not None:
                logger.info("%s begins at %s (what it says: %s)", begun.task.label, said["where"], begun.task.log)
