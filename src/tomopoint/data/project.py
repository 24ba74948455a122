"""A project folder in the competition's layout: which runs there are, and where their files lie.

::

    <root>/<split>/static/ExperimentRuns/<run>/VoxelSpacing10.000/<tomo_type>.zarr
    <root>/<split>/overlay/ExperimentRuns/<run>/Picks/<particle>.json

In one's own project the tomograms may lie in another ``VoxelSpacing*`` folder, and be MRC files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tomopoint.data.mrc import MRC_SUFFIXES
from tomopoint.data.tomograms import Tomogram, TomogramInfo, describe_tomogram, read_tomogram
from tomopoint.errors import DataError
from tomopoint.files import PLAIN_NAME, is_plain_name

SPLITS = ("train", "test")
STATIC, OVERLAY = "static", "overlay"
"""In a split: what the microscope gave, and what was picked in it."""
RUNS_FOLDER = "ExperimentRuns"
VOXEL_PREFIX = "VoxelSpacing"
VOXEL_FOLDER = f"{VOXEL_PREFIX}10.000"
PICKS_FOLDER = "Picks"
SAMPLE_SUBMISSION = "sample_submission.csv"
DEFAULT_TOMO_TYPE = "denoised"
SIMULATION_RECORD = "simulation.json"
"""In the root of a simulated project: how it was made. Scores on such data are always called simulated."""
TRUTH_FOLDER = "truth"
"""In the root of a simulated project: the true picks of its test runs."""


@dataclass(frozen=True)
class Run:
    """One tomogram's place in a project.

    Attributes
    ----------
    name
        E.g. ``"TS_5_4"``; the submission's ``experiment``.
    split
        ``"train"`` or ``"test"``.
    root
        The project's root folder.
    """

    name: str
    split: str
    root: Path

    @property
    def picks_folder(self) -> Path:
        """Folder of the run's picks; it need not exist for test runs."""
        return self.root / self.split / OVERLAY / RUNS_FOLDER / self.name / PICKS_FOLDER

    def tomogram_path(self, tomo_type: str = DEFAULT_TOMO_TYPE) -> Path:
        """Return the path of one reconstruction type: the competition's, or the only other there is; it need not exist.

        Raises
        ------
        DataError
            It is there in several other ``VoxelSpacing*`` folders or formats.
        """
        folder = self.root / self.split / STATIC / RUNS_FOLDER / self.name
        usual = folder / VOXEL_FOLDER / f"{tomo_type}.zarr"
        if usual.exists() or not folder.is_dir():
            return usual
        spacings = sorted(entry for entry in folder.iterdir() if entry.name.startswith(VOXEL_PREFIX))
        names = [f"{tomo_type}{suffix}" for suffix in (".zarr", *MRC_SUFFIXES)]
        others = [spacing / name for spacing in spacings for name in names if (spacing / name).exists()]
        if len(others) > 1:
            raise DataError(f"{', '.join(map(str, others))} are all {tomo_type} tomograms of {self.name}; keep one")
        return others[0] if others else usual

    @property
    def place(self) -> str:
        """Where it comes from, see :class:`tomopoint.data.sources.run.ReadableRun`."""
        return f"{self.root.resolve() / self.split}"

    @property
    def way(self) -> str | None:
        """How it is read: as it stands."""
        return None

    def describe(self, tomo_type: str) -> TomogramInfo:
        """Return shape and voxel size of a reconstruction; errors as :func:`describe_tomogram`."""
        return describe_tomogram(self.tomogram_path(tomo_type))

    def read(self, tomo_type: str) -> Tomogram:
        """Read a reconstruction; errors as :func:`read_tomogram`."""
        return read_tomogram(self.tomogram_path(tomo_type))


@dataclass(frozen=True)
class Project:
    """A folder with a train and a test split, in the competition's layout."""

    root: Path

    @property
    def is_simulated(self) -> bool:
        """Whether `tomopoint simulate` made the tomograms."""
        return (self.root / SIMULATION_RECORD).is_file()

    def runs(self, split: str) -> list[Run]:
        """List the runs of a split, sorted by name, from what is on disk.

        Raises
        ------
        DataError
            The root or the split is missing, or holds no run, or one whose name cannot be part of a file's name.
        """
        if not self.root.is_dir():
            raise DataError(f"no such folder: {self.root}; --data takes the folder that holds train/ and test/")
        folder = self.root / split / STATIC / RUNS_FOLDER
        names = sorted(entry.name for entry in folder.iterdir() if _is_run(entry)) if folder.is_dir() else []
        if not names:
            raise DataError(f"{folder} holds no runs; --data takes the folder that holds train/ and test/")
        for name in names:
            if not is_plain_name(name):
                raise DataError(f"{folder} holds a run called {name!r}; rename it, the name must be {PLAIN_NAME}")
        return [Run(name, split, self.root) for name in names]

    def run(self, name: str, split: str) -> Run:
        """Return one run by name; DataError names those that exist."""
        runs = self.runs(split)
        for run in runs:
            if run.name == name:
                return run
        raise DataError(f"{self.root} has no {split} run {name!r}; it has {', '.join(r.name for r in runs)}")


def _is_run(entry: Path) -> bool:
    return entry.is_dir() and not entry.name.startswith(".")
