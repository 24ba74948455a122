"""From one word to tomograms: what ``--data`` may be, and what it turned out to be.

A project in the competition's layout; a file, a folder or a quoted pattern of MRC files; an OME-Zarr store or a folder
of them; a copick project; the ``VoxelSpacing*`` folders of a run, or of many; stores behind a URL. What could be meant
in two ways is refused.
"""

from __future__ import annotations

import glob
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from tomopoint.data.mrc import MRC_SUFFIXES, VOXELS_A, is_mrc
from tomopoint.data.project import DEFAULT_TOMO_TYPE, RUNS_FOLDER, SPLITS, STATIC, VOXEL_PREFIX, Project, Run
from tomopoint.data.reading import Reading
from tomopoint.data.sources.copick import copick_candidates, find_config
from tomopoint.data.sources.remote import RemoteRun, find_remote, url_of
from tomopoint.data.sources.run import FileRun, ReadableRun
from tomopoint.data.sources.tree import Candidate, Choice, candidates, choose, is_tree, spacing_folders, visible
from tomopoint.data.tomograms import voxel_size_of
from tomopoint.errors import DataError
from tomopoint.files import PLAIN_NAME, is_plain_name

ACCEPTED = (
    "--data takes the folder that holds train/ and test/, a copick project, a folder with VoxelSpacing* folders, or a "
    f"file, a folder or a quoted pattern of {', '.join(MRC_SUFFIXES)} or OME-Zarr (.zarr), the latter also as a URL"
)

MAX_DESCRIBED = 3
"""So many stores behind a URL are asked for their metadata, until one answers, before the work begins."""

MAX_HEADERS = 64
"""Voxel sizes are looked up of so many files, to be told before the work begins."""

OneFile = TypeVar("OneFile", bound=FileRun)

FROM_FILES = "file"
"""Stands for the reconstruction where files do not say which it is."""


@dataclass(frozen=True)
class Found:
    """What ``--data`` is; it answers as a :class:`~tomopoint.data.project.Project` does.

    Attributes
    ----------
    root
        What the user named.
    tomograms
        Its runs, sorted by name.
    tomo_type
        Reconstruction that is read; None: a project's, of which each run has several.
    text
        What was found, on one line.
    is_simulated
        As of a project.
    project_split
        Of a project in the competition's layout, which is read as it stands: the split; None: it is none.
    """

    root: Path
    tomograms: tuple[Run | FileRun, ...]
    tomo_type: str | None
    text: str
    is_simulated: bool = False
    project_split: str | None = None

    @property
    def is_project(self) -> bool:
        """Whether it is a project in the competition's layout."""
        return self.project_split is not None

    def runs(self, split: str) -> list[ReadableRun]:
        """Return the runs: a project's of the split, and otherwise all."""
        if self.is_project and split != self.project_split:
            return [*Project(self.root).runs(split)]
        return list(self.tomograms)

    def named(self, names: str) -> list[ReadableRun]:
        """Return the runs of a list, separated by commas, or all; DataError names those that exist."""
        if not names:
            return list(self.tomograms)
        return [self._one(name.strip()) for name in names.split(",")]

    def file(self, name: str, usual: str) -> FileRun:
        """Return a run as the one file that is read, of a project's the `usual` one; DataError as :meth:`named`.

        Nor are there files of what is behind a URL.
        """
        run = self._one(name)
        if isinstance(run, RemoteRun):
            raise DataError(f"{run.url} is not on this machine's disks, as this command needs it; download it first")
        return _as_file(run, self.tomo_type or usual)

    def _one(self, name: str) -> Run | FileRun:
        for run in self.tomograms:
            if run.name == name:
                return run
        raise DataError(f"{self.root} has no run {name!r}; it has {', '.join(run.name for run in self.tomograms)}")

    def read_as(self, reading: Reading) -> Found:
        """Return the same with something done to every tomogram on reading; a project is then of one reconstruction."""
        tomo_type = self.tomo_type or reading.tomo_type
        runs = tuple(replace(_as_file(run, tomo_type), reading=reading) for run in self.tomograms)
        return replace(self, tomograms=runs, tomo_type=tomo_type)

    def stated(self, voxel_A: float, usual: str) -> Found:
        """Return a project with voxels as the user states them; of the reconstruction chosen, or else the `usual`."""
        tomo_type = self.tomo_type or usual
        runs = tuple(replace(_as_file(run, tomo_type), voxel_A=voxel_A) for run in self.tomograms)
        return replace(self, tomograms=runs, tomo_type=tomo_type)


def _as_file(run: Run | FileRun, tomo_type: str) -> FileRun:
    return FileRun(run.name, run.tomogram_path(tomo_type)) if isinstance(run, Run) else run


