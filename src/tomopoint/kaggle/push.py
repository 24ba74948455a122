"""Upload the kit and both notebooks to Kaggle, in the order in which they need each other.

Dataset, wait until it is ready, engine notebook, wait until it has run, submit notebook. Everything that can be
checked here is checked before anything is sent. Pushing a notebook runs it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tomopoint.errors import DataError, TomopointError
from tomopoint.inference.engines.graph_metadata import read_pipeline
from tomopoint.kaggle.cli import KaggleCli
from tomopoint.kaggle.dataset import check_dataset
from tomopoint.kaggle.engine_kernel import NOTEBOOK_SECONDS
from tomopoint.kaggle.kit_hours import KitHours, kit_hours
from tomopoint.kaggle.manifest import MANIFEST, MODEL, Manifest
from tomopoint.kaggle.metadata import (
    DATASET_METADATA,
    ENGINE_KERNEL,
    KERNELS_FOLDER,
    SUBMIT_KERNEL,
    DatasetMetadata,
    KernelsConfig,
    dataset_metadata,
    load_config,
)
from tomopoint.kaggle.notebooks import kernel_files

PLACEHOLDER_OWNER = "your-kaggle-name"
"""Owner in ``kernels.toml`` as the repository has it."""

MAX_DATASET_BYTES = 200 * 10**9
MAX_DATASET_FILES = 50
"""Kaggle's documentation of datasets ("technical specifications"): 200 GB per dataset, 200 GB of private datasets in
all, 50 files at the top level. Known from what others quote of it in 2026; it names no limit for a single file."""

QUEUE_MINUTES = 120.0
"""For Kaggle's queue before the engine notebook starts: a guess, on the long side, for giving up costs more."""
WAIT_MINUTES = NOTEBOOK_SECONDS / 60 + QUEUE_MINUTES
"""Longest wait for the engine notebook: every candidate may take hours, and it begins nothing after so many."""

_VERSION = re.compile(r"Kernel version (\d+) successfully pushed")


@dataclass(frozen=True)
class Kit:
    """A staged kit that may be uploaded: checked by :func:`check_kit`.

    Attributes
    ----------
    folder, manifest
        The kit.
    config
        What ``kernels.toml`` says.
    hours
        How long it will take; None where its graph does not say.
    n_bytes
        Size of all files that are uploaded.
    """

    folder: Path
    manifest: Manifest
    config: KernelsConfig
    hours: KitHours | None
    n_bytes: int


def check_kit(folder: Path, home: Path, cli: KaggleCli, over_time: bool = False, with_kernels: bool = True) -> Kit:
    """Check all that would make an upload useless, and refuse it with every cause at once.

    Parameters
    ----------
    folder
        A staged kit.
    home
        Folder with ``kernels/``.
    cli
        The kaggle command; it is asked who is logged in.
    over_time
        Take a kit that is projected to need more than ``HOURS_TO_WARN``.
    with_kernels
        Whether the notebooks are to be pushed, too.

    Raises
    ------
    TomopointError
        Every cause, a sentence each.
    """
    config = load_config(home / KERNELS_FOLDER)
    causes: dict[str, None] = {}  # in order, each once: several checks fail alike where the kit cannot be read

    @contextmanager
    def noted() -> Iterator[None]:
        try:
            yield
        except TomopointError as error:
            causes[str(error)] = None

    with noted():
        if config.owner == PLACEHOLDER_OWNER:
            raise TomopointError(
                f"kernels/kernels.toml still has the owner {PLACEHOLDER_OWNER!r}: put your Kaggle user name there, "
                "run `tomopoint kernels`, and stage the kit again"
            )
    with noted():
        check_dataset(folder)
    with noted():
        path = folder / DATASET_METADATA
        if DatasetMetadata.load(path) != dataset_metadata(config):
            raise TomopointError(f"{path} is not what kernels/kernels.toml says now; stage the kit again")
    with noted():
        manifest = Manifest.load(folder)
        sizes = [file.bytes for file in manifest.files.values()] + [(folder / MANIFEST).stat().st_size]
        with noted():
            check_limits(sizes)
        if len(manifest.install) < 2:
            raise DataError(
                f"{folder} has no third-party wheels, without which nothing runs on Kaggle: `tomopoint wheels`, "
                "stage again"
            )
    with noted():
        hours = hours_of(folder)
        if hours is None and not over_time:
            raise TomopointError(
                f"{folder / MODEL} does not say what it costs: export and stage it again, or push with --over-time"
            )
        if hours is not None and hours.warning is not None and not over_time:
            raise TomopointError(f"{hours.warning}\n  - --over-time pushes it as it is")
    with noted():
        texts = kernel_files(home / KERNELS_FOLDER) if with_kernels else {}
        if old := [str(path) for path, text in texts.items() if not path.is_file() or path.read_text() != text]:
            raise TomopointError(f"out of date: {', '.join(old)}; run `tomopoint kernels`")
    with noted():
        cli.check_login(None if config.owner == PLACEHOLDER_OWNER else config.owner)
    if causes:
        count = "1 cause" if len(causes) == 1 else f"{len(causes)} causes"
        raise TomopointError("\n- ".join([f"not pushed, {count}:", *causes]))
    return Kit(folder, manifest, config, hours, sum(sizes))


