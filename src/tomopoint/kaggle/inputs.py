"""Kaggle's folders, and what is attached to a notebook: found by marker files, in both of Kaggle's layouts.

Kaggle mounts an input either flat, ``input/<slug>``, or by kind and owner: ``input/competitions/<slug>``,
``input/datasets/<owner>/<slug>``, ``input/notebooks/<owner>/<slug>``, or both ways at once. Which one cannot be
chosen, and slugs are the user's, so nothing here depends on either.
"""

from __future__ import annotations

from pathlib import Path

from tomopoint.data.project import SAMPLE_SUBMISSION, STATIC
from tomopoint.errors import DataError
from tomopoint.inference.engines.engine_record import RECORD_NAME
from tomopoint.kaggle.manifest import MANIFEST, Manifest

INPUT, WORKING, SCRATCH = "input", "working", "temp"
"""Below ``/kaggle``: what is attached, what is published, and what is neither."""


def find_kit(root: Path) -> Path:
    """Return the folder of the dataset that ``tomopoint stage`` staged.

    Parameters
    ----------
    root
        ``/kaggle``, or the root of a rehearsal.

    Raises
    ------
    DataError
        None attached, or several that differ.
    """
    kits: dict[bytes, Path] = {}  # by the manifest, which hashes all files: one kit may be mounted in both layouts
    for path in _matches(root, "datasets/*/*", MANIFEST):
        if Manifest.is_ours(path):
            kits.setdefault(path.read_bytes(), path.parent)
    if len(kits) > 1:
        listed = ", ".join(map(str, kits.values()))
        raise DataError(f"several tomopoint kits are attached ({listed}); remove all but one from the inputs")
    if not kits:
        raise DataError(
            f"no tomopoint kit ({MANIFEST}) under {root / 'input'}: attach the dataset made by `tomopoint stage` "
            f"(Add Input > Datasets, or dataset_sources in kernel-metadata.json) and run again; {_attached(root)}"
        )
    return next(iter(kits.values()))


def find_competition(root: Path) -> Path:
    """Return the folder that holds the competition's ``test/static`` (and ``train``).

    Raises
    ------
    DataError
        Not attached.
    """
    marked = [path.parent for path in _matches(root, "competitions/*", SAMPLE_SUBMISSION)]
    marked += [path.parent.parent for path in _matches(root, "competitions/*", f"test/{STATIC}")]
    for folder in marked:
        if (folder / "test" / STATIC).is_dir():
            return folder
    raise DataError(
        f"no competition data (test/static) under {root / 'input'}: attach the competition CZII - CryoET Object "
        f"Identification (Add Input > Competitions, or competition_sources in kernel-metadata.json) and run again; "
        f"{_attached(root)}"
    )


def find_engine_record(root: Path) -> Path | None:
    """Return the ``engine.json`` in the attached output of the build_engine notebook, or None."""
    found = _matches(root, "notebooks/*/*", RECORD_NAME)
    return found[0] if found else None


def _matches(root: Path, nested: str, marker: str) -> list[Path]:
    """Return the paths of `marker` in flat and nested mounts, sorted within each, nested first."""
    inputs = root / INPUT
    found = [*sorted(inputs.glob(f"{nested}/{marker}")), *sorted(inputs.glob(f"*/{marker}"))]
    return list(dict.fromkeys(found))


def _attached(root: Path) -> str:
    """Say what is there, since a fresh attachment is sometimes mounted late, as an empty folder."""
    inputs = root / INPUT
    names = sorted(entry.name for entry in inputs.iterdir()) if inputs.is_dir() else []
    if not names:
        return "nothing is mounted there (a fresh attachment may need a re-run)"
    return f"attached now: {', '.join(names)}"
