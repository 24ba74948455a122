"""How a CPU computes a network fastest: number type, memory layout and norms, chosen by timing a few steps.

Which is fastest depends on the network, the processor and its libraries: bfloat16 needs its own instructions, layouts
the right shapes. So it is measured, once for each network of a command, before its clock starts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch

from tomopoint.networks.build import build_network
from tomopoint.networks.config import NetworkConfig
from tomopoint.networks.point_network import PointNetwork
from tomopoint.training.on_cpu.convolutions import guard_shallow_maps

logger = logging.getLogger(__name__)

Stated = Literal["fp32", "bf16", "fp16"]
Layout = Literal["contiguous", "channels-last", "channels-last, fused"]

LAYOUTS: tuple[Layout, ...] = ("channels-last, fused", "contiguous", "channels-last")
"""In the order in which they are timed. Fused: with the blocks of :mod:`~tomopoint.training.on_cpu.fused_norms`."""

BF16_MUST_GAIN = 1.1
"""fp32 rounds less: bf16 is taken only where it is faster by this factor."""

LAYOUT_MUST_GAIN = 1.05
"""Fused is taken unless another layout is faster by this factor, so that noise seldom changes the choice."""

BUDGET_S = 5.0
"""No step begins after this, except the first of each precision: what was not timed by then is not taken. Processor
seconds where one thread computes: a busy machine must not cut the comparison short."""

ROUNDS = 3
"""Every way is timed so often, in turns; the fastest counts, since the first one also makes plans and caches."""

HOPELESS = 3.0
"""A way that takes this many times the fastest on small crops is not tried on large ones: without instructions of its
own, a step in bfloat16 takes ten times as long."""

SMALL_AXIS, LARGEST_AXIS = 16, 64
"""Voxels of the crops that steps are timed on, at most and where the network takes that."""

LARGEST_BATCH = 2
"""Crops of a timed step, at most. Not one: PyTorch then computes small float32 maps by another, slow algorithm."""


@dataclass(frozen=True)
class Way:
    """How a network is computed while it trains.

    Attributes
    ----------
    precision
        Number type of convolutions and norms.
    layout
        Order of a map in memory, and whether norms are fused with their activations.
    """

    precision: Stated
    layout: Layout

    def __str__(self) -> str:
        return f"{self.precision} {self.layout}"


def has_fused_norms() -> bool:
    """Whether the library that compiles them is there and works with this numpy."""
    try:
        import tomopoint.training.on_cpu.fused_norms  # noqa: F401
    except ImportError:
        return False
    return True


def prepare(network: PointNetwork, way: Way) -> None:
    """Lay out a network's parameters for `way`, fuse its norms, and keep its convolutions right; weights stay."""
    if way.layout != "contiguous":
        network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    if way.layout != "channels-last, fused":
        guard_shallow_maps(network)
    else:
        from tomopoint.training.on_cpu.fused_norms import fuse, warm_up

        warm_up(torch.bfloat16 if way.precision == "bf16" else torch.float32)
        fuse(network)


def choose(seconds: Mapping[Way, float]) -> Way:
    """Return the way to compute, of those timed (seconds per step)."""

    def best(precision: Stated) -> Way | None:
        ways = [way for way in seconds if way.precision == precision]
        handicap = {way: 1.0 if way.layout == "channels-last, fused" else LAYOUT_MUST_GAIN for way in ways}
        return min(ways, key=lambda way: seconds[way] * handicap[way], default=None)

    fp32, bf16 = best("fp32"), best("bf16")
    if fp32 is None or bf16 is None:
        way = fp32 or bf16
        assert way is not None
        return way
    return bf16 if seconds[bf16] * BF16_MUST_GAIN <= seconds[fp32] else fp32


@lru_cache(maxsize=64)
def fastest_way(
    config: NetworkConfig,
    n_classes: int,
    stride: int,
    batch: tuple[int, int, int, int],
    precisions: tuple[Stated, ...],
    n_threads: int,
) -> Way:
    """Return the way in which this machine trains a network fastest; measured once in a process.

    Parameters
    ----------
    config, n_classes, stride
        The network.
    batch
        Its crops: how many, and their size z, y, x in voxels.
    precisions
        Those to choose from.
    n_threads
        That torch computes with.
    """
    layouts = LAYOUTS if has_fused_norms() else LAYOUTS[1:]
    ways = [Way(precision, layout) for layout in layouts for precision in sorted(precisions, reverse=True)]
    seconds = time_steps(config, n_classes, stride, batch, ways)
    way = choose(seconds)
    timed = ", ".join(f"{other} {value:.3g}" for other, value in seconds.items())
    logger.info("%s is computed in %s; seconds per step, %d threads: %s", config.title, way, n_threads, timed)
    return way


def time_steps(
    config: NetworkConfig, n_classes: int, stride: int, batch: tuple[int, int, int, int], ways: Sequence[Way]
) -> dict[Way, float]:
    """Return seconds of a training step of those ways that the budget allowed; random state stays as it is."""
    # Processor time does not count other work on the machine, but counts threads that wait for each other.
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds: dict[Way, float] = {}
    with torch.random.fork_rng(devices=[]):
        networks = {}
        for way in ways:
            networks[way] = build_network(config, n_classes, stride).train()
            prepare(networks[way], way)
        started = clock()  # what was compiled until here is on disk the next time
        least = 2 * networks[ways[0]].divisor
        for axis, rounds in ((SMALL_AXIS, 2), (LARGEST_AXIS, ROUNDS)):
            volume = torch.randn(min(batch[0], LARGEST_BATCH), 1, *(min(n, max(axis, least)) for n in batch[1:]))
            promising = [way for way in ways if seconds.get(way, 0.0) <= HOPELESS * min(seconds.values(), default=0.0)]
            precisions = {way.precision for way in promising}
            seconds = {}
            for _ in range(rounds):
                for way in promising:
                    if {other.precision for other in seconds} == precisions and clock() - started > BUDGET_S:
                        return seconds
                    before = clock()
                    _step(networks[way], volume, way.precision)
                    seconds[way] = min(seconds.get(way, float("inf")), clock() - before)
    return seconds


def _step(network: PointNetwork, volume: torch.Tensor, precision: Stated) -> None:
    with torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext():
        outputs = network.logits(volume)
    torch.stack([maps.float().square().mean() for maps in outputs]).sum().backward()
    network.zero_grad()
