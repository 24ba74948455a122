"""The commands ``compare`` and ``search``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tomopoint.command import CommandResult
from tomopoint.errors import TomopointError

if TYPE_CHECKING:
    from tomopoint.experiments.training import Training
    from tomopoint.tasks.task import Hire


def compare(
    experiment: Path,
    /,
    *,
    data: Path,
    out: Path,
    side_by_side: int = 1,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    workers: int | None = None,
    cluster: str | None = None,
) -> CommandResult:
    """Train variants of a recipe alike, and say which is better.

    Trains the base recipe and every variant of it with every seed, scores each out of fold, and tells the gains, paired
    over seeds. Run the same command again to go on after an interruption: what is finished is not made again.

    Parameters
    ----------
    experiment
        YAML file that names the base recipe, the variants and what each changes, seeds, folds, and steps or minutes.
    data
        Project folder in the competition's layout; its train runs need picks.
    out
        Folder for everything that is made: recipes, training folders, scores.csv, comparison.csv, report.html.
    side_by_side
        Trainings at the same time, each in a process of its own: on several GPUs one each, on a CPU with their share of
        the cores.
    device
        Where to train.
    workers
        Processes that cut crops, of each training; default none on a CPU, up to eight on a GPU.
    cluster
        Train on many processes or machines by Dask, each one variant with one seed: local:N, the address or file of a
        scheduler, or slurm:N, pbs:N, lsf:N, sge:N jobs, also as MIN-MAX. They share the disk with --data and --out.
    """
    from dataclasses import asdict

    from tomopoint.data.particles import project_particles
    from tomopoint.data.sources.find import check_project
    from tomopoint.experiments.compare import run_comparison
    from tomopoint.experiments.compare_report import comparison_page, comparison_text, write_tables
    from tomopoint.experiments.experiment import BASE_NAME, Material, load_experiment
    from tomopoint.experiments.gains import compare_variants
    from tomopoint.experiments.training import Hardware
    from tomopoint.files import write_atomically

    hire = _hire(side_by_side, cluster, device)
    check_project(data)
    material = Material(load_experiment(experiment), experiment, tuple(project_particles(data)))
    found = run_comparison(material, data, out, hire, Hardware(device, workers))
    if not any(found.results.values()):
        reasons = "\n".join(f"FAILED {label}: {reason}" for label, reason in found.failed.items())
        raise TomopointError(f"no training was finished, so there is nothing to compare:\n{reasons}")
    gains = compare_variants(found.results, BASE_NAME, found.particles)
    write_tables(found, gains, out)
    write_atomically(out / "report.html", comparison_page(found, gains))
    lines = [comparison_text(found, gains), f"wrote {out}/report.html, comparison.csv, scores.csv"]
    lines += ["run the same command again to repeat those that failed"] if found.failed else []
    figures = {
        "out": str(out),
        "simulated": found.simulated,
        "results": {
            name: {str(seed): asdict(result) for seed, result in own.items()} for name, own in found.results.items()
        },
        "gains": {
            name: {subject: {"gain": item.gains, "verdict": item.verdict} for subject, item in own.items()}
            for name, own in gains.items()
            if name != BASE_NAME
        },
        "failed": found.failed,
    }
    return CommandResult("\n".join(lines), figures, ok=not found.failed)


def search(
    experiment: Path,
    /,
    *,
    data: Path,
    out: Path,
    trials: int | None = None,
    hours: float | None = None,
    seed: int = 0,
    side_by_side: int = 1,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    workers: int | None = None,
    cluster: str | None = None,
) -> CommandResult:
    """Search the options of a recipe for what scores best out of fold.

    Optuna proposes recipes from what earlier ones scored; those that fall behind in their early epochs are given up.
    Run the same command again to go on after an interruption, or in several terminals to work on one search together;
    on several machines, with --cluster.

    Parameters
    ----------
    experiment
        YAML file that names the base recipe and the space: which options vary, between which ends or among which
        choices.
    data
        Project folder in the competition's layout; its train runs need picks.
    out
        Folder for everything that is made: search.db, trials, best.yaml (which train --recipe takes), trials.csv,
        report.html.
    trials
        End after so many trials, those of earlier calls included.
    hours
        End this call after so long; what is being trained then is gone on with by the next call.
    seed
        Of the trainings, and of what is proposed.
    side_by_side
        Trials at the same time, each in a process of its own: on several GPUs one each, on a CPU with their share of
        the cores.
    device
        Where to train.
    workers
        Processes that cut crops, of each training; default none on a CPU, up to eight on a GPU.
    cluster
        Train on many processes or machines by Dask, each one trial: local:N, the address or file of a
        scheduler, or slurm:N, pbs:N, lsf:N, sge:N jobs, also as MIN-MAX. They share the disk with --data and --out.
    """
    from tomopoint.data.particles import project_particles
    from tomopoint.data.sources.find import check_project
    from tomopoint.experiments.experiment import Material, load_experiment
    from tomopoint.experiments.search import Limits, Search, run_search
    from tomopoint.experiments.search_report import (
        best_trial,
        importances,
        is_simulated,
        search_text,
        states_text,
        write_search,
    )
    from tomopoint.experiments.training import Hardware

    limits = Limits(trials, hours)
    if seed < 0:
        raise TomopointError(f"--seed must not be negative, got {seed}")
    hire = _hire(side_by_side, cluster, device)
    check_project(data)
    material = Material(load_experiment(experiment), experiment, tuple(project_particles(data)))
    asked = Search(material, data, out, seed, Hardware(device, workers))
    study = run_search(asked, limits, hire)
    write_search(asked, study)
    best = best_trial(study)
    lines = [search_text(asked, study), f"wrote {out}/report.html, trials.csv{', best.yaml' if best else ''}"]
    lines += [f"next: tomopoint train --data {data} --recipe {out}/best.yaml --out FOLDER"] if best else []
    figures = {
        "out": str(out),
        "simulated": is_simulated(study),
        "trials": states_text(study),
        "best": None
        if best is None
        else {"trial": best.number, "score": best.value, "values": asked.options_of(best.params)},
        "importance": importances(study),
    }
    return CommandResult("\n".join(lines), figures, ok=best is not None)


def _hire(side_by_side: int, cluster: str | None, device: Literal["auto", "cpu", "cuda"]) -> Hire[Training]:
    """Return what makes the crew that trains: processes of this machine, or workers of a cluster."""
    if cluster is None:
        from tomopoint.experiments.crew import LocalCrew

        crew: LocalCrew[Training] = LocalCrew(side_by_side)
        return lambda: crew
    if side_by_side != 1:
        raise TomopointError("--side-by-side is for one machine; with --cluster say how many there: local:N, slurm:N")
    from tomopoint.cluster.hiring import hired

    return lambda: hired(cluster, device)