def hours_of(folder: Path) -> KitHours | None:
    """Return how long a kit will take, or None where its graph does not say."""
    return kit_hours(folder / MODEL, read_pipeline(folder / MODEL), Manifest.load(folder).install)


def check_limits(sizes: Sequence[int]) -> None:
    """Raise DataError where files of these sizes, bytes, are more than Kaggle takes."""
    n_files, n_bytes = len(sizes), sum(sizes)
    if n_bytes > MAX_DATASET_BYTES or n_files > MAX_DATASET_FILES:
        raise DataError(
            f"the kit has {n_files} files and {n_bytes / 1e9:.1f} GB; Kaggle takes {MAX_DATASET_FILES} files and "
            f"{MAX_DATASET_BYTES / 1e9:.0f} GB in a dataset: leave out wheels you do not need"
        )


def push_dataset(kit: Kit, cli: KaggleCli) -> None:
    """Create the dataset or a new version of it, and wait until Kaggle has it ready.

    Raises
    ------
    TomopointError
        The kaggle command or Kaggle refuses, fails or takes too long.
    """
    # A kit has no folders; "skip" is the command's default for them, said here because it would lose them.
    what = ["-p", str(kit.folder), "--dir-mode", "skip"]
    dataset = kit.config.dataset_address
    if cli.exists(dataset):
        message = f"tomopoint {kit.manifest.tomopoint}, graph {kit.manifest.onnx_sha256[:12]}"
        note = "where there is none yet: datasets create, without -m"
        cli.upload(["datasets", "version", *what, "-m", message], "is being created", note)
    else:
        cli.upload(["datasets", "create", *what], "is being created")
    cli.wait(["datasets", "status", dataset], f"the dataset {dataset}")


def push_all(kit: Kit, home: Path, cli: KaggleCli) -> int | None:
    """Push dataset and engine notebook, wait until it has run, then push the submit notebook.

    Returns
    -------
    int or None
        Version of the submit notebook; None in a dry run or where Kaggle did not say.

    Raises
    ------
    TomopointError
        Anything fails at Kaggle; what comes after it is not pushed.
    """
    push_dataset(kit, cli)
    _push_kernel(ENGINE_KERNEL, kit, home, cli)
    engine = kit.config.kernel_address(ENGINE_KERNEL)
    try:
        cli.wait(["kernels", "status", engine], f"the notebook {engine}")
    except TomopointError as error:
        raise TomopointError(
            f"{error}\nthe submit notebook was not pushed; `kaggle kernels logs {engine}` shows why, "
            f"https://www.kaggle.com/code/{engine} too. Once that is complete, `tomopoint push {kit.folder} --only "
            "submit` (`make push ONLY=submit`) pushes the submit notebook alone: nothing is uploaded or built again"
        ) from error
    return _push_kernel(SUBMIT_KERNEL, kit, home, cli)


def push_submit(kit: Kit, home: Path, cli: KaggleCli) -> int | None:
    """Push the submit notebook alone, after a dataset and an engine notebook that are at Kaggle already.

    Returns
    -------
    int or None
        Its version, as :func:`push_all`.

    Raises
    ------
    TomopointError
        The engine notebook's last run is not complete, or the push fails.
    """
    engine = kit.config.kernel_address(ENGINE_KERNEL)
    cli.require_done(["kernels", "status", engine], f"the notebook {engine}, whose output the submit notebook needs,")
    return _push_kernel(SUBMIT_KERNEL, kit, home, cli)


def _push_kernel(name: str, kit: Kit, home: Path, cli: KaggleCli) -> int | None:
    """Push a notebook, which runs it; return its version where Kaggle says it."""
    # The accelerator is in the metadata, too; the option wins over both and over what Kaggle remembers.
    words = ["kernels", "push", "-p", str(home / KERNELS_FOLDER / name), "--accelerator", kit.config.accelerator]
    match = _VERSION.search(cli.upload(words, "successfully pushed", "runs it"))
    return int(match.group(1)) if match else None