def find_tomograms(data: Path, split: str, choice: Choice | None = None, stated_A: float | None = None) -> Found:
    """Find the tomograms that a user means.

    Parameters
    ----------
    data
        As typed: a path or a pattern.
    split
        Of a project in the competition's layout.
    choice
        Of several voxel spacings and reconstructions.
    stated_A
        Edge of all voxels as the user states it, Angstrom.

    Raises
    ------
    DataError
        Nothing there, nothing that is known, two layouts at once, two runs of one name, an unclear choice; or not one
        of the files has a voxel size.
    """
    choice = choice or Choice()
    url = url_of(data)
    if stated_A is not None and not VOXELS_A[0] <= stated_A <= VOXELS_A[1]:
        raise DataError(f"--voxel-size must lie in [{VOXELS_A[0]:g}, {VOXELS_A[1]:g}] Angstrom, got {stated_A:g}")
    if url is not None:
        return _remote(url, choice, stated_A)
    if not data.exists() and glob.has_magic(str(data)):
        paths = [Path(path) for path in sorted(glob.glob(str(data), recursive=True))]
        if not paths:
            raise DataError(f"no file matches {data}; {ACCEPTED}")
        return _files(data, paths, choice, stated_A)
    if not data.exists():
        raise DataError(f"no such folder: {data}; {ACCEPTED}")
    if data.is_file() and data.suffix == ".json":
        return _tree(data, copick_candidates(data), "a copick project", choice, stated_A)
    if not data.is_dir() or _is_store(data):
        return _files(data, [data], choice, stated_A)
    if is_project(data) and choice.voxel_spacing is None:
        project = Project(data)
        found = Found(
            *(data, tuple(project.runs(split)), choice.tomo_type, f"{data} is a project in the competition's layout"),
            *(project.is_simulated, split),
        )
        return found if stated_A is None else found.stated(stated_A, choice.usual or DEFAULT_TOMO_TYPE)
    if (config := find_config(data)) is not None:
        return _tree(config, copick_candidates(config), "a copick project", choice, stated_A)
    if data.name.startswith(VOXEL_PREFIX):
        return _tree(data, candidates(data.resolve().parent.name, [data]), "a run's folder", choice, stated_A)
    if spacing_folders(data):
        return _tree(data, candidates(data.resolve().name, spacing_folders(data)), "a run's folder", choice, stated_A)
    for folder in (data / split / STATIC / RUNS_FOLDER, data / STATIC / RUNS_FOLDER, data / RUNS_FOLDER, data):
        if is_tree(folder):
            runs_found = [entry for entry in visible(folder) if entry.is_dir()]
            found_here = [one for entry in runs_found for one in candidates(entry.name, spacing_folders(entry))]
            return _tree(data, found_here, "a folder of runs", choice, stated_A)
    paths = [entry for entry in visible(data) if is_mrc(entry) or entry.suffix == ".zarr"]
    if not paths:
        raise DataError(f"{data} holds no runs; {ACCEPTED}")
    return _files(data, paths, choice, stated_A)


def find_all(data: Path, choice: Choice | None = None, stated_A: float | None = None) -> Found:
    """Find tomograms as :func:`find_tomograms` does, and of a project those of both splits.

    Of two runs of one name it is the one of ``train``.
    """
    splits = [split for split in SPLITS if (data / split / STATIC / RUNS_FOLDER).is_dir()]
    parts = [find_tomograms(data, split, choice, stated_A) for split in splits or SPLITS[:1]]
    if not parts[0].is_project:
        return parts[0]
    runs = {run.name: run for part in reversed(parts) for run in part.tomograms}
    return replace(parts[0], tomograms=tuple(runs[name] for name in sorted(runs)))


def is_project(data: Path) -> bool:
    """Whether a folder is a project in the competition's layout."""
    return any((data / split / STATIC / RUNS_FOLDER).is_dir() for split in SPLITS)


def check_project(data: Path) -> None:
    """Refuse what is no project; DataError with the commands that make one of tomograms in another layout."""
    if is_project(data):
        return
    if not data.exists() and not glob.has_magic(str(data)):
        raise DataError(f"no such folder: {data}; training takes the folder that holds train/ and test/")
    place = shlex.quote(str(data))
    is_copick = find_config(data) is not None if data.is_dir() else data.suffix == ".json"
    picks = f"{place} --format copick" if is_copick else "PARTICLE=PICKS.star --format relion5"
    raise DataError(
        f"{data} is no project: training takes tomograms with picks beside them. Two commands train on it: tomopoint "
        f"import {picks} --data {place} --out PROJECT, then tomopoint train --data PROJECT --recipe PROJECT/"
        "recipe.yaml --out trained/first" + ("" if is_copick else " (picks of other programs: tomopoint import --help)")
    )


def _is_store(folder: Path) -> bool:
    return folder.suffix == ".zarr" or any((folder / name).exists() for name in (".zgroup", ".zattrs", "zarr.json"))


