"""What comparisons of trainings share: one network trained on some runs, its picks in others, results kept on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from tomopoint import __version__
from tomopoint.data.folds import Fold
from tomopoint.data.project import TRUTH_FOLDER, Project
from tomopoint.data.tomograms import read_tomogram
from tomopoint.data.truth import read_truth
from tomopoint.evaluation.score import TruthMapping
from tomopoint.files import write_atomically
from tomopoint.inference.engines.engine import Engine
from tomopoint.inference.engines.torch import TorchEngine
from tomopoint.inference.predict import predict_tomogram
from tomopoint.inference.tiles import choose_tiling
from tomopoint.networks.build import build_network
from tomopoint.pipeline import Pipeline
from tomopoint.training.crops.tomograms import describe_runs, read_tomograms
from tomopoint.training.fit import MemberTask, fit_member
from tomopoint.training.machine import Machine
from tomopoint.training.recipe import Recipe

BATCH, STEPS_PER_EPOCH = 2, 100
CLASSES = ("apo-ferritin", "beta-galactosidase", "ribosome", "thyroglobulin", "virus-like-particle")


def kept(root: Path, name: str, asked: Mapping[str, Any], measure: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Return what `measure` finds, or what it found before for the same question.

    `measure` is given a folder in `root` that belongs to the question: with other sizes, options of the simulator,
    weights or another version of the package, neither an answer nor a half-finished training is taken up.
    """
    question = json.dumps({**asked, "tomopoint": __version__}, sort_keys=True, default=str)
    folder = root / f"{name.replace(' ', '-')}-{sha256(question.encode()).hexdigest()[:12]}"
    result = folder / "result.json"
    if result.exists():
        found: dict[str, Any] = json.loads(result.read_text())
        return found
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "asked.json", question + "\n")
    found = measure(folder)
    write_atomically(result, json.dumps(found) + "\n")
    return found


def recipe_of_steps(recipe: Recipe, steps: int) -> Recipe:
    """Return a recipe for so many steps, in which nothing depends on the speed of the machine."""
    epochs = max(steps // STEPS_PER_EPOCH, 1)
    return recipe.with_fit(
        epochs=epochs,
        steps_per_epoch=steps // epochs,
        batch_size=BATCH,
        keep_best=0,
        patience=0,
        score_every=0,
        max_minutes=0.0,
    )


def train_network(
    data: Path, names: Sequence[str], recipe: Recipe, shape_zyx: tuple[int, int, int], folder: Path
) -> tuple[TorchEngine, Pipeline, float]:
    """Train the recipe's first network on the runs `names` of a project, on one thread.

    Returns
    -------
    engine, pipeline
        What predicts with it, in windows chosen for volumes of `shape_zyx`.
    seconds
        That its training took.
    """
    torch.set_num_threads(1)
    runs = read_tomograms(describe_runs(data, list(names), recipe), recipe)
    task = MemberTask(Fold("fold0", tuple(names), ()), 0, 0, recipe, folder)
    fitted = fit_member(task, runs, Machine("cpu", curves="none"))
    network = build_network(recipe.networks[0], len(recipe.particles), recipe.stride)
    network.load_state_dict(dict(fitted.weights))
    tiling = choose_tiling([shape_zyx], network.divisor)
    pipeline = Pipeline(
        recipe.particles,
        runs[names[0]].voxel_A,
        stride=recipe.stride,
        normalisation=recipe.normalisation,
        tiling=tiling,
    )
    return TorchEngine(network, tiling.window_zyx), pipeline, fitted.seconds


def predict_test_runs(root: Path, engine: Engine, pipeline: Pipeline) -> tuple[TruthMapping, pd.DataFrame]:
    """Return the truth of a project's test runs, and the picks in them with the column ``experiment``."""
    truth = read_truth(root / TRUTH_FOLDER, pipeline.particle_names)
    volumes = ((run.name, read_tomogram(run.tomogram_path())) for run in Project(root).runs("test"))
    tables = [predict_tomogram(volume, engine, pipeline).assign(experiment=name) for name, volume in volumes]
    return truth, pd.concat(tables, ignore_index=True)
