"""What a task is, who carries tasks out, and how a list of them is carried out with all of a crew."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tomopoint.progress import Progress

TURN_SECONDS = 2.0
"""Between two looks at whether a crew has become larger, while nothing is heard of it."""

logger = logging.getLogger(__name__)


class Task(Protocol):
    """A piece of work whose result is what it leaves in a folder that all processes see.

    It is sent to a process, so it is plain data. It may be begun again, by another process, at any time after the one
    that was at it is gone; it then goes on from what is there.
    """

    @property
    def label(self) -> str:
        """For people: ``fold0/segresnet``."""
        ...

    @property
    def log(self) -> Path | None:
        """File for all that the process says meanwhile; None: where the process that started it writes."""
        ...

    def carry_out(self) -> Any:
        """Do it; what is returned is small, for the files are the result.

        Raises
        ------
        TomopointError
            It cannot be done.
        """
        ...


TaskT = TypeVar("TaskT", bound=Task)


@dataclass(frozen=True)
class Failed:
    """What comes of a task that could not be done.

    Attributes
    ----------
    reason
        In words.
    """

    reason: str


class Crew(Protocol[TaskT]):
    """Processes that carry out tasks, each one at a time."""

    @property
    def at_work(self) -> list[TaskT]:
        """The tasks that were begun and have not ended."""
        ...

    @property
    def has_room(self) -> bool:
        """Whether another may be begun."""
        ...

    def begin(self, task: TaskT) -> None:
        """Hand a task to a process."""
        ...

    def stop(self, task: TaskT) -> None:
        """End a task, at once; nothing more is heard of it."""
        ...

    def ended(self, seconds: float) -> Iterator[tuple[TaskT, Any]]:
        """Wait for at most so long until a task ends; yield those that have, with what came of each or `Failed`."""
        ...


Hire = Callable[[], AbstractContextManager[Crew[TaskT]]]
"""Makes a crew; whatever it still is at when its context ends is stopped."""


def carried_out(tasks: Sequence[TaskT], crew: Crew[TaskT]) -> Iterator[tuple[TaskT, Any]]:
    """Carry out tasks, begun in their order; yield each as it ends, with what came of it or :class:`Failed`."""
    waiting = list(tasks)
    while waiting or crew.at_work:
        while waiting and crew.has_room:
            crew.begin(waiting.pop(0))
        yield from crew.ended(TURN_SECONDS)


def carry_out_all(tasks: Sequence[TaskT], crew: Crew[TaskT], what: str) -> dict[str, str]:
    """Carry out tasks and show how far that has come; one that fails does not end the others.

    Parameters
    ----------
    tasks, crew
        Which, by whom.
    what
        Is being done, e.g. ``"simulate"``.

    Returns
    -------
    dict
        Label -> reason of those that failed.
    """
    failed: dict[str, str] = {}
    with Progress(what, len(tasks)) as progress:
        progress.show(0, f"0 of {len(tasks)}")
        for count, (task, answer) in enumerate(carried_out(tasks, crew), start=1):
            if isinstance(answer, Failed):
                failed[task.label] = answer.reason
                logger.error("%s failed: %s", task.label, answer.reason)
            progress.show(count, f"{count} of {len(tasks)}" + (f", {len(failed)} failed" if failed else ""))
    return failed
