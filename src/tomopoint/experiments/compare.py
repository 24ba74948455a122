"""A comparison: every variant and 2-D baseline with every seed, judged alike; what is finished is not made again.

::

    <folder>/recipes/focal.yaml        the whole recipe of every variant, and of the base
             variants/focal/seed0/     its training folder, see :mod:`tomopoint.experiments.training`
             scores.csv                every training
             comparison.csv            every variant against the base
             report.html
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tomopoint.baselines.recipe import BaselineRecipe
from tomopoint.errors import TomopointError
from tomopoint.experiments.experiment import BASE_NAME, Experiment, Material, variant_recipes
from tomopoint.experiments.training import Hardware, Prepared, Result, Training, finished, open_training, prepare
from tomopoint.locks import alone_in
from tomopoint.tasks.task import Hire, carried_out
from tomopoint.training.recipe import Recipe

logger = logging.getLogger(__name__)

RECIPES, VARIANTS = "recipes", "variants"


@dataclass
class Comparison:
    """What became of the trainings.

    Attributes
    ----------
    experiment
        What was asked.
    data
        The project.
    particles
        Names.
    trainings
        Variant -> seed -> training; the base first.
    results
        Variant -> seed -> what came of it, where something did.
    failed
        Label -> reason.
    """

    experiment: Experiment
    data: Path
    particles: tuple[str, ...]
    trainings: Mapping[str, Mapping[int, Training]]
    results: dict[str, dict[int, Result]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def simulated(self) -> bool:
        """Whether the tomograms were."""
        return any(result.simulated for own in self.results.values() for result in own.values())

    @property
    def kind(self) -> str:
        """What the scores are, in words."""
        results = [result for own in self.results.values() for result in own.values()]
        where = "thresholds of the other folds" if all(r.left_out for r in results) else "thresholds of the same runs"
        return f"{'simulated ' if self.simulated else ''}out-of-fold score, {where}"


def run_comparison(material: Material, data: Path, out: Path, hire: Hire[Training], hardware: Hardware) -> Comparison:
    """Train and validate every variant with every seed; a training that fails does not end the others.

    Parameters
    ----------
    material, data, out, hardware
        Experiment, project, folder, and what trains.
    hire
        Makes the crew that trains, where something is to be trained.

    Raises
    ------
    TomopointError
        A variant that is no recipe, changes nothing or is there twice; data or folds that do not fit; a folder that
        belongs to another recipe or other data, or that another process works in. Nothing has been trained then.
    LockLost
        Another comparison took `out` over, while this process was frozen.
    """
    experiment, variants = material.experiment, variant_recipes(material)
    recipes: dict[str, Recipe | BaselineRecipe] = {
        **variants,
        **{name: material.baseline(name, variants[BASE_NAME]) for name in experiment.baselines},
    }
    trainings: dict[str, dict[int, Training]] = {}
    for name in recipes:
        own = {}
        for seed in experiment.seeds:
            place = out / VARIANTS / name / f"seed{seed}"
            path = out / RECIPES / f"{name}.yaml"
            folds, two_d = experiment.fold_selection, name in experiment.baselines
            own[seed] = Training(f"{name}, seed {seed}", place, path, seed, data, folds, hardware, two_d)
        trainings[name] = own
    particles = tuple(particle.name for particle in next(iter(recipes.values())).particles)
    for name, recipe in recipes.items():
        if tuple(particle.name for particle in recipe.particles) != particles:
            raise TomopointError(
                f"{material.path}: {name} finds other particles than the base; their scores are no comparison"
            )

    found = Comparison(experiment, data, particles, trainings, {name: {} for name in recipes})
    with alone_in(out) as lock:
        # All that can be found wrong without training is found here.
        prepared: dict[Training, Prepared] = {}
        for name, recipe in recipes.items():
            for training in trainings[name].values():
                try:
                    prepared[training] = prepare(training, recipe)
                except TomopointError as error:
                    raise TomopointError(f"{training.label}: {error}") from error
                if prepared[training].held_out != next(iter(prepared.values())).held_out:
                    raise TomopointError(
                        f"{training.label} holds out other runs than the base; scores of different runs are no "
                        "comparison. Vary something else than `folds`"
                    )
        for name, recipe in recipes.items():
            for training in trainings[name].values():
                open_training(training, prepared[training])
            recipe.save(out / RECIPES / f"{name}.yaml")

        # Seed by seed, so that after the first seeds there is something to compare.
        waiting = []
        for seed in experiment.seeds:
            for name, own in trainings.items():
                result = finished(own[seed], prepared[own[seed]])
                if result is None:
                    waiting.append((name, own[seed]))
                else:
                    found.results[name][seed] = result
        n_all = len(recipes) * len(experiment.seeds)
        n_done = n_all - len(waiting)
        logger.info("%d trainings, %s; %d are finished", n_all, experiment.length, n_done)
        if not waiting:
            return found
        name_of = {training: name for name, training in waiting}
        with hire() as crew:
            for training, answer in carried_out(list(name_of), crew):
                lock.check()
                n_done += 1
                if isinstance(answer, Result):
                    found.results[name_of[training]][training.seed] = answer
                    simulated = "simulated " if answer.simulated else ""
                    logger.info(
                        "%d/%d %s: %sout-of-fold score %.4f, %d steps in %.1f minutes",
                        *(n_done, n_all, training.label, simulated, answer.score, answer.steps, answer.seconds / 60),
                    )
                else:
                    found.failed[training.label] = answer.reason
                    logger.error("%d/%d %s failed: %s", n_done, n_all, training.label, answer.reason)
    return found
