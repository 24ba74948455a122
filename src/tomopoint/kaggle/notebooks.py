"""Notebooks from their ``.py``: people edit ``kernels/<name>/<name>.py``, everything else there is generated.

``tomopoint kernels`` (``make kernels``) writes ``<name>.ipynb`` and ``kernel-metadata.json``; ``python -m
tomopoint.kaggle.notebooks docs/lab.py`` writes any other notebook. The same text always gives the same bytes: no
outputs, no time, and cell ids made from position and content.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tomopoint.files import write_atomically
from tomopoint.kaggle.metadata import KERNEL_METADATA, as_json, kernel_metadata, load_config

_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
_ID_LENGTH = 12


def notebook_text(source: str) -> str:
    """Return the ``.ipynb`` text of a script in jupytext's percent format."""
    import jupytext
    import nbformat

    notebook = jupytext.reads(source, fmt="py:percent")
    for position, cell in enumerate(notebook.cells):
        # An id that depends on nothing but the cell: random ones would make every regeneration a diff.
        content = f"{position}\n{cell.cell_type}\n{cell.source}".encode()
        cell["id"] = hashlib.sha256(content).hexdigest()[:_ID_LENGTH]
        cell["metadata"] = {}
    notebook["metadata"] = {"kernelspec": _KERNEL, "language_info": {"name": "python"}}
    # 4.5 is the first format with cell ids.
    notebook["nbformat"], notebook["nbformat_minor"] = 4, 5
    nbformat.validate(notebook)
    return str(nbformat.writes(notebook)).rstrip("\n") + "\n"


def kernel_files(kernels_folder: Path) -> Mapping[Path, str]:
    """Return path and text of every generated file, from the sources in `kernels_folder`."""
    config = load_config(kernels_folder)
    files: dict[Path, str] = {}
    for name in config.kernels:
        folder = kernels_folder / name
        files[folder / f"{name}.ipynb"] = notebook_text((folder / f"{name}.py").read_text())
        files[folder / KERNEL_METADATA] = as_json(kernel_metadata(config, name))
    return files


def write_kernels(kernels_folder: Path) -> list[Path]:
    """Write every generated file whose text has changed; return their paths."""
    return _write_changed(kernel_files(kernels_folder))


def write_notebooks(sources: Sequence[Path]) -> list[Path]:
    """Write the notebook beside each source where its text has changed; return their paths."""
    return _write_changed({path.with_suffix(".ipynb"): notebook_text(path.read_text()) for path in sources})


def _write_changed(files: Mapping[Path, str]) -> list[Path]:
    changed = []
    for path, text in files.items():
        if not path.exists() or path.read_text() != text:
            write_atomically(path, text)
            changed.append(path)
    return changed


if __name__ == "__main__":
    for written in write_notebooks([Path(word) for word in sys.argv[1:]]):
        sys.stdout.write(f"wrote {written}\n")
