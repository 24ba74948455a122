"""CUDA's libraries from wherever Python finds NVIDIA's packages, loaded before ONNX Runtime looks for them by name."""

from __future__ import annotations

import ctypes
import importlib
import itertools
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

NEEDED = ("cudart", "nvJitLink", "nvrtc", "cublasLt", "cublas", "curand", "cufft", "cudnn")
"""What ONNX Runtime's CUDA and TensorRT providers are linked against (``objdump -p`` of 1.26.0's), and what those load
in turn; in the order of their dependencies."""

logger = logging.getLogger(__name__)


def load_globally(path: str) -> Any:
    """Load a library for all that is loaded later; OSError where it or what it needs is missing."""
    return ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)


def preload_cuda(load: Callable[[str], Any] = load_globally) -> list[Path]:
    """Load CUDA's libraries from the packages ``nvidia-*``; return those that were loaded.

    ``onnxruntime.preload_dlls`` looks for these packages beside its own folder only. The notebooks install ONNX Runtime
    with ``pip --target``, away from the image's packages, and its argument ``directory`` takes one folder for all
    libraries, where each of NVIDIA's packages has its own. A library that is loaded already serves all who ask for it
    by name, whoever loaded it.

    Parameters
    ----------
    load
        Loads one library; an OSError is logged and passed over, for the session says what it lacks.
    """
    loaded = []
    for path in _find(_package_folders()):
        try:
            load(str(path))
        except OSError as error:
            logger.info("%s was not loaded: %s", path, error)
        else:
            loaded.append(path)
    return loaded


def _package_folders() -> list[Path]:
    """Return the folders of the namespace package ``nvidia``, in the order of ``sys.path``."""
    try:
        return [Path(folder) for folder in importlib.import_module("nvidia").__path__]
    except ImportError:
        logger.info("no nvidia-* packages here: CUDA's libraries are the system's, if it has any")
        return []


def _find(folders: Iterable[Path]) -> list[Path]:
    """Return the libraries needed: of each file name the first, as Python would import it."""
    found: dict[str, Path] = {}
    for name, folder in itertools.product(NEEDED, folders):
        for path in sorted(folder.glob(f"*/lib/lib{name}.so.*")):
            found.setdefault(path.name, path)
    return list(found.values())
