"""How weights move, for how long, and which are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal

from tomopoint.strict_json import ADDED
from tomopoint.training.options.checks import require, require_share

Precision = Literal["fp32", "bf16", "fp16", "auto"]
Averaging = Literal["none", "ema", "swa"]
MeanOfBest = Literal["if-better", "always"]
Freeze = Literal["none", "encoder", "backbone"]
Optimiser = Literal["adamw", "radam", "sgd", "adamw-schedulefree"]
ScheduleName = Literal["cosine", "constant", "plateau", "step", "cyclic", "one-cycle"]


@dataclass(frozen=True)
class OptimiserOptions:
    """The optimiser, and its learning rate at every step: linear warm-up, then a schedule.

    Attributes
    ----------
    learning_rate
        Peak, for networks that do not set their own.
    weight_decay
        On weights of two or more axes; biases and norms have none. Apart from the gradient (decoupled), but for ``sgd``
        added to it.
    betas
        Of all but ``sgd``.
    warmup_steps
        Steps from about zero to the peak.
    final_share
        Of the peak: where ``cosine`` and ``one-cycle`` end, and what ``plateau`` and ``cyclic`` never go below.
    clip_norm
        Gradients are scaled down to this norm; 0 switches clipping off.
    accumulate
        Batches per optimiser step.
    backbone_rate, head_rate
        The learning rate of each part is this times the rate of the schedule. For weights that are there already
        (`pretrained`) and a head that starts fresh: 0.1 and 1.
    freeze
        Part of a network with `pretrained` weights that does not move, its norms included: the whole ``backbone``,
        its ``encoder`` (all that leads down to the coarsest map), or ``none``. Dropout in it goes on.
    freeze_steps
        It moves from this optimiser step on; 0: never.
    name
        ``adamw``, ``radam`` and ``sgd`` of torch, or ``adamw-schedulefree`` of the package schedulefree, which averages
        the weights itself: it wants schedule ``constant`` and averaging ``none``.
    momentum, nesterov
        Of ``sgd``.
    schedule
        ``cosine`` or ``constant`` after the warm-up, or one of torch's, which the warm-up multiplies: ``plateau``,
        times `factor` after more than `period` validations without a better one (by `fit.min_improvement`);
        ``step``, times `factor` after every `period` epochs; ``cyclic``, from the lowest rate to the peak and back in
        `period` epochs; ``one-cycle``, up in `warmup_steps` and down to the end, both as a cosine. The last two
        lower the momentum (first beta) by 0.1 where the rate is highest.
    period, factor
        See `schedule`.
    """

    learning_rate: float = 3e-4
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.95, 0.99)
    warmup_steps: int = 64
    final_share: float = 0.01
    clip_norm: float = 3.0
    accumulate: int = 1
    backbone_rate: float = field(default=1.0, metadata=ADDED)
    head_rate: float = field(default=1.0, metadata=ADDED)
    freeze: Freeze = field(default="none", metadata=ADDED)
    freeze_steps: int = field(default=0, metadata=ADDED)
    name: Optimiser = field(default="adamw", metadata=ADDED)
    momentum: float = field(default=0.9, metadata=ADDED)
    nesterov: bool = field(default=False, metadata=ADDED)
    schedule: ScheduleName = field(default="cosine", metadata=ADDED)
    period: int = field(default=10, metadata=ADDED)
    factor: float = field(default=0.1, metadata=ADDED)

    def __post_init__(self) -> None:
        require(self.learning_rate > 0, f"learning_rate must be positive, got {self.learning_rate}")
        require(self.weight_decay >= 0, f"weight_decay must not be negative, got {self.weight_decay}")
        require(len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas), f"betas must lie in [0, 1), {self.betas}")
        require(self.warmup_steps >= 0, f"warmup_steps must not be negative, got {self.warmup_steps}")
        require_share("final_share", self.final_share)
        require(self.clip_norm >= 0, f"clip_norm must not be negative, got {self.clip_norm}")
        require(self.accumulate >= 1, f"accumulate must be at least 1, got {self.accumulate}")
        for name in ("backbone_rate", "head_rate"):
            require(getattr(self, name) > 0, f"{name} must be positive, got {getattr(self, name)}; see also freeze")
        require(self.freeze_steps >= 0, f"freeze_steps must not be negative, got {self.freeze_steps}")
        require(
            self.freeze != "none" or not self.freeze_steps,
            f"freeze_steps is {self.freeze_steps}, but freeze is none; set freeze to backbone or encoder",
        )
        require(0 <= self.momentum < 1, f"momentum must lie in [0, 1), got {self.momentum}")
        require(self.momentum > 0 or not self.nesterov, "nesterov needs momentum, which is 0; set momentum, e.g. 0.9")
        require(self.period >= 1, f"period must be at least 1, got {self.period}")
        require(0 < self.factor < 1, f"factor must lie in (0, 1), got {self.factor}")
        default = {f.name: f.default for f in fields(self)}
        of_name = {"betas"} if self.name != "sgd" else {"momentum", "nesterov"}
        for given, of_all, used in (
            (f"optimiser {self.name!r}", {"betas", "momentum", "nesterov"}, of_name),
            (f"schedule {self.schedule!r}", {"final_share", "period", "factor"}, _SCHEDULE_OPTIONS[self.schedule]),
        ):
            useless = [name for name in sorted(of_all - used) if getattr(self, name) != default[name]]
            require(not useless, f"{', '.join(useless)} has no effect on {given}; remove it")
        if self.name == "adamw-schedulefree":
            require(
                self.schedule == "constant",
                f"optimiser 'adamw-schedulefree' takes the place of schedule {self.schedule!r}; set schedule: constant",
            )
            require(
                not self.freeze_steps,
                "optimiser 'adamw-schedulefree' averages all steps, so weights cannot join at freeze_steps "
                f"{self.freeze_steps}; freeze for the whole training (freeze_steps: 0), or take adamw",
            )


_SCHEDULE_OPTIONS: Mapping[ScheduleName, frozenset[str]] = {
    "cosine": frozenset({"final_share"}),
    "constant": frozenset(),
    "plateau": frozenset({"final_share", "period", "factor"}),
    "step": frozenset({"period", "factor"}),
    "cyclic": frozenset({"final_share", "period"}),
    "one-cycle": frozenset({"final_share"}),
}


@dataclass(frozen=True)
class FitOptions:
    """How long, how precisely, and which weights are kept.

    Attributes
    ----------
    epochs, steps_per_epoch
        An epoch is `steps_per_epoch` optimiser steps; metrics, checkpoints and resuming are per epoch.
    batch_size
        Crops per batch and process.
    precision
        ``fp32``, ``bf16`` or ``fp16`` autocast; ``auto``: bf16 where a GPU has it fast, else fp16; on a CPU the faster
        of bf16 and fp32, by timing.
    averaging
        ``ema``: an exponential moving average of the weights is evaluated and kept. ``swa``: the plain mean of the
        weights at the end of every epoch in the last quarter, at a constant learning rate. ``none``: the weights.
    ema_decay
        Approached from below as ``(1 + n) / (10 + n)`` after n steps.
    keep_best
        0: keep the last weights. k: the weights of the best k epochs are candidates, see `mean_of_best`.
    mean_of_best
        What becomes of the best epochs. ``if-better``: their mean where it validates better than the best of them, else
        the best. ``always``: their mean; that is the winner's rule, and trusts many validations more than one.
    patience
        Stop after this many validations without a better one (one per epoch; with `score_every`, one per so many
        epochs); 0: never.
    min_improvement
        What `patience` counts as better: a validation (score, or loss where none is measured) better by more than
        this than the one that last counted.
    score_every
        Every so many epochs, the held-out runs are predicted whole and scored officially, and this decides
        what is best; 0: never, the validation loss on fixed crops decides.
    validation_crops
        Fixed crops of the held-out runs for the validation loss, every epoch.
    max_minutes
        End a member after this time, with the learning rate following time where it runs ahead of the steps.
        0: off. With it the result depends on the machine's speed: not reproducible, not exactly resumable, and only for
        one process.
    """

    epochs: int = 100
    steps_per_epoch: int = 160
    batch_size: int = 4
    precision: Precision = "auto"
    averaging: Averaging = "ema"
    ema_decay: float = 0.995
    keep_best: int = 5
    patience: int = 0
    min_improvement: float = 0.0
    score_every: int = 0
    validation_crops: int = 16
    max_minutes: float = 0.0
    mean_of_best: MeanOfBest = field(default="if-better", metadata=ADDED)

    def __post_init__(self) -> None:
        for name in ("epochs", "steps_per_epoch", "batch_size"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("keep_best", "patience", "min_improvement", "score_every", "validation_crops", "max_minutes"):
            require(getattr(self, name) >= 0, f"{name} must not be negative, got {getattr(self, name)}")
        require(0 < self.ema_decay < 1, f"ema_decay must lie in (0, 1), got {self.ema_decay}")
        require(
            self.mean_of_best == "if-better" or self.keep_best > 0,
            "mean_of_best 'always' needs the best epochs, but keep_best is 0; set keep_best to how many, e.g. 5",
        )

    @property
    def steps(self) -> int:
        """Optimiser steps of one member, where no time limit ends it."""
        return self.epochs * self.steps_per_epoch
