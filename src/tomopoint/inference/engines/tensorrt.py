"""The native TensorRT engine: a plan, its execution context, and pycuda around it.

What has never met a GPU (no machine that this was written on had one):

* all of ``PlanExecutable``: it needs ``trt.Runtime``, which needs a driver;
* ``load_plan`` and ``load_recorded_plan`` from where they have found a GPU on;
* all of ``cuda_driver.PycudaDriver``.

Buffers, order and errors (``pipelined.PipelinedEngine``) are tested against a driver of the same interface. The
build_engine notebook compares the whole with PyTorch on the device before ``engine.json`` says that it may be used.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tomopoint.errors import EngineError
from tomopoint.inference.engines.cuda_driver import PycudaDriver
from tomopoint.inference.engines.flavour import TensorRT, load_tensorrt, make_logger, require_gpu
from tomopoint.inference.engines.pipelined import PipelinedEngine, Port
from tomopoint.inference.engines.record import REBUILD, RECORD_NAME, EngineRecord, Expected, check_fit


class PlanExecutable:
    """A deserialised plan with one execution context.

    Parameters
    ----------
    trt
        The TensorRT that built it; another version refuses it.
    plan
        The serialised engine.
    source
        Names it in errors.

    Raises
    ------
    EngineError
        TensorRT refuses the plan, or the device has too little memory for it.
    """

    def __init__(self, trt: TensorRT, plan: bytes, source: str) -> None:
        self._trt, self._source = trt, source
        self._log = make_logger(trt)  # TensorRT keeps no reference to it
        self._runtime = trt.module.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineError(f"{trt.title} cannot load {source}: {self._last_error()}; {REBUILD}")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EngineError(f"{trt.title} has no room to run {source}: {self._last_error()}; free the GPU's memory")
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        self.ports: Mapping[str, Port] = {name: self._port(name) for name in names}

    def enqueue(self, addresses: Mapping[str, int], stream: int) -> None:
        """Bind addresses and start; they are read when the call is made, so two sets of buffers can take turns."""
        for name, address in addresses.items():
            self._context.set_tensor_address(name, address)
        if not self._context.execute_async_v3(stream):
            raise EngineError(f"{self._trt.title} could not run {self._source}: {self._last_error()}")

    def close(self) -> None:
        """Drop the context before its engine, and this before its runtime."""
        self._context = self._engine = self._runtime = None

    def _port(self, name: str) -> Port:
        dtype = np.dtype(self._trt.module.nptype(self._engine.get_tensor_dtype(name)))
        return Port(tuple(int(size) for size in self._engine.get_tensor_shape(name)), dtype)

    def _last_error(self) -> str:
        return self._log.errors[-1] if self._log.errors else "it gives no reason"


def load_plan(plan_path: Path, trt: TensorRT) -> PipelinedEngine:
    """Load a plan onto the first visible GPU, without asking whether it was ever tested there.

    Raises
    ------
    EngineError
        No plan, GPU, pycuda or memory, or a plan that this TensorRT or GPU refuses.
    """
    gpu = require_gpu(f"running an engine with {trt.title}")  # before any trt.Runtime, which would crash
    try:
        plan = plan_path.read_bytes()
    except OSError as error:
        raise EngineError(f"cannot read {plan_path} ({error.strerror}); {REBUILD}") from error
    driver = PycudaDriver(gpu.index)
    description = {
        "runtime": trt.flavour,
        "version": trt.version,
        "device": gpu.name,
        "compute_capability": gpu.compute_capability,
        "engine": plan_path.name,
    }
    executable: PlanExecutable | None = None
    try:
        with driver.current():
            executable = PlanExecutable(trt, plan, str(plan_path))
        return PipelinedEngine(executable, driver, description)
    except BaseException:
        if executable is not None:
            executable.close()  # before the context that its memory lies in
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
    if len(record.files) != 1:
        raise EngineError(
            f"{folder / RECORD_NAME} names {len(record.files)} files where one plan was expected; {REBUILD}"
        )
    trt = load_tensorrt(record.runtime)
    gpu = require_gpu(f"running an engine with {trt.title}")
    check_fit(record, folder, Expected(onnx_sha256, pipeline_digest, trt.version, gpu.compute_capability))
    (plan_name,) = record.files
    return load_plan(folder / plan_name, trt)
