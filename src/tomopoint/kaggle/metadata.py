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

from tomopoint.errors import TomopointError

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


@dataclass(frozen=True)
class DatasetSpec:
    """The dataset that carries package, wheels and graph. Its slug follows from the title."""

    title: str
    subtitle: str
    license: str

    @property
    def slug(self) -> str:
        """Last part of the dataset's address."""
        return slugify(self.title)


@dataclass(frozen=True)
class KernelSpec:
    """One notebook on Kaggle.

    Attributes
    ----------
    name
        Folder under ``kernels/`` and stem of its files.
    title
        As shown; its slug follows from it.
    uses_competition
        Whether the competition's data are attached.
    outputs_of
        Names of the kernels whose outputs are attached.
    """

    name: str
    title: str
    uses_competition: bool
    outputs_of: tuple[str, ...]

    @property
    def slug(self) -> str:
        """Last part of the notebook's address."""
        return slugify(self.title)


@dataclass(frozen=True)
class KernelsConfig:
    """What ``kernels.toml`` says.

    Attributes
    ----------
    owner
        Kaggle user name.
    competition
        Slug of the competition.
    accelerator
        One of ``ACCELERATORS``.
    dataset, kernels
        What is uploaded.
    image
        Docker image of both notebooks, by digest; empty: each keeps the one of its own first version.
    """

    owner: str
    competition: str
    accelerator: str
    dataset: DatasetSpec
    kernels: tuple[KernelSpec, ...]
    image: str = ""

    def kernel(self, name: str) -> KernelSpec:
        """Return the kernel called `name`."""
        for kernel in self.kernels:
            if kernel.name == name:
                return kernel
        raise TomopointError(f"kernels.toml has no kernel {name!r}; it has {', '.join(k.name for k in self.kernels)}")


def slugify(title: str) -> str:
    """Return the slug Kaggle makes of a title: lower case, runs of anything but letters and digits as one dash."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def load_config(path: Path) -> KernelsConfig:
    """Read ``kernels.toml``.

    Raises
    ------
    TomopointError
        Missing, not TOML, or a key missing or unknown.
    """
    try:
        values = tomllib.loads(path.read_text())
        kernels = tuple(
            KernelSpec(name=name, **{**table, "outputs_of": tuple(table["outputs_of"])})
            for name, table in values.pop("kernels").items()
        )
        return KernelsConfig(dataset=DatasetSpec(**values.pop("dataset")), kernels=kernels, **values)
    except OSError as error:
        raise TomopointError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise TomopointError(f"{path} is not as expected ({error}); compare with the repository's") from error


def dataset_metadata(config: KernelsConfig) -> dict[str, Any]:
    """Return the content of ``dataset-metadata.json``, checked."""
    metadata = {
        "id": f"{config.owner}/{config.dataset.slug}",
        "title": config.dataset.title,
        "subtitle": config.dataset.subtitle,
        "licenses": [{"name": config.dataset.license}],
    }
    check_dataset_metadata(metadata)
    return metadata


def kernel_metadata(config: KernelsConfig, name: str) -> dict[str, Any]:
    """Return the content of a notebook's ``kernel-metadata.json``, checked."""
    kernel = config.kernel(name)
    metadata = {
        "id": f"{config.owner}/{kernel.slug}",
        "title": kernel.title,
        "code_file": f"{kernel.name}.ipynb",
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": True,
        # The CLI's code takes a missing value for true, its documentation says false: always written.
        "enable_internet": False,
        "machine_shape": config.accelerator,
        "docker_image_pinning_type": "original",
        **({"docker_image": config.image} if config.image else {}),
        "dataset_sources": [f"{config.owner}/{config.dataset.slug}"],
        "competition_sources": [config.competition] if kernel.uses_competition else [],
        "kernel_sources": [f"{config.owner}/{config.kernel(other).slug}" for other in kernel.outputs_of],
        "model_sources": [],
    }
    check_kernel_metadata(metadata)
    return metadata


