"""Averages of weights: the moving average kept while training, and the mean of several checkpoints after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_swa_multi_avg_fn

from tomopoint.networks.contract import PointNetwork
from tomopoint.training.recipes import FitOptions

MultiAverage = Callable[[Any, Any, Any], None]


def build_average(network: PointNetwork, options: FitOptions) -> AveragedModel | None:
    """Return the average that `options` asks for, holding a copy of the weights; None without averaging.

    Networks here have no batch norm, so there are no running statistics to measure again.
    """
    if options.averaging == "none":
        return None
    rule = moving_average(options.ema_decay) if options.averaging == "ema" else get_swa_multi_avg_fn()
    average = AveragedModel(network, multi_avg_fn=rule)
    # Without gradient they are neither optimised nor waited for by DDP.
    return average.requires_grad_(False)


def moving_average(decay: float) -> MultiAverage:
    """Return the update of an exponential moving average whose decay after n steps is at most (1 + n) / (10 + n).

    A fixed decay would keep the random initial weights in the average for the first 1 / (1 - decay) steps.
    """

    @torch.no_grad()
    def update(averages: Any, currents: Any, n_averaged: Any) -> None:
        n = int(n_averaged)
        share = 1 - min(decay, (1 + n) / (10 + n))
        torch._foreach_lerp_(list(averages), list(currents), share)

    return update


def mean_weights(paths: Sequence[Path]) -> dict[str, Tensor]:
    """Return the arithmetic mean of several weight files, added up in float64."""
    total: dict[str, Tensor] = {}
    for path in paths:
        for name, tensor in load_file(path).items():
            total[name] = total[name] + tensor.double() if name in total else tensor.double()
    return {name: (tensor / len(paths)).float() for name, tensor in total.items()}
