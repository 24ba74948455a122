"""Kaggle's metadata files, made from ``kernels/kernels.toml``, and the rules Kaggle holds them to.

The rules are those of the kaggle CLI (``docs/datasets_metadata.md``, ``docs/kernels_metadata.md`` and the checks in
its source): they are tested here, before an upload, because the CLI has no dry run.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tomopoint.errors import TomopointError, reason_of
from tomopoint.files import PLAIN_NAME, is_plain_name
from tomopoint.strict_json import Malformed, build, read, read_bytes, reading

ENGINE_KERNEL, SUBMIT_KERNEL = "build_engine", "submit"
"""The two notebooks: folders below ``kernels/`` and stems of the files in them."""

KERNELS_FOLDER, KERNELS_CONFIG = "kernels", "kernels.toml"
DATASET_METADATA = "dataset-metadata.json"
KERNEL_METADATA = "kernel-metadata.json"

TITLE_LENGTHS = (6, 50)
SUBTITLE_LENGTHS = (20, 80)
SLUG_LENGTHS = (3, 50)

ACCELERATORS = {
    "NvidiaTeslaT4": "GPU T4 x2",
    "NvidiaL4": "L4",
    "NvidiaL4X1": "one L4",
    "NvidiaTeslaA100": "A100",
    "NvidiaH100": "H100",
    "NvidiaRtxPro6000": "RTX PRO 6000",
}
"""GPUs as the kaggle command's documentation names them (September 2026). ``NvidiaTeslaT4`` is two T4s, a single one is
not offered; all others are for some competitions only. Not among them: ``NvidiaTeslaP100``, with which Kaggle's image
fails and TensorRT does not work, ``NvidiaTeslaT4Highmem``, which is Kaggle's own, and TPUs."""

_ID = re.compile(r"[a-z0-9][a-z0-9-]*/[a-z0-9][a-z0-9-]*")
_IMAGE = re.compile(r"[a-z0-9][a-z0-9./-]*@sha256:[0-9a-f]{64}")


def slugify(title: str) -> str:
    """Return the slug Kaggle makes of a title: lower case, runs of anything but letters and digits as one dash."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


@dataclass(frozen=True)
class License:
    """A licence by Kaggle's name for it, e.g. ``"CC0-1.0"``."""

    name: str


@dataclass(frozen=True)
class DatasetMetadata:
    """Content of ``dataset-metadata.json``; TomopointError where Kaggle would refuse it.

    Attributes
    ----------
    id
        Address, ``owner/slug``.
    title, subtitle
        As shown.
    licenses
        Exactly one.
    """

    id: str
    title: str
    subtitle: str
    licenses: tuple[License, ...]

    def __post_init__(self) -> None:
        _check_address(self.id, self.title, DATASET_METADATA)
        _check_length("subtitle", self.subtitle, SUBTITLE_LENGTHS, DATASET_METADATA)
        if len(self.licenses) != 1 or not self.licenses[0].name:
            raise TomopointError(f"{DATASET_METADATA} needs exactly one licence with a name, got {self.licenses}")

    @classmethod
    def load(cls, path: Path) -> DatasetMetadata:
        """Read the file in a staged kit; TomopointError where it is none."""
        with reading(path, TomopointError, "is no metadata file", "stage the kit again"):
            content = read(path)
            try:
                return build(cls, content)
            except TomopointError as error:
                raise Malformed(reason_of(error)) from error


@dataclass(frozen=True)
class DatasetSpec:
    """The dataset that carries package, wheels and graph. Its slug follows from the title."""

    title: str
    subtitle: str
    license: str


@dataclass(frozen=True)
class KernelSpec:
    """One notebook on Kaggle.

    Attributes
    ----------
    title
        As shown; its slug follows from it.
    uses_competition
        Whether the competition's data are attached.
    outputs_of
        Names of the kernels whose outputs are attached.
    """

    title: str
    uses_competition: bool
    outputs_of: tuple[str, ...]


