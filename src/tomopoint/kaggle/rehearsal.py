"""Both notebooks, executed unchanged in a copy of Kaggle's folders.

The second notebook's root is the rehearsal's folder itself, so ``<out>/working/submission.csv`` lies where Kaggle would
have it; the first one's, another session on Kaggle, is ``<out>/build_engine``.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.tags import sys_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

from tomopoint.data.project import Project
from tomopoint.errors import DataError, TomopointError
from tomopoint.inference.engines.engine_record import RECORD_NAME
from tomopoint.inference.engines.gpus import find_gpus
from tomopoint.inference.folder import SUBMISSION_NAME
from tomopoint.inference.verify import verify_submission
from tomopoint.kaggle.dataset import check_dataset
from tomopoint.kaggle.inputs import INPUT, SCRATCH, WORKING
from tomopoint.kaggle.manifest import MANIFEST, Manifest
from tomopoint.kaggle.metadata import ENGINE_KERNEL, SUBMIT_KERNEL, load_config

LAYOUTS = ("flat", "nested")
EXECUTED = "executed"
KIT = "kit"
"""Beside them: the kit as this machine can install it, where that is not all of it."""

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

    Wheels of the kit that this Python cannot install (they are for Kaggle's) are left out; what is installed here
    stands for them.

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
        A kit that fails its check, no test runs, an unknown layout, a cell that failed (the message holds its text), a
        submission with errors.
    """
    if layout not in LAYOUTS:
        raise TomopointError(f"--layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    Project(data).runs("test")
    check_dataset(dataset)
    config = load_config(kernels_folder)
    out = out.resolve()
    _clear(out)
    dataset = installable_here(dataset, out / KIT)
    # Where Kaggle mounts each input, relative to ``input``.
    kit, competition, engine = config.dataset_address, config.competition, config.kernel_address(ENGINE_KERNEL)
    if layout == "flat":
        kit, engine = Path(kit).name, Path(engine).name
    else:
        kit, competition, engine = f"datasets/{kit}", f"competitions/{competition}", f"notebooks/{engine}"
    first_root, second_root = out / ENGINE_KERNEL, out
    _make_tree(first_root, {kit: dataset})
    _make_tree(second_root, {kit: dataset, competition: data, engine: first_root / WORKING})
    notebooks, seconds = [], {}
    for name, root in ((ENGINE_KERNEL, first_root), (SUBMIT_KERNEL, second_root)):
        start = time.monotonic()
        logger.info("execute the notebook %s", name)
        notebooks.append(_execute(kernels_folder / name / f"{name}.ipynb", root, out / EXECUTED / f"{name}.ipynb"))
        seconds[name] = time.monotonic() - start
    made = second_root / WORKING / SUBMISSION_NAME, first_root / WORKING / RECORD_NAME
    for path in made:
        if not path.is_file():
            raise TomopointError(f"the notebooks ran but left no {path}; see {out / EXECUTED}")
    verification = verify_submission(made[0], Project(data))
    if not verification.ok:
        raise TomopointError(f"the notebooks ran, but left no submission to be sent:\n{verification.text()}")
    return Rehearsal(*made, tuple(notebooks), seconds)


def installable_here(dataset: Path, view: Path) -> Path:
    """Return the kit itself, or a view of it that tells the notebooks to install only what this machine can.

    The notebooks install what the manifest names. The view links to every file of the kit and differs in that list
    alone, so every hash is checked and everything else runs as on Kaggle. Left out is

    * what has no wheel for this Python: the kit's are for Kaggle's (binary ones fit no other); and, since versions must
      agree, libraries whose Python bindings are among these;
    * ONNX Runtime beside a GPU, where this environment has its own build for GPUs: the kit's is for the CUDA of
      Kaggle's image, this one for the CUDA that is here (`make setup`).

    Parameters
    ----------
    dataset
        A staged kit.
    view
        Folder to make where something is left out.
    """
    manifest = Manifest.load(dataset)
    fitting = _wheels_for_this_python(manifest.files)
    fitting -= {name for name in fitting if name.endswith("-libs") and f"{name[:-5]}-bindings" not in fitting}
    own_runtime = bool(find_gpus()) and _version_here("onnxruntime-gpu") is not None
    names = {entry: str(canonicalize_name(entry.partition("==")[0])) for entry in manifest.install}
    kept = [e for e, name in names.items() if name in fitting and not (own_runtime and name == "onnxruntime-gpu")]
    left_out = [name for entry, name in names.items() if entry not in kept]
    if not left_out:
        return dataset
    here = {name: _version_here(name) for name in left_out}
    if here.get("onnxruntime-gpu", "") is None:
        here["onnxruntime-gpu"] = _version_here("onnxruntime")
    logger.info(
        "not installed from the kit, whose wheels are for Kaggle's Python and CUDA: %s",
        ", ".join(f"{name} ({f'{v} is here' if v else 'nothing here stands for it'})" for name, v in here.items()),
    )
    view.mkdir(parents=True)
    for path in dataset.iterdir():
        if path.name != MANIFEST:
            (view / path.name).symlink_to(path.resolve())
    replace(manifest, install=tuple(kept)).save(view)
    return view


def _wheels_for_this_python(names: Collection[str]) -> set[str]:
    """Return the distributions of which one of the wheels fits this interpreter and platform."""
    accepted = frozenset(sys_tags())
    parsed = [parse_wheel_filename(name) for name in names if name.endswith(".whl")]
    return {str(name) for name, _, _, tags in parsed if tags & accepted}


def _version_here(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _clear(out: Path) -> None:
    """Remove an earlier rehearsal, which is known by its folders; anything else is left alone."""
    ours = {ENGINE_KERNEL, KIT, INPUT, WORKING, SCRATCH, EXECUTED}
    present = {entry.name for entry in out.iterdir()} if out.is_dir() else set()
    # Names like input and working are anyone's: the first notebook's tree, made before all else, tells a rehearsal.
    foreign = sorted(present - ours if (out / ENGINE_KERNEL / INPUT).is_dir() else present)
    if foreign or out.is_file():
        raise DataError(f"{out} holds something else ({', '.join(foreign) or 'a file'}); choose another --out")
    if out.is_dir():
        shutil.rmtree(out)


def _make_tree(root: Path, inputs: Mapping[str, Path]) -> None:
    for folder in (INPUT, WORKING, SCRATCH):
        (root / folder).mkdir(parents=True)
    for mount, source in inputs.items():
        link = root / INPUT / mount
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(source.resolve(), target_is_directory=True)


def _execute(source: Path, root: Path, executed: Path) -> Path:
    """Run a notebook with `root` in the place of ``/kaggle``; keep it with its outputs, even where a cell fails."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, DeadKernelError

    if not source.is_file():
        raise DataError(f"no notebook {source}; write it with `tomopoint kernels`")
    notebook = nbformat.read(source, as_version=4)
    resources = {"metadata": {"path": str(root / WORKING)}}
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
