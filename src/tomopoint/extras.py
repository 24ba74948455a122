"""Which extra of the package a module comes with, so that its absence is one sentence and not a traceback."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from tomopoint.errors import TomopointError

MODULES: Mapping[str, tuple[str, ...]] = {
    "cpu": ("onnxruntime",),
    "openvino": ("openvino",),
    "tensorrt-rtx": ("tensorrt_rtx",),
    "tensorrt": ("tensorrt",),
    "pycuda": ("pycuda",),
    "train": (
        *("torch", "monai", "lightning", "numba", "llvmlite", "safetensors", "tensorboard"),
        *("onnx", "onnxscript", "onnx_ir", "matplotlib", "yaml", "gemmi"),
        *("PIL", "schedulefree"),
    ),
    "view": ("napari", "qtpy", "magicgui"),
    "lab": ("starfile", "dynamotable", "imodmodel"),
    "cluster": ("dask", "distributed", "dask_jobqueue", "bokeh"),
    "cloud": ("fsspec", "aiohttp", "s3fs"),
    "search": ("optuna",),
    "kit": ("jupytext", "nbformat", "nbclient", "ipykernel", "build", "hatchling", "wheel", "uv"),
}
"""Extra -> top-level modules that come with it. What every installation has is not listed, nor what no extra brings."""

_BESIDE_A_GPU = ", beside an NVIDIA GPU 'tomopoint[gpu]' instead"


def how_to_install(module: str) -> str | None:
    """Say which extra brings a module, as a command; None for what no extra brings.

    Parameters
    ----------
    module
        Dotted or not, as in :attr:`ModuleNotFoundError.name`.
    """
    top = module.partition(".")[0]
    extra = next((extra for extra, modules in MODULES.items() if top in modules), None)
    if extra is None:
        return None
    return f"needs {top}, which is not installed: pip install 'tomopoint[{extra}]'" + (
        _BESIDE_A_GPU if extra == "cpu" else ""
    )


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """Say how to install what an import did not find; None where no extra helps, or the package is there but broken."""
    top = (error.name or "").partition(".")[0]
    if not top or find_spec(top) is not None:
        return None
    return how_to_install(top)


def require_module(module: str) -> None:
    """TomopointError with the extra where a module that is run as a program is not installed."""
    if find_spec(module) is None:
        raise TomopointError(f"this {how_to_install(module)}")
