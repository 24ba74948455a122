"""What the allocator does with the maps of a step once they are freed."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Of ``mallopt``, from glibc's malloc.h."""

KEPT_BYTES = 1 << 30
LARGEST_BLOCK = 32 << 20
"""The largest that glibc allows."""


def keep_freed_memory() -> None:
    """Have the C library keep up to a gigabyte of what is freed; nothing on systems without glibc.

    By default it gives large blocks back at once, and the next step gets the same memory anew, page by page and zeroed:
    8000 page faults, a twelfth of a narrow network's step (``benchmarks/step.py``).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # no glibc
        return
    mallopt(_MMAP_THRESHOLD, LARGEST_BLOCK)
    mallopt(_TRIM_THRESHOLD, KEPT_BYTES)