@dataclass(frozen=True)
class KernelsConfig:
    """What ``kernels.toml`` says; TomopointError where Kaggle would refuse it or take another machine.

    Attributes
    ----------
    owner
        Kaggle user name.
    competition
        Slug of the competition.
    accelerator
        One of ``ACCELERATORS``.
    dataset
        What carries package, wheels and graph.
    kernels
        The notebooks, by name: the folder under ``kernels/`` and the stem of its files.
    image
        Docker image of both notebooks, by digest; empty: each keeps the one of its own first version.
    """

    owner: str
    competition: str
    accelerator: str
    dataset: DatasetSpec
    kernels: Mapping[str, KernelSpec]
    image: str = ""

    def __post_init__(self) -> None:
        if self.accelerator not in ACCELERATORS:
            listed = ", ".join(f"{name} ({what})" for name, what in ACCELERATORS.items())
            raise TomopointError(
                f"unknown accelerator {self.accelerator!r}; choose one of {listed} in kernels/kernels.toml"
            )
        if self.image and not _IMAGE.fullmatch(self.image):
            raise TomopointError(
                f"an image is named by its digest, gcr.io/...@sha256:..., got {self.image!r} in kernels/kernels.toml; "
                "`kaggle kernels pull OWNER/NOTEBOOK -m` tells the one of a notebook that ran"
            )
        for name, kernel in self.kernels.items():
            if not is_plain_name(name):
                raise TomopointError(
                    f"the name of a notebook must be {PLAIN_NAME}, got {name!r} in kernels/kernels.toml"
                )
            _check_address(self.kernel_address(name), kernel.title, f"the notebook {name}")

    @property
    def dataset_address(self) -> str:
        """Address of the dataset, ``owner/slug``."""
        return f"{self.owner}/{slugify(self.dataset.title)}"

    def kernel_address(self, name: str) -> str:
        """Return the address of a notebook, ``owner/slug``."""
        if name not in self.kernels:
            raise TomopointError(f"kernels.toml has no kernel {name!r}; it has {', '.join(self.kernels)}")
        return f"{self.owner}/{slugify(self.kernels[name].title)}"


def load_config(kernels_folder: Path) -> KernelsConfig:
    """Read ``kernels.toml``.

    Raises
    ------
    TomopointError
        Missing, not TOML, a key missing or unknown, or something that Kaggle would refuse.
    """
    path = kernels_folder / KERNELS_CONFIG
    with reading(path, TomopointError, "is not as expected", "compare with the repository's"):
        try:
            values = tomllib.loads(read_bytes(path).decode())
        except RecursionError as error:
            raise Malformed("nested too deeply") from error
        except ValueError as error:
            raise Malformed(str(error)) from error
        try:
            return build(KernelsConfig, values)
        except TomopointError as error:
            raise TomopointError(f"{path}: {reason_of(error)}; correct it") from error


def dataset_metadata(config: KernelsConfig) -> DatasetMetadata:
    """Return the content of ``dataset-metadata.json``."""
    dataset = config.dataset
    return DatasetMetadata(config.dataset_address, dataset.title, dataset.subtitle, (License(dataset.license),))


def kernel_metadata(config: KernelsConfig, name: str) -> dict[str, Any]:
    """Return the content of a notebook's ``kernel-metadata.json``."""
    address, kernel = config.kernel_address(name), config.kernels[name]
    return {
        "id": address,
        "title": kernel.title,
        "code_file": f"{name}.ipynb",
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": True,
        # The CLI's code takes a missing value for true, its documentation says false: always written.
        "enable_internet": False,
        "machine_shape": config.accelerator,
        "docker_image_pinning_type": "original",
        **({"docker_image": config.image} if config.image else {}),
        "dataset_sources": [config.dataset_address],
        "competition_sources": [config.competition] if kernel.uses_competition else [],
        "kernel_sources": [config.kernel_address(other) for other in kernel.outputs_of],
        "model_sources": [],
    }


def as_json(metadata: Mapping[str, Any]) -> str:
    """Return the text of a metadata file."""
    return json.dumps(metadata, indent=2) + "\n"


def _check_address(address: str, title: str, what: str) -> None:
    """Raise TomopointError where Kaggle would refuse the address or the title of a dataset or notebook."""
    _check_length("title", title, TITLE_LENGTHS, what)
    if not _ID.fullmatch(address):
        raise TomopointError(f"{what}: id must be owner/slug in lower case, got {address!r}; see kernels/kernels.toml")
    _check_length(f"the slug of {address!r}", address.partition("/")[2], SLUG_LENGTHS, what)


def _check_length(name: str, value: str, lengths: tuple[int, int], what: str) -> None:
    low, high = lengths
    if not low <= len(value) <= high:
        raise TomopointError(f"{what}: {name} must have {low} to {high} characters, got {len(value)}: {value!r}")
