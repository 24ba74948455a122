"""Buffers, order and errors of the native engine, against a driver that keeps CUDA's promises and no more.

Where a GPU is, the real driver runs in the build_engine notebook. This one does nothing until it must: copies and
computations happen when an event is waited for, with what the buffers hold *then*. Reusing a buffer too early, or
reading an output before its event, therefore gives wrong numbers here, as it would on a device.
"""

import contextlib
import sys
import types
from collections import deque

import numpy as np
import pytest

from tomopoint.errors import EngineError
from tomopoint.inference.engines.cuda_driver import PycudaDriver
from tomopoint.inference.engines.pipelined import BATCHES_PER_CALL, N_SLOTS, PipelinedEngine, Port

WINDOW_ZYX = (8, 4, 6)
CELLS_ZYX = (4, 2, 3)
N_CLASSES = 5
HALF_TOLERANCE = 1e-3
"""Values below 2 in float16 are rounded by at most 2**-11."""


class LazyDriver:
    """Device memory is a dictionary; the stream is a queue that runs when an event is waited for."""

    def __init__(self, memory_bytes: int = 1 << 30) -> None:
        self.memory: dict[int, np.ndarray] = {}
        self.free_bytes = memory_bytes
        self.queue: deque = deque()
        self.depth = 0
        self.closed = False
        self.log: list[str] = []

    @property
    def stream(self) -> int:
        return 77

    @contextlib.contextmanager
    def current(self):
        assert not self.closed
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1

    def allocate(self, n_bytes: int) -> int:
        assert self.depth == 1
        if n_bytes > self.free_bytes:
            raise EngineError("CUDA failed: out of memory")
        self.free_bytes -= n_bytes
        address = 4096 * (len(self.memory) + 1)
        self.memory[address] = np.zeros(n_bytes, np.uint8)
        return address

    def page_locked(self, shape, dtype) -> np.ndarray:
        return np.full(shape, np.nan, dtype)

    def copy_to_device(self, address: int, host: np.ndarray) -> None:
        assert self.depth == 1
        self.log.append("in")

        def copy() -> None:
            self.memory[address][:] = np.frombuffer(host.tobytes(), np.uint8)

        self.queue.append(copy)

    def copy_to_host(self, host: np.ndarray, address: int) -> None:
        assert self.depth == 1

        def copy() -> None:
            host[...] = self.memory[address].view(host.dtype).reshape(host.shape)

        self.queue.append(copy)

    def record(self) -> int:
        self.log.append("event")
        marker = object()
        self.queue.append(marker)
        return marker

    def wait(self, event) -> None:
        self.log.append("wait")
        while self.queue:
            task = self.queue.popleft()
            if task is event:
                return
            if callable(task):
                task()

    def close(self) -> None:
        assert self.depth == 0
        self.closed = True


class Doubling:
    """Scores are the window's mean and offsets its halves, so that each output tells which window it is of."""

    def __init__(self, driver: LazyDriver, batch: int = 1, output=np.float32, window=np.float32) -> None:
        self.driver, self.batch, self.calls, self.closed = driver, batch, 0, False
        self.fail_at: int | None = None
        self.ports = {
            "volume": Port((batch, 1, *WINDOW_ZYX), np.dtype(window)),
            "scores": Port((batch, N_CLASSES, *CELLS_ZYX), np.dtype(output)),
            "offsets": Port((batch, 3, *CELLS_ZYX), np.dtype(output)),
        }

    def enqueue(self, addresses, stream: int) -> None:
        assert stream == 77
        assert self.driver.depth == 1
        self.calls += 1
        if self.calls == self.fail_at:
            raise EngineError("TensorRT 0.0 could not run ensemble.engine: launch failed")
        ports = self.ports

        def compute() -> None:
            values = self.driver.memory[addresses["volume"]].view(ports["volume"].dtype).reshape(ports["volume"].shape)
            assert np.isfinite(values).all()
            scores, offsets = expected_outputs(values.astype(np.float32))
            for name, result in (("scores", scores), ("offsets", offsets)):
                data = np.ascontiguousarray(result.astype(ports[name].dtype))
                self.driver.memory[addresses[name]][:] = data.view(np.uint8).ravel()

        self.driver.queue.append(compute)

    def runtime_cache(self) -> bytes | None:
        assert self.driver.depth == 1
        return b"kernels" if self.calls else None

    def close(self) -> None:
        assert self.driver.depth == 1
        assert not self.driver.closed
        self.closed = True


