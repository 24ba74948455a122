"""How weights move: by which optimiser, at which rate in every step, which of them decay, and averages over steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.optim import SGD, Optimizer, lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_swa_multi_avg_fn

from tomopoint.errors import TomopointError
from tomopoint.networks.point_network import PointNetwork
from tomopoint.training.options.fitting import FitOptions, OptimiserOptions

FIRST_SHARE = 1e-3
"""Warm-up starts at this share of the peak: zero would waste the first step."""

SWA_START = 0.75
"""Share of a training after which stochastic weight averaging collects weights (Izmailov et al. 2018)."""

MOMENTUM_SWING = 0.1
"""So much lower is the momentum of ``cyclic`` and ``one-cycle`` at the peak of the rate, as in torch's defaults."""


@dataclass
class Clock:
    """Seconds trained, over interruptions too.

    Attributes
    ----------
    earlier_s
        Seconds before the current process.
    """

    earlier_s: float = 0.0
    _started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Seconds trained so far."""
        return self.earlier_s + time.monotonic() - self._started


class Schedule:
    """Share of the peak learning rate at each optimiser step.

    Progress is the share of the steps done or, with a time limit, the share of the time where that is larger; of the
    schedules only the cosine follows it. Those of torch move a probe, an optimiser of one number at a peak of one: what
    they would do to the real one is read off it, so that each part of a network can have its own share. Nothing of a
    schedule is stored: a resumed training takes the probe through the steps and validations again.

    Parameters
    ----------
    fit, optimiser
        Length of the training; the schedule and its options.
    clock
        Read only where ``fit.max_minutes`` is set.
    """

    def __init__(self, fit: FitOptions, optimiser: OptimiserOptions, clock: Clock) -> None:
        self.n_steps = fit.epochs * fit.steps_per_epoch
        self.limit_s = fit.max_minutes * 60
        self.holds_end = fit.averaging == "swa"
        self.options = optimiser
        self.clock = clock
        momentum = optimiser.momentum if optimiser.name == "sgd" else optimiser.betas[0]
        self._probe = SGD([torch.zeros(1)], lr=1.0, momentum=momentum)
        self._steps: lr_scheduler.LRScheduler | None = None
        self._plateau: lr_scheduler.ReduceLROnPlateau | None = None
        lowest_momentum = max(0.0, momentum - MOMENTUM_SWING)
        self._swings = optimiser.schedule in ("cyclic", "one-cycle") and momentum > 0
        if optimiser.schedule == "plateau":
            self._plateau = lr_scheduler.ReduceLROnPlateau(
                self._probe,
                mode="max",
                factor=optimiser.factor,
                patience=optimiser.period,
                threshold=fit.min_improvement,
                threshold_mode="abs",
                min_lr=optimiser.final_share,
            )
        elif optimiser.schedule == "step":
            n_steps = optimiser.period * fit.steps_per_epoch
            self._steps = lr_scheduler.StepLR(self._probe, n_steps, optimiser.factor)
        elif optimiser.schedule == "cyclic":
            n_steps = optimiser.period * fit.steps_per_epoch
            self._steps = lr_scheduler.CyclicLR(
                self._probe,
                base_lr=optimiser.final_share,
                max_lr=1.0,
                step_size_up=max(1, n_steps // 2),
                step_size_down=max(1, n_steps - n_steps // 2),
                cycle_momentum=self._swings,
                base_momentum=lowest_momentum,
                max_momentum=momentum,
            )
        elif optimiser.schedule == "one-cycle":
            # Its lowest rates are those of the warm-up and of the end. A rise of one step would be divided by zero.
            rise = min(optimiser.warmup_steps, self.n_steps)
            self._steps = lr_scheduler.OneCycleLR(
                self._probe,
                max_lr=1.0,
                total_steps=self.n_steps,
                pct_start=rise / self.n_steps if rise > 1 else 0.0,
                div_factor=1 / FIRST_SHARE,
                final_div_factor=FIRST_SHARE / optimiser.final_share if optimiser.final_share else math.inf,
                cycle_momentum=self._swings,
                base_momentum=lowest_momentum,
                max_momentum=momentum,
            )
        self._probe.step()  # torch warns where a schedule moves before its optimiser did

    def progress(self, step: int) -> float:
        """Return how much of the training is done after `step` optimiser steps, 0 to 1."""
        done = step / self.n_steps
        if self.limit_s:
            done = max(done, self.clock.seconds / self.limit_s)
        return min(1.0, done)

    @property
    def out_of_time(self) -> bool:
        """Whether the time limit has passed."""
        return bool(self.limit_s) and self.clock.seconds >= self.limit_s

    def __call__(self, step: int) -> float:
        """Return the share of the peak for optimiser step number `step` (from 0); steps never go back."""
        warmup = self.options.warmup_steps
        rising = FIRST_SHARE + (1 - FIRST_SHARE) * step / warmup if step < warmup else 1.0
        if self.options.schedule == "cosine":
            return rising * self._cosine(step) if step >= warmup else rising
        if self._steps is not None:
            while self._steps.last_epoch < min(step, self.n_steps - 1):
                self._steps.step()
        share = float(self._probe.param_groups[0]["lr"])
        return share if self.options.schedule == "one-cycle" else rising * share

    def after_validation(self, value: float | None) -> None:
        """Tell the schedule what an epoch is worth, larger is better; None where that was not measured."""
        if self._plateau is not None and value is not None:
            self._plateau.step(value)

    def set_rates(self, optimiser: Optimizer, step: int) -> None:
        """Give each part of a network its rate for a step, and its momentum where the schedule moves that."""
        share = self(step)
        for group in optimiser.param_groups:
            group["lr"] = self.options.learning_rate * group["rate"] * share
            if self._swings and "betas" in group:
                group["betas"] = (self._probe.param_groups[0]["momentum"], group["betas"][1])
            elif self._swings:
                group["momentum"] = self._probe.param_groups[0]["momentum"]

    def _cosine(self, step: int) -> float:
        progress = self.progress(step)
        if self.holds_end:  # averaging needs steps of a constant size to explore with
            progress = min(progress, SWA_START)
        start = self.options.warmup_steps / self.n_steps
        share = 1.0 if start >= 1 else min(1.0, max(0.0, (progress - start) / (1 - start)))
        final = self.options.final_share
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * share))


MultiAverage = Callable[[Any, Any, Any], None]


def build_average(network: PointNetwork, options: FitOptions) -> AveragedModel | None:
    """Return the average that `options` asks for, holding a copy of the weights; None without averaging.

    A moving average takes the statistics of batch norms along. Those of a plain mean would have to be measured again:
    recipes that ask for that are refused.
    """
    if options.averaging == "none":
        return None
    rule = moving_average(options.ema_decay) if options.averaging == "ema" else get_swa_multi_avg_fn()
    average = AveragedModel(network, multi_avg_fn=rule, use_buffers=options.averaging == "ema")
    # It is evaluated and stored, never differentiated.
    return average.requires_grad_(False)


def moving_average(decay: float) -> MultiAverage:
    """Return the update of an exponential moving average whose decay after n steps is at most (1 + n) / (10 + n).

    A fixed decay would keep the random initial weights in the average for the first 1 / (1 - decay) steps.
    """

    @torch.no_grad()
    def update(averages: Any, currents: Any, n_averaged: Any) -> None:
        if not averages[0].is_floating_point():  # all are of one type; batch norms count their steps
            torch._foreach_copy_(list(averages), list(currents))
            return
        n = int(n_averaged)
        share = 1 - min(decay, (1 + n) / (10 + n))
        torch._foreach_lerp_(list(averages), list(currents), share)

    return update


def parameter_groups(network: PointNetwork, options: OptimiserOptions) -> list[dict[str, Any]]:
    """Return two groups of each part, backbone and head.

    Weights with two or more axes decay; biases and norms (one axis) do not. ``rate`` is the part's factor of the
    learning rate, which the training loop sets in every step.
    """
    groups: list[dict[str, Any]] = []
    for part, rate in ((network.backbone, options.backbone_rate), (network.head, options.head_rate)):
        parameters = list(part.parameters())
        decaying, plain = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]
        groups.append({"params": decaying, "weight_decay": options.weight_decay, "rate": rate})
        groups.append({"params": plain, "weight_decay": 0.0, "rate": rate})
    return groups


def build_optimiser(groups: list[dict[str, Any]], options: OptimiserOptions) -> Optimizer:
    """Return the optimiser that `options` names, for groups of :func:`parameter_groups`.

    Raises
    ------
    TomopointError
        The package that has it is not installed.
    """
    rate, betas = options.learning_rate, options.betas
    if options.name == "sgd":
        return SGD(groups, lr=rate, momentum=options.momentum, nesterov=options.nesterov)
    if options.name == "radam":
        return torch.optim.RAdam(groups, lr=rate, betas=betas, decoupled_weight_decay=True)
    if options.name == "adamw":
        return torch.optim.AdamW(groups, lr=rate, betas=betas)
    try:
        from schedulefree import AdamWScheduleFree
    except ImportError as error:
        raise TomopointError(
            "optimiser 'adamw-schedulefree' needs the package schedulefree: pip install schedulefree, or take adamw"
        ) from error
    optimiser: Optimizer = AdamWScheduleFree(groups, lr=rate, betas=betas)
    return optimiser


def to_training_point(optimiser: Optimizer) -> None:
    """Move the weights to where the optimiser takes gradients; only schedule-free ones have such a place."""
    if hasattr(optimiser, "train"):
        optimiser.train()


def to_average(optimiser: Optimizer) -> None:
    """Move the weights to the optimiser's own average, which is evaluated and stored; undone by the former."""
    if hasattr(optimiser, "eval"):
        optimiser.eval()


def moments_of(optimiser: Optimizer) -> tuple[str, ...]:
    """Return the names of what the optimiser keeps of every weight that has moved."""
    if isinstance(optimiser, SGD):
        return ("momentum_buffer",) if optimiser.defaults["momentum"] else ()
    if hasattr(optimiser, "train"):
        return ("z", "exp_avg_sq")
    return ("step", "exp_avg", "exp_avg_sq")


def set_frozen(network: PointNetwork, options: OptimiserOptions, frozen: bool) -> None:
    """Stop the part that ``options.freeze`` names, or let it go; the optimiser passes over what has no gradient."""
    parts = {"none": (), "encoder": network.backbone.encoding_parts(), "backbone": (network.backbone,)}[options.freeze]
    for part in parts:
        part.requires_grad_(not frozen)
