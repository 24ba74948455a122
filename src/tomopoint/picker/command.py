"""The command ``tomopoint picker``."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tomopoint import __version__
from tomopoint.command import CommandResult
from tomopoint.errors import TomopointError

logger = logging.getLogger(__name__)

DEFAULT_FOLDER = Path("pickers")


def picker(
    *,
    structure: list[str] | None = None,
    particles: Path | None = None,
    voxel_size: float = 10.0,
    minutes: float = 60.0,
    out: Path | None = None,
    seed: int = 0,
    runs: int | None = None,
    scratch: bool = False,
    quick: bool = False,
) -> CommandResult:
    """Make a picker from structures of what it is to find.

    Simulates tomograms with the structures in them, trains on these, validates, exports a graph, and judges it in the
    simulator's other world. What comes out has never seen a real tomogram. Run the same command again after a stop: it
    goes on.

    Parameters
    ----------
    structure
        What to find, NAME=FILE: an mmCIF or PDB file, e.g. spike=7abc.cif. Several for several particles.
    particles
        YAML file of particles, as `tomopoint simulate` takes: for maps, beads, membranes, numbers; beside --structure,
        or instead of it.
    voxel_size
        Of the tomograms that it is for, Angstrom; 4 to 25, and right within 2 %.
    minutes
        For all of it. A slow machine takes longer, for it needs them for more than training.
    out
        Folder for everything that is made: the graph, model-card.md and .json, tomograms, networks; default
        pickers/NAME, names joined by +.
    seed
        Of tomograms, initial weights and crops.
    runs
        Simulated tomograms to train on; default by the minutes.
    scratch
        Start from random weights, not from the model `small` that comes with the package.
    quick
        Small tomograms and a few training steps, whatever the minutes: shows that everything runs, not how well.
    """
    from tomopoint.picker.card import card_text, read_card, write_card
    from tomopoint.picker.plan import make_plan
    from tomopoint.picker.steps import Places, judging_steps, simulating_steps, starting_recipe, training_step
    from tomopoint.picker.targets import read_targets
    from tomopoint.road import Road
    from tomopoint.simulate.options import SimulationOptions

    # 1. What is asked for, all of it looked at before anything is made.
    start = time.monotonic()
    given = {
        "structure": structure,
        "particles": particles,
        "voxel_size": voxel_size,
        "minutes": minutes,
        "seed": seed,
        "runs": runs,
        "out": out,
        "scratch": scratch,
        "quick": quick,
    }
    if seed < 0:
        raise TomopointError(f"the seed must not be negative, got {seed}")
    content = SimulationOptions(voxel_A=voxel_size)
    plan = make_plan(minutes, runs, quick)
    targets = read_targets(structure or (), particles)
    places = Places((DEFAULT_FOLDER / "+".join(targets.names) if out is None else out).resolve(), targets.names)
    asked = {
        "particles": targets.own.record(),
        "voxel size": content.voxel_A,
        "minutes": plan.minutes,
        "runs": plan.runs,
        "seed": seed,
        "scratch": scratch,
        "quick": quick,
        "tomopoint": __version__,
    }
    road = Road("picker", places.out, asked)
    targets.save(places.particles)
    starts_from = starting_recipe(places.recipe, scratch)
    logger.info("picker of %s: %s; starts from %s", ", ".join(targets.names), plan.text(), starts_from)
    for sentence in targets.unlikely():
        logger.warning(sentence)

    # 2. Simulate; train for the minutes that are left over; validate, export and judge.
    steps = simulating_steps(places, plan, content.voxel_A, seed)
    for step in steps:
        road.walk(step)
    made_s = sum(road.seconds[step.name] for step in steps)
    limit = None
    if plan.minutes is not None:
        limit = road.decide("training minutes per network", lambda: plan.training_minutes(made_s))
    steps = [*steps, training_step(places, plan, seed, limit), *judging_steps(places, plan)]
    for step in steps[2:]:
        road.walk(step)

    # 3. Say what it is and how good.
    if road.changed or not (places.card.exists() and places.card_figures.exists()):
        made_of = {
            "command": _typed(given),
            "runs": plan.runs,
            "shape_zyx": plan.shape,
            "seed": seed,
            "starts_from": starts_from,
        }
        write_card(places, targets, made_of, steps, road.seconds)
    card = read_card(places.card_figures)
    return CommandResult(card_text(card, places), {**card, "total_seconds": round(time.monotonic() - start, 1)})


def _typed(options: Mapping[str, Any]) -> str:
    """Return the command line that makes this picker again; `options` by their names in Python."""
    words = ["tomopoint", "picker"]
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words += [option] if value else []
        else:
            values = value if isinstance(value, list) else [] if value is None else [value]
            words += [word for one in values for word in (option, str(one))]
    return shlex.join(words)
