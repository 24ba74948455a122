"""Predictions of held-out runs as tasks: each run by whoever of a crew is free; what is then read back is the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tomopoint.data.project import Project
from tomopoint.errors import TomopointError
from tomopoint.pipeline import Pipeline
from tomopoint.tasks.task import Crew, carry_out_all
from tomopoint.training.machine import Device, Machine
from tomopoint.validation.ensemble_folder import EnsembleFolder, load_ensemble

Predict = Callable[[EnsembleFolder, Pipeline, Project, str, str], Any]
"""Predicts the run of a name on ``"cpu"`` or ``"cuda"``, and leaves files that make it return at once the next time."""


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


@dataclass(frozen=True)
class ByCrew:
    """A crew that predicts runs of an ensemble.

    Attributes
    ----------
    crew
        Who.
    folders, out, data, device
        As of a :class:`RunTask`.
    """

    crew: Crew[RunTask]
    folders: tuple[Path, ...]
    out: Path | None
    data: Path
    device: Device

    def predict(self, predict: Predict, pipeline: Pipeline, names: Sequence[str], what: str) -> None:
        """Let every run be predicted.

        Raises
        ------
        TomopointError
            Some could not be; the others are.
        """
        tasks = [RunTask(name, predict, self.folders, self.out, pipeline, self.data, self.device) for name in names]
        failed = carry_out_all(tasks, self.crew, what)
        if failed:
            name, reason = next(iter(failed.items()))
            raise TomopointError(
                f"{what}: {len(failed)} of {len(names)} runs could not be predicted, {name} among them: {reason}"
            )


@lru_cache(maxsize=1)
def _load_once(folders: tuple[Path, ...], out: Path | None) -> EnsembleFolder:
    """Load an ensemble; a process that predicts several runs of one does so once."""
    return load_ensemble(folders, out)
