"""DetectorModule: a network, its loss, its optimiser and its averaged weights, as Lightning sees them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from tomopoint.errors import TomopointError
from tomopoint.networks.point_network import PointNetwork
from tomopoint.training.crops.dataset import CropBatch, EpochSampler
from tomopoint.training.losses.detection import LossTerms
from tomopoint.training.optimisation import SWA_START, Clock, Schedule, build_average
from tomopoint.training.recipe import Recipe


class DetectorModule(LightningModule):
    """Training of one network.

    Parameters
    ----------
    network
        To be trained, in place.
    loss
        ``loss(logits, offsets_vox, points) -> LossTerms``.
    recipe
        Optimiser, schedule, averaging.
    seed
        The member's own.
    sampler
        Of the training crops; told the epoch to go on from after an interruption.
    """

    def __init__(
        self, network: PointNetwork, loss: nn.Module, recipe: Recipe, seed: int, sampler: EpochSampler
    ) -> None:
        super().__init__()
        self.network = network
        self.loss = loss
        self.recipe = recipe
        self.seed = seed
        self.sampler = sampler
        self.clock = Clock()
        self.schedule = Schedule(recipe.fit, recipe.optimiser, self.clock)
        self.average = build_average(network, recipe.fit)
        self.history: list[tuple[float, float]] = []
        self._origins: tuple[str, ...] = ()
        self._steps_averaged = 0

    @property
    def evaluated(self) -> PointNetwork:
        """The network to validate and to keep: the averaged one, once it holds an average."""
        if self.average is None or not self.averaged:
            return self.network
        averaged = self.average.module
        assert isinstance(averaged, PointNetwork)
        return averaged

    @property
    def averaged(self) -> str:
        """What the evaluated weights are an average of, in words; empty where nothing was averaged."""
        if self.average is None or int(self.average.n_averaged) == 0:
            return ""
        n, fit = int(self.average.n_averaged), self.recipe.fit
        return f"moving average (decay {fit.ema_decay:g})" if fit.averaging == "ema" else f"mean of {n} epoch ends"

    def on_train_epoch_start(self) -> None:
        """Seed dropout by epoch, so that a resumed run drops what an uninterrupted one drops."""
        self.network.train()
        self.history.clear()
        sequence = np.random.SeedSequence((self.seed, self.current_epoch, self.global_rank))
        torch.manual_seed(int(sequence.generate_state(1)[0]))

    def training_step(self, batch: CropBatch, batch_index: int) -> Tensor:
        """Return the loss of a batch; stop the member where it is not finite."""
        self._origins = batch.origins
        terms: LossTerms = self.loss(*self.network.logits(batch.volume), batch.points)
        if not torch.isfinite(terms.total):
            self._stop_not_finite(
                "loss", f"classification {terms.classification:.3g}, regression {terms.regression:.3g}"
            )
        self.history.append((float(terms.classification), float(terms.regression)))
        return terms.total

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by norm; a gradient that is not finite stops the member, but in fp16 its scaler deals with it."""
        limit = self.recipe.optimiser.clip_norm or float("inf")
        norm = clip_grad_norm_(self.network.parameters(), limit)
        if not torch.isfinite(norm) and self.trainer.precision != "16-mixed":
            self._stop_not_finite("gradient", f"norm {float(norm)}")

    def on_train_batch_end(self, outputs: Any, batch: CropBatch, batch_index: int) -> None:
        """Update the moving average after every optimiser step; stop when the time is up."""
        if self.average is not None and self.recipe.fit.averaging == "ema" and self.global_step > self._steps_averaged:
            self._steps_averaged = self.global_step
            self.average.update_parameters(self.network)
        if self.recipe.fit.max_minutes and self.trainer.strategy.broadcast(self.schedule.out_of_time):
            self.trainer.should_stop = True

    def collect_epoch(self) -> None:
        """Add the weights at the end of an epoch to the plain mean (SWA), in the last quarter of the run."""
        late = self.schedule.progress(self.global_step) >= SWA_START
        if self.average is not None and self.recipe.fit.averaging == "swa" and late:
            self.average.update_parameters(self.network)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW, its rate set before every step."""
        options = self.recipe.optimiser
        optimiser = torch.optim.AdamW(
            parameter_groups(self.network, options.weight_decay), lr=options.learning_rate, betas=options.betas
        )
        # Of a function the scheduler saves nothing; of an object its attributes, of which the clock would be restored.
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: self.schedule(step))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the time trained."""
        checkpoint["seconds"] = self.clock.seconds

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the time and, before a loader is started, with the epoch."""
        self.clock.earlier_s = float(checkpoint["seconds"])
        self._steps_averaged = int(checkpoint["global_step"])
        self.sampler.set_epoch(int(checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]))

    def _stop_not_finite(self, what: str, values: str) -> None:
        raise TomopointError(
            f"the {what} is not finite ({values}) in epoch {self.current_epoch}, step {self.global_step}; the batch "
            f"holds {'; '.join(self._origins)}. Look at these places, lower learning_rate, or use another precision"
        )


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return two groups: weights with two or more axes decay; biases and norms (one axis) do not."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
