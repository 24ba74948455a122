"""The commands ``compare`` and ``search``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tomopoint.command import CommandResult
from tomopoint.errors import TomopointError


def compare(
    experiment: Path,
    /,
    *,
    data: Path,
    out: Path,
    side_by_side: int = 1,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    workers: int | None = None,
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

    material = Material(load_experiment(experiment), experiment, tuple(project_particles(data)))
    check_project(data)
    found = run_comparison(material, data, out, side_by_side, Hardware(device, workers))
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
