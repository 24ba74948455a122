"""Cost of training on this machine: milliseconds per crop, steps per second, and what the training loop adds to a step.

Processor seconds are given beside wall seconds: on a busy machine only they mean something. The loop is compared with
bare steps of the same network, loss, optimiser and crops, written out here, in turns within one run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import cast

import numpy as np
import torch

from tomopoint.data.folds import Fold
from tomopoint.networks.build import build_network
from tomopoint.training.crops.dataset import NO_AUGMENTATION, CropDataset, collate_crops
from tomopoint.training.crops.tomograms import TrainingTomogram
from tomopoint.training.fit import MemberTask, fit_member
from tomopoint.training.losses.build import build_loss
from tomopoint.training.machine import Machine
from tomopoint.training.on_cpu.choice import Stated, Way, fastest_way, prepare
from tomopoint.training.options.crops import AugmentationOptions, CropOptions
from tomopoint.training.recipe import Recipe
from tomopoint.training.recipe_files import load_recipe

VOXEL_A = 10.012
N_CROPS = 40
N_STEPS = 12
TURNS = 3


def main() -> None:
    tomogram = make_tomogram()
    sizes = {"64x64x64": (64, 64, 64), "96x128x128": (96, 128, 128)}
    kinds = {"copied": NO_AUGMENTATION, "rotated": AugmentationOptions()}
    figures: dict[str, object] = {"threads": torch.get_num_threads(), "crop_ms": {}, "steps": {}}
    figures["crop_ms"] = {
        f"{size} {kind}": measure_crops(tomogram, CropOptions(sizes[size]), kinds[kind])
        for size in sizes
        for kind in kinds
    }
    recipe = load_recipe("narrow")
    figures["steps"] = {
        f"{config.title} {precision}": measure_steps(recipe, index, tomogram, precision)
        for index, config in enumerate(recipe.networks)
        for precision in cast(tuple[Stated, ...], ("fp32", "bf16"))
    }
    figures["loop"] = {
        config.title: measure_loop(recipe, index, tomogram) for index, config in enumerate(recipe.networks)
    }
    figures["chosen"] = {
        config.title: str(way_of(recipe, index, ("bf16", "fp32"))) for index, config in enumerate(recipe.networks)
    }
    print(json.dumps(figures))


def make_tomogram() -> TrainingTomogram:
    """Noise of a full tomogram's size with as many particles as a real one."""
    rng = np.random.default_rng(0)
    shape = (184, 630, 630)
    volume = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)).half()
    centres = rng.uniform(0, 1, (181, 3)) * shape
    return TrainingTomogram("TS_0", {"denoised": volume}, centres, rng.integers(0, 6, 181), VOXEL_A)


def measure_crops(
    tomogram: TrainingTomogram, crops: CropOptions, augmentation: AugmentationOptions
) -> dict[str, float]:
    dataset = CropDataset([tomogram], crops, augmentation, seed=0)
    return timed(lambda index: dataset[0, index], N_CROPS, "ms_per_crop", 1000.0)


def way_of(recipe: Recipe, index: int, precisions: tuple[Stated, ...]) -> Way:
    config = recipe.networks[index].architecture
    batch = (recipe.fit.batch_size, *recipe.crops.size_zyx)
    return fastest_way(config, len(recipe.particles), recipe.stride, batch, precisions, torch.get_num_threads())


def measure_steps(recipe: Recipe, index: int, tomogram: TrainingTomogram, precision: Stated) -> dict[str, float]:
    """Bare steps: crops, forward pass, loss, gradient, AdamW."""
    config = recipe.networks[index]
    network = build_network(config, len(recipe.particles), recipe.stride).train()
    prepare(network, way_of(recipe, index, (precision,)))
    loss = build_loss(config, recipe.radii_vox(VOXEL_A), recipe.stride, recipe.loss)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    dataset = CropDataset([tomogram], recipe.crops, recipe.augmentation, 0, radii_vox=recipe.radii_vox(VOXEL_A))
    n = recipe.fit.batch_size

    def step(number: int) -> None:
        batch = collate_crops([dataset[0, number * n + position] for position in range(n)])
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            outputs = network.logits(batch.volume)
        optimiser.zero_grad()
        loss(*outputs, batch.points).total.backward()
        optimiser.step()

    figures = timed(step, N_STEPS, "seconds_per_step", 1.0)
    return {**figures, "steps_per_second": round(1 / figures["seconds_per_step"], 2)}


def measure_loop(recipe: Recipe, index: int, tomogram: TrainingTomogram) -> dict[str, float]:
    """One epoch of `fit_member` without validation against as many bare steps, in turns; the median of the ratios."""
    machine = Machine("cpu", curves="none")
    precision = way_of(recipe, index, machine.precisions(recipe.fit.precision)).precision
    sized = recipe.with_fit(epochs=1, steps_per_epoch=N_STEPS, validation_crops=0, score_every=0, max_minutes=0.0)
    fold = Fold("fold0", (tomogram.name,), ())
    ratios, per_step = [], []
    for turn in range(TURNS):
        bare = measure_steps(recipe, index, tomogram, precision)["processor_seconds_per_step"]
        with TemporaryDirectory() as folder:
            task = MemberTask(fold, 0, index, replace(sized, seed=turn), Path(folder))
            start = time.process_time()
            fit_member(task, {tomogram.name: tomogram}, machine)
            per_step.append((time.process_time() - start) / N_STEPS)
        ratios.append(per_step[-1] / bare)
    return {
        "processor_seconds_per_step": round(median(per_step), 4),
        "times_bare_steps": round(median(ratios), 3),
    }


def timed(call: Callable[[int], object], n: int, name: str, unit: float) -> dict[str, float]:
    call(0)
    wall, processor = time.perf_counter(), time.process_time()
    for index in range(1, n + 1):
        call(index)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return {name: round(wall / n * unit, 4), "processor_" + name: round(processor / n * unit, 4)}


if __name__ == "__main__":
    main()
