"""A copick project: a JSON configuration that says where its static and its overlay tree lie.

Read by this package's own code, for the copick package wants a zarr that stands in the way of this one's. Source of the
layout: copick's documentation, https://copick.github.io/copick.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tomopoint.data.project import RUNS_FOLDER
from tomopoint.data.sources.tree import Candidate, candidates, spacing_folders, visible
from tomopoint.errors import DataError
from tomopoint.strict_json import Malformed, build, parse, read, read_bytes, reading

CONFIG_NAMES = ("config.json", "copick_config.json", "copick.json")

LOCAL = ("local://", "file://")


@dataclass(frozen=True)
class _Config:
    """What is read of a configuration to find tomograms."""

    overlay_root: str
    static_root: str | None = None
    config_type: str = "filesystem"


@dataclass(frozen=True)
class _Object:
    """One that can be picked; radius in Angstrom."""

    name: str
    radius: float | None = None


@dataclass(frozen=True)
class _Objects:
    """What is read of a configuration to know its particles."""

    pickable_objects: tuple[_Object, ...] = ()


def find_config(folder: Path) -> Path | None:
    """Return the configuration that lies in a folder; None where none of its JSON files is one."""
    return next((folder / name for name in CONFIG_NAMES if _is_config(folder / name)), None)


def _is_config(path: Path) -> bool:
    try:
        content = parse(read_bytes(path))
    except (OSError, Malformed):
        return False
    return isinstance(content, Mapping) and "overlay_root" in content


def copick_candidates(config: Path) -> list[Candidate]:
    """Return every tomogram of a project, of its static and of its overlay tree.

    Raises
    ------
    DataError
        It is no configuration, its data are not on this machine's disks, or a tree is missing.
    """
    content = _read(config)
    if content.config_type != "filesystem":
        raise DataError(
            f"{config}: config_type is {content.config_type!r}; only filesystem is read: download the tomograms first"
        )
    roots = [_local(root, config) for root in (content.static_root, content.overlay_root) if root]
    trees = [root / RUNS_FOLDER for root in dict.fromkeys(roots) if (root / RUNS_FOLDER).is_dir()]
    if not trees:
        raise DataError(f"{config}: none of {', '.join(map(str, roots))} has a folder {RUNS_FOLDER}; correct its roots")
    return [
        candidate
        for tree in trees
        for run in visible(tree)
        if run.is_dir()
        for candidate in candidates(run.name, spacing_folders(run))
    ]


def find_overlay(place: Path) -> tuple[Path, dict[str, float]] | None:
    """Return the overlay's folder and the radii by particle, Angstrom, of a configuration or the folder that holds one.

    None where there is no configuration; DataError as for :func:`copick_candidates`.
    """
    config = find_config(place) if place.is_dir() else place if place.suffix == ".json" else None
    if config is None:
        return None
    content = _read(config)
    with reading(config, DataError, "is no copick configuration", "its pickable_objects need a name each"):
        known = build(_Objects, read(config), ignore_unknown=True, to_float=True).pickable_objects
    return _local(content.overlay_root, config), {one.name: one.radius for one in known if one.radius}


def _read(config: Path) -> _Config:
    with reading(config, DataError, "is no copick configuration", "expected JSON with overlay_root and static_root"):
        return build(_Config, read(config), ignore_unknown=True)


def _local(root: str, config: Path) -> Path:
    """Return the folder of a root; where it is relative, that counts from the configuration."""
    for scheme in LOCAL:
        root = root.removeprefix(scheme)
    if "://" in root:
        raise DataError(f"{config}: {root} is not on this machine; copy the tomograms here and say so in a copy of it")
    return config.parent / Path(root).expanduser()
