"""What a prediction asks of a run, and a run that is one file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tomopoint.data.reading import Reading, as_read, read_as
from tomopoint.data.tomograms import Tomogram, TomogramInfo, describe_tomogram, read_tomogram


class ReadableRun(Protocol):
    """A tomogram with a name, wherever it lies; it can be sent to another process."""

    @property
    def name(self) -> str:
        """The submission's ``experiment``; no two runs of a prediction share it."""

    @property
    def place(self) -> str:
        """Where it comes from: what is done is taken up again only with runs of the same places."""

    @property
    def way(self) -> str | None:
        """How it is read, where that is not as it stands; as `place`."""

    def describe(self, tomo_type: str) -> TomogramInfo:
        """Return shape and voxel size as it will be read; DataError where it cannot be."""

    def read(self, tomo_type: str) -> Tomogram:
        """Read it; DataError where it cannot be."""


@dataclass(frozen=True)
class FileRun:
    """A run that is one file or store; the reconstruction asked for does not matter, for it was chosen already.

    Attributes
    ----------
    name
        As of :class:`ReadableRun`.
    path
        The file or store.
    voxel_A
        Edge of its voxels as the user states it, Angstrom; None: as its metadata say.
    reading
        What is done to it on reading; None: nothing.
    """

    name: str
    path: Path
    voxel_A: float | None = None
    reading: Reading | None = None

    @property
    def place(self) -> str:
        """The folder that holds it."""
        return str(self.path.resolve().parent)

    @property
    def way(self) -> str | None:
        """The user's word on voxels, and what is done on reading."""
        stated = None if self.voxel_A is None else f"voxels of {self.voxel_A:g} A as stated"
        said = [text for text in (stated, self.reading and self.reading.text()) if text]
        return ", ".join(said) or None

    def describe(self, tomo_type: str) -> TomogramInfo:
        """Return shape and voxel size as it will be read."""
        info = describe_tomogram(self.path, self.voxel_A)
        return info if self.reading is None else as_read(info, self.reading)

    def read(self, tomo_type: str) -> Tomogram:
        """Read it, and do what :attr:`reading` says."""
        if self.reading is None:
            return read_tomogram(self.path, self.voxel_A)
        return read_as(self.path, self.reading, self.voxel_A)