def expected_outputs(windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What `Doubling` computes, written down directly."""
    cells = windows[:, :, ::2, ::2, ::2]
    return np.repeat(cells, N_CLASSES, axis=1), np.repeat(cells / 2, 3, axis=1)


def make(batch: int = 1, **options) -> tuple[PipelinedEngine, Doubling, LazyDriver]:
    driver = LazyDriver()
    executable = Doubling(driver, batch, **options)
    return PipelinedEngine(executable, driver, {"runtime": "tensorrt"}), executable, driver


def windows_of(count: int) -> np.ndarray:
    return np.random.default_rng(count).random((count, 1, *WINDOW_ZYX), dtype=np.float32)


@pytest.mark.parametrize(("batch", "count"), [(1, 1), (1, 2), (1, 3), (3, 1), (3, 3), (3, 5), (3, 8)])
def test_every_window_gets_its_own_outputs_in_order(batch, count):
    engine, executable, _ = make(batch)
    windows = windows_of(count)
    for given in (windows, windows[::-1]):  # the second call starts with what the first left in the buffers
        scores, offsets = engine.infer(given)
        truth = expected_outputs(given)
        np.testing.assert_array_equal(scores, truth[0])
        np.testing.assert_array_equal(offsets, truth[1])
        assert scores.dtype == offsets.dtype == np.float32
    assert executable.calls == 2 * -(-count // batch)


def test_results_of_one_call_survive_the_next():
    engine, _, _ = make()
    windows = windows_of(2)
    first, _ = engine.infer(windows[:1])
    kept = first.copy()
    engine.infer(windows[1:])
    np.testing.assert_array_equal(first, kept)


def test_the_host_prepares_the_second_batch_before_it_waits_for_the_first():
    engine, _, driver = make()
    engine.infer(windows_of(3))
    assert driver.log[:5] == ["in", "event", "in", "event", "wait"]
    assert driver.log.count("wait") == 3
    assert len(driver.memory) == 3 * N_SLOTS


def test_float16_ports_are_rounded_on_the_way_and_come_back_as_float32():
    engine, _, _ = make(output=np.float16, window=np.float16)
    windows = windows_of(3)
    scores, offsets = engine.infer(windows)
    truth = expected_outputs(windows)
    assert scores.dtype == offsets.dtype == np.float32
    np.testing.assert_allclose(scores, truth[0], atol=HALF_TOLERANCE)
    assert np.abs(scores - truth[0]).max() > 0
    assert engine.describe()["output_types"] == ["float16", "float16"]


def test_a_failure_is_said_and_ends_the_engine():
    engine, executable, driver = make()
    executable.fail_at = 2
    with pytest.raises(EngineError, match="could not run"):
        engine.infer(windows_of(3))
    with pytest.raises(EngineError, match=r"failed before .*could not run.*load it again"):
        engine.infer(windows_of(1))
    engine.close()
    assert executable.closed
    assert driver.closed
    assert driver.depth == 0


def test_what_no_one_thought_of_ends_the_engine_as_an_engine_error():
    engine, executable, _ = make()

    def enqueue(addresses, stream):
        raise RuntimeError("cuCtxSynchronize failed: unspecified launch failure")

    executable.enqueue = enqueue
    with pytest.raises(EngineError, match="RuntimeError: cuCtxSynchronize failed") as caught:
        engine.infer(windows_of(1))
    assert isinstance(caught.value.__cause__, RuntimeError)
    with pytest.raises(EngineError, match=r"failed before .*launch failure"):
        engine.infer(windows_of(1))


def test_closing_after_a_failure_hides_nothing_behind_a_second_one():
    for fails in (True, False):
        engine, executable, driver = make()
        if fails:
            executable.fail_at = 1
            with pytest.raises(EngineError, match="could not run"):
                engine.infer(windows_of(1))

        def close():
            raise EngineError("CUDA failed: unspecified launch failure")

        driver.close = close
        with contextlib.nullcontext() if fails else pytest.raises(EngineError, match="launch failure"):
            engine.close()
        assert executable.closed


@pytest.mark.parametrize(
    "shape", [(1, 1, 8, 4, 4), (1, 2, *WINDOW_ZYX), WINDOW_ZYX, (0, 1, *WINDOW_ZYX), (4, 1, *WINDOW_ZYX)]
)
def test_other_shapes_are_refused_and_do_no_harm(shape):
    engine, _, _ = make()
    assert engine.batch == BATCHES_PER_CALL == 3
    with pytest.raises(EngineError, match=r"takes 1 to 3 windows of shape \(1, 8, 4, 6\)"):
        engine.infer(np.zeros(shape, np.float32))
    engine.infer(windows_of(1))


def test_closing_twice_is_harmless_and_a_closed_engine_says_so():
    engine, _, _ = make()
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="was closed"):
        engine.infer(windows_of(1))


def test_what_was_compiled_is_asked_for_inside_the_context():
    engine, _, driver = make()
    assert engine.runtime_cache() is None
    engine.infer(windows_of(1))
    assert engine.runtime_cache() == b"kernels"
    assert driver.depth == 0


def test_too_little_memory_is_an_engine_error():
    driver = LazyDriver(memory_bytes=1000)
    with pytest.raises(EngineError, match="out of memory"):
        PipelinedEngine(Doubling(driver), driver, {})


@pytest.mark.parametrize(
    ("name", "port"),
    [
        ("scores", Port((1, 5, 4, 2, 4), np.dtype(np.float32))),
        ("offsets", Port((1, 2, *CELLS_ZYX), np.dtype(np.float32))),
        ("volume", Port((1, 2, *WINDOW_ZYX), np.dtype(np.float32))),
        ("volume", Port((-1, 1, *WINDOW_ZYX), np.dtype(np.float32))),
        ("scores", Port((1, 5, *CELLS_ZYX), np.dtype(np.int32))),
        ("extra", Port((1, 5, *CELLS_ZYX), np.dtype(np.float32))),
    ],
)
def test_a_plan_that_does_not_honour_the_contract_is_refused(name, port):
    driver = LazyDriver()
    executable = Doubling(driver)
    executable.ports[name] = port
    with pytest.raises(EngineError, match="the engine's ports are"):
        PipelinedEngine(executable, driver, {})


def test_without_pycuda_the_driver_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycuda", None)  # as on a machine without it
    with pytest.raises(EngineError, match="needs pycuda"):
        PycudaDriver()


class FakePycuda(types.ModuleType):
    """As much of ``pycuda.driver`` as opening a device takes; `refuse` holds the calls that fail, as all do for good
    once a kernel has crashed."""

    class Error(Exception):
        pass

    def __init__(self) -> None:
        super().__init__("pycuda.driver")
        self.refuse: set[str] = set()
        self.depth = 0
        self.Context = types.SimpleNamespace(pop=lambda: self._call("pop", -1))

    def _call(self, name: str, change: int = 0) -> None:
        if name in self.refuse:
            raise self.Error(f"{name} failed: unspecified launch failure")
        self.depth += change

    def init(self) -> None:
        pass

    def Device(self, index: int):
        context = types.SimpleNamespace(push=lambda: self._call("push", 1), detach=lambda: self._call("detach"))
        return types.SimpleNamespace(retain_primary_context=lambda: context)

    def Stream(self):
        return types.SimpleNamespace(handle=77, synchronize=lambda: self._call("synchronize"))


@pytest.fixture
def pycuda(monkeypatch):
    fake = FakePycuda()
    monkeypatch.setitem(sys.modules, "pycuda", types.ModuleType("pycuda"))
    monkeypatch.setitem(sys.modules, "pycuda.driver", fake)
    return fake


@pytest.mark.parametrize("call", ["push", "synchronize", "pop"])
def test_a_cuda_error_anywhere_is_an_engine_error(pycuda, call):
    driver = PycudaDriver()
    pycuda.refuse = {call}
    with pytest.raises(EngineError, match=f"CUDA failed: {call} failed"), driver.current():
        driver._stream.synchronize()


def test_the_first_error_is_told_where_leaving_the_context_fails_too(pycuda):
    driver = PycudaDriver()
    pycuda.refuse = {"synchronize", "pop"}
    with pytest.raises(EngineError, match="CUDA failed: synchronize"), driver.current():
        driver._stream.synchronize()
    with pytest.raises(EngineError, match="TensorRT could not run"), driver.current():
        raise EngineError("TensorRT could not run ensemble.engine")


def test_the_context_is_left_as_it_was_found(pycuda):
    driver = PycudaDriver()
    with driver.current():
        assert pycuda.depth == 1
    with pytest.raises(ZeroDivisionError), driver.current():
        raise ZeroDivisionError
    assert pycuda.depth == 0
    pycuda.refuse = {"detach"}
    with pytest.raises(EngineError, match="detach"):
        driver.close()
    assert pycuda.depth == 0
