"""Fitting one member: one network on one fold."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from tomopoint.data.folds import Fold
from tomopoint.errors import TomopointError
from tomopoint.networks.build import build_network, load_backbone
from tomopoint.networks.point_network import PointNetwork
from tomopoint.training.checkpoints import LAST
from tomopoint.training.crops.dataset import CropBatch, CropDataset, EpochSampler, collate_crops, fixed_batches
from tomopoint.training.crops.sampler import Sampler
from tomopoint.training.crops.tomograms import TrainingTomogram
from tomopoint.training.detector import DetectorModule
from tomopoint.training.epochs import EpochEnd, Progress, ScoreFunction
from tomopoint.training.forecast import Forecast
from tomopoint.training.losses.detection import build_loss
from tomopoint.training.machine import Machine, Processes
from tomopoint.training.recipe import NetworkRecipe, Recipe
from tomopoint.training.resuming import LastCheckpoint

logger = logging.getLogger(__name__)

STRIDE = 2
"""Voxels per output cell of every network trained here (the contract of the project)."""


@dataclass(frozen=True)
class MemberTask:
    """One member to train.

    Attributes
    ----------
    fold
        Its training and validation runs.
    fold_index, network_index
        Its place in the recipe.
    recipe
        How.
    folder
        Where its files go.
    """

    fold: Fold
    fold_index: int
    network_index: int
    recipe: Recipe
    folder: Path

    @property
    def label(self) -> str:
        """``fold0/segresnet``."""
        return f"{self.fold.name}/{self.network.title}"

    @property
    def network(self) -> NetworkRecipe:
        """The network of the recipe that it is about."""
        return self.recipe.networks[self.network_index]

    @property
    def own_recipe(self) -> Recipe:
        """The recipe with the options of this member's network."""
        return self.recipe.for_network(self.network_index)

    @property
    def seed(self) -> int:
        """The member's own seed, whichever other members are trained."""
        sequence = np.random.SeedSequence((self.recipe.seed, self.fold_index, self.network_index))
        return int(sequence.generate_state(1)[0])


@dataclass(frozen=True)
class FitResult:
    """A fitted network.

    Attributes
    ----------
    weights
        State dict to keep.
    kept
        Which weights these are, in words.
    epochs, steps, seconds
        Trained, in all.
    device, precision
        Where and how.
    """

    weights: Mapping[str, Tensor]
    kept: str
    epochs: int
    steps: int
    seconds: float
    device: str
    precision: str


def fit_member(
    task: MemberTask,
    runs: Mapping[str, TrainingTomogram],
    machine: Machine,
    score: ScoreFunction | None = None,
    sampler: Sampler | None = None,
    forecast: Forecast | None = None,
) -> FitResult:
    """Train one member, from its last checkpoint if there is one.

    Parameters
    ----------
    task
        What to train.
    runs
        Every run of the fold, and extra training runs under names that are in no fold.
    machine
        Device, processes, log.
    score
        Official score on the held-out runs, used where the recipe says how often.
    sampler
        Replaces the choice of crops; benchmarks use it.
    forecast
        Of the run that this member is part of.

    Raises
    ------
    TomopointError
        A size that the network cannot take, a precision the device lacks, a loss that is not finite, or a checkpoint
        that is damaged or holds more than plain data.
    """
    recipe = task.own_recipe
    processes = Processes.from_environment()
    training = [run for name, run in runs.items() if name not in task.fold.validation_runs]
    held_out = [runs[name] for name in task.fold.validation_runs]
    epoch_sampler = EpochSampler(_crops_per_epoch(recipe), processes.rank, processes.count)
    module = _build_module(task, training[0].voxel_A, epoch_sampler)
    if not machine.on_gpu and task.network.name.startswith("dynunet"):
        # A sixth faster in bf16 on a CPU; a SegResNet becomes slower (benchmarks/step.py).
        module.to(memory_format=torch.channels_last_3d)
    radii_vox = recipe.radii_vox(training[0].voxel_A)
    dataset = CropDataset(training, recipe.crops, recipe.augmentation, task.seed, sampler, radii_vox)
    batches = _validation_batches(held_out, recipe)
    epoch_end = EpochEnd(task.folder, batches, score)
    trainer = _build_trainer(task, machine, processes, [epoch_end, Progress(task.label, epoch_end, forecast)])
    last = task.folder / LAST
    with _expected_warnings():
        loader = _build_loader(dataset, epoch_sampler, recipe, machine)
        trainer.fit(module, loader, ckpt_path=str(last) if last.exists() else None, weights_only=True)
    kept = epoch_end.choose_weights(trainer, module)
    weights = {name: tensor.detach().cpu().clone() for name, tensor in module.evaluated.state_dict().items()}
    return FitResult(
        weights=weights,
        kept=kept,
        epochs=len(epoch_end.rows),
        steps=trainer.global_step,
        seconds=round(module.clock.seconds, 1),
        device=machine.device_name,
        precision=str(trainer.precision),
    )