def as_json(metadata: Mapping[str, Any]) -> str:
    """Return the text of a metadata file."""
    return json.dumps(metadata, indent=2) + "\n"


def read_metadata(path: Path) -> dict[str, Any]:
    """Read a metadata file; TomopointError where it is none."""
    try:
        return dict(json.loads(path.read_text()))
    except OSError as error:
        raise TomopointError(f"cannot read {path} ({error.strerror}); stage the kit again") from error
    except (ValueError, TypeError) as error:
        raise TomopointError(f"{path} is no metadata file ({error}); stage the kit again") from error


def check_dataset_metadata(metadata: Mapping[str, Any]) -> None:
    """Raise TomopointError where Kaggle would refuse this ``dataset-metadata.json``."""
    _check_length(metadata, "title", TITLE_LENGTHS, DATASET_METADATA)
    _check_id(metadata, DATASET_METADATA)
    if "subtitle" in metadata:
        _check_length(metadata, "subtitle", SUBTITLE_LENGTHS, DATASET_METADATA)
    licenses = metadata.get("licenses")
    if not isinstance(licenses, list) or len(licenses) != 1 or not licenses[0].get("name"):
        raise TomopointError(f"{DATASET_METADATA} needs exactly one licence with a name, got {licenses}")


def check_kernel_metadata(metadata: Mapping[str, Any]) -> None:
    """Raise TomopointError where Kaggle would refuse this ``kernel-metadata.json`` or run it on another machine."""
    _check_length(metadata, "title", TITLE_LENGTHS, KERNEL_METADATA)
    _check_id(metadata, KERNEL_METADATA)
    slug = metadata["id"].partition("/")[2]
    if slugify(metadata["title"]) != slug:
        raise TomopointError(f"{KERNEL_METADATA}: title {metadata['title']!r} must become the slug of id, {slug!r}")
    if metadata.get("docker_image_pinning_type") not in ("original", "latest"):
        raise TomopointError(f"{KERNEL_METADATA}: docker_image_pinning_type must be 'original' or 'latest'")
    image = metadata.get("docker_image")
    if image is not None and not _IMAGE.fullmatch(image):
        raise TomopointError(
            f"{KERNEL_METADATA}: an image is named by its digest, gcr.io/...@sha256:..., got {image!r}; "
            "`kaggle kernels pull OWNER/NOTEBOOK -m` tells the one of a notebook that ran"
        )
    for key in ("machine_shape", "enable_internet", "is_private", "code_file"):
        if key not in metadata:
            raise TomopointError(f"{KERNEL_METADATA} needs {key}: left out, Kaggle chooses for you")
    if metadata["machine_shape"] not in ACCELERATORS:
        listed = ", ".join(f"{name} ({what})" for name, what in ACCELERATORS.items())
        raise TomopointError(
            f"unknown accelerator {metadata['machine_shape']!r}; choose one of {listed} in kernels/kernels.toml"
        )
    for key in ("dataset_sources", "kernel_sources"):
        for source in metadata.get(key, []):
            if not _ID.fullmatch(source):
                raise TomopointError(f"{KERNEL_METADATA}: {key} takes owner/slug, got {source!r}")


def _check_id(metadata: Mapping[str, Any], name: str) -> None:
    identity = str(metadata.get("id", ""))
    if not _ID.fullmatch(identity):
        raise TomopointError(f"{name}: id must be owner/slug in lower case, got {identity!r}; see kernels/kernels.toml")
    low, high = SLUG_LENGTHS
    if not low <= len(identity.partition("/")[2]) <= high:
        raise TomopointError(f"{name}: the slug of {identity!r} must have {low} to {high} characters")


def _check_length(metadata: Mapping[str, Any], key: str, lengths: tuple[int, int], name: str) -> None:
    value, (low, high) = metadata.get(key, ""), lengths
    if not low <= len(value) <= high:
        raise TomopointError(f"{name}: {key} must have {low} to {high} characters, got {len(value)}: {value!r}")
