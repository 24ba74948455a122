"""A plan's executable against a stand-in for TensorRT's module: what is called, in which order, and where.

The names and arguments are those of ``tensorrt_rtx`` 1.7.1.116; a runtime that is made outside a CUDA context or an
object that is let go of outside one would crash on a device, so here it fails the test.
"""

import contextlib
import types

import numpy as np
import pytest
import tensorrt_rtx

from tomopoint.errors import EngineError
from tomopoint.inference.engines import tensorrt, tensorrt_module
from tomopoint.inference.engines.gpus import Gpu
from tomopoint.inference.engines.pipelined import Port
from tomopoint.inference.engines.tensorrt import PlanExecutable, load_plan
from tomopoint.inference.engines.tensorrt_module import CLASSIC, RTX, TensorRT

SHAPES = {"volume": (1, 1, 8, 4, 6), "scores": (1, 5, 4, 2, 3), "offsets": (1, 3, 4, 2, 3)}
T4 = Gpu(0, "Tesla T4", "7.5", 15 << 30)
KERNELS = b"kernels for SM 7.5"


class FakeCuda:
    """A driver that knows whether its context is current, and writes down what happens."""

    def __init__(self, index=0):
        self.depth, self.log, self.free = 0, [], 1 << 20

    stream = 77

    @contextlib.contextmanager
    def current(self):
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1

    def allocate(self, n_bytes):
        assert self.depth == 1
        self.free -= n_bytes
        if self.free < 0:
            raise EngineError("CUDA failed: out of memory")
        return 4096

    def page_locked(self, shape, dtype):
        return np.zeros(shape, dtype)

    def close(self):
        assert self.depth == 0
        self.log.append("driver closed")


class FakeTensorRT(types.ModuleType):
    """As much of the module as running a plan takes; plans are named by what goes wrong with them."""

    def __init__(self, cuda, has_cache=True):
        super().__init__("fake_tensorrt")
        self.cuda, self.has_cache, self.alive, self.given = cuda, has_cache, [], []
        self.ILogger = type("ILogger", (), {"__init__": lambda self: None})
        module = self

        class Object:
            def __init__(self, name):
                assert module.cuda.depth == 1, f"{name} made outside the CUDA context"
                self.name = name
                module.alive.append(name)

            def __del__(self):
                module.alive.remove(self.name)
                module.cuda.log.append(f"{self.name} freed {'inside' if module.cuda.depth else 'OUTSIDE'}")

        class Context(Object):
            addresses = None

            def set_tensor_address(self, name, address):
                self.addresses = {**(self.addresses or {}), name: address}

            def execute_async_v3(self, stream):
                return set(self.addresses) == set(SHAPES) and stream == 77

        class Cache(Object):
            data = b""

            def deserialize(self, blob):
                fits = blob.endswith(b"SM 7.5")
                self.data = blob if fits else b""
                return fits

            def serialize(self):
                return None if not self.data else memoryview(self.data)

        class Config(Object):
            cache = None

            def create_runtime_cache(self):
                return Cache("cache")

            def set_runtime_cache(self, cache):
                self.cache = cache
                return True

        class Engine(Object):
            num_io_tensors = len(SHAPES)

            def __init__(self, plan):
                super().__init__("engine")
                self.plan = plan
                if module.has_cache:
                    self.create_runtime_config = lambda: Config("config")

            def create_execution_context(self, config=None):
                module.given.append(config and config.cache.data)
                if self.plan == b"too large":
                    module.logger.errors.append("out of memory")
                    return None
                if config is not None and not config.cache.data:
                    config.cache.data = KERNELS  # compiled now
                return Context("context")

            def get_tensor_name(self, index):
                return list(SHAPES)[index]

            def get_tensor_dtype(self, name):
                return np.float32

            def get_tensor_shape(self, name):
                return SHAPES[name]

        class Runtime(Object):
            def __init__(self, log):
                super().__init__("runtime")
                module.logger = log

            def deserialize_cuda_engine(self, plan):
                if plan == b"stale":
                    module.logger.errors.append("the serialised engine is of another version")
                    return None
                return Engine(plan)

        self.Runtime, self.nptype = Runtime, lambda dtype: dtype


@pytest.fixture
def cuda():
    return FakeCuda()


def make(cuda, name=RTX):
    return TensorRT(name, FakeTensorRT(cuda, has_cache=name == RTX), "1.7.1.116")


def test_the_stand_in_has_no_call_that_the_module_has_not(cuda):
    trt = make(cuda)
    with cuda.current():
        runtime = trt.module.Runtime(tensorrt_module.logger_of(trt))
        engine = runtime.deserialize_cuda_engine(b"plan")
        config = engine.create_runtime_config()
        pairs = [
            (runtime, tensorrt_rtx.Runtime), (engine, tensorrt_rtx.ICudaEngine), (config, tensorrt_rtx.IRuntimeConfig),
            (config.create_runtime_cache(), tensorrt_rtx.IRuntimeCache),
            (engine.create_execution_context(), tensorrt_rtx.IExecutionContext),
        ]  # fmt: skip
        for stand_in, real in pairs:
            own = {*vars(type(stand_in)), *vars(stand_in)} - {"name", "plan", "data", "cache", "addresses"}
            assert [name for name in own if not name.startswith("__") and not hasattr(real, name)] == []
        del stand_in, pairs, config, engine, runtime


