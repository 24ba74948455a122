"""How weights move: which of them decay, the learning rate of every step, and averages of weights over steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel, get_swa_multi_avg_fn

from tomopoint.networks.point_network import PointNetwork
from tomopoint.training.recipe import FitOptions, OptimiserOptions

FIRST_SHARE = 1e-3
"""Warm-up starts at this share of the peak: zero would waste the first step."""

SWA_START = 0.75
"""Share of a training after which stochastic weight averaging collects weights (Izmailov et al. 2018)."""


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

    Progress is the share of the steps done or, with a time limit, the share of the time where that is larger.

    Parameters
    ----------
    fit, optimiser
        Length of the training; warm-up and end of the cosine.
    clock
        Read only where ``fit.max_minutes`` is set.
    """

    def __init__(self, fit: FitOptions, optimiser: OptimiserOptions, clock: Clock) -> None:
        self.n_steps = fit.epochs * fit.steps_per_epoch
        self.limit_s = fit.max_minutes * 60
        self.holds_end = fit.averaging == "swa"
        self.warmup_steps = optimiser.warmup_steps
        self.final_share = optimiser.final_share
        self.clock = clock

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
        """Return the share of the peak for optimiser step number `step` (from 0)."""
        if step < self.warmup_steps:
            return FIRST_SHARE + (1 - FIRST_SHARE) * step / self.warmup_steps
        progress = self.progress(step)
        if self.holds_end:  # averaging needs steps of a constant size to explore with
            progress = min(progress, SWA_START)
        start = self.warmup_steps / self.n_steps
        share = 1.0 if start >= 1 else min(1.0, max(0.0, (progress - start) / (1 - start)))
        return self.final_share + (1 - self.final_share) * 0.5 * (1 + math.cos(math.pi * share))


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


def set_frozen(network: PointNetwork, options: OptimiserOptions, frozen: bool) -> None:
    """Stop the part that ``options.freeze`` names, or let it go; the optimiser passes over what has no gradient."""
    parts = {"none": (), "encoder": network.backbone.encoding_parts(), "backbone": (network.backbone,)}[options.freeze]
    for part in parts:
        part.requires_grad_(not frozen)
