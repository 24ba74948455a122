"""What holds in every process that tomopoint starts."""

from __future__ import annotations

import multiprocessing


def leave_no_semaphores() -> None:
    """Let locks that libraries make in this process have no name, so that its killing leaves nothing behind.

    To be called in a spawned process that starts none itself. Its locks (numcodecs makes one for Blosc) have names,
    because spawned processes of its own could be handed them; where it is killed, nobody takes the names back, and its
    parent warns of leaked semaphores when it ends. Forked ones need no names.
    """
    multiprocessing.set_start_method("fork", force=True)