@pytest.mark.parametrize("name", [CLASSIC, RTX])
def test_a_plan_is_loaded_run_and_freed_in_order_inside_the_context(cuda, name):
    trt = make(cuda, name)
    with cuda.current():
        executable = PlanExecutable(trt, b"plan", "ensemble.engine")
        assert executable.ports["scores"] == Port(SHAPES["scores"], np.dtype(np.float32))
        executable.enqueue(dict.fromkeys(SHAPES, 4096), 77)
        with pytest.raises(EngineError, match="could not run"):
            executable.enqueue(dict.fromkeys(SHAPES, 4096), 78)
        executable.close()
    freed = [line.split()[0] for line in cuda.log if line != "config freed inside"]
    assert freed == ["context", *(["cache"] if name == RTX else []), "engine", "runtime"]
    assert not [line for line in cuda.log if "OUTSIDE" in line]


def test_what_was_compiled_is_given_to_the_next_one(cuda):
    trt = make(cuda)
    with cuda.current():
        first = PlanExecutable(trt, b"plan", "ensemble.engine")
        kept = first.runtime_cache()
        first.close()
        PlanExecutable(trt, b"plan", "ensemble.engine", kept).close()
    assert kept == KERNELS
    assert trt.module.given == [b"", KERNELS]


def test_a_cache_of_another_gpu_is_not_used_and_no_error(cuda, caplog):
    trt = make(cuda)
    with cuda.current(), caplog.at_level("INFO", logger=tensorrt.__name__):
        executable = PlanExecutable(trt, b"plan", "ensemble.engine", b"kernels for SM 8.9")
        assert executable.runtime_cache() == KERNELS  # compiled again
        executable.close()
    assert "runtime cache beside ensemble.engine is of another GPU" in caplog.text


def test_classic_tensorrt_compiles_nothing_when_it_loads(cuda):
    with cuda.current():
        executable = PlanExecutable(make(cuda, CLASSIC), b"plan", "ensemble.engine")
        assert executable.runtime_cache() is None
        executable.close()


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (b"stale", "cannot load ensemble.engine: the serialised engine is of another version; run the build_engine"),
        (b"too large", "no room to run ensemble.engine.*: out of memory"),
    ],
)
def test_what_a_failed_load_holds_is_freed_before_the_context_is_left(cuda, plan, message):
    trt = make(cuda)
    tensorrt_module.logger_of(trt).errors.append("a reason of long ago")
    with pytest.raises(EngineError, match=message) as caught, cuda.current():
        PlanExecutable(trt, plan, "ensemble.engine")
    assert caught.value.__traceback__ is not None  # its frames live, and would hold on to what was made
    assert trt.module.alive == []
    assert not [line for line in cuda.log if "OUTSIDE" in line]


@pytest.fixture
def on_a_t4(cuda, monkeypatch):
    monkeypatch.setattr(tensorrt, "require_gpu", lambda _: T4)
    monkeypatch.setattr(tensorrt, "PycudaDriver", lambda index: cuda)


def test_a_plan_is_closed_inside_its_context_where_the_buffers_do_not_fit(cuda, on_a_t4, tmp_path):
    (tmp_path / "ensemble.engine").write_bytes(b"plan")
    cuda.free = 100
    with pytest.raises(EngineError, match="out of memory"):
        load_plan(tmp_path / "ensemble.engine", make(cuda))
    assert cuda.log[-1] == "driver closed"
    assert sorted(line.split()[0] for line in cuda.log[:-1]) == ["cache", "config", "context", "engine", "runtime"]
    assert not [line for line in cuda.log if "OUTSIDE" in line]


def test_the_cache_beside_a_plan_is_found(cuda, on_a_t4, tmp_path):
    (tmp_path / "ensemble.engine").write_bytes(b"plan")
    trt = make(cuda)
    engine = load_plan(tmp_path / "ensemble.engine", trt)
    (tmp_path / "runtime.cache").write_bytes(engine.runtime_cache())
    engine.close()
    load_plan(tmp_path / "ensemble.engine", trt).close()
    assert trt.module.given == [b"", KERNELS]
    classic = make(cuda, CLASSIC)
    load_plan(tmp_path / "ensemble.engine", classic).close()
    assert classic.module.given == [None]  # it has no such thing


def test_a_plan_that_is_not_there_is_named(cuda, on_a_t4, tmp_path):
    with pytest.raises(EngineError, match=r"cannot read .*absent\.engine \(No such file"):
        load_plan(tmp_path / "absent.engine", make(cuda))
