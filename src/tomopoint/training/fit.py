"""Training of one member: one network on one fold, from the first step to the weights that are kept."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader

from tomopoint.data.folds import Fold
from tomopoint.errors import TomopointError
from tomopoint.evaluation.epochs import METRICS, SCORE_OF
from tomopoint.networks.build import build_network
from tomopoint.networks.point_network import PointNetwork
from tomopoint.training.checkpoints import CANDIDATES, mean_weights, save_weights, write_metrics
from tomopoint.training.crops.dataset import CropBatch, CropDataset, EpochSampler, collate_crops, fixed_batches
from tomopoint.training.crops.sampler import Sampler
from tomopoint.training.crops.tomograms import TrainingTomogram
from tomopoint.training.forecast import Forecast
from tomopoint.training.last_checkpoint import LAST, FitState, load_checkpoint, save_checkpoint, way_of
from tomopoint.training.losses.base import LossTerms, PointLoss
from tomopoint.training.losses.build import build_loss
from tomopoint.training.machine import LIGHTNING, Machine, Processes
from tomopoint.training.official_score import official_score
from tomopoint.training.on_cpu.choice import Way, fastest_way, has_fused_norms, prepare
from tomopoint.training.optimisation import (
    SWA_START,
    Clock,
    Schedule,
    build_average,
    build_optimiser,
    parameter_groups,
    set_frozen,
    to_average,
    to_training_point,
)
from tomopoint.training.pretrained import Pretrained, find_pretrained
from tomopoint.training.progress import TrainingProgress
from tomopoint.training.recipe import NetworkRecipe, Recipe

logger = logging.getLogger(__name__)


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
        The recipe of all members.
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

    @cached_property
    def pretrained(self) -> Pretrained | None:
        """The weights that it starts with, found but not read; TomopointError where they are not there or do not fit.

        None: fresh ones.
        """
        given = self.network.pretrained
        if given is None:
            return None
        return find_pretrained(given, self.network, self.recipe.stride, self.fold.name, self.fold.validation_runs)

    def __getstate__(self) -> dict[str, Any]:
        # Found weights hold what reads them, which cannot be sent to another process; that one finds them itself.
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def seed(self) -> int:
        """The member's own seed, whichever other members are trained."""
        sequence = np.random.SeedSequence((self.recipe.seed, self.fold_index, self.network_index))
        return int(sequence.generate_state(1)[0])


@dataclass(frozen=True)
class FitResult:
    """A trained network.

    Attributes
    ----------
    weights
        State dict to keep, on the CPU.
    kept
        Which weights these are, in words.
    epochs, steps, seconds
        Trained in all, over interruptions; pauses do not count.
    device, precision
        Name of the processor, and Lightning's name of the precision.
    layout
        Of maps in memory, and whether norms were fused (:class:`~tomopoint.training.on_cpu.choice.Way`).
    """

    weights: Mapping[str, Tensor]
    kept: str
    epochs: int
    steps: int
    seconds: float
    device: str
    precision: str
    layout: str


