"""Which NVIDIA GPUs are here, asked of the driver itself: no package, no CUDA context, no crash where there is none.

TensorRT must not be asked instead: its ``Runtime`` ends the process with a segmentation fault where no driver is.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

DRIVER_LIBRARY = "libcuda.so.1"

T4_COMPUTE_CAPABILITY = "7.5"
"""Of the GPUs that the competition's notebooks get: Turing. Kaggle's P100 is 6.0."""

# From cuda.h; these numbers are part of the driver's binary interface and never change.
_ATTRIBUTE_MAJOR, _ATTRIBUTE_MINOR = 75, 76
_NAME_BYTES = 256


@dataclass(frozen=True)
class Gpu:
    """One GPU that this process may use.

    Attributes
    ----------
    index
        Ordinal within ``CUDA_VISIBLE_DEVICES``.
    name
        E.g. ``"Tesla T4"``.
    compute_capability
        E.g. ``"7.5"``.
    memory_bytes
        Total device memory.
    """

    index: int
    name: str
    compute_capability: str
    memory_bytes: int


def find_gpus(load: Callable[[str], Any] = ctypes.CDLL) -> list[Gpu]:
    """Return the GPUs that this process may use; none where there is no driver or it does not answer.

    Parameters
    ----------
    load
        Opens the driver's library; raises OSError where it is missing.
    """
    try:
        driver = load(DRIVER_LIBRARY)
    except OSError:
        return []
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return []
    described = (_describe(driver, index) for index in range(count.value))
    return [gpu for gpu in described if gpu is not None]


def _describe(driver: Any, index: int) -> Gpu | None:
    """Ask for one device; None where the driver answers any question with an error."""
    device, memory = ctypes.c_int(0), ctypes.c_size_t(0)
    major, minor = ctypes.c_int(0), ctypes.c_int(0)
    name = ctypes.create_string_buffer(_NAME_BYTES)
    if driver.cuDeviceGet(ctypes.byref(device), index) != 0:
        return None
    answers = (
        driver.cuDeviceGetName(name, _NAME_BYTES, device),
        driver.cuDeviceGetAttribute(ctypes.byref(major), _ATTRIBUTE_MAJOR, device),
        driver.cuDeviceGetAttribute(ctypes.byref(minor), _ATTRIBUTE_MINOR, device),
        driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device),
    )
    if any(answers):
        return None
    return Gpu(index, name.value.decode(errors="replace"), f"{major.value}.{minor.value}", memory.value)
