"""Both notebooks, executed unchanged in a copy of Kaggle's folders.

The second notebook's root is the rehearsal's folder itself, so ``<out>/working/submission.csv`` lies where Kaggle would
have it; the first one's, another session on Kaggle, is ``<out>/build_engine``.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tomopoint.data.project import Project
from tomopoint.errors import DataError, TomopointError
from tomopoint.inference.engines.record import RECORD_NAME
from tomopoint.kaggle.dataset import check_dataset
from tomopoint.kaggle.metadata import KernelsConfig, load_config

LAYOUTS = ("flat", "nested")
FIRST, SECOND = "build_engine", "submit"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rehearsal:
    """What two notebooks left.

    Attributes
    ----------
    submission_path
        The second notebook's ``submission.csv``.
    engine_path
        The first notebook's ``engine.json``.
    notebooks
        Both, executed, with their outputs.
    seconds
        Per notebook.
    """

    submission_path: Path
    engine_path: Path
    notebooks: tuple[Path, ...]
    seconds: Mapping[str, float]


def rehearse(dataset: Path, data: Path, out: Path, layout: str, kernels_folder: Path) -> Rehearsal:
    """Execute build_engine and submit, the output of the one attached to the other.

    Parameters
    ----------
    dataset
        A staged kit.
    data
        Project folder in the competition's layout.
    out
        Emptied of an earlier rehearsal; refused where something else lies there.
    layout
        ``"flat"`` or ``"nested"``: how inputs are mounted.
    kernels_folder
        With ``kernels.toml`` and the generated notebooks.

    Raises
    ------
    TomopointError
        A kit that fails its check, no test runs, an unknown layout, or a cell that failed: the message holds its text.
    """
    if layout not in LAYOUTS:
        raise TomopointError(f"--layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    Project(data).runs("test")
    check_dataset(dataset)
    check_python(dataset)
    config = load_config(kernels_folder / "kernels.toml")
    out = out.resolve()
    _clear(out)
    mounts = _mounts(config, layout)
    first_root, second_root = out / FIRST, out
    _make_tree(first_root, {mounts["dataset"]: dataset})
    outputs = {mounts["dataset"]: dataset, mounts["competition"]: data, mounts["engine"]: first_root / "working"}
    _make_tree(second_root, outputs)
    notebooks, seconds = [], {}
    for name, root in ((FIRST, first_root), (SECOND, second_root)):
        start = time.monotonic()
        logger.info("execute the notebook %s", name)
        notebooks.append(_execute(kernels_folder / name / f"{name}.ipynb", root, out / "executed" / f"{name}.ipynb"))
        seconds[name] = time.monotonic() - start
    submission, engine = second_root / "working" / "submission.csv", first_root / "working" / RECORD_NAME
    for path in (submission, engine):
        if not path.is_file():
            raise TomopointError(f"the notebooks ran but left no {path}; see {out / 'executed'}")
    return Rehearsal(submission, engine, tuple(notebooks), seconds)


def check_python(dataset: Path) -> None:
    """Refuse a kit whose wheels are for another Python than this one: the notebooks could not install them."""
    here = f"cp{sys.version_info.major}{sys.version_info.minor}"
    tags = {path.stem.split("-")[-3] for path in dataset.glob("*.whl")}
    other = sorted(tag for tag in tags if re.fullmatch(r"cp3\d+", tag) and tag != here)
    if other and here not in tags:
        raise TomopointError(
            f"the wheels in {dataset} are for {', '.join(other)}, this Python is {here}; rehearse with that Python "
            "(make PYTHON=...), or with a kit that was staged while wheels/ was empty"
        )


def _mounts(config: KernelsConfig, layout: str) -> dict[str, str]:
    """Return where Kaggle would mount each input, relative to ``input``."""
    dataset, engine = config.dataset.slug, config.kernel(FIRST).slug
    if layout == "flat":
        return {"dataset": dataset, "competition": config.competition, "engine": engine}
    return {
        "dataset": f"datasets/{config.owner}/{dataset}",
        "competition": f"competitions/{config.competition}",
        "engine": f"notebooks/{config.owner}/{engine}",
    }


def _clear(out: Path) -> None:
    """Remove an earlier rehearsal, which is known by its folders; anything else is left alone."""
    ours = {FIRST, "input", "working", "temp", "executed"}
    present = {entry.name for entry in out.iterdir()} if out.is_dir() else set()
    # Names like input and working are anyone's: the first notebook's tree, made before all else, tells a rehearsal.
    foreign = sorted(present - ours if (out / FIRST / "input").is_dir() else present)
    if foreign or out.is_file():
        raise DataError(f"{out} holds something else ({', '.join(foreign) or 'a file'}); choose another --out")
    if out.is_dir():
        shutil.rmtree(out)


def _make_tree(root: Path, inputs: Mapping[str, Path]) -> None:
    for folder in ("input", "working", "temp"):
        (root / folder).mkdir(parents=True)
    for mount, source in inputs.items():
        link = root / "input" / mount
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(source.resolve(), target_is_directory=True)


def _execute(source: Path, root: Path, executed: Path) -> Path:
    """Run a notebook with `root` in the place of ``/kaggle``; keep it with its outputs, even where a cell fails."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, DeadKernelError

    if not source.is_file():
        raise DataError(f"no notebook {source}; write it with `make kernels`")
    notebook = nbformat.read(source, as_version=4)
    resources = {"metadata": {"path": str(root / "working")}}
    client = NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        resources=resources,
        # The kernel warns that its sockets, on this machine only, are not encrypted.
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
    )
    try:
        client.execute(env={**os.environ, "KAGGLE_ROOT": str(root)})
    except CellExecutionError as error:
        raise TomopointError(f"a cell of {source.name} failed, see {executed}:\n{error}") from error
    except DeadKernelError as error:
        raise TomopointError(f"the Python process of {source.name} died ({error}); is there memory enough?") from error
    finally:
        executed.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, executed)
    return executed
