"""Cost of training on this machine: milliseconds per crop, and steps per second of the demo's networks.

Processor seconds are given beside wall seconds: on a busy machine only they mean something.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import numpy as np
import torch

from tomopoint.networks.build import build_network
from tomopoint.training.crops.dataset import NO_AUGMENTATION, CropDataset, collate_crops
from tomopoint.training.crops.tomograms import TrainingTomogram
from tomopoint.training.losses.build import build_loss
from tomopoint.training.machine import Machine
from tomopoint.training.recipe import AugmentationOptions, CropOptions, Recipe
from tomopoint.training.recipe_files import load_recipe

VOXEL_A = 10.012
N_CROPS = 40
N_STEPS = 12


def main() -> None:
    run = make_run()
    sizes = {"64x64x64": (64, 64, 64), "96x128x128": (96, 128, 128)}
    kinds = {"copied": NO_AUGMENTATION, "rotated": AugmentationOptions()}
    figures: dict[str, object] = {"threads": torch.get_num_threads(), "crop_ms": {}, "steps": {}}
    figures["crop_ms"] = {
        f"{size} {kind}": measure_crops(run, CropOptions(sizes[size]), kinds[kind]) for size in sizes for kind in kinds
    }
    recipe = load_recipe("demo")
    figures["steps"] = {
        f"{config.title} {precision}": measure_steps(recipe, index, run, precision)
        for index, config in enumerate(recipe.networks)
        for precision in ("fp32", "bf16")
    }
    figures["auto_precision"] = Machine("cpu").precision("auto")
    print(json.dumps(figures))


def make_run() -> TrainingTomogram:
    """Noise of a full tomogram's size with as many particles as a real one."""
    rng = np.random.default_rng(0)
    shape = (184, 630, 630)
    volume = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)).half()
    centres = rng.uniform(0, 1, (181, 3)) * shape
    return TrainingTomogram("TS_0", {"denoised": volume}, centres, rng.integers(0, 6, 181), VOXEL_A)


def measure_crops(run: TrainingTomogram, crops: CropOptions, augmentation: AugmentationOptions) -> dict[str, float]:
    dataset = CropDataset([run], crops, augmentation, seed=0)
    return timed(lambda index: dataset[0, index], N_CROPS, "ms_per_crop", 1000.0)


def measure_steps(recipe: Recipe, index: int, run: TrainingTomogram, precision: str) -> dict[str, float]:
    config = recipe.networks[index]
    network = build_network(config, len(recipe.particles), stride=2)
    loss = build_loss(config, recipe.radii_vox(VOXEL_A), 2, recipe.loss)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    dataset = CropDataset([run], recipe.crops, recipe.augmentation, 0, radii_vox=recipe.radii_vox(VOXEL_A))
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


def timed(call: Callable[[int], object], n: int, name: str, unit: float) -> dict[str, float]:
    call(0)
    wall, processor = time.perf_counter(), time.process_time()
    for index in range(1, n + 1):
        call(index)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return {name: round(wall / n * unit, 4), "processor_" + name: round(processor / n * unit, 4)}


if __name__ == "__main__":
    main()
