"""Picks that a person looked through, saved as training picks of a project; nothing is replaced without being asked."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tomopoint.data.sources.find import Found
from tomopoint.data.training_project import (
    RECIPE_NAME,
    other_picks,
    read_for_training,
    write_training_project,
)
from tomopoint.errors import DataError

Floats = npt.NDArray[np.float64]


def default_target(data: Path) -> Path:
    """Return the project that picks are saved in unless told: beside where one works, never the data themselves."""
    name = data.resolve().name if data.exists() else data.parent.resolve().name
    return Path(f"{Path(name).stem or 'tomograms'}-picked")


@dataclass
class TrainingPicks:
    """Where the picks of a run are saved.

    Attributes
    ----------
    project
        Root of the project; `tomopoint train` takes it.
    found
        The tomograms.
    run
        The run that is looked at.
    radii_A
        Of particles that are not the competition's.
    particles
        Those with picks in any run: a project lists them from the beginning.
    """

    project: Path
    found: Found
    run: str
    radii_A: Mapping[str, float]
    particles: Collection[str] = ()
    _own: set[Path] = field(default_factory=set)

    def replaces(self, points_zyx_A: Mapping[str, Floats]) -> list[Path]:
        """Return the picks files that hold others and are not this session's own: ask before they are replaced."""
        return [path for path in other_picks(self.project, self._picks(points_zyx_A)) if path not in self._own]

    def save(self, points_zyx_A: Mapping[str, Floats], replaced: Collection[Path] = ()) -> str:
        """Save picks, and link or write the tomogram beside them; return what was done, in words.

        Parameters
        ----------
        points_zyx_A
            Particle -> ``(N, 3)`` z, y, x in Angstrom from the corner; of one without any, an earlier file is emptied.
        replaced
            What may be replaced, of :meth:`replaces`.

        Raises
        ------
        DataError
            No pick at all, or as :func:`tomopoint.data.training_project.write_training_project`.
        """
        picks = self._picks(points_zyx_A)
        count = sum(map(len, points_zyx_A.values()))
        if not count:
            raise DataError(f"no pick of {self.run} is shown; add some, or lower the thresholds, before saving")
        names = {name for name, points in points_zyx_A.items() if len(points)} | {*self.particles}
        radii_A = {name: radius for name, radius in self.radii_A.items() if name in names}
        written = write_training_project(
            picks, read_for_training(self.found), radii_A, self.project, [*replaced, *self._own], self.particles
        )
        self._own |= {*written.files}
        return (
            f"{count} picks of {self.run} are in {self.project}; train on it: tomopoint train --data {self.project} "
            f"--recipe {self.project / RECIPE_NAME} --out trained/{self.project.name}"
        )

    def _picks(self, points_zyx_A: Mapping[str, Floats]) -> dict[str, dict[str, Floats]]:
        return {self.run: {name: points[:, ::-1] for name, points in points_zyx_A.items()}}
