"""TensorRT under its two names: ``tensorrt`` (classic) and ``tensorrt_rtx``, one programming interface.

Classic TensorRT builds and runs on the GPU at hand. TensorRT-RTX is a sibling compiler with the same parser that also
builds ahead of time, for a GPU that is not there. A plan of one cannot be loaded by the other.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tomopoint.errors import EngineError
from tomopoint.inference.engines.gpus import Gpu, find_gpus

CLASSIC, RTX = "tensorrt", "tensorrt_rtx"
FLAVOURS = (CLASSIC, RTX)

SMALLEST_COMPUTE_CAPABILITY = "7.5"
"""Turing, the T4's. TensorRT 10 and later build for nothing older; Kaggle's P100 is 6.0."""

_MODULES = {
    # The bindings wheel alone is enough: the package `tensorrt` only re-exports it, and is published as source only.
    CLASSIC: ("tensorrt", "tensorrt_bindings"),
    RTX: ("tensorrt_rtx",),
}
_LEVELS = {"INTERNAL_ERROR": logging.ERROR, "ERROR": logging.ERROR, "WARNING": logging.INFO, "INFO": logging.DEBUG}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TensorRT:
    """An imported TensorRT.

    Attributes
    ----------
    flavour
        ``"tensorrt"`` or ``"tensorrt_rtx"``.
    module
        The Python module with ``Builder``, ``OnnxParser``, ``Runtime``.
    version
        E.g. ``"10.16.1.11"``.
    """

    flavour: str
    module: Any
    version: str

    @property
    def title(self) -> str:
        """Name and version for messages."""
        return f"{'TensorRT-RTX' if self.flavour == RTX else 'TensorRT'} {self.version}"


def load_tensorrt(flavour: str = "auto") -> TensorRT:
    """Import TensorRT.

    Parameters
    ----------
    flavour
        ``"tensorrt"``, ``"tensorrt_rtx"``, or ``"auto"``: the first of the two that imports.

    Raises
    ------
    EngineError
        Unknown flavour, or none of them imports; says why for each.
    """
    if flavour not in ("auto", *FLAVOURS):
        raise EngineError(f"unknown TensorRT flavour {flavour!r}; choose auto, {', '.join(FLAVOURS)}")
    reasons = []
    for candidate in FLAVOURS if flavour == "auto" else (flavour,):
        try:
            module = _import_first(_MODULES[candidate])
        except ImportError as error:
            reasons.append(f"{candidate}: {error}")
        else:
            return TensorRT(candidate, module, str(module.__version__))
    raise EngineError(
        f"TensorRT cannot be imported ({'; '.join(reasons)}); on Kaggle attach its wheels (wheels/README.md), "
        "elsewhere `pip install tensorrt_rtx_cu12` is enough to check graphs"
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


def make_logger(trt: TensorRT) -> Any:
    """Return a TensorRT logger that passes everything on to ``logging`` and keeps errors in its list ``errors``.

    Whoever makes a builder, parser or runtime with it must keep it alive as long as these.
    """
    module = trt.module

    class Log(module.ILogger):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            level = _LEVELS.get(severity.name)
            if level is None:  # verbose: a line per tactic
                return
            if level == logging.ERROR:
                self.errors.append(message.strip())
            # An error reaches the user in the exception that follows from it.
            logger.log(min(level, logging.INFO), "%s: %s", trt.flavour, message.strip())

    return Log()
