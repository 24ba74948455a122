"""What Dask's worker processes of this machine load when they start."""

from __future__ import annotations

import signal
from typing import Any


def dask_setup(worker: Any) -> None:
    """Leave Ctrl-C, which a terminal sends to all processes of a command, to the one that was typed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