def fit_member(
    task: MemberTask,
    tomograms: Mapping[str, TrainingTomogram],
    machine: Machine,
    sampler: Sampler | None = None,
    forecast: Forecast | None = None,
) -> FitResult:
    """Train one member, from its last checkpoint if there is one.

    Parameters
    ----------
    task
        What to train.
    tomograms
        By run: every run of the fold, and extra training runs under names that are in no fold.
    machine
        Device, processes, curves.
    sampler
        Replaces the choice of crops; benchmarks use it.
    forecast
        Of all members that are trained together; told what this one takes.

    Raises
    ------
    TomopointError
        A size that the network cannot take, weights to start from that are not there or do not fit, a precision the
        device lacks, a loss or gradient that is not finite, or a damaged checkpoint.
    """
    recipe, options = task.own_recipe, task.own_recipe.fit
    freeze_steps = recipe.optimiser.freeze_steps
    training = [tomogram for name, tomogram in tomograms.items() if name not in task.fold.validation_runs]
    held_out = [tomograms[name] for name in task.fold.validation_runs]
    radii_vox = recipe.radii_vox(training[0].voxel_A)
    last = task.folder / LAST

    # Number type and memory layout: those of an earlier process, because rounding depends on them, or the fastest here.
    way = find_way(task, machine, way_of(last) if last.exists() else None)
    fabric = machine.build_fabric(way.precision)

    # The network, what it is asked, and the average of its weights that is evaluated in its place.
    torch.manual_seed(task.seed)
    network = build_network(task.network, len(recipe.particles), recipe.stride)
    if task.pretrained is not None:
        names = tuple(particle.name for particle in recipe.particles)
        task.pretrained.load_into(network, task.network, names)
    set_frozen(network, recipe.optimiser, True)
    prepare(network, way)
    bare_optimiser = build_optimiser(parameter_groups(network, recipe.optimiser), recipe.optimiser)
    model, optimiser = fabric.setup(network, bare_optimiser)
    model.mark_forward_method("logits")
    loss = build_loss(task.network, radii_vox, recipe.stride, recipe.loss).to(fabric.device)
    average = build_average(network, options)

    # Crops: (epoch, position) decides everything about one, so that nothing has to be restored.
    crops_per_epoch = options.steps_per_epoch * recipe.optimiser.accumulate * options.batch_size
    positions = EpochSampler(crops_per_epoch, fabric.global_rank, fabric.world_size)
    dataset = CropDataset(training, recipe.crops, recipe.augmentation, task.seed, sampler, radii_vox)
    loader = build_loader(dataset, positions, options.batch_size, machine)
    validation = Validation(fabric, recipe, held_out, loss)

    # Where an earlier process stopped.
    state = load_checkpoint(last, network, average, bare_optimiser) if last.exists() else FitState()
    state.way = way
    if state.scaler:
        fabric.strategy.precision.load_state_dict(dict(state.scaler))
    if 0 < freeze_steps <= state.step:
        set_frozen(network, recipe.optimiser, False)
    clock = Clock(state.seconds)
    schedule = Schedule(options, recipe.optimiser, clock)
    for row in state.rows:  # a schedule that waits for them is told again
        schedule.after_validation(validation.value(row))
    progress = TrainingProgress(task.label, options.epochs, fabric.is_global_zero, forecast)
    curves = machine.build_logger(task.folder, task.label) if fabric.is_global_zero else None

    while state.epoch < options.epochs and not state.stopped:
        # Dropout is seeded by epoch, so that a resumed training drops what an uninterrupted one drops.
        torch.manual_seed(seed_of_epoch(task.seed, state.epoch, fabric.global_rank))
        network.train()
        to_training_point(bare_optimiser)
        positions.epoch = state.epoch
        history: list[tuple[float, float]] = []
        for number, batch in enumerate(loader, start=1):
            # Loss and gradient of one batch; several processes add theirs up with the last batch of a step.
            accumulates = number % recipe.optimiser.accumulate != 0
            where = f"epoch {state.epoch}, step {state.step}; the batch holds {'; '.join(batch.origins)}"
            if recipe.augmentation.batch_mixup:
                batch = batch.blended(recipe.augmentation.batch_mixup)
            with fabric.no_backward_sync(model, enabled=accumulates):
                terms = loss_of(fabric, model, loss, batch)
                if not torch.isfinite(terms.total):
                    raise not_finite("loss", f"{terms.classification:.3g} + {terms.regression:.3g}", where)
                fabric.backward(terms.total / recipe.optimiser.accumulate)
            history.append((float(terms.classification), float(terms.regression)))
            if accumulates:
                continue

            # Clip. A gradient that is not finite ends the member; in fp16 its scaler leaves out the step instead.
            limit = recipe.optimiser.clip_norm or inf
            norm = fabric.clip_gradients(model, optimiser, max_norm=limit, error_if_nonfinite=False)
            assert norm is not None
            if not torch.isfinite(norm) and way.precision != "fp16":
                raise not_finite("gradient", f"norm {float(norm)}", where)

            # Step, each part at its share of the schedule's rate. What was frozen until now moves from the next one on.
            schedule.set_rates(bare_optimiser, state.step)
            optimiser.step()
            optimiser.zero_grad()
            state.step += 1
            if state.step == freeze_steps:
                set_frozen(network, recipe.optimiser, False)

            # Average, and look at the time.
            if average is not None and options.averaging == "ema":
                average.update_parameters(network)
            progress.after_step(state.step, schedule.progress(state.step), sum(history[-1]))
            if schedule.out_of_time:
                state.stopped = True
                break

        # Stochastic weight averaging takes the weights at the end of the late epochs.
        if average is not None and options.averaging == "swa" and schedule.progress(state.step) >= SWA_START:
            average.update_parameters(network)
        state.n_averaged = 0 if average is None else int(average.n_averaged)
        to_average(bare_optimiser)  # a schedule-free optimiser keeps one of its own
        evaluated = average.module if average is not None and state.n_averaged else network
        assert isinstance(evaluated, PointNetwork)

        # Validate: the loss on fixed crops, and every so many epochs the official score.
        own = torch.tensor(history, dtype=torch.float32, device=fabric.device).mean(dim=0)
        mean = fabric.all_reduce(own, reduce_op="mean")
        assert isinstance(mean, Tensor)
        classification, regression = mean.tolist()
        row = {
            "epoch": float(state.epoch),
            "step": float(state.step),
            "learning_rate": recipe.optimiser.learning_rate * schedule(state.step),
            "train_loss": classification + regression,
            "train_classification": classification,
            "train_regression": regression,
            **validation.losses(evaluated),
        }
        if options.score_every and (state.epoch + 1) % options.score_every == 0:
            row |= validation.score(evaluated)
        state.seconds = row["seconds"] = clock.seconds

        # Rank: are these weights among the best, and are they better than the last that counted as better?
        value = validation.value(row)
        schedule.after_validation(value)
        if value is not None:
            candidate = (value, f"epoch{state.epoch:04d}.safetensors")
            ranked = sorted([*state.best, candidate], key=lambda item: item[0], reverse=True)
            state.best = tuple(ranked[: options.keep_best])
            if fabric.is_global_zero and candidate in state.best:
                save_weights(evaluated.state_dict(), task.folder / CANDIDATES / candidate[1])
            if state.to_beat is None or value > state.to_beat + options.min_improvement:
                state.to_beat, state.stale = value, 0
            else:
                state.stale += 1
            state.stopped = state.stopped or 0 < options.patience <= state.stale

        # Save: the checkpoint holds all of the above. Candidates that it no longer counts on go only after it.
        state.rows = (*state.rows, row)
        state.epoch += 1
        state.scaler = fabric.strategy.precision.state_dict()
        if fabric.is_global_zero:
            write_metrics(state.rows, task.folder / METRICS)
            save_checkpoint(last, state, network, average, bare_optimiser)
            for path in (task.folder / CANDIDATES).glob("*.safetensors"):
                if path.name not in {name for _, name in state.best}:
                    path.unlink()
        fabric.barrier()  # the other processes must not look for what is still being written
        if curves is not None:
            figures = {name: figure for name, figure in row.items() if name not in ("epoch", "step")}
            curves.log_metrics(figures, step=state.step)
        progress.after_epoch(state.rows)

    progress.close()
    evaluated = average.module if average is not None and state.n_averaged else network
    assert isinstance(evaluated, PointNetwork)
    kept = choose_weights(task, state, evaluated, validation)
    fabric.barrier()  # whoever is faster may go on to remove the candidates that others still read
    return FitResult(
        weights={name: tensor.detach().cpu().clone() for name, tensor in evaluated.state_dict().items()},
        kept=kept,
        epochs=state.epoch,
        steps=state.step,
        seconds=round(state.seconds, 1),
        device=machine.device_name,
        precision=LIGHTNING[way.precision],
        layout=way.layout,
    )


