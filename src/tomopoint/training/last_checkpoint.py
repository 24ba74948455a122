"""The checkpoint of an interrupted training: one safetensors file, whose header carries the numbers as JSON.

A training folder may come from someone else, and unpickling runs code: nothing here is ever unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from tomopoint.errors import TomopointError, reason_of
from tomopoint.evaluation.epochs import SCORE_OF
from tomopoint.files import check_output, is_plain_name, put_in_place, require_file
from tomopoint.strict_json import Malformed, build, parse, shown
from tomopoint.training.checkpoints import COLUMNS
from tomopoint.training.on_cpu.choice import Way
from tomopoint.training.optimisation import moments_of

LAST = "last.safetensors"

_STATE = "tomopoint-training"
"""Name of the JSON in the file's header."""

_COUNTED = ("k", "weight_sum", "lr_max")
"""What a schedule-free optimiser counts in every group of weights."""


@dataclass
class FitState:
    """How far the training of one member has come.

    Attributes
    ----------
    epoch, step
        Epochs and optimiser steps that are done.
    seconds
        Trained so far, pauses left out.
    rows
        One row of ``metrics.csv`` per epoch.
    best
        Value and candidate file of the best epochs, best first.
    to_beat
        Value that the next validation must exceed to count as better; None before the first.
    stale
        Validations since one counted as better.
    stopped
        Whether the member ended before its last epoch: out of time, or of patience.
    n_averaged
        How many sets of weights are in the average.
    scaler
        State of the gradient scaler of fp16; empty otherwise.
    way
        How the network is computed; None in a checkpoint of earlier versions.
    groups
        What the optimiser itself counts in each group of weights; empty where it counts nothing.
    """

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    rows: tuple[Mapping[str, float], ...] = ()
    best: tuple[tuple[float, str], ...] = ()
    to_beat: float | None = None
    stale: int = 0
    stopped: bool = False
    n_averaged: int = 0
    scaler: Mapping[str, float] | None = None
    way: Way | None = None
    groups: tuple[Mapping[str, float], ...] = ()


def save_checkpoint(
    path: Path, state: FitState, network: nn.Module, average: AveragedModel | None, optimiser: torch.optim.Optimizer
) -> None:
    """Write everything that an interrupted training needs to go on, under a temporary name first.

    A kill while saving costs one epoch, not the member.
    """
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    if average is not None:
        tensors |= {f"average.{name}": tensor for name, tensor in average.module.state_dict().items()}
    for name, parameter in network.named_parameters():
        if optimiser.state.get(parameter):  # what is frozen has not moved yet
            tensors |= {f"optimiser.{name}.{key}": optimiser.state[parameter][key] for key in moments_of(optimiser)}
    check_output(path)
    temporary = path.with_name(f".{path.name}.partial")  # one name: what a kill leaves is written over
    counted = [{key: group[key] for key in _COUNTED if key in group} for group in optimiser.param_groups]
    header = {_STATE: json.dumps({**asdict(state), "groups": counted if any(counted) else []})}
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary, header)
    put_in_place(temporary, path)


def way_of(path: Path) -> Way | None:
    """Return how the network of a checkpoint was computed; TomopointError where the file is damaged."""
    try:
        require_file(path)
        with safe_open(path, framework="pt") as file:
            return build(FitState, parse((file.metadata() or {}).get(_STATE, ""))).way
    except (OSError, SafetensorError, ValueError) as error:
        raise _damaged(path, error) from error


def load_checkpoint(
    path: Path, network: nn.Module, average: AveragedModel | None, optimiser: torch.optim.Optimizer
) -> FitState:
    """Put network, average and optimiser back to where :func:`save_checkpoint` found them; return how far it was.

    Parts that a training starts with frozen must be so here.

    Raises
    ------
    TomopointError
        The file is damaged, or of another network.
    """
    try:
        require_file(path)
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        state = build(FitState, parse(header.get(_STATE, "")))
        _check_state(state)
        network.load_state_dict(_below("network.", tensors))
        if average is not None:
            average.module.load_state_dict(_below("average.", tensors))
            average.n_averaged.fill_(state.n_averaged)
        for name, parameter in network.named_parameters():
            stored = {key: f"optimiser.{name}.{key}" for key in moments_of(optimiser)}
            if not stored or (not parameter.requires_grad and not set(stored.values()) <= set(tensors)):
                continue  # frozen, and not yet let go when this was saved
            # As the optimiser makes them: in the memory layout of the parameter, with the count on the CPU.
            optimiser.state[parameter] = {
                key: tensors[place] if key == "step" else torch.empty_like(parameter).copy_(tensors[place])
                for key, place in stored.items()
            }
        for group, counted in zip(optimiser.param_groups, state.groups, strict=bool(state.groups)):
            if set(counted) != {key for key in _COUNTED if key in group}:
                raise Malformed(f"the optimiser counts {shown(sorted(counted))}")
            group.update(counted)
    except (OSError, SafetensorError, ValueError, RuntimeError, KeyError) as error:
        raise _damaged(path, error) from error
    return state


def _damaged(path: Path, error: Exception) -> TomopointError:
    return TomopointError(f"{path} is damaged ({reason_of(error)}); delete it to train this member from the start")


def _check_state(state: FitState) -> None:
    """Refuse a state that no training leaves: of an epoch too many, the rest would be passed over without a word."""
    for _, name in state.best:
        if not is_plain_name(name):
            raise Malformed(f"{shown(name)} is no candidate")
    if not state.epoch == len(state.rows) <= state.step or min(state.n_averaged, state.stale, state.seconds) < 0:
        raise Malformed(f"epoch {state.epoch}, step {state.step} and {len(state.rows)} rows do not go together")
    for row in state.rows:
        named = {name for name in row if not name.startswith(SCORE_OF)}
        if not {"epoch", "step"} <= named <= set(COLUMNS):
            raise Malformed(f"a row has the columns {shown(sorted(row))}")


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
