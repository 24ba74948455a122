"""The native TensorRT engine: a plan, its execution context, and pycuda around it.

What has never met a GPU (no machine that this was written on had one):

* all of ``PlanExecutable``: it needs ``trt.Runtime``, which needs a driver. Its calls, their order and what becomes of
  errors are tested with a stand-in for the module; names and arguments were read off ``tensorrt_rtx`` 1.7.1.116;
* ``load_plan`` and ``load_recorded_plan`` from where they have found a GPU on;
* all of ``cuda_driver.PycudaDriver``.

Buffers, order and errors (``pipelined.PipelinedEngine``) are tested against a driver of the same interface. The
build_engine notebook compares the whole with PyTorch on the device before ``engine.json`` says that it may be used.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tomopoint.errors import EngineError
from tomopoint.inference.engines.cuda_driver import PycudaDriver
from tomopoint.inference.engines.engine_record import (
    ENGINE_NAME,
    REBUILD,
    RECORD_NAME,
    RUNTIME_CACHE_NAME,
    EngineRecord,
    Expected,
    check_fit,
)
from tomopoint.inference.engines.pipelined import PipelinedEngine, Port
from tomopoint.inference.engines.tensorrt_module import (
    RTX,
    TensorRT,
    load_tensorrt,
    logger_of,
    register_plugins,
    require_gpu,
)

logger = logging.getLogger(__name__)


class PlanExecutable:
    """A deserialised plan with one execution context. Made, used and closed inside one CUDA context.

    Parameters
    ----------
    trt
        The TensorRT that built it; another version refuses it.
    plan
        The serialised engine.
    source
        Names it in errors.
    runtime_cache
        TensorRT-RTX only: what :meth:`runtime_cache` returned once on such a GPU; without it, or where TensorRT-RTX
        finds that it does not fit, the kernels are compiled now, which takes tens of seconds.

    Raises
    ------
    EngineError
        TensorRT refuses the plan, or the device has too little memory for it.
    """

    def __init__(self, trt: TensorRT, plan: bytes, source: str, runtime_cache: bytes | None = None) -> None:
        self._trt, self._source = trt, source
        self._log = logger_of(trt)
        self._log.errors.clear()
        self._runtime: Any = None
        self._engine: Any = None
        self._cache: Any = None
        self._context: Any = None
        try:
            self._runtime = trt.module.Runtime(self._log)
            self._engine = self._runtime.deserialize_cuda_engine(plan)
            if self._engine is None:
                raise EngineError(f"{trt.title} cannot load {source}: {self._log.last_error}; {REBUILD}")
            if trt.name == RTX:
                self._context = self._engine.create_execution_context(self._configured(runtime_cache))
            else:
                self._context = self._engine.create_execution_context()
            if self._context is None:
                raise EngineError(
                    f"{trt.title} has no room to run {source}, or cannot compile it for this GPU: "
                    f"{self._log.last_error}; free the GPU's memory, or take another engine"
                )
            names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
            self.ports: Mapping[str, Port] = {name: self._port(name) for name in names}
        except BaseException:
            self.close()  # now, while the CUDA context is current, not whenever the traceback is let go of
            raise

    def _configured(self, runtime_cache: bytes | None) -> Any:
        """Return the configuration of a context of TensorRT-RTX that keeps the kernels it compiles in a cache.

        Not a variable where an error may be raised: its traceback would hold on to it, outside the CUDA context.
        """
        config = self._engine.create_runtime_config()
        self._cache = config.create_runtime_cache()
        if runtime_cache is not None and not self._cache.deserialize(runtime_cache):
            logger.info("the runtime cache beside %s is of another GPU, driver or TensorRT: not used", self._source)
        config.set_runtime_cache(self._cache)
        return config

    def enqueue(self, addresses: Mapping[str, int], stream: int) -> None:
        """Bind addresses and start; they are read when the call is made, so two sets of buffers can take turns."""
        for name, address in addresses.items():
            self._context.set_tensor_address(name, address)
        if not self._context.execute_async_v3(stream):
            raise EngineError(f"{self._trt.title} could not run {self._source}: {self._log.last_error}")

    def runtime_cache(self) -> bytes | None:
        """Return the kernels that TensorRT-RTX compiled for this GPU, once it has run; None: nothing to keep."""
        serialised = None if self._cache is None else self._cache.serialize()
        return None if serialised is None else bytes(memoryview(serialised)) or None

    def close(self) -> None:
        """Drop the context before its cache and engine, and these before their runtime."""
        self._context = None
        self._cache = None
        self._engine = None
        self._runtime = None

    def _port(self, name: str) -> Port:
        dtype = np.dtype(self._trt.module.nptype(self._engine.get_tensor_dtype(name)))
        return Port(tuple(int(size) for size in self._engine.get_tensor_shape(name)), dtype)


def load_plan(plan_path: Path, trt: TensorRT) -> PipelinedEngine:
    """Load a plan onto the first visible GPU, without asking whether it was ever tested there.

    TensorRT-RTX finds the kernels that it compiled for such a GPU before in ``runtime.cache`` beside the plan.

    Raises
    ------
    EngineError
        No plan, GPU, pycuda or memory, or a plan that this TensorRT or GPU refuses.
    """
    gpu = require_gpu(f"running an engine with {trt.title}")  # before any trt.Runtime, which would crash
    cache_path = plan_path.with_name(RUNTIME_CACHE_NAME)
    try:
        plan = plan_path.read_bytes()
        cache = cache_path.read_bytes() if trt.name == RTX and cache_path.is_file() else None
    except OSError as error:
        raise EngineError(f"cannot read {error.filename} ({error.strerror}); {REBUILD}") from error
    driver = PycudaDriver(gpu.index)
    description = {
        "runtime": trt.name,
        "version": trt.version,
        "device": gpu.name,
        "compute_capability": gpu.compute_capability,
        "engine": plan_path.name,
    }
    executable: PlanExecutable | None = None
    try:
        with driver.current():
            executable = PlanExecutable(trt, plan, str(plan_path), cache)
        return PipelinedEngine(executable, driver, description)
    except BaseException:
        # A device that failed may refuse even this; the failure itself is what must be told.
        with contextlib.suppress(EngineError):
            if executable is not None:
                with driver.current():  # the memory it frees lies in this context
                    executable.close()
            driver.close()
        raise


def load_recorded_plan(record: EngineRecord, folder: Path, onnx_sha256: str, pipeline_digest: str) -> PipelinedEngine:
    """Load the plan that a record names, if it fits the graph, the installed TensorRT and the GPU.

    Parameters
    ----------
    record, folder
        What was built, and where the record's paths begin.
    onnx_sha256, pipeline_digest
        Of the graph at hand.

    Raises
    ------
    EngineError
        The engine is stale, damaged, or of another graph, TensorRT or GPU; one sentence says which and what to do.
    """
    # What can be refused without TensorRT and GPU is refused first: its reason is the better one.
    check_fit(record, folder, Expected(onnx_sha256, pipeline_digest))
    plans = [name for name in record.files if Path(name).name == ENGINE_NAME]
    if len(plans) != 1:
        raise EngineError(
            f"{folder / RECORD_NAME} names {len(plans)} plans ({ENGINE_NAME}) where one was expected; {REBUILD}"
        )
    trt = load_tensorrt(record.runtime)
    gpu = require_gpu(f"running an engine with {trt.title}")
    check_fit(record, folder, Expected(onnx_sha256, pipeline_digest, trt.version, gpu.compute_capability))
    if not record.options.get("native_norms", True):
        register_plugins(trt)
    return load_plan(folder / plans[0], trt)
