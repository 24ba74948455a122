"""Where the source checkout lies: only there can wheels be built and notebooks be written."""

from __future__ import annotations

from pathlib import Path

from tomopoint.errors import TomopointError
from tomopoint.kaggle.metadata import KERNELS_CONFIG, KERNELS_FOLDER


def checkout_root() -> Path:
    """Return the folder with ``pyproject.toml`` and ``kernels/`` that this package runs from, or the current one.

    Raises
    ------
    TomopointError
        The package is installed from a wheel and the current folder is no checkout.
    """
    for folder in (Path(__file__).resolve().parents[3], Path.cwd()):
        if (folder / "pyproject.toml").is_file() and (folder / KERNELS_FOLDER / KERNELS_CONFIG).is_file():
            return folder
    raise TomopointError(
        "this needs a checkout of tomopoint, for its source, kernels/ and wheels/; "
        f"{Path.cwd()} is none (no kernels/kernels.toml): change into one first"
    )
