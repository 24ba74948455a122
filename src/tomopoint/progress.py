"""Progress for people: a bar on a terminal, one plain line per finished item elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

logger = logging.getLogger(__name__)


def track(items: Iterable[Item], label: str, total: int | None = None, lines: int = 20) -> Iterator[Item]:
    """Yield `items`, showing how far the loop has come.

    Parameters
    ----------
    items
        What to loop over.
    label
        What is being done, e.g. ``"predict TS_5_4"``.
    total
        Number of items; taken from ``len(items)`` where that exists.
    lines
        Where standard error is not a terminal: at most about this many lines are logged over the whole loop.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    if sys.stderr.isatty():
        yield from tqdm(items, desc=label, total=total, dynamic_ncols=True)
        return
    every = max(1, (total or 1) // lines)
    start = time.monotonic()
    for count, item in enumerate(items, start=1):
        yield item
        if count % every == 0 or count == total:
            logger.info("%s: %d/%s, %.0f s", label, count, total or "?", time.monotonic() - start)