def _remote(url: str, choice: Choice, stated_A: float | None) -> Found:
    """Return stores behind a URL; DataError where not one of the first can be described."""
    _check_unambiguous(url, choice)
    runs = _distinct(find_remote(url, stated_A))
    errors = []
    for run in runs[:MAX_DESCRIBED]:
        try:
            size = f"{run.describe(FROM_FILES).voxel_A:.3f} A{' as stated' if stated_A else ''}"
        except DataError as error:
            errors.append(error)
        else:
            what = f"{url}: {len(runs)} OME-Zarr store{'s' if len(runs) > 1 else ''}, voxels of {size}"
            return Found(Path(url), runs, FROM_FILES, f"{what} in {run.name}" if len(runs) > 1 else what)
    raise errors[0]


def _check_unambiguous(data: Path | str, choice: Choice) -> None:
    """Refuse a choice among the tomograms of a run where there is one for each."""
    for option, value in (("--tomo-type", choice.tomo_type), ("--voxel-spacing", choice.voxel_spacing)):
        if value is not None:
            raise DataError(
                f"{option} chooses among the tomograms of a run, and {data} has one file per run; leave it out"
            )


def _files(data: Path, paths: Sequence[Path], choice: Choice, stated_A: float | None) -> Found:
    """Return files as runs that are called like them."""
    _check_unambiguous(data, choice)
    for path in paths:
        if not is_mrc(path) and not _is_store(path):
            raise DataError(f"{path} is neither an MRC file nor an OME-Zarr store; {ACCEPTED}")
    kinds = Counter("MRC files" if is_mrc(path) else "OME-Zarr stores" for path in paths)
    if len(kinds) > 1:
        raise DataError(
            f"{data} holds {' and '.join(f'{count} {kind}' for kind, count in kinds.items())}; name one kind with a "
            "quoted pattern, e.g. 'FOLDER/*.mrc'"
        )
    (kind,) = kinds
    runs = [FileRun(_run_name(path), path, stated_A) for path in paths]
    return Found(data, _distinct(runs), FROM_FILES, _said(data, kind, runs))


def _tree(data: Path, found: Sequence[Candidate], what: str, choice: Choice, stated_A: float | None) -> Found:
    """Return one tomogram for each run of a tree."""
    chosen, spacing, tomo_type = choose(found, choice, data)
    runs = [FileRun(one.run, one.path, stated_A) for one in chosen]
    said = _said(data, f"runs in {what}, VoxelSpacing{spacing}, {tomo_type}", runs)
    if without := sorted({one.run for one in found} - {run.name for run in runs}):
        said += f"; {len(without)} runs have no such tomogram and are left out: {', '.join(without[:5])}"
    return Found(data, _distinct(runs), tomo_type, said)


def _run_name(path: Path) -> str:
    """Return a run's name: that of its file; of a store in a run's folder, the folder's."""
    if path.resolve().parent.name.startswith(VOXEL_PREFIX):
        return path.resolve().parent.parent.name
    name = path.name.removesuffix(path.suffix) if path.suffix else path.name
    return name.removesuffix(".ome")


def _distinct(runs: Sequence[OneFile]) -> tuple[OneFile, ...]:
    by_name: dict[str, OneFile] = {}
    for run in sorted(runs, key=lambda run: run.name):
        if not is_plain_name(run.name):
            raise DataError(f"{run.path} gives a run called {run.name!r}; rename it, the name must be {PLAIN_NAME}")
        if run.name in by_name:
            raise DataError(
                f"{by_name[run.name].path} and {run.path} would both be the run {run.name}; rename or leave out one of "
                "them"
            )
        by_name[run.name] = run
    return tuple(by_name.values())


def _said(data: Path, kind: str, runs: Sequence[FileRun]) -> str:
    """Say what was found, with the voxel sizes; DataError, the first, where not one of the runs has one."""
    sizes: Counter[str] = Counter()
    errors = []
    for run in runs[:MAX_HEADERS]:
        try:
            sizes[f"{voxel_size_of(run.path, run.voxel_A):.3f} A"] += 1
        except (DataError, OSError) as error:
            errors.append(error)
    if errors and not sizes:
        raise errors[0] if isinstance(errors[0], DataError) else DataError(f"cannot read {runs[0].path}: {errors[0]}")
    stated = " as stated" if runs[0].voxel_A is not None else ""
    listed = ", ".join(f"{size} ({count})" if len(sizes) > 1 else size for size, count in sizes.most_common(5))
    text = f"{data}: {len(runs)} {kind}, voxels of {listed}{stated}"
    if len(runs) > MAX_HEADERS:
        text += f" in the first {MAX_HEADERS}"
    return text + (f"; {len(errors)} cannot be read" if errors else "")
