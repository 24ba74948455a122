"""TensorRT's own progress reports, shown as every other loop of the project is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from tomopoint.inference.engines.tensorrt_module import TensorRT
from tomopoint.progress import track


class Phases:
    """Phases that are under way, each a loop that somebody else drives.

    TensorRT reports nested phases, from several threads. Only the outermost ones are shown: the inner ones are
    thousands.
    """

    def __init__(self) -> None:
        self._loops: dict[str, Iterator[int]] = {}
        self._done: dict[str, int] = {}
        self._lock = threading.Lock()

    def start(self, name: str, parent: str | None, n_steps: int) -> None:
        """A phase of `n_steps` steps begins."""
        if parent is None and n_steps > 0:
            with self._lock:
                self._loops[name] = track(range(n_steps), f"TensorRT, {name}", total=n_steps)
                self._done[name] = -1
                self._advance(name, 0)

    def step(self, name: str, step: int) -> None:
        """Step number `step` (from 0) of a phase is done."""
        with self._lock:
            self._advance(name, step + 1)

    def finish(self, name: str) -> None:
        """A phase is over, perhaps before its last step."""
        with self._lock:
            for _ in self._loops.pop(name, iter(())):
                pass
            self._done.pop(name, None)

    def _advance(self, name: str, n_done: int) -> None:
        # A loop yields item k when items before k are done; items may be skipped but never come twice.
        while name in self._loops and self._done[name] < n_done:
            self._done[name] += 1
            if next(self._loops[name], None) is None:
                del self._loops[name]


def make_monitor(trt: TensorRT) -> Any | None:
    """Return an ``IProgressMonitor`` for the builder's configuration; None where this TensorRT has none (before 10)."""
    base = getattr(trt.module, "IProgressMonitor", None)
    if base is None:
        return None

    class Monitor(base):  # type: ignore[misc,valid-type]
        def __init__(self) -> None:
            base.__init__(self)  # type: ignore[misc]
            self.phases = Phases()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self.phases.step(phase_name, step)
            return True  # go on

        def phase_finish(self, phase_name: str) -> None:
            self.phases.finish(phase_name)

    return Monitor()
