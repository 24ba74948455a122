"""TensorRT under its two names: ``tensorrt`` (classic) and ``tensorrt_rtx``, one programming interface.

Classic TensorRT builds and runs on the GPU at hand. TensorRT-RTX is a sibling compiler with the same parser that also
builds ahead of time, for a GPU that is not there. A plan of one cannot be loaded by the other.
"""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tomopoint.errors import EngineError
from tomopoint.inference.engines.cuda_libraries import preload_cuda
from tomopoint.inference.engines.gpus import T4_COMPUTE_CAPABILITY, Gpu, find_gpus

CLASSIC, RTX = "tensorrt", "tensorrt_rtx"
TENSORRTS = (CLASSIC, RTX)

SMALLEST_COMPUTE_CAPABILITY = T4_COMPUTE_CAPABILITY
"""TensorRT 10 and later build for nothing older."""

_MODULES = {
    # The bindings wheel alone is enough: the package `tensorrt` only re-exports it, and is published as source only.
    CLASSIC: ("tensorrt", "tensorrt_bindings"),
    RTX: ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}
_LEVELS = {"INTERNAL_ERROR": logging.ERROR, "ERROR": logging.ERROR, "WARNING": logging.INFO, "INFO": logging.DEBUG}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TensorRT:
    """An imported TensorRT.

    Attributes
    ----------
    name
        ``"tensorrt"`` or ``"tensorrt_rtx"``.
    module
        The Python module with ``Builder``, ``OnnxParser``, ``Runtime``.
    version
        E.g. ``"10.16.1.11"``.
    """

    name: str
    module: Any
    version: str

    @property
    def title(self) -> str:
        """Name and version for messages."""
        return f"{'TensorRT-RTX' if self.name == RTX else 'TensorRT'} {self.version}"


def load_tensorrt(name: str = "auto") -> TensorRT:
    """Import TensorRT.

    Parameters
    ----------
    name
        ``"tensorrt"``, ``"tensorrt_rtx"``, or ``"auto"``: the first of the two that imports.

    Raises
    ------
    EngineError
        Unknown name, or none of them imports; says why for each.
    """
    if name not in ("auto", *TENSORRTS):
        raise EngineError(f"unknown TensorRT flavour {name!r}; choose auto, {', '.join(TENSORRTS)}")
    reasons = []
    for candidate in TENSORRTS if name == "auto" else (name,):
        try:
            module = _import_first(_MODULES[candidate])
        except ImportError as error:
            reasons.append(f"{candidate}: {error}")
        else:
            return TensorRT(candidate, module, str(module.__version__))
    raise EngineError(
        f"TensorRT cannot be imported ({'; '.join(reasons)}); on Kaggle attach its wheels (wheels/README.md), "
        "elsewhere `pip install 'tomopoint[tensorrt-rtx]'`, which also checks graphs without a GPU, or classic "
        "TensorRT from NVIDIA's index: `pip install 'tomopoint[tensorrt]' --extra-index-url https://pypi.nvidia.com`"
    )


def _import_first(names: tuple[str, ...]) -> Any:
    """Import the first module that is installed; what is installed but broken is not passed over."""
    for name in names[:-1]:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
    return importlib.import_module(names[-1])


def require_gpu(purpose: str) -> Gpu:
    """Return the GPU that TensorRT will use, the first visible one.

    Parameters
    ----------
    purpose
        What needs it, for the message: ``"building an engine with TensorRT 10.16"``.

    Raises
    ------
    EngineError
        No GPU, or one that TensorRT does not support.
    """
    gpus = find_gpus()
    why = why_no_gpu(gpus)
    if why is not None:
        raise EngineError(f"{purpose} needs an NVIDIA GPU and its driver: {why}; on Kaggle choose GPU T4 x2")
    return gpus[0]


def why_no_gpu(gpus: Sequence[Gpu]) -> str | None:
    """Return why the first of some GPUs cannot be used, or None where it can."""
    if not gpus:
        return "there is no GPU here"
    gpu = gpus[0]
    if _numbers(gpu.compute_capability) >= _numbers(SMALLEST_COMPUTE_CAPABILITY):
        return None
    needed = SMALLEST_COMPUTE_CAPABILITY
    return f"the {gpu.name} has compute capability {gpu.compute_capability}, needed is {needed} or newer"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def logger_of(trt: TensorRT) -> Any:
    """Return the process's logger for a TensorRT: it passes everything on to ``logging`` and keeps errors.

    There is one per process and never another: TensorRT holds on to the first logger it is given for as long as any of
    its objects lives, and says nothing to a second one (NVIDIA/TensorRT issue 1475). Its list ``errors`` therefore
    outlives a build or a load; whoever starts one clears it, so that an old reason is not given for a new failure.
    """
    return _make_logger(trt.module, trt.name)


@functools.cache
def _make_logger(module: Any, name: str) -> Any:
    class Log(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.errors: list[str] = []

        @property
        def last_error(self) -> str:
            return self.errors[-1] if self.errors else "it gives no reason"

        def log(self, severity: Any, message: str) -> None:
            level = _LEVELS.get(severity.name)
            if level is None:  # verbose: a line per tactic
                return
            if level == logging.ERROR:
                self.errors.append(message.strip())
            # An error reaches the user in the exception that follows from it.
            logger.log(min(level, logging.INFO), "%s: %s", name, message.strip())

    return Log()


def register_plugins(trt: TensorRT) -> None:
    """Let the parser and the runtime find TensorRT's own plugins; the one for instance norms looks for cuDNN by name.

    Whether it finds cuDNN this way has never been seen: no machine this was written on had a GPU.
    """
    preload_cuda()
    trt.module.init_libnvinfer_plugins(logger_of(trt), "")
