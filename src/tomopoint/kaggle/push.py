"""Upload the kit and both notebooks to Kaggle, in the order in which they need each other.

Dataset, wait until it is ready, engine notebook, wait until it has run, submit notebook. Everything that can be
checked here is checked before the first call. Pushing a notebook runs it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from tomopoint.errors import DataError, TomopointError
from tomopoint.kaggle.cli import KaggleCli
from tomopoint.kaggle.dataset import check_dataset
from tomopoint.kaggle.manifest import MANIFEST, Manifest
from tomopoint.kaggle.metadata import DATASET_METADATA, KernelsConfig, KernelSpec, dataset_metadata, load_config
from tomopoint.kaggle.notebooks import kernel_files

PLACEHOLDER_OWNER = "your-kaggle-name"
"""Owner in ``kernels.toml`` as the repository has it."""

ENGINE_KERNEL, SUBMIT_KERNEL = "build_engine", "submit"

MAX_DATASET_BYTES = 200 * 10**9
MAX_DATASET_FILES = 50
"""Kaggle's documentation of datasets ("technical specifications"): 200 GB per dataset, 200 GB of private datasets in
all, 50 files at the top level. Known from what others quote of it in 2026; it names no limit for a single file."""

_VERSION = re.compile(r"Kernel version (\d+) successfully pushed")


@dataclass(frozen=True)
class Kit:
    """A staged kit that may be uploaded: checked by :func:`check_kit`."""

    folder: Path
    manifest: Manifest
    config: KernelsConfig
    n_bytes: int

    @property
    def dataset(self) -> str:
        """Address of the dataset, ``owner/slug``."""
        return f"{self.config.owner}/{self.config.dataset.slug}"

    def kernel(self, name: str) -> str:
        """Address of a notebook, ``owner/slug``."""
        return f"{self.config.owner}/{self.config.kernel(name).slug}"


@dataclass(frozen=True)
class Pushed:
    """What :func:`push_all` sent.

    Attributes
    ----------
    commands
        Every call of the kaggle command.
    submit_version
        Version of the submit notebook, None in a dry run or where Kaggle did not say.
    """

    commands: tuple[str, ...]
    submit_version: int | None


def check_kit(folder: Path, checkout: Path) -> Kit:
    """Check all that would make an upload useless.

    Raises
    ------
    TomopointError
        No user name in ``kernels.toml``, a kit that fails its check, belongs to another user, lacks third-party wheels
        or is larger than Kaggle takes.
    """
    config = load_config(checkout / "kernels" / "kernels.toml")
    if config.owner == PLACEHOLDER_OWNER:
        raise TomopointError(
            f"kernels/kernels.toml still has the owner {PLACEHOLDER_OWNER!r}: put your Kaggle user name there, "
            "run `make kernels`, and stage the kit again"
        )
    manifest = check_dataset(folder)
    path = folder / DATASET_METADATA
    if not path.is_file() or json.loads(path.read_text()) != dataset_metadata(config):
        raise TomopointError(f"{path} is not what kernels/kernels.toml says now; stage the kit again")
    if len(manifest.install) < 2:
        raise DataError(
            f"{folder} has no third-party wheels, without which nothing runs on Kaggle: `make wheels`, stage it again"
        )
    sizes = [file.bytes for file in manifest.files.values()] + [(folder / MANIFEST).stat().st_size]
    check_limits(len(sizes), sum(sizes))
    return Kit(folder, manifest, config, sum(sizes))


def check_limits(n_files: int, n_bytes: int) -> None:
    """Raise DataError where a dataset is larger than Kaggle takes."""
    if n_bytes > MAX_DATASET_BYTES or n_files > MAX_DATASET_FILES:
        raise DataError(
            f"the kit has {n_files} files and {n_bytes / 1e9:.1f} GB; Kaggle takes {MAX_DATASET_FILES} files and "
            f"{MAX_DATASET_BYTES / 1e9:.0f} GB in a dataset: leave out wheels you do not need"
        )


def check_kernels(kernels_folder: Path) -> None:
    """Raise TomopointError where a generated notebook or its metadata is not what its source says."""
    for path, text in kernel_files(kernels_folder).items():
        if not path.is_file() or path.read_text() != text:
            raise TomopointError(f"{path} is out of date; run `make kernels`")


def push_dataset(kit: Kit, cli: KaggleCli) -> None:
    """Create the dataset or a new version of it, and wait until Kaggle has it ready.

    Raises
    ------
    TomopointError
        The kaggle command or Kaggle refuses, fails or takes too long.
    """
    # A kit has no folders; "skip" is the command's default for them, said here because it would lose them.
    what = ["-p", str(kit.folder), "--dir-mode", "skip"]
    if cli.exists(kit.dataset):
        message = f"tomopoint {kit.manifest.tomopoint}, graph {kit.manifest.onnx_sha256[:12]}"
        note = "where there is none yet: datasets create, without -m"
        cli.upload(["datasets", "version", *what, "-m", message], "is being created", note)
    else:
        cli.upload(["datasets", "create", *what], "is being created")
    cli.wait(["datasets", "status", kit.dataset], f"the dataset {kit.dataset}")


def push_all(kit: Kit, checkout: Path, cli: KaggleCli) -> Pushed:
    """Push dataset and engine notebook, wait until it has run, then push the submit notebook.

    Raises
    ------
    TomopointError
        A notebook is out of date, or anything fails at Kaggle; what comes after it is not pushed.
    """
    check_kernels(checkout / "kernels")
    push_dataset(kit, cli)
    _push_kernel(kit.config.kernel(ENGINE_KERNEL), kit, checkout, cli)
    engine = kit.kernel(ENGINE_KERNEL)
    try:
        cli.wait(["kernels", "status", engine], f"the notebook {engine}")
    except TomopointError as error:
        raise TomopointError(
            f"{error}\nthe submit notebook was not pushed; `kaggle kernels logs {engine}` shows why, "
            f"https://www.kaggle.com/code/{engine} too"
        ) from error
    answer = _push_kernel(kit.config.kernel(SUBMIT_KERNEL), kit, checkout, cli)
    match = _VERSION.search(answer)
    return Pushed(tuple(cli.lines), int(match.group(1)) if match else None)


def _push_kernel(kernel: KernelSpec, kit: Kit, checkout: Path, cli: KaggleCli) -> str:
    # The accelerator is in the metadata, too; the option wins over both and over what Kaggle remembers.
    words = ["kernels", "push", "-p", str(checkout / "kernels" / kernel.name)]
    return cli.upload([*words, "--accelerator", kit.config.accelerator], "successfully pushed", "runs it")
