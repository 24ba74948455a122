"""The few calls the native TensorRT engine makes to CUDA, with pycuda.

This has never met a GPU: every line of it was written from pycuda's documentation and has run neither on a T4 nor
elsewhere. It is kept free of decisions for that reason; what decides (buffers, order, errors) is in ``pipelined.py``
and is tested against a driver that keeps the same promises.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tomopoint.errors import EngineError


class PycudaDriver:
    """One device and one stream on it, in the device's primary context, which PyTorch and ONNX Runtime share.

    Copies return at once; the stream does them in the order they were asked for. Every call but :meth:`close` must
    happen inside :meth:`current`.

    Parameters
    ----------
    index
        Ordinal within ``CUDA_VISIBLE_DEVICES``.

    Raises
    ------
    EngineError
        pycuda is not installed, or the device cannot be opened.
    """

    def __init__(self, index: int = 0) -> None:
        try:
            self._cuda: Any = importlib.import_module("pycuda.driver")
        except ImportError as error:
            raise EngineError(
                f"the native TensorRT engine needs pycuda ({error}); Kaggle's GPU image has it, elsewhere "
                "`pip install 'tomopoint[pycuda]'` builds it, with the CUDA toolkit and a C++ compiler"
            ) from error
        try:
            self._cuda.init()
            self._context = self._cuda.Device(index).retain_primary_context()
        except self._cuda.Error as error:
            raise EngineError(f"GPU {index} cannot be opened ({error}); is another process holding it?") from error
        self._allocations: dict[int, Any] = {}
        with self.current():
            self._stream = self._cuda.Stream()

    @property
    def stream(self) -> int:
        """Handle of the stream, a ``CUstream``."""
        return int(self._stream.handle)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Make the device the calling thread's; CUDA's errors on the way in, inside and out become EngineError."""
        with self._told():
            self._context.push()
            try:
                yield
            except BaseException:
                # An error that stays with the context makes this call fail, too; the first is the one to tell.
                with contextlib.suppress(self._cuda.Error):
                    self._cuda.Context.pop()
                raise
            self._cuda.Context.pop()

    def allocate(self, n_bytes: int) -> int:
        """Return the address of new device memory."""
        allocation = self._cuda.mem_alloc(n_bytes)
        self._allocations[int(allocation)] = allocation
        return int(allocation)

    def page_locked(self, shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return a new array in page-locked host memory, which copies need to be asynchronous."""
        array: npt.NDArray[Any] = self._cuda.pagelocked_empty(tuple(shape), np.dtype(dtype))
        return array

    def copy_to_device(self, address: int, host: npt.NDArray[Any]) -> None:
        """Ask for a copy of a page-locked array; it must not change until an event recorded later has happened."""
        self._cuda.memcpy_htod_async(address, host, self._stream)

    def copy_to_host(self, host: npt.NDArray[Any], address: int) -> None:
        """Ask for a copy into a page-locked array; it must not be read before an event recorded later has happened."""
        self._cuda.memcpy_dtoh_async(host, address, self._stream)

    def record(self) -> Any:
        """Return an event that happens when all that was asked for so far is done."""
        # Waited for without spinning: Kaggle's two cores have other work.
        flags = self._cuda.event_flags
        return self._cuda.Event(flags.BLOCKING_SYNC | flags.DISABLE_TIMING).record(self._stream)

    def wait(self, event: Any) -> None:
        """Return when `event` has happened."""
        event.synchronize()

    def close(self) -> None:
        """Finish the stream, free all device memory and release the context."""
        with self.current():
            self._stream.synchronize()
            for allocation in self._allocations.values():
                allocation.free()
            self._allocations.clear()
            del self._stream
        with self._told():
            self._context.detach()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Turn pycuda's errors into EngineError."""
        try:
            yield
        except self._cuda.Error as error:
            raise EngineError(f"CUDA failed: {error}") from error
