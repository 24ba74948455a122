"""What a Dask worker does for tasks: it has a process of its own that carries them out, one at a time, and watches it.

Dask cannot end a task that is being computed. A process can be killed: when the command is interrupted, when a trial is
given up, when the worker ends. And one that dies, of its memory or of a library, takes no worker with it.
"""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any, cast

from distributed import Worker, WorkerPlugin, get_worker

from tomopoint.cluster.plugins import n_threads, offer
from tomopoint.inference.engines.gpus import find_gpus
from tomopoint.tasks.process import ProcessDied, TaskProcess
from tomopoint.tasks.task import Task

SLOT = "tomopoint-task"
"""Dask's resource that a task takes; a worker has one."""

GPU = "GPU"
"""The same of workers that see a GPU, or were started with ``--resources GPU=1``."""

BEAT_SECONDS = 1.0
"""A worker lets its process know so often that it lives."""

PATIENCE_SECONDS = 60.0
"""A process ends whose worker was silent for so long: it is frozen, and its task is given to another. Less than
``distributed.scheduler.worker-ttl``, after which that happens."""


class TaskPlugin(WorkerPlugin):  # type: ignore[misc]  # distributed is not typed
    """The process of a worker that carries out the tasks of one command.

    Parameters
    ----------
    name
        Of the command, by which its tasks find it.
    folder
        Where the command was typed; relative paths begin there.
    """

    idempotent = False

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self._lock = threading.Lock()
        self._process: TaskProcess | None = None
        self._is_busy = False

    def __getstate__(self) -> dict[str, Any]:
        return {"name": self.name, "folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    async def setup(self, worker: Worker) -> None:
        """Say that the worker takes a task at a time, and whether it has a GPU for it."""
        self._worker = worker
        resources = {SLOT: 1}
        if find_gpus() and GPU not in worker.state.total_resources:
            resources[GPU] = 1
        await offer(worker, resources)

    async def teardown(self, worker: Worker) -> None:
        """End the process."""
        with self._lock:
            if self._process is not None:
                self._process.end()
                if not self._is_busy:
                    self._process.kill()

    def carry_out(self, task: Task) -> Any:
        """Carry out a task, and return what came of it or `Failed`.

        Raises
        ------
        ProcessDied
            The process did; or it was ended, because nobody wants the task any more.
        """
        worker = self._worker
        with self._lock:
            if self._process is not None and not self._process.is_alive:  # it had no task for longer than its patience
                self._process.kill()
                self._process = None
            if self._process is None:
                self._process = TaskProcess(n_threads(worker), PATIENCE_SECONDS, self.folder)
            process, self._is_busy = self._process, True
        key = worker.get_current_task()
        worker.log_event(self.name, {"key": key, "where": f"{worker.address} on {socket.gethostname()}"})
        try:
            process.begin(task)
            while not process.pipe.poll(BEAT_SECONDS):
                process.beat()
                known = worker.state.tasks.get(key)
                if known is None or known.state != "executing":
                    process.end()
            return process.answer()
        except ProcessDied:
            self._process = None
            raise
        finally:
            self._is_busy = False


def carry_out(task: Task, name: str) -> Any:
    """Carry out a task on the worker that this is called on; what Dask is given."""
    return cast(TaskPlugin, get_worker().plugins[name]).carry_out(task)
