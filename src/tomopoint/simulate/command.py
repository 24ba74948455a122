"""The command ``tomopoint simulate``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

from tomopoint.command import CommandResult, parse_zyx
from tomopoint.errors import DataError
from tomopoint.simulate.options import SimulationOptions

if TYPE_CHECKING:
    from tomopoint.simulate.project import RunTask
    from tomopoint.tasks.task import Hire

CONTENT = Group("What the runs hold", sort_key=0)
DEFAULT_SHAPE = "96,320,320"
DEFAULT_OPTIONS = SimulationOptions()


def simulate(
    out: Path,
    /,
    *,
    train_runs: int = 6,
    test_runs: int = 2,
    shape: str = DEFAULT_SHAPE,
    seed: int = 0,
    workers: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    particles: Path | None = None,
    cluster: str | None = None,
    content: Annotated[SimulationOptions, Parameter(name="*", group=CONTENT)] = DEFAULT_OPTIONS,
) -> CommandResult:
    """Write simulated tomograms as a project in the competition's layout.

    Run it again to go on where it stopped, or with more runs to add some; finished runs are not made again.

    Parameters
    ----------
    out
        Folder to write: train/, test/, sample_submission.csv, and the test runs' truth in truth/.
    train_runs
        Runs with labels.
    test_runs
        Runs without labels.
    shape
        Depth, height and width in voxels; the competition's is 184,630,630.
    seed
        Same seed and version: same data.
    workers
        Processes; 0 chooses by cores, memory and the amount of work.
    device
        Where the FFTs run.
    particles
        YAML file of your own particles: structures (mmCIF, PDB), density maps (MRC) or beads, how many and where;
        default the competition's six. A completed copy becomes particles.yaml in the project.
    cluster
        Make runs on many processes or machines by Dask, each a run: local:N, the address or file of a scheduler, or
        slurm:N, pbs:N, lsf:N, sge:N jobs, also as MIN-MAX. They share the disk that holds the folder.
    content
        What the runs hold: contrast, crowding, voxel size, label mistakes, reconstruction types.
    """
    from tomopoint.simulate.particles.own import read_own_particles
    from tomopoint.simulate.project import ProjectPlan, write_project

    if workers < 0:
        raise DataError(f"workers must not be negative, got {workers}; 0 chooses a number")
    own = None if particles is None else read_own_particles(particles, content.shapes)
    plan = ProjectPlan(out, train_runs, test_runs, parse_zyx("shape", shape), seed, content, device, own)
    hire: Hire[RunTask] | None = None
    if cluster is not None:
        from tomopoint.cluster.hiring import hired

        if workers:
            raise DataError("--workers is for one machine; with --cluster say how many there: local:N, slurm:N")
        hire = partial(hired, cluster, device)
    records = write_project(plan, workers, hire)
    counts = {name: sum(record.counts[name] for record in records) for name in plan.particle_names}
    listing = ", ".join(f"{count} {name}" for name, count in counts.items())
    text = (
        f"{out}: {train_runs} training and {test_runs} test runs of {shape} voxels with {listing}.\n"
        f"Next: tomopoint train --data {out} --out trained/first"
    )
    figures = {
        "data": str(out),
        "train_runs": [record.run for record in records if record.split == "train"],
        "test_runs": [record.run for record in records if record.split == "test"],
        "particles": counts,
        "seconds_per_run": round(sum(record.seconds for record in records) / len(records), 2),
    }
    return CommandResult(text, figures)
