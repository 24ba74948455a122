"""Crew: processes of this machine that each carry out one training at a time."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any, Generic

from tomopoint.errors import TomopointError
from tomopoint.inference.engines.gpus import find_gpus
from tomopoint.inference.worker_process import visible_gpu
from tomopoint.tasks.process import ProcessDied, TaskProcess
from tomopoint.tasks.task import Failed, TaskT

logger = logging.getLogger(__name__)


class LocalCrew(Generic[TaskT]):
    """Some processes, each with its share of the cores and, where there are several, a GPU of its own.

    A :class:`~tomopoint.tasks.task.Crew`, and a context manager: whatever still runs when it is left is killed.

    Parameters
    ----------
    size
        Tasks side by side.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise TomopointError(f"--side-by-side must be at least 1, got {size}")
        self._gpus = [gpu.index for gpu in find_gpus()]
        self._threads = max(1, len(os.sched_getaffinity(0)) // size) if size > 1 else None
        self._processes: list[TaskProcess | None] = [None] * size
        self._tasks: list[TaskT | None] = [None] * size

    def __enter__(self) -> LocalCrew[TaskT]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            if process is not None:
                process.kill()

    @property
    def at_work(self) -> list[TaskT]:
        """The tasks that were begun and have not ended."""
        return [task for task in self._tasks if task is not None]

    @property
    def has_room(self) -> bool:
        """Whether a process is free."""
        return None in self._tasks

    def begin(self, task: TaskT) -> None:
        """Hand a task to a free process, started where there is none."""
        place = self._tasks.index(None)
        process = self._processes[place]
        if process is None:
            with visible_gpu(self._gpus if len(self._processes) > 1 else [], place):
                process = self._processes[place] = TaskProcess(self._threads)
        self._tasks[place] = task
        logger.info("%s begins%s", task.label, "" if task.log is None else f" (what it says: {task.log})")
        process.begin(task)

    def stop(self, task: TaskT) -> None:
        """End a task, at once."""
        place = self._tasks.index(task)
        process = self._processes[place]
        assert process is not None
        process.kill()
        self._processes[place] = self._tasks[place] = None

    def ended(self, seconds: float) -> Iterator[tuple[TaskT, Any]]:
        """Wait for at most so long until a task ends; yield those that have, with what came of each or `Failed`."""
        busy = [
            (place, task, process)
            for place, (task, process) in enumerate(zip(self._tasks, self._processes, strict=True))
            if task is not None and process is not None
        ]
        readable = wait([process.pipe for _, _, process in busy], timeout=seconds)
        for place, task, process in busy:
            if process.pipe not in readable:
                continue
            self._tasks[place] = None
            try:
                answer = process.answer()
            except ProcessDied as death:
                self._processes[place] = None
                answer = Failed(str(death))
            yield task, answer
