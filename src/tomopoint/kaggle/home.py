"""Where ``kernels/`` and ``wheels/`` lie: in a checkout, in a folder of the user's, or as they are in the package.

A package that was installed from its wheel holds both (:data:`PACKAGED`). ``tomopoint kernels`` writes a copy, in which
the owner's name is put and wheels are fetched; to stage and to rehearse, the package's own serve as they are.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tomopoint.errors import TomopointError
from tomopoint.kaggle.metadata import KERNELS_CONFIG, KERNELS_FOLDER

PACKAGED = Path(__file__).parent / "packaged"
"""Copies of ``kernels/`` and ``wheels/`` in an installed package, listed in pyproject.toml; a checkout has none."""


def kaggle_home(or_packaged: bool = False) -> Path:
    """Return the folder with ``kernels/`` and ``wheels/``: the checkout this package runs from, or the current one.

    Parameters
    ----------
    or_packaged
        Take the package's own where there is no other; for what only reads them.

    Raises
    ------
    TomopointError
        The package is installed from a wheel and the current folder has no ``kernels/kernels.toml``.
    """
    for folder in (Path(__file__).resolve().parents[3], Path.cwd(), *([PACKAGED] if or_packaged else [])):
        if (folder / KERNELS_FOLDER / KERNELS_CONFIG).is_file():
            return folder
    raise TomopointError(
        f"{Path.cwd()} has no kernels/kernels.toml: change into the folder with yours, "
        "or run `tomopoint kernels`, which writes kernels/ and wheels/ into this one"
    )


def start_home(folder: Path) -> list[Path]:
    """Write the package's ``kernels/`` and ``wheels/`` into `folder`; return the files. What is there already stays.

    Raises
    ------
    TomopointError
        One of the two folders is there; it would become a mixture.
    """
    for packaged in sorted(PACKAGED.iterdir()):
        if (folder / packaged.name).exists():
            raise TomopointError(
                f"{folder / packaged.name} is there, but no kernels/kernels.toml; run this in another folder"
            )
    return [
        Path(shutil.copyfile(path, _made(folder / path.relative_to(PACKAGED))))
        for path in sorted(PACKAGED.rglob("*"))
        if path.is_file()
    ]


def _made(path: Path) -> Path:
    """Return `path` once its folder is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
