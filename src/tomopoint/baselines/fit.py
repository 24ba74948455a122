"""The training loop of a network of slices."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from tomopoint.baselines.folder import load_record, load_weights, seed_of
from tomopoint.baselines.method import Method, sphere_radii_vox
from tomopoint.baselines.recipe import BaselineRecipe, SliceFitOptions
from tomopoint.data.folds import Fold
from tomopoint.errors import TomopointError
from tomopoint.progress import Progress
from tomopoint.training.checkpoints import write_metrics
from tomopoint.training.crops.dataset import CropDataset, collate_crops
from tomopoint.training.crops.tomograms import TrainingTomogram
from tomopoint.training.last_checkpoint import LAST, FitState, load_checkpoint, save_checkpoint
from tomopoint.training.losses.points import BORDER_RADII
from tomopoint.training.machine import Machine
from tomopoint.training.optimisation import moving_average

logger = logging.getLogger(__name__)


def fit_slices(
    recipe: BaselineRecipe,
    method: Method,
    fold: Fold,
    tomograms: Sequence[TrainingTomogram],
    folder: Path,
    machine: Machine,
    pretrained: Path | None,
) -> tuple[nn.Module, FitState]:
    """Train the network of a fold, from its last checkpoint if there is one.

    Parameters
    ----------
    recipe, method
        How.
    fold
        Its seed.
    tomograms
        The training runs.
    folder
        Of the fold.
    machine
        Device, and processes that cut crops.
    pretrained
        Folder of a fold of an earlier baseline, or None.

    Returns
    -------
    network
        The moving average, on the CPU.
    state
        Steps and seconds.

    Raises
    ------
    TomopointError
        Weights to start from that do not fit, a loss that is not finite, or a damaged checkpoint.
    """
    options, seed = recipe.fit, seed_of(recipe, fold)
    device = torch.device("cuda" if machine.on_gpu else "cpu")
    last = folder / LAST

    # The network, and the average of its weights that is kept in its place.
    torch.manual_seed(seed)
    network = method.build()
    if pretrained is not None:
        load_weights(network, pretrained, load_record(pretrained))
    network.to(device)
    rule = moving_average(options.ema_decay)
    average = AveragedModel(network, multi_avg_fn=rule, use_buffers=True).requires_grad_(False)
    decaying, plain = ([p for p in network.parameters() if (p.ndim > 1) == wanted] for wanted in (True, False))
    groups = [{"params": decaying, "weight_decay": options.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=options.learning_rate)
    state = load_checkpoint(last, network, average, optimiser) if last.exists() else FitState()

    # Crops: their number decides everything about them, so that nothing has to be restored. Listed are all particles
    # whose sphere reaches into the crop, also those centred above or below it.
    reach = [radius / BORDER_RADII for radius in sphere_radii_vox(recipe, tomograms[0].voxel_A)]
    dataset = CropDataset(tomograms, recipe.crops, recipe.augmentation, seed, radii_vox=reach)
    left = range(state.step * options.batch_size, options.steps * options.batch_size)
    loader = DataLoader(
        dataset,
        batch_size=options.batch_size,
        sampler=[(0, position) for position in left],
        num_workers=machine.loader_processes,
        collate_fn=collate_crops,
    )

    started, earlier = time.monotonic(), state.seconds
    sums: dict[str, float] = {}
    network.train()
    with Progress(f"{fold.name} of {recipe.title}", options.steps) as progress:
        for batch in loader:
            rate = learning_rate(options, state.step)
            for group in optimiser.param_groups:
                group["lr"] = rate
            with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16"):
                losses = method.losses(network, batch.to(device))
            loss = torch.stack(list(losses.values())).sum()
            if not torch.isfinite(loss):
                raise TomopointError(
                    f"{fold.name}: the loss of step {state.step} is not finite (crops of {', '.join(batch.origins)}); "
                    "lower fit.learning_rate"
                )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), options.clip_norm)
            optimiser.step()
            average.update_parameters(network)
            state.step += 1
            for name, value in {"loss": loss, **losses}.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach())

            # Every so often, and at the end: a line of figures, and all that it takes to go on from here.
            if state.step % options.save_every == 0 or state.step == options.steps:
                n_steps = state.step - (int(state.rows[-1]["step"]) if state.rows else 0)
                state.seconds = earlier + time.monotonic() - started
                means = {f"train_{name}": total / n_steps for name, total in sums.items()}
                row = {"epoch": state.epoch + 1, "step": state.step, "learning_rate": rate, **means}
                state.rows = (*state.rows, {**row, "seconds": state.seconds})
                state.epoch += 1
                state.n_averaged = int(average.n_averaged)
                write_metrics(state.rows, folder / "metrics.csv")
                save_checkpoint(last, state, network, average, optimiser)
                sums = {}
                progress.show(state.step, f"loss {means['train_loss']:.3f}")
    return average.module.cpu().eval(), state


def learning_rate(options: SliceFitOptions, step: int) -> float:
    """Return the rate of a step, from 0: up to the peak in a line, then down as a cosine."""
    if step < options.warmup_steps:
        return options.learning_rate * (step + 1) / options.warmup_steps
    progress = (step - options.warmup_steps) / max(1, options.steps - options.warmup_steps)
    share = options.final_share + (1 - options.final_share) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return options.learning_rate * share
