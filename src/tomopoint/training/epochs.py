"""What happens at the end of an epoch: validation, the table of metrics, the best weights, the checkpoint."""

from __future__ import annotations

import csv
import io
import logging
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from tqdm import tqdm

from tomopoint.files import is_plain_name, write_atomically
from tomopoint.networks.point_network import PointNetwork
from tomopoint.training.checkpoints import LAST, METRICS, save_weights
from tomopoint.training.crops.dataset import CropBatch
from tomopoint.training.detector import DetectorModule
from tomopoint.training.forecast import Forecast
from tomopoint.training.optimisation import mean_weights

logger = logging.getLogger(__name__)

ScoreFunction = Callable[[PointNetwork], float]
"""Official score of a network on the member's held-out runs; larger is better."""

CANDIDATES = "candidates"
COLUMNS = (
    "epoch",
    "step",
    "learning_rate",
    "train_loss",
    "train_classification",
    "train_regression",
    "validation_loss",
    "validation_classification",
    "validation_regression",
    "score",
    "seconds",
)


class EpochEnd(Callback):
    """Validates, records and saves after every epoch.

    What decides which weights are best is ``-validation_loss``, or the official score where a recipe asks for it.

    Parameters
    ----------
    folder
        The member's.
    batches
        Fixed crops of the held-out runs; empty where nothing is held out.
    score
        The official score, called every ``fit.score_every`` epochs; None: never.
    """

    def __init__(self, folder: Path, batches: Sequence[CropBatch], score: ScoreFunction | None) -> None:
        self.folder = folder
        self.batches = batches
        self.score = score
        self.rows: list[dict[str, float]] = []
        self.best: list[tuple[float, str]] = []
        self.stale = 0
        self.to_beat = -math.inf
        self.stopped = False

    def state_dict(self) -> dict[str, Any]:
        """Return what an interrupted run needs to go on."""
        names = ("rows", "best", "stale", "to_beat", "stopped")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up :meth:`state_dict`."""
        self.rows, self.stale, self.stopped = state_dict["rows"], state_dict["stale"], state_dict["stopped"]
        self.to_beat = state_dict["to_beat"]
        self.best = [(value, name) for value, name in state_dict["best"] if is_plain_name(name)]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A member that had stopped early before it was interrupted does not start again."""
        trainer.should_stop = trainer.should_stop or self.stopped

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate, record, rank, save; in this order, so that the checkpoint holds all of it."""
        assert isinstance(pl_module, DetectorModule)
        pl_module.collect_epoch()
        row = self._measure(trainer, pl_module)
        self.rows.append(row)
        value = self.value_of(row)
        if value is not None:
            self._rank(trainer, pl_module, value)
        if trainer.is_global_zero:
            write_atomically(self.folder / METRICS, _as_csv(self.rows))
        if trainer.logger is not None:
            trainer.logger.log_metrics(
                {k: v for k, v in row.items() if k not in ("epoch", "step")}, step=int(row["step"])
            )
        self.stopped = trainer.should_stop = self._is_over(trainer, pl_module)
        self._save_last(trainer)

    def value_of(self, row: dict[str, float]) -> float | None:
        """Return what the row says for ranking, larger is better; None where it says nothing."""
        if self.score is not None:
            return row.get("score")
        return -row["validation_loss"] if "validation_loss" in row else None

    def choose_weights(self, trainer: Trainer, module: DetectorModule) -> str:
        """Leave the weights to keep in ``module.evaluated``; return in words which these are.

        The mean of the best epochs is validated like each of them, and kept if it is better than the best or if the
        recipe wants it in any case.
        """
        # Lightning has moved the module to the CPU by now: validation belongs where the epochs were validated.
        module.to(trainer.strategy.root_device)
        try:
            return self._choose(trainer, module)
        finally:
            trainer.strategy.barrier()  # whoever is faster may go on to remove what others still read

    def _choose(self, trainer: Trainer, module: DetectorModule) -> str:
        if not self.best:
            return f"last epoch, {module.averaged}" if module.averaged else "last epoch"
        paths = [self.folder / CANDIDATES / name for _, name in self.best]
        if len(paths) > 1:
            module.evaluated.load_state_dict(mean_weights(paths))
            mean_value = self._value(trainer, module)
            logger.info("mean of the best %d epochs: %.4f, best epoch: %.4f", len(paths), mean_value, self.best[0][0])
            if module.recipe.fit.mean_of_best == "always" or mean_value > self.best[0][0]:
                return f"mean of {len(paths)} epochs ({', '.join(path.stem for path in paths)})"
        module.evaluated.load_state_dict(mean_weights(paths[:1]))
        return f"best epoch ({paths[0].stem})"

    def _measure(self, trainer: Trainer, module: DetectorModule) -> dict[str, float]:
        own = torch.tensor(module.history, dtype=torch.float32, device=module.device).mean(dim=0)
        done = trainer.strategy.reduce(own, reduce_op="mean").tolist()
        row = {
            "epoch": float(trainer.current_epoch),
            "step": float(trainer.global_step),
            "learning_rate": float(trainer.optimizers[0].param_groups[0]["lr"]),
            "train_loss": sum(done),
            "train_classification": done[0],
            "train_regression": done[1],
        }
        if self.batches:
            classification, regression = validation_terms(trainer, module, self.batches)
            row["validation_loss"] = classification + regression
            row["validation_classification"], row["validation_regression"] = classification, regression
        every = module.recipe.fit.score_every
        if self.score is not None and every and (trainer.current_epoch + 1) % every == 0:
            row["score"] = self._official(trainer, module)
        row["seconds"] = module.clock.seconds
        return row

    def _value(self, trainer: Trainer, module: DetectorModule) -> float:
        if self.score is not None:
            return self._official(trainer, module)
        return -sum(validation_terms(trainer, module, self.batches))

    def _official(self, trainer: Trainer, module: DetectorModule) -> float:
        """Score on the first process; the others wait for its figure."""
        assert self.score is not None
        value = self.score(module.evaluated) if trainer.is_global_zero else 0.0
        return float(trainer.strategy.broadcast(value))

    def _rank(self, trainer: Trainer, module: DetectorModule, value: float) -> None:
        """Save the weights if they belong to the best few; count epochs without a better one."""
        if value > self.to_beat + module.recipe.fit.min_improvement:
            self.to_beat, self.stale = value, 0
        else:
            self.stale += 1
        keep = module.recipe.fit.keep_best
        name = f"epoch{trainer.current_epoch:04d}.safetensors"
        ranked = sorted([*self.best, (value, name)], key=lambda item: item[0], reverse=True)
        self.best = ranked[:keep]
        if trainer.is_global_zero and (value, name) in self.best:
            save_weights(module.evaluated.state_dict(), self.folder / CANDIDATES / name)

    def _is_over(self, trainer: Trainer, module: DetectorModule) -> bool:
        patience = module.recipe.fit.patience
        return trainer.should_stop or (patience > 0 and self.stale >= patience)

    def _save_last(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.folder / LAST)
        if trainer.is_global_zero:
            self._drop_candidates()

    def _drop_candidates(self) -> None:
        """Remove weights that are no longer among the best; not before the checkpoint that says so is in place."""
        kept = {name for _, name in self.best}
        for path in (self.folder / CANDIDATES).glob("*.safetensors"):
            if path.name not in kept:
                path.unlink()


TIMED_STEPS = (5, 20)
"""The first forecast of a network is made from the time between these steps; the ones before start things up."""
FORECAST_AFTER = (1, 3)
"""Epochs after which a member's forecast is said again, and after its first that was scored."""


