"""The command `tomopoint train`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from tomopoint.command import CommandResult
from tomopoint.errors import TomopointError

logger = logging.getLogger(__name__)


def train(
    *,
    data: Path,
    out: Path,
    recipe: str = "default",
    folds: str | None = None,
    epochs: int | None = None,
    steps_per_epoch: int | None = None,
    max_minutes: float | None = None,
    seed: int | None = None,
    precision: Literal["fp32", "bf16", "fp16", "auto"] | None = None,
    pseudo_labels: Path | None = None,
    pseudo_data: Path | None = None,
    pseudo_threshold: str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    workers: int | None = None,
    curves: Literal["tensorboard", "wandb", "none"] = "tensorboard",
    cluster: str | None = None,
) -> CommandResult:
    """Train the networks of a recipe on every fold, one after the other, or on the machines of --cluster.

    Run the same command again to go on after an interruption: finished members are kept, an unfinished one goes on
    from its last epoch. On several GPUs: torchrun --nproc-per-node N -m tomopoint train ...

    Parameters
    ----------
    data
        Project folder in the competition's layout; its train runs need picks. tomopoint import makes one from any other
        tomograms and picks.
    out
        Training folder to write, e.g. trained/first.
    recipe
        Name of a recipe (default, winner, winner-segmentation, narrow-segmentation, demo ...), or path of a YAML file;
        one file may change another with base: NAME.
    folds
        Only these folds, e.g. 0,1; default all.
    epochs
        Instead of the recipe's.
    steps_per_epoch
        Instead of the recipe's.
    max_minutes
        Instead of the recipe's: end each member after this time. The result then depends on the machine's speed.
    seed
        Instead of the recipe's.
    precision
        Instead of the recipe's.
    pseudo_labels
        Pick table with scores (picks.csv of tomopoint predict): its unlabelled runs join the training runs.
    pseudo_data
        Project whose test runs these are; default the one of --data.
    pseudo_threshold
        Picks scored at least this (0.5) are learned; near the others nothing is. Per particle: ribosome=0.4,virus=0.7,
        or thresholds.json of tomopoint tune.
    device
        Where to train.
    workers
        Processes that cut crops; default none on a CPU, up to eight on a GPU.
    curves
        Where curves go besides metrics.csv.
    cluster
        Train on many processes or machines by Dask, each a network on a fold: local:N, the address or file of a
        scheduler, or slurm:N, pbs:N, lsf:N, sge:N jobs, also as MIN-MAX. They share the disk with --data and --out.
    """
    from dataclasses import replace
    from functools import partial

    from tomopoint.data.particles import project_particles
    from tomopoint.data.sources.find import check_project
    from tomopoint.training.crops.pseudo_labels import DEFAULT_THRESHOLD, PseudoLabels, parse_pseudo_threshold
    from tomopoint.training.cross_validation import Workshop, train_members, train_members_apart
    from tomopoint.training.machine import Machine, Processes
    from tomopoint.training.plan import make_plan, open_folder
    from tomopoint.training.recipe_files import load_recipe

    if pseudo_labels is None and (pseudo_data is not None or pseudo_threshold is not None):
        raise TomopointError("--pseudo-data and --pseudo-threshold belong to --pseudo-labels, which is not given")
    check_project(data)
    chosen = load_recipe(recipe, project_particles(data)).with_fit(
        epochs=epochs, steps_per_epoch=steps_per_epoch, max_minutes=max_minutes, precision=precision
    )
    chosen = chosen if seed is None else replace(chosen, seed=seed)
    if cluster is not None:
        if Processes.from_environment().count > 1:
            raise TomopointError(
                "--cluster trains each network in one process; train one network by several with torchrun, without it"
            )
    else:
        machine = Machine(device, workers, curves)
        for index in range(len(chosen.networks)):
            machine.precisions(chosen.for_network(index).fit.precision)
    pseudo = None
    if pseudo_labels is not None:
        common, single = parse_pseudo_threshold(
            str(DEFAULT_THRESHOLD) if pseudo_threshold is None else pseudo_threshold
        )
        pseudo = PseudoLabels(pseudo_labels, pseudo_data or data, threshold=common, per_particle=single)
    plan = make_plan(chosen, recipe, data, out, folds, pseudo)
    open_folder(plan)
    if cluster is None:
        outcome = train_members(plan, machine)
    else:
        from tomopoint.cluster.hiring import hired

        outcome = train_members_apart(plan, Workshop(device, workers, curves), partial(hired, cluster, device))
    done = [*outcome.trained, *outcome.skipped]
    lines = [f"{len(done)} of {len(plan.tasks)} members are trained in {out}"]
    lines += [f"FAILED {label}: {reason}" for label, reason in outcome.failed.items()]
    if outcome.failed:
        next_step = "run the same command again to repeat those"
    elif any(task.fold.validation_runs for task in plan.tasks):
        next_step = f"next: tomopoint validate {out}"
    else:
        next_step = (
            "they hold no run out, so they have no score and no thresholds of their own\n"
            f"next: tomopoint validate {out} --thresholds OTHER/pipeline.json, or together with a training folder that "
            f"holds runs out: tomopoint validate {out} OTHER"
        )
    figures = {"out": str(out), "trained": outcome.trained, "skipped": outcome.skipped, "failed": outcome.failed}
    return CommandResult("\n".join([*lines, next_step]), figures, ok=not outcome.failed)
