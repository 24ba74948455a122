"""Write simulated runs as a project in the competition's layout, resumably.

What a run holds depends on the seed, its split and its number in the split alone, so adding runs later, or making
them with more processes, changes none of those that exist. A run counts as finished when its record
``simulation/<run>.json`` is there; the record is written last.
"""

from __future__ import annotations

import json
import logging
import math
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pandas as pd

from tomopoint import __version__
from tomopoint.data.particles import PARTICLES_NAME
from tomopoint.data.picks import write_picks
from tomopoint.data.project import SAMPLE_SUBMISSION, SIMULATION_RECORD, SPLITS, TRUTH_FOLDER, Run
from tomopoint.data.stores import COMPETITION_SCALE_A, write_tomogram
from tomopoint.data.tables import write_submission
from tomopoint.errors import DataError, TomopointError
from tomopoint.files import write_atomically
from tomopoint.processes import leave_no_semaphores
from tomopoint.progress import track
from tomopoint.simulate.options import VOXEL_A, SimulationOptions, check_shape
from tomopoint.simulate.particles.catalogue import competition_particles
from tomopoint.simulate.particles.model import SimulatedParticle
from tomopoint.simulate.particles.own import OwnParticles
from tomopoint.strict_json import build, read, reading, shown
from tomopoint.tasks.task import Hire, carry_out_all

RECORDS_FOLDER = "simulation"

BYTES_PER_VOXEL = 40
"""Peak memory of one run over its voxels: 36 measured at full size (whole process, adaptive look), and some more."""

SMALL_WORK_VOX = 30_000_000
"""Below this many voxels in all, starting processes costs more than it gains."""

_NAME_STEP = 7919
_NAMES_PER_CYCLE = 1440

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProjectPlan:
    """A project to be simulated.

    Attributes
    ----------
    out
        Root folder.
    train_runs, test_runs
        How many of each.
    shape_zyx
        Voxels of every tomogram.
    seed
        Seed of the whole project.
    options
        Contrast, crowding, label mistakes and reconstruction types of the runs.
    device
        Where FFTs run.
    own
        The user's particles; None: the competition's.
    """

    out: Path
    train_runs: int
    test_runs: int
    shape_zyx: tuple[int, int, int]
    seed: int
    options: SimulationOptions
    device: str = "auto"
    own: OwnParticles | None = None

    def __post_init__(self) -> None:
        check_shape(self.shape_zyx)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if BYTES_PER_VOXEL * math.prod(self.shape_zyx) > memory:
            raise DataError(
                f"a shape of {'x'.join(map(str, self.shape_zyx))} voxels does not fit into this machine's memory of "
                f"{memory / 1e9:.0f} GB; choose a smaller --shape"
            )
        if self.train_runs < 0 or self.test_runs < 0 or self.train_runs + self.test_runs == 0:
            raise DataError(
                f"{self.train_runs} training and {self.test_runs} test runs: neither may be negative, and at least "
                "one run is needed"
            )
        if self.seed < 0:
            raise DataError(f"the seed must not be negative, got {self.seed}")

    @property
    def particles(self) -> tuple[SimulatedParticle, ...]:
        """The labelled kinds in the order they are placed."""
        return competition_particles(self.options.shapes) if self.own is None else self.own.particles

    @property
    def particle_names(self) -> tuple[str, ...]:
        """Their names in alphabetical order."""
        return tuple(sorted(particle.name for particle in self.particles))

    def count(self, split: str) -> int:
        """Return the number of runs of a split."""
        return self.train_runs if split == "train" else self.test_runs

    def settings(self) -> dict[str, Any]:
        """Return what decides the content of every run, as plain JSON types."""
        content = {
            "tomopoint": __version__,
            "seed": self.seed,
            "shape_zyx": list(self.shape_zyx),
            "options": asdict(self.options),
        }
        if self.own is not None:
            content["particles"] = self.own.record()
        plain: dict[str, Any] = json.loads(json.dumps(content))
        return plain


@dataclass(frozen=True)
class RunRecord:
    """What was made: one line of ``simulation/``.

    Attributes
    ----------
    run, split, index
        Its name, split, and number in the split.
    counts
        True particles by name.
    imaging
        The imaging parameters drawn for it.
    device, seconds
        Where and how long.
    """

    run: str
    split: str
    index: int
    counts: dict[str, int]
    imaging: dict[str, float | str]
    device: str
    seconds: float


