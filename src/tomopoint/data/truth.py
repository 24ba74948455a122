"""The true picks of many runs, from any folder that holds them in the competition's layout or a part of it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tomopoint.data.particles import particles_around
from tomopoint.data.picks import read_run_picks
from tomopoint.data.project import OVERLAY, PICKS_FOLDER, RUNS_FOLDER, Project
from tomopoint.errors import DataError
from tomopoint.pipeline import PIPELINE_NAME, Particle, Pipeline

LEVELS = (f"train/{OVERLAY}/{RUNS_FOLDER}", f"{OVERLAY}/{RUNS_FOLDER}", RUNS_FOLDER, "")
"""Where, below the folder that a user names, the folders of the runs may lie; the first that holds picks is taken."""


def read_truth(
    folder: Path, particle_names: Collection[str], runs: Collection[str] | None = None
) -> dict[str, dict[str, npt.NDArray[np.float64]]]:
    """Read the true picks of every run.

    Parameters
    ----------
    folder
        A project's root, its ``train`` or ``overlay`` folder, an ``ExperimentRuns`` folder with
        ``<run>/Picks/<particle>.json``, or any folder with ``<run>/<particle>.json``.
    particle_names
        The particles that may occur; others that the project knows are passed over.
    runs
        Read these runs only; default all.

    Returns
    -------
    dict
        Run name -> particle name -> ``(N, 3)`` x, y, z in Angstrom.

    Raises
    ------
    DataError
        No such folder, no picks in it, an unknown particle, or a run of `runs` without picks.
    """
    folders = find_pick_folders(folder)
    missing = sorted(set(runs or ()) - set(folders))
    if missing:
        raise DataError(f"{folder} holds no picks of {', '.join(missing)}; it has those of {', '.join(folders)}")
    chosen = folders if runs is None else {run: folders[run] for run in sorted(runs)}
    known = [particle.name for particle in particles_around(folder)]
    return {run: read_run_picks(path, particle_names, known) for run, path in chosen.items()}


def pipeline_beside(submission: Path) -> Pipeline | None:
    """Return the Pipeline that `tomopoint predict` left beside a submission; None where there is none."""
    path = submission.with_name(PIPELINE_NAME)
    return Pipeline.load(path) if path.is_file() else None


def scored_particles(pipeline: Pipeline | None, truth: Path) -> tuple[Particle, ...]:
    """Return the particles to score: the Pipeline's, else those of the project that `truth` lies in."""
    return pipeline.particles if pipeline else particles_around(truth)


def is_simulated_truth(folder: Path) -> bool:
    """Whether the folder lies in a project that `tomopoint simulate` made: scores against it are called simulated."""
    place = folder.resolve()
    return any(Project(root).is_simulated for root in (place, *place.parents))


def find_pick_folders(folder: Path) -> dict[str, Path]:
    """Return, for every run below `folder`, the folder of its picks files; sorted by run."""
    if not folder.is_dir():
        raise DataError(f"no such folder: {folder}; --truth takes a folder with <run>/<particle>.json or an overlay")
    for level in LEVELS:
        runs = (
            sorted(entry for entry in (folder / level).iterdir() if entry.is_dir()) if (folder / level).is_dir() else []
        )
        places = ((run.name, place) for run in runs for place in (run, run / PICKS_FOLDER))  # of two the latter
        if found := {name: place for name, place in places if next(place.glob("*.json"), None) is not None}:
            return found
    raise DataError(
        f"{folder} holds no picks; expected <run>/<particle>.json, <run>/{PICKS_FOLDER}/<particle>.json, "
        f"or one of these folders: {', '.join(LEVELS[:-1])}"
    )
