"""Progress for people: a bar on a terminal, a plain line now and then elsewhere, and how long the rest will take."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import ExitStack
from types import TracebackType
from typing import Any, TypeVar

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

Item = TypeVar("Item")

SHORTEST_PAUSE_SECONDS = 30.0
"""At least so long there is no other line in a log, but for the last one."""

FIRST_SECONDS = 1.0
"""Nor is there one before so long: what takes a moment gets its last line only."""

PAUSE_SHARE = 0.02
"""And so long as a share of the time so far: twelve hours come to some 200 lines, not to 1,400."""

LAYOUT = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}{postfix}"

logger = logging.getLogger(__name__)


class Progress:
    """How far one long piece of work has come; a context, whose end ends the bar.

    On a terminal what is logged meanwhile goes above the bar.

    Parameters
    ----------
    label
        What is being done, e.g. ``"simulate"``.
    total
        Of what :meth:`show` is told; None: unknown, so nothing is said of the time left.
    """

    def __init__(self, label: str, total: float | None) -> None:
        self.label, self.total = label, total
        self._started: float | None = None
        self._first_done = 0.0
        self._said = float("-inf")
        self._bar: Any = None
        self._open = ExitStack()

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            self._open.enter_context(logging_redirect_tqdm())
            layout = LAYOUT if self.total else "{desc}: {elapsed}{postfix}"
            self._bar = self._open.enter_context(
                tqdm(total=self.total, desc=self.label, bar_format=layout, dynamic_ncols=True)
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open.close()

    def show(self, done: float, detail: str) -> None:
        """Show that so much of the total is done, in the words of `detail`.

        The time left is told from the time since the first call, at which nothing need be done yet. Cheap enough to be
        called at every step: most calls write nothing.
        """
        now = time.monotonic()
        if self._started is None:
            self._started, self._first_done = now, done
        if self._bar is not None:
            left = self._left(done, now)
            self._bar.set_postfix_str(detail + (f", {left}" if left else ""), refresh=False)
            self._bar.update(done - self._bar.n)
            return
        elapsed = now - self._started
        pause = max(SHORTEST_PAUSE_SECONDS, PAUSE_SHARE * elapsed)
        is_due = elapsed >= FIRST_SECONDS and now - self._said >= pause
        if done > self._first_done and (is_due or done == self.total):
            self._said = now
            left = self._left(done, now)
            logger.info("%s: %s, %s%s", self.label, detail, spoken(elapsed), f", {left}" if left else "")

    def _left(self, done: float, now: float) -> str:
        """Say how long the rest will take; nothing where that is not known, or nothing is left."""
        since = done - self._first_done
        if self.total is None or self._started is None or since <= 0 or done >= self.total:
            return ""
        return f"about {spoken((now - self._started) * (self.total - done) / since)} left"


def track(items: Iterable[Item], label: str, total: int | None = None) -> Iterator[Item]:
    """Yield `items`, showing how far the loop has come.

    Parameters
    ----------
    items
        What to loop over.
    label
        What is being done, e.g. ``"simulate"``.
    total
        Number of items; taken from ``len(items)`` where that exists.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Progress(label, total) as progress:
        progress.show(0, f"0 of {total or '?'}")
        for count, item in enumerate(items, start=1):
            yield item
            progress.show(count, f"{count} of {total or '?'}")


def spoken(seconds: float) -> str:
    """Return a length of time as one says it: ``40 s``, ``25 min``, ``3.2 h``, ``31 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 10 else f"{hours:.0f} h"