def find_way(task: MemberTask, machine: Machine, earlier: Way | None) -> Way:
    """Return how to compute: as `earlier` where that can be gone on with, else as is fastest on this machine.

    Several processes do what the first of them says.
    """
    precisions = machine.precisions(task.own_recipe.fit.precision)
    if machine.on_gpu:
        return Way(precisions[0], "contiguous")
    processes = Processes.from_environment()
    way = None
    if processes.rank == 0:
        way = earlier
        if way is not None and way.layout == "channels-last, fused" and not has_fused_norms():
            logger.warning("%s began with fused norms, for which numba is missing here: chosen again", task.label)
            way = None
        if way is None:
            recipe, threads = task.own_recipe, torch.get_num_threads()
            batch = (recipe.fit.batch_size, *recipe.crops.size_zyx)
            network = task.network.architecture
            way = fastest_way(network, len(recipe.particles), recipe.stride, batch, precisions, threads)
    if processes.count > 1:
        way = machine.build_fabric("fp32").broadcast(way)
    assert way is not None
    return way


def build_loader(
    dataset: CropDataset, positions: EpochSampler, batch_size: int, machine: Machine
) -> DataLoader[CropBatch]:
    """Return the loader of the training crops; the crops are the same for any number of its processes."""
    workers = machine.loader_processes
    return DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_size=batch_size,
        sampler=positions,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=collate_crops,
        pin_memory=machine.on_gpu,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
        generator=torch.Generator(),  # else every start of a loader moves on the generator that dropout draws from
    )


def loss_of(fabric: Fabric, network: Any, loss: PointLoss, batch: CropBatch) -> LossTerms:
    """Return the loss of one batch; `network` is a PointNetwork, or what Fabric made of one."""
    batch = batch.to(fabric.device, non_blocking=True)
    with fabric.autocast():  # Fabric does this by itself for `forward` only
        terms: LossTerms = loss(*network.logits(batch.volume), batch.points)
    return terms