def run_name(split: str, index: int) -> str:
    """Name a run as the competition does (``TS_73_6``); all names of a project differ."""
    number = 2 * index + SPLITS.index(split)
    cycle, _ = divmod(number, _NAMES_PER_CYCLE)
    place = (577 + number * _NAME_STEP) % _NAMES_PER_CYCLE
    return f"TS_{place // 12 + 1 + 120 * cycle}_{place % 12 + 1}"


@dataclass(frozen=True)
class RunTask:
    """A run to make, as a :class:`~tomopoint.tasks.task.Task`.

    Attributes
    ----------
    plan, split, index
        As of :func:`write_run`.
    """

    plan: ProjectPlan
    split: str
    index: int
    log: None = None

    @property
    def label(self) -> str:
        """Name of the run."""
        return run_name(self.split, self.index)

    def carry_out(self) -> None:
        """Simulate the run and write it."""
        write_run(self.plan, self.split, self.index)


def write_project(plan: ProjectPlan, workers: int = 0, hire: Hire[RunTask] | None = None) -> list[RunRecord]:
    """Simulate what is missing of a project.

    Parameters
    ----------
    plan
        Folder, numbers of runs, shape, seed and content.
    workers
        Processes; 0 chooses by cores, memory and the amount of work.
    hire
        Makes a crew that makes the runs instead, where some are missing.

    Returns
    -------
    list of RunRecord
        All runs of the plan, those found finished included.

    Raises
    ------
    DataError
        The folder holds something else, was made with other options, or already holds more runs than planned.
    TomopointError
        A crew could not make some of the runs; the others are made.
    """
    _check_folder(plan)
    write_atomically(plan.out / SIMULATION_RECORD, json.dumps(plan.settings(), indent=2, sort_keys=True) + "\n")
    if plan.own is not None:
        plan.own.save(plan.out / PARTICLES_NAME)
    tasks = [(split, index) for split in SPLITS for index in range(plan.count(split))]
    missing = [task for task in tasks if not _record_path(plan.out, *task).exists()]
    if len(missing) < len(tasks):
        logger.info("%d of %d runs are already there", len(tasks) - len(missing), len(tasks))
    if hire is None:
        workers = min(workers, len(missing)) if workers > 0 else _default_workers(plan, len(missing))
        for _ in track(_make_runs(plan, missing, workers), "simulate", total=len(missing)):
            pass
    elif missing:
        with hire() as crew:
            failed = carry_out_all([RunTask(plan, *task) for task in missing], crew, "simulate")
        if failed:
            run, reason = next(iter(failed.items()))
            raise TomopointError(
                f"{len(failed)} of {len(missing)} runs could not be made, {run} among them: {reason}; run the same "
                "command again to go on"
            )
    # The example submission: every particle once per test run, all in the middle of the box.
    middle = dict(zip("zyx", (round(size * plan.options.voxel_A / 2, 3) for size in plan.shape_zyx), strict=True))
    names = [run_name("test", index) for index in range(plan.test_runs)]
    rows = [{"experiment": run, "particle_type": name, **middle} for run in names for name in plan.particle_names]
    table = pd.DataFrame(rows, columns=["experiment", "particle_type", "x", "y", "z"])
    write_submission(table, plan.out / SAMPLE_SUBMISSION)
    return [_read_record(_record_path(plan.out, *task)) for task in tasks]


def write_run(plan: ProjectPlan, split: str, index: int) -> RunRecord:
    """Simulate one run and write it, its record last.

    Training runs get their labels in the overlay tree; of test runs the truth is kept apart, and only the denoised
    tomogram is given, as in the competition.
    """
    from tomopoint.simulate.imaging import resolve_device
    from tomopoint.simulate.tomogram import simulate_tomogram

    start = time.monotonic()
    run = Run(run_name(split, index), split, plan.out)
    device = resolve_device(plan.device)
    seed = (plan.seed, SPLITS.index(split), index)
    made = simulate_tomogram(plan.options, plan.shape_zyx, seed, device, plan.particles)
    points = made.labels_xyz_A if split == "train" else made.points_xyz_A
    folder = run.picks_folder if split == "train" else plan.out / TRUTH_FOLDER / run.name
    for name in plan.particle_names:
        write_picks(folder / f"{name}.json", run.name, name, points[name])
    # The three numbers of the competition's metadata differ in the eighth digit; other sizes have one.
    scale_A = COMPETITION_SCALE_A if made.voxel_A == VOXEL_A else (made.voxel_A,) * 3
    for tomo_type, volume in made.reconstructions.items():
        if split == "train" or tomo_type == "denoised":
            write_tomogram(run.tomogram_path(tomo_type), volume, scale_A)
    counts = {name: len(made.points_xyz_A[name]) for name in plan.particle_names}
    seconds = round(time.monotonic() - start, 2)
    record = RunRecord(run.name, split, index, counts, asdict(made.imaging), device, seconds)
    write_atomically(_record_path(plan.out, split, index), json.dumps(asdict(record), indent=2) + "\n")
    return record


