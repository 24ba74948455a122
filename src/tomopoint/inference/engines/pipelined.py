"""Windows through a compiled network: two sets of buffers, so that the host prepares one while the device works.

One stream is enough. A window of 192x128x128 takes about a millisecond to copy and a hundred or more to compute, so
a second stream for copies would hide less than one percent; what costs is a host that waits, and it does not.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tomopoint.errors import EngineError
from tomopoint.inference.engines.cuda_driver import PycudaDriver
from tomopoint.inference.engines.engine import INPUT, OFFSETS, SCORES, Array

if TYPE_CHECKING:
    from tomopoint.inference.engines.tensorrt import PlanExecutable

N_SLOTS = 2
BATCHES_PER_CALL = 3
"""Batches of the network that one call takes at most.

The device idles between calls, while the host copies the last outputs out and the next windows in: an estimated 5 to
10 ms where a batch takes a hundred or more, of which a call of three pays a third per batch, 2 to 3 percent, and one of
eight 1 percent. The outputs of four calls are in memory at a time, one being computed and three merged or waiting for
it: with windows of 192x256x256 each batch more takes 220 MB. And progress is told once per call.
"""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Port:
    """Shape and type of an input or output; the first axis is the batch."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def n_bytes(self) -> int:
        """Size of one batch."""
        return int(np.prod(self.shape)) * self.dtype.itemsize


@dataclass
class _Slot:
    """Buffers of one batch on both sides, and what is under way in them."""

    host: dict[str, npt.NDArray[Any]]
    device: dict[str, int]
    event: Any = None
    first: int = 0
    count: int = 0


class PipelinedEngine:
    """An Engine on a compiled network and a device; owns both.

    Parameters
    ----------
    executable
        The compiled network.
    driver
        The device that it runs on: memory, copies, events.
    description
        For :meth:`describe`.

    Raises
    ------
    EngineError
        The executable does not have the ports of the contract, or the device has too little memory.
    """

    def __init__(self, executable: PlanExecutable, driver: PycudaDriver, description: Mapping[str, Any]) -> None:
        self._executable, self._driver = executable, driver
        self._description = dict(description)
        self._broken: str | None = None
        self._closed = False
        self._ports = _check_ports(executable.ports)
        self._windows_per_batch, _, depth, height, width = self._ports[INPUT].shape
        self.window_zyx = (depth, height, width)
        self.batch = BATCHES_PER_CALL * self._windows_per_batch
        with driver.current():
            self._slots = [self._new_slot() for _ in range(N_SLOTS)]

    def infer(self, windows: Array) -> tuple[Array, Array]:
        """Run the network, see :class:`~tomopoint.inference.engines.engine.Engine`.

        Raises
        ------
        EngineError
            Illegal windows, or anything failed on the way through the device; the engine cannot be used any more
            then, because what is under way in its buffers is unknown.
        """
        self._check_usable(windows)
        n_windows = len(windows)
        results = {name: np.empty((n_windows, *self._ports[name].shape[1:]), np.float32) for name in (SCORES, OFFSETS)}
        try:
            with self._driver.current():
                for number, first in enumerate(range(0, n_windows, self._windows_per_batch)):
                    slot = self._slots[number % N_SLOTS]
                    self._collect(slot, results)
                    self._submit(slot, windows[first : first + self._windows_per_batch], first)
                for slot in self._slots:
                    self._collect(slot, results)
        except EngineError as error:
            self._broken = str(error)
            raise
        except Exception as error:  # whatever a driver throws: it is EngineError that makes a worker start afresh
            self._broken = f"{type(error).__name__}: {error}"
            raise EngineError(f"the TensorRT engine failed ({self._broken}); load it again") from error
        return results[SCORES], results[OFFSETS]

    def describe(self) -> dict[str, Any]:
        """Return what runs where, as plain JSON values."""
        return {
            **self._description,
            "windows_per_batch": self._windows_per_batch,
            "output_types": [str(self._ports[name].dtype) for name in (SCORES, OFFSETS)],
        }

    def runtime_cache(self) -> bytes | None:
        """Return what the executable compiled for this GPU, to be kept beside its plan; None: nothing.

        To be asked for once windows went through: some kernels are compiled only when they are needed.
        """
        with self._driver.current():
            return self._executable.runtime_cache()

    def close(self) -> None:
        """Free the executable before the driver: its memory lies in the driver's context.

        After a failure the device may refuse even this. That is logged, not raised: the failure was, and the end of
        the process frees the rest.
        """
        if self._closed:
            return
        self._closed = True
        try:
            with self._driver.current():
                self._slots.clear()
                self._executable.close()
            self._driver.close()
        except EngineError as error:
            if self._broken is None:
                raise
            logger.info("what a failed engine held could not be freed: %s", error)

    def _new_slot(self) -> _Slot:
        host = {name: self._driver.page_locked(port.shape, port.dtype) for name, port in self._ports.items()}
        host[INPUT][...] = 0  # a last, smaller batch leaves what was here before it: never NaN
        device = {name: self._driver.allocate(port.n_bytes) for name, port in self._ports.items()}
        return _Slot(host, device)

    def _submit(self, slot: _Slot, windows: Array, first: int) -> None:
        """Stage windows and ask for everything up to the outputs' copies; returns before any of it is done."""
        slot.host[INPUT][: len(windows)] = windows  # float32, or rounded here where the graph's input is float16
        self._driver.copy_to_device(slot.device[INPUT], slot.host[INPUT])
        self._executable.enqueue(slot.device, self._driver.stream)
        for name in (SCORES, OFFSETS):
            self._driver.copy_to_host(slot.host[name], slot.device[name])
        slot.event, slot.first, slot.count = self._driver.record(), first, len(windows)

    def _collect(self, slot: _Slot, results: Mapping[str, Array]) -> None:
        """Wait for a slot, if anything is under way in it, and copy its outputs out."""
        if slot.event is None:
            return
        self._driver.wait(slot.event)
        slot.event = None
        for name, result in results.items():
            result[slot.first : slot.first + slot.count] = slot.host[name][: slot.count]

    def _check_usable(self, windows: Array) -> None:
        if self._closed or self._broken is not None:
            reason = "was closed" if self._closed else f"failed before ({self._broken})"
            raise EngineError(f"this TensorRT engine {reason}; load it again")
        expected = (1, *self.window_zyx)
        if windows.ndim != 5 or windows.shape[1:] != expected or not 0 < len(windows) <= self.batch:
            raise EngineError(
                f"this engine takes 1 to {self.batch} windows of shape {expected}, got shape {windows.shape}"
            )


def _check_ports(ports: Mapping[str, Port]) -> dict[str, Port]:
    """Refuse a network that does not honour the contract."""
    shapes = {name: port.shape for name, port in ports.items()}
    legal = (
        set(shapes) == {INPUT, SCORES, OFFSETS}
        and all(len(shape) == 5 and min(shape) > 0 for shape in shapes.values())
        and len({shape[0] for shape in shapes.values()}) == 1
        and shapes[INPUT][1] == 1
        and shapes[OFFSETS][1] == 3
        and shapes[SCORES][2:] == shapes[OFFSETS][2:]
        and all(port.dtype in (np.float32, np.float16) for port in ports.values())
    )
    if not legal:
        listed = ", ".join(f"{name} {port.shape} {port.dtype}" for name, port in ports.items())
        raise EngineError(
            f"the engine's ports are {listed}; wanted are volume (B, 1, D, H, W), scores (B, C, d, h, w) and offsets "
            "(B, 3, d, h, w), static, float32 or float16: build it from a graph of `tomopoint export`"
        )
    return dict(ports)