class Progress(Callback):
    """A bar over the whole member on a terminal, elsewhere one line per epoch; and how long the rest will take.

    Parameters
    ----------
    label
        Which member.
    epoch_end
        Where the figures come from; must stand before this in the list of callbacks.
    forecast
        Of all members; None: of this one nothing is said.
    """

    def __init__(self, label: str, epoch_end: EpochEnd, forecast: Forecast | None = None) -> None:
        self.label = label
        self.epoch_end = epoch_end
        self.forecast = forecast
        self._bar: Any = None
        self._first_step = 0
        self._timed_from: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar, on the first process of a terminal."""
        self._first_step = trainer.global_step
        if trainer.is_global_zero and sys.stderr.isatty():
            layout = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
            self._bar = tqdm(total=1.0, desc=self.label, bar_format=layout, dynamic_ncols=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar to the share of the schedule that is done."""
        assert isinstance(pl_module, DetectorModule)
        if self._bar is not None:
            self._bar.n = pl_module.schedule.progress(trainer.global_step)
            self._bar.set_postfix(step=trainer.global_step, loss=f"{sum(pl_module.history[-1]):.3f}")
        self._time_steps(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say how the epoch went."""
        row = self.epoch_end.rows[-1]
        n = int(row["epoch"]) + 1
        text = f"epoch {n} of {trainer.max_epochs}, step {int(row['step'])}: loss {row['train_loss']:.3f}"
        if "validation_loss" in row:
            text += f", validation {row['validation_loss']:.3f}"
        if "score" in row:
            text += f", score {row['score']:.3f}"
        self._say(trainer, text if self._bar is not None else f"{text}, {row['seconds']:.0f} s")
        if self.forecast is not None:
            said = self.forecast.after_epoch(self.label, self.epoch_end.rows)
            first_score = "score" in row and sum("score" in r for r in self.epoch_end.rows) == 1
            if (n in FORECAST_AFTER or first_score) and n != trainer.max_epochs:
                self._say(trainer, said)

    def _time_steps(self, trainer: Trainer) -> None:
        """Make the first forecast of a network from bare steps: an epoch may take an hour."""
        if self.forecast is None or self.forecast.knows(self.label):
            return
        start, end = (self._first_step + n for n in TIMED_STEPS)
        if trainer.global_step == start and self._timed_from is None:
            self._timed_from = time.monotonic()
        elif trainer.global_step == end and self._timed_from is not None:
            per_step = (time.monotonic() - self._timed_from) / (end - start)
            self._say(trainer, self.forecast.after_steps(self.label, per_step))

    def _say(self, trainer: Trainer, text: str) -> None:
        if self._bar is not None:
            self._bar.write(f"{self.label} {text}", file=sys.stderr)
        elif trainer.is_global_zero:
            logger.info("%s %s", self.label, text)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


@torch.no_grad()
def validation_terms(trainer: Trainer, module: DetectorModule, batches: Sequence[CropBatch]) -> tuple[float, float]:
    """Return classification and regression loss of the evaluated network, mean over batches."""
    network = module.evaluated
    was_training = network.training
    network.eval()
    terms = []
    for batch in batches:
        with trainer.precision_plugin.forward_context():
            moved = batch.to(module.device)
            found = module.loss(*network.logits(moved.volume), moved.points)
        terms.append((float(found.classification), float(found.regression)))
    network.train(was_training)
    classification, regression = torch.tensor(terms, dtype=torch.float64).mean(dim=0).tolist()
    return classification, regression


def _as_csv(rows: Sequence[dict[str, float]]) -> str:
    """Write one line per epoch; what was not measured stays empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        whole = {name: int(row[name]) for name in ("epoch", "step")}
        writer.writerow({**{name: f"{value:.6g}" for name, value in row.items()}, **whole})
    return text.getvalue()