def _make_runs(plan: ProjectPlan, tasks: list[tuple[str, int]], workers: int) -> Iterator[RunRecord]:
    """Yield records as runs get finished."""
    if workers <= 1:
        for split, index in tasks:
            yield write_run(plan, split, index)
        return
    # Spawned, not forked: a fork of a process that has used torch's threads or a GPU can hang.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_begin_process)
    try:
        for future in as_completed([pool.submit(write_run, plan, *task) for task in tasks]):
            yield future.result()
    except BrokenProcessPool as error:
        raise TomopointError(
            "a process that made runs was ended from outside, by a machine out of memory as a rule; run the same "
            f"command again to go on, with fewer --workers than {workers}"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin_process() -> None:
    """Let this process leave nothing behind, and end when the one that started it does.

    A pool's process outlives a command that is killed: it makes the run that it is at, and then waits for ever.
    """
    leave_no_semaphores()
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _default_workers(plan: ProjectPlan, n_missing: int) -> int:
    """Choose the number of processes: one where there is little to do or a GPU does it, else by cores and memory."""
    from tomopoint.simulate.imaging import resolve_device

    depth, height, width = plan.shape_zyx
    n_voxels = depth * height * width
    if n_voxels * n_missing < SMALL_WORK_VOX or resolve_device(plan.device) != "cpu":
        return 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    fitting = int(memory // (BYTES_PER_VOXEL * n_voxels))
    return max(1, min(n_missing, os.cpu_count() or 1, fitting))


def _check_folder(plan: ProjectPlan) -> None:
    """Refuse a folder whose content this plan would mix with something else."""
    settings_path = plan.out / SIMULATION_RECORD
    if not settings_path.exists():
        if plan.own is None and (plan.out / PARTICLES_NAME).exists():
            raise DataError(
                f"{plan.out} holds a {PARTICLES_NAME} of other particles; give it with --particles, or another folder"
            )
        present = [split for split in SPLITS if (plan.out / split).exists()]
        if present:
            raise DataError(
                f"{plan.out} already holds {' and '.join(present)} data that were not simulated here; "
                "give another folder"
            )
        return
    with reading(settings_path, DataError, "says nothing of a simulation", "remove the folder or give another one"):
        differing = _differences(read(settings_path), plan.settings())
    if differing:
        raise DataError(
            f"{plan.out} was simulated with other settings ({'; '.join(differing)}); repeat those, "
            "or give another folder"
        )
    for split in SPLITS:
        if _record_path(plan.out, split, plan.count(split)).exists():
            raise DataError(
                f"{plan.out} already holds more than {plan.count(split)} {split} runs; ask for at least as many, or "
                "give another folder"
            )


def _differences(recorded: Any, wanted: Any, name: str = "") -> list[str]:
    """Say in words where two nested settings differ."""
    if isinstance(recorded, dict) and isinstance(wanted, dict):
        keys = sorted(set(recorded) | set(wanted))
        found = [_differences(recorded.get(k), wanted.get(k), f"{name}.{k}" if name else k) for k in keys]
        return [text for part in found for text in part]
    was, now = (value if isinstance(value, str) else shown(value) for value in (recorded, wanted))
    return [] if recorded == wanted else [f"{name} was {was}, now {now}"]


def _record_path(out: Path, split: str, index: int) -> Path:
    return out / RECORDS_FOLDER / f"{run_name(split, index)}.json"


def _read_record(path: Path) -> RunRecord:
    with reading(path, DataError, "is not a record of a simulated run", "remove it and run again"):
        return build(RunRecord, read(path))
