"""What holds in every process that tomopoint starts."""

from __future__ import annotations

import ctypes
import multiprocessing

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Of ``mallopt``, from glibc's malloc.h."""


def leave_no_semaphores() -> None:
    """Let locks that libraries make in this process have no name, so that its killing leaves nothing behind.

    To be called in a spawned process that starts none itself. Its locks (numcodecs makes one for Blosc) have names,
    because spawned processes of its own could be handed them; where it is killed, nobody takes the names back, and its
    parent warns of leaked semaphores when it ends. Forked ones need no names.
    """
    multiprocessing.set_start_method("fork", force=True)


def keep_freed_memory() -> None:
    """Have the C library keep what this process frees, for what it needs next; nothing on systems without glibc.

    By default it gives large blocks back at once, and the next tensor of a network gets the same memory anew, page by
    page and zeroed, which is half of the processor time of a narrow network in PyTorch (``benchmarks/step.py``). What
    is kept is what was needed at one time, so the peak is hardly higher.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # no glibc
        return
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, -1)  # never