def seed_of_epoch(seed: int, epoch: int, rank: int) -> int:
    """Return the seed of what is random in one epoch and process beside the crops."""
    return int(np.random.SeedSequence((seed, epoch, rank)).generate_state(1)[0])


def not_finite(what: str, values: str, where: str) -> TomopointError:
    """Return the error that names the crops of a batch with which training broke down."""
    return TomopointError(
        f"the {what} is not finite ({values}) in {where}. Look at these places, lower learning_rate, or use another "
        "precision"
    )


class Validation:
    """Judges weights by the held-out runs: the loss on fixed crops, or the official score where the recipe asks for it.

    Parameters
    ----------
    fabric
        Device and precision; the first process measures, all get its figures and so decide alike.
    recipe
        Of the member's network.
    held_out
        Tomograms that the network does not train on; none at all is legal.
    loss
        The one that it is trained with.
    """

    def __init__(self, fabric: Fabric, recipe: Recipe, held_out: Sequence[TrainingTomogram], loss: PointLoss) -> None:
        self.fabric = fabric
        self.recipe = recipe
        self.held_out = held_out
        self.loss = loss
        self.by_score = bool(recipe.fit.score_every and held_out)
        self.batches: list[CropBatch] = []
        if held_out and recipe.fit.validation_crops:
            n_crops, batch_size = recipe.fit.validation_crops, recipe.fit.batch_size
            radii_vox = recipe.radii_vox(held_out[0].voxel_A)
            self.batches = fixed_batches(held_out, recipe.crops, n_crops, batch_size, radii_vox)

    @torch.no_grad()
    def losses(self, network: PointNetwork) -> dict[str, float]:
        """Return the loss and its two terms, mean over the fixed batches; nothing without held-out runs."""
        if not self.batches:
            return {}
        was_training = network.training
        network.eval()
        terms = []
        for batch in self.batches:
            found = loss_of(self.fabric, network, self.loss, batch)
            terms.append((float(found.classification), float(found.regression)))
        network.train(was_training)
        mean = torch.tensor(terms, dtype=torch.float64).mean(dim=0).tolist()
        classification, regression = self.fabric.broadcast(mean)
        if not np.isfinite(classification + regression):
            raise not_finite("validation loss", f"{classification:.3g} + {regression:.3g}", "the held-out runs")
        return {
            "validation_loss": classification + regression,
            "validation_classification": classification,
            "validation_regression": regression,
        }

    def score(self, network: PointNetwork) -> dict[str, float]:
        """Return the official score, and F4 of every class; nothing without held-out runs."""
        if not self.held_out:
            return {}
        figures: dict[str, float] = {}
        if self.fabric.is_global_zero:
            score = official_score(network, self.held_out, self.recipe)
            figures = {"score": score.value, **{SCORE_OF + name: f4 for name, f4 in score.per_class.items()}}
        return self.fabric.broadcast(figures)

    def value(self, figures: Mapping[str, float]) -> float | None:
        """Return what ranks weights, larger is better: of what was measured, the score or the loss; None if neither."""
        if self.by_score:
            return figures.get("score")
        return -figures["validation_loss"] if "validation_loss" in figures else None


def choose_weights(task: MemberTask, state: FitState, network: PointNetwork, validation: Validation) -> str:
    """Load the weights to keep into `network`, which holds those of the last epoch; return in words which they are.

    The mean of the best epochs is validated like each of them, and kept if it is better than the best or if the
    recipe wants it in any case.
    """
    options = task.own_recipe.fit
    if not state.best:
        if not state.n_averaged:
            return "last epoch"
        if options.averaging == "swa":
            return f"last epoch, mean of {state.n_averaged} epoch ends"
        return f"last epoch, moving average (decay {options.ema_decay:g})"
    paths = [task.folder / CANDIDATES / name for _, name in state.best]
    if len(paths) > 1:
        network.load_state_dict(mean_weights(paths))
        value = validation.value(validation.score(network) if validation.by_score else validation.losses(network))
        best = state.best[0][0]
        assert value is not None
        logger.info("mean of the best %d epochs: %.4f, best epoch: %.4f", len(paths), value, best)
        if options.mean_of_best == "always" or value > best:
            return f"mean of {len(paths)} epochs ({', '.join(path.stem for path in paths)})"
    network.load_state_dict(mean_weights(paths[:1]))
    return f"best epoch ({paths[0].stem})"
