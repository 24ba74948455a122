"""The wheel of this package, for a kit: built from a checkout, or packed again from what a wheel installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from tempfile import TemporaryDirectory

from tomopoint.errors import TomopointError
from tomopoint.extras import require_module

_OF_A_WHEEL = ("METADATA", "WHEEL", "entry_points.txt")
"""Files of ``*.dist-info`` that came with the wheel; installers add others, and RECORD is written when it is packed."""

_FIRST_OF_ZIP = "315532800"
"""1980-01-01, seconds: the earliest time that an archive can hold. The same files give the same wheel."""


def write_package_wheel(home: Path, folder: Path) -> None:
    """Write the package's wheel into `folder`, with the tools of this environment and without a network.

    Parameters
    ----------
    home
        A source checkout, from which the wheel is built; any other folder: the package that runs is packed.
    folder
        Where the wheel goes.

    Raises
    ------
    TomopointError
        A tool is missing, building fails, or the package is neither a checkout nor installed from a wheel.
    """
    if (home / "pyproject.toml").is_file() and (home / "src" / "tomopoint").is_dir():
        words = ["build", "--wheel", "--no-isolation", "--outdir", str(folder), str(home)]
        _run(words, "build the package wheel")
    else:
        _pack_installed(folder)


def _pack_installed(folder: Path) -> None:
    """Put the installed files back into a wheel, of the name and tags it had."""
    package = Path(__file__).parents[1]
    try:
        installed = distribution(package.name)
    except PackageNotFoundError as error:
        raise TomopointError(
            f"{package} is not installed, so there is no wheel of it; pip install tomopoint"
        ) from error
    with TemporaryDirectory() as holder:
        root = Path(holder) / "unpacked"
        for file in installed.files or ():
            top, of_wheel = file.parts[0], file.name in _OF_A_WHEEL or "licenses" in file.parts
            if file.suffix != ".pyc" and (top == package.name or (top.endswith(".dist-info") and of_wheel)):
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file.locate(), root / file)
        if not (root / package.name / "__init__.py").is_file():
            raise TomopointError(
                f"{package} is not installed from a wheel, so it cannot be packed into one; run this in its checkout"
            )
        _run(["wheel", "pack", str(root), "--dest-dir", str(folder)], "pack the package wheel")


def _run(words: list[str], task: str) -> None:
    require_module(words[0])
    environment = {**os.environ, "SOURCE_DATE_EPOCH": os.environ.get("SOURCE_DATE_EPOCH", _FIRST_OF_ZIP)}
    done = subprocess.run([sys.executable, "-m", *words], env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-5:])
        raise TomopointError(f"cannot {task} (it needs the packages build, hatchling and wheel):\n{last}")