def check_sizes(recipe: Recipe) -> None:
    """Run every network of the recipe on one empty crop's shape before anything is trained.

    Raises
    ------
    TomopointError
        A network cannot take crops of ``crops.size_zyx``; the message says which sizes it takes.
    """
    from tomopoint.networks.point_network import check_size

    for config in recipe.networks:
        network = build_network(config, len(recipe.particles), STRIDE)
        try:
            check_size((1, 1, *recipe.crops.size_zyx), network.divisor, network.needs_context)
        except TomopointError as error:
            raise TomopointError(f"crops.size_zyx does not suit network {config.title!r}: {error}") from error


def _build_module(task: MemberTask, voxel_A: float, sampler: EpochSampler) -> DetectorModule:
    recipe, config = task.own_recipe, task.network
    torch.manual_seed(task.seed)
    network: PointNetwork = build_network(config, len(recipe.particles), STRIDE)
    if config.pretrained is not None:
        load_backbone(network, Path(config.pretrained))
    loss = build_loss(config, recipe.radii_vox(voxel_A), STRIDE, recipe.loss)
    return DetectorModule(network, loss, recipe, task.seed, sampler)


def _crops_per_epoch(recipe: Recipe) -> int:
    return recipe.fit.steps_per_epoch * recipe.optimiser.accumulate * recipe.fit.batch_size


def _validation_batches(held_out: Sequence[TrainingTomogram], recipe: Recipe) -> list[CropBatch]:
    if not held_out or not recipe.fit.validation_crops:
        return []
    radii_vox = recipe.radii_vox(held_out[0].voxel_A)
    return fixed_batches(held_out, recipe.crops, recipe.fit.validation_crops, recipe.fit.batch_size, radii_vox)


def _build_loader(
    dataset: CropDataset, sampler: EpochSampler, recipe: Recipe, machine: Machine
) -> DataLoader[CropBatch]:
    workers = machine.loader_processes
    return DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_size=recipe.fit.batch_size,
        sampler=sampler,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=collate_crops,
        pin_memory=machine.on_gpu,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
        generator=torch.Generator(),  # else every start of a loader moves on the generator that dropout draws from
    )


def _build_trainer(task: MemberTask, machine: Machine, processes: Processes, callbacks: list[Any]) -> Trainer:
    recipe = task.own_recipe
    if machine.on_gpu:
        torch.set_float32_matmul_precision("high")
    with _expected_warnings():
        return Trainer(
            accelerator="gpu" if machine.on_gpu else "cpu",
            devices=processes.per_node,
            num_nodes=processes.nodes,
            strategy="ddp" if processes.count > 1 else "auto",
            precision=machine.precision(recipe.fit.precision),
            max_epochs=recipe.fit.epochs,
            accumulate_grad_batches=recipe.optimiser.accumulate,
            logger=machine.build_logger(task.folder, task.label),
            callbacks=callbacks,
            plugins=[LastCheckpoint()],
            default_root_dir=task.folder,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            benchmark=machine.on_gpu,
        )


@contextmanager
def _expected_warnings() -> Iterator[None]:
    """Silence what Lightning says about choices made here on purpose."""
    quiet = logging.getLogger("lightning.pytorch")
    level = quiet.level
    quiet.setLevel(logging.INFO if logger.isEnabledFor(logging.DEBUG) else logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*GPU available but not used.*")
        warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")
        warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
        warnings.filterwarnings("ignore", message=".*resuming from a checkpoint that ended before the epoch ended.*")
        try:
            yield
        finally:
            quiet.setLevel(level)
