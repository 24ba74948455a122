"""Predictions of held-out runs as tasks: each run by whoever of a crew is free; what is then read back is the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tomopoint.data.project import Project
from tomopoint.errors import TomopointError
from tomopoint.pipeline import Pipeline
from tomopoint.tasks.task import Crew, Hire, carry_out_all
from tomopoint.training.machine import Device, Machine
from tomopoint.validation.ensemble_folder import EnsembleFolder, load_ensemble

Predict = Callable[[EnsembleFolder, Pipeline, Project, str, str], Any]
"""Predicts the run of a name on ``"cpu"`` or ``"cuda"``, and leaves files that make it return at once the next time."""

IsThere = Callable[[EnsembleFolder, Pipeline, Project, str], bool]
"""Whether those files are there."""


@dataclass(frozen=True)
class RunTask:
    """A run to be predicted, as a :class:`~tomopoint.tasks.task.Task`.

    Attributes
    ----------
    label
        Name of the run.
    predict
        How; a function of a module.
    folders, out
        The ensemble, as :func:`~tomopoint.validation.ensemble_folder.load_ensemble` takes it.
    pipeline, data
        As of `predict`; the project's folder.
    device
        Where to predict.
    """

    label: str
    predict: Predict
    folders: tuple[Path, ...]
    out: Path | None
    pipeline: Pipeline
    data: Path
    device: Device
    log: None = None

    def carry_out(self) -> None:
        """Predict it."""
        processor = "cuda" if Machine(self.device).on_gpu else "cpu"
        ensemble = _load_once(self.folders, self.out)
        self.predict(ensemble, self.pipeline, Project(self.data), processor, self.label)


@dataclass
class ByCrew:
    """A crew that predicts runs of an ensemble, hired once there is one to predict.

    Attributes
    ----------
    hire, hired
        Makes the crew; the context that it ends with.
    ensemble, project
        The networks and the runs, as this process sees them.
    folders, out, device
        As of a :class:`RunTask`.
    """

    hire: Hire[RunTask]
    hired: ExitStack
    ensemble: EnsembleFolder
    project: Project
    folders: tuple[Path, ...]
    out: Path | None
    device: Device
    _crew: Crew[RunTask] | None = None

    def predict(self, predict: Predict, is_there: IsThere, pipeline: Pipeline, names: Sequence[str], what: str) -> None:
        """Let every run be predicted that is not there.

        Raises
        ------
        TomopointError
            Some could not be; the others are.
        """
        missing = [name for name in names if not is_there(self.ensemble, pipeline, self.project, name)]
        if not missing:
            return
        self._crew = self._crew or self.hired.enter_context(self.hire())
        root = self.project.root
        tasks = [RunTask(name, predict, self.folders, self.out, pipeline, root, self.device) for name in missing]
        failed = carry_out_all(tasks, self._crew, what)
        if failed:
            name, reason = next(iter(failed.items()))
            raise TomopointError(
                f"{what}: {len(failed)} of {len(missing)} runs could not be predicted, {name} among them: {reason}"
            )


@lru_cache(maxsize=1)
def _load_once(folders: tuple[Path, ...], out: Path | None) -> EnsembleFolder:
    """Load an ensemble; a process that predicts several runs of one does so once."""
    return load_ensemble(folders, out)
