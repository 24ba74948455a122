"""Where coordinates of other programs have their origin: the tomogram that they refer to, and its name elsewhere.

Positions of this project are Angstrom from the volume's corner, so the centre of voxel ``i`` (counted from 0) lies at
``(i + 0.5) * voxel_A``. Other programs give the centre of the first voxel another coordinate, in voxels: 0.5 where they
count from the corner as well, 0 where a coordinate is an index, 1 where indices count from one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import numpy as np
import numpy.typing as npt
import pandas as pd

from tomopoint.data.project import DEFAULT_TOMO_TYPE
from tomopoint.data.sources.find import Found, find_all
from tomopoint.data.sources.tree import Choice
from tomopoint.data.tables import COORDINATES
from tomopoint.data.tomograms import TomogramInfo
from tomopoint.errors import DataError

FROM_CORNER, FROM_INDEX = 0.5, 0.0
"""Coordinate of the centre of the first voxel, see the module's text."""

RECONSTRUCTED = "rec_"
"""Before a tomogram's name in the names of the files that RELION 5 reconstructs."""

Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Frame:
    """The tomogram that coordinates refer to.

    Attributes
    ----------
    voxel_A
        Edge of its voxels, Angstrom.
    size_xyz_A
        Its extent along x, y, z, Angstrom; None where only the voxel size is known.
    """

    voxel_A: float
    size_xyz_A: tuple[float, float, float] | None = None

    @classmethod
    def of(cls, info: TomogramInfo) -> Frame:
        """Take size and voxels from a tomogram's metadata."""
        depth, height, width = info.shape_zyx
        return cls(info.voxel_A, (width * info.voxel_A, height * info.voxel_A, depth * info.voxel_A))

    def to_voxels(self, points_xyz_A: Points, first_voxel: float) -> Points:
        """Return ``(N, 3)`` positions in voxels, the centre of the first voxel at `first_voxel`."""
        return points_xyz_A / self.voxel_A + (first_voxel - FROM_CORNER)

    def from_voxels(self, points_xyz_vox: Points, first_voxel: float) -> Points:
        """Undo :meth:`to_voxels`: ``(N, 3)`` positions in Angstrom from the corner."""
        return (points_xyz_vox - (first_voxel - FROM_CORNER)) * self.voxel_A

    def to_centred(self, points_xyz_A: Points) -> Points:
        """Return ``(N, 3)`` Angstrom from where RELION 5 sees the centre: voxel ``N / 2``, counted from 0."""
        return points_xyz_A - self._centre_xyz_A

    def from_centred(self, points_xyz_A: Points) -> Points:
        """Undo :meth:`to_centred`."""
        return points_xyz_A + self._centre_xyz_A

    @property
    def _centre_xyz_A(self) -> Points:
        if self.size_xyz_A is None:
            raise DataError("centred coordinates need the size of the tomogram; name it with --data")
        return np.asarray(self.size_xyz_A) / 2 + FROM_CORNER * self.voxel_A

    def outside(self, points_xyz_A: Points, by_A: float = 0.0) -> npt.NDArray[np.bool_]:
        """Return which of ``(N, 3)`` positions lie outside by more, ``(N,)``; none where the size is not known."""
        if self.size_xyz_A is None:
            return np.zeros(len(points_xyz_A), dtype=bool)
        beyond = np.maximum(-points_xyz_A, points_xyz_A - np.asarray(self.size_xyz_A))
        outside: npt.NDArray[np.bool_] = np.any(beyond > by_A, axis=1)
        return outside


@dataclass
class Tomograms:
    """The runs that picks are of, found by the names that other programs give them.

    Attributes
    ----------
    found
        The tomograms, of whatever layout.
    renamed
        Name elsewhere -> run.
    """

    found: Found
    renamed: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._runs = {run.name: run for run in self.found.tomograms}
        if unknown := sorted(set(self.renamed.values()) - set(self._runs)):
            raise DataError(f"--rename names the runs {', '.join(unknown)}; {self.found.root} has {_some(self._runs)}")
        self._frames: dict[str, Frame] = {}

    def frame(self, run: str) -> Frame:
        """Return size and voxels of a run, from the metadata of its tomogram; DataError where there is none."""
        if run not in self._runs:
            raise DataError(f"{self.found.root} has no run {run!r}; it has {_some(self._runs)}")
        if run not in self._frames:
            info = self._runs[run].describe(self.found.tomo_type or DEFAULT_TOMO_TYPE)
            self._frames[run] = Frame.of(info)
        return self._frames[run]

    def run(self, name: str, source: object) -> str:
        """Return the run that `source` calls `name`: of that name, of its file's name, or as renamed.

        Raises
        ------
        DataError
            No run, or several.
        """
        if name in self.renamed:
            return self.renamed[name]
        if name in self._runs:
            return name
        stem = PurePath(name).name.split(".")[0]
        stems = {PurePath(name).stem, stem}
        names = {n for s in stems for n in (s, RECONSTRUCTED + s, s.removeprefix(RECONSTRUCTED))}
        found = sorted(names & set(self._runs))
        if len(found) != 1:
            raise DataError(
                f"{source}: the tomogram {name!r} is {'one of several runs' if found else 'no run'} of "
                f"{self.found.root}, which has {_some(found or self._runs)}; say which with --rename '{name}=RUN'"
            )
        return found[0]


def frames_of(data: Path, runs: Collection[str], tomo_type: str, stated_A: float | None = None) -> dict[str, Frame]:
    """Return the frame of each run, from whatever ``--data`` may be (docs/lab.md).

    Parameters
    ----------
    runs
        Names, as in the picks.
    tomo_type
        Reconstruction whose size is taken, where there are several.
    stated_A
        Edge of all voxels as the user states it, Angstrom; a project's are in its metadata.

    Raises
    ------
    DataError
        A run that is not there, or what :func:`tomopoint.data.sources.find.find_all` raises.
    """
    tomograms = Tomograms(find_all(data, Choice(usual=tomo_type), stated_A))
    return {run: tomograms.frame(run) for run in runs}


def refuse_outside(picks: pd.DataFrame, frames: Mapping[str, Frame], source: object) -> None:
    """DataError where picks lie outside the tomograms that they are about to be written for.

    Parameters
    ----------
    picks
        ``experiment, particle_type, x, y, z``, Angstrom from the corner.
    frames
        Of their runs; the others are not looked at.
    source
        Where they come from, for the message.
    """
    outside = np.zeros(len(picks), dtype=bool)
    points_xyz_A = picks[list(COORDINATES)].to_numpy(dtype=np.float64)
    for run, rows in picks.groupby("experiment").indices.items():
        if frame := frames.get(str(run)):  # resampling may move an end by less than a voxel
            outside[rows] = frame.outside(points_xyz_A[rows], frame.voxel_A)
    if outside.any():
        first = picks.loc[outside].iloc[0]
        raise DataError(
            f"{int(outside.sum())} of {len(picks)} picks of {source} lie outside the tomograms, e.g. "
            f"{first['particle_type']} of {first['experiment']} at {first['x']:.1f}, {first['y']:.1f}, "
            f"{first['z']:.1f} A; name those that they were found in"
        )


def _some(names: Collection[str], most: int = 8) -> str:
    listed = sorted(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")


def check_words(names: Collection[str], what: str) -> None:
    """DataError where a name has blanks or quotes, which formats of words between blanks cannot hold."""
    for name in names:
        if not name or set(name) & set(" \t\"'#"):
            raise DataError(f"the {what} {name!r} cannot stand in this format; its names have no blanks, quotes or #")
