"""Runs with several tomograms each: ``<run>/VoxelSpacing<A>/<tomo_type>.zarr``, as in copick and the data portal.

Which voxel spacing and which reconstruction is read is the user's choice, and where there is only one, no question.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tomopoint.data.mrc import MRC_SUFFIXES
from tomopoint.data.project import VOXEL_PREFIX
from tomopoint.errors import DataError

FEATURES = "_features"
"""Copick puts what networks made of a tomogram beside it: ``<tomo_type>_<feature>_features.zarr``."""

SPACING_TOLERANCE_A = 0.002
"""Folders state three decimals."""


@dataclass(frozen=True)
class Choice:
    """What a user says of the tomograms to read.

    Attributes
    ----------
    voxel_spacing
        As in the folder's name; None: whatever there is, if there is but one.
    tomo_type
        Reconstruction; None: `usual` where it is there, else whatever there is, if there is but one.
    usual
        The one that the graph was validated on.
    """

    voxel_spacing: float | None = None
    tomo_type: str | None = None
    usual: str | None = None


@dataclass(frozen=True)
class Candidate:
    """One tomogram of one run."""

    run: str
    spacing: str
    tomo_type: str
    path: Path


def spacing_folders(run: Path) -> list[Path]:
    """Return the ``VoxelSpacing*`` folders of a run."""
    return sorted(entry for entry in run.iterdir() if entry.name.startswith(VOXEL_PREFIX) and entry.is_dir())


def is_tree(folder: Path) -> bool:
    """Whether a folder holds runs with ``VoxelSpacing*`` folders."""
    return folder.is_dir() and any(entry.is_dir() and spacing_folders(entry) for entry in visible(folder))


def visible(folder: Path) -> list[Path]:
    """Return what a folder holds, sorted, without what is hidden."""
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def candidates(run: str, folders: Iterable[Path]) -> list[Candidate]:
    """Return the tomograms of a run in its ``VoxelSpacing*`` folders."""
    return [
        Candidate(run, folder.name.removeprefix(VOXEL_PREFIX), entry.stem, entry)
        for folder in folders
        for entry in visible(folder)
        if entry.suffix.lower() in (".zarr", *MRC_SUFFIXES) and not entry.stem.endswith(FEATURES)
    ]


def choose(found: Sequence[Candidate], choice: Choice, root: Path) -> tuple[list[Candidate], str, str]:
    """Return one tomogram per run, and the spacing and the reconstruction they are of.

    Raises
    ------
    DataError
        None are there, or several and the user does not say which; the message lists them.
    """
    if not found:
        raise DataError(f"{root}: its {VOXEL_PREFIX}* folders hold no tomogram; expected <tomo_type>.zarr in them")
    spacings = sorted({one.spacing for one in found})
    wanted = choice.voxel_spacing
    fitting = [s for s in spacings if wanted is None or abs(_number(s) - wanted) < SPACING_TOLERANCE_A]
    if len(fitting) != 1:
        problem = f"no voxel spacing of {wanted:g}" if wanted is not None else "several voxel spacings"
        raise DataError(f"{root} has {problem}; choose one with --voxel-spacing: {', '.join(spacings)}")
    (spacing,) = fitting
    found = [one for one in found if one.spacing == spacing]
    types = sorted({one.tomo_type for one in found})
    tomo_type = choice.tomo_type or (choice.usual if choice.usual in types else types[0] if len(types) == 1 else None)
    if tomo_type not in types:
        problem = f"no reconstruction called {tomo_type}" if tomo_type else "several reconstructions"
        raise DataError(
            f"{root} has {problem} with voxels of {spacing}; choose one with --tomo-type: {', '.join(types)}"
        )
    chosen = [one for one in found if one.tomo_type == tomo_type]
    by_run: dict[str, Candidate] = {}
    for one in chosen:
        if one.run in by_run:
            raise DataError(
                f"{by_run[one.run].path} and {one.path} are both the {tomo_type} tomogram of {one.run}; remove one"
            )
        by_run[one.run] = one
    return chosen, spacing, tomo_type


def _number(spacing: str) -> float:
    try:
        return float(spacing)
    except ValueError:
        return -1.0
