"""Processor time of one training step of narrow networks on a CPU: the rule of before against what is chosen now.

Before: PyTorch's norms, a DynUNet in channels-last layout, a SegResNet in contiguous, the C library's own ways with
freed memory. Now: channels-last with fused norms (training/on_cpu), freed memory kept. Each rule has a process of its
own, since what the C library is told cannot be taken back; they take steps in turns. A step is forward pass, loss,
gradient and AdamW, batch 2 of 64x64x64 voxels with 12 particles each. Processor seconds on one thread, so that other
work on the machine enters them only through caches and memory.

    python benchmarks/step.py
    ONEDNN_MAX_CPU_ISA=AVX2 python benchmarks/step.py fp32    # as a processor without AVX-512, whose bf16 takes minutes
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import resource
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from statistics import median
from typing import Any, cast

import torch
from torch.profiler import ProfilerActivity, profile

from tomopoint.networks.build import build_network
from tomopoint.networks.config import NetworkConfig
from tomopoint.processes import keep_freed_memory
from tomopoint.training.losses.build import build_loss
from tomopoint.training.losses.points import collate
from tomopoint.training.on_cpu.choice import Stated, Way, fastest_way, prepare
from tomopoint.training.options.losses import LossOptions

STRIDE, BATCH, CROP, N_POINTS, WARM_UP, REPEATS, PROFILED = 2, 2, 64, 12, 2, 7, 1
RADII_VOX = (5.993, 8.989, 14.982, 12.984, 13.484, 6.492)
NETWORKS = {
    "SegResNet, 8 filters, blocks 0-2-2": ("segresnet", {"init_filters": 8, "blocks_down": (0, 2, 2), "dropout": 0.0}),
    "DynUNet, filters 4-16-32-64": ("dynunet", {"filters": (4, 16, 32, 64), "features": 16}),
}
PRECISIONS: tuple[Stated, ...] = ("bf16", "fp32")
CONVOLUTIONS = ("convolution", "addmm", "aten::mm", "linear")


@dataclass(frozen=True)
class Rule:
    """Of how to compute."""

    name: str
    new: bool


@dataclass(frozen=True)
class Measured:
    """One step."""

    seconds: float
    page_faults: int
    loss: float


def config_of(title: str) -> NetworkConfig:
    name, options = NETWORKS[title]
    return NetworkConfig(name, class_width=16, offset_width=8, **cast(Any, options))


def serve(pipe: Connection, rule: Rule) -> None:
    """Take the steps that the parent asks for, by title and precision; "share" asks for that of convolutions."""
    torch.set_num_threads(1)
    if rule.new:
        keep_freed_memory()
    steps: dict[tuple[str, Stated], Any] = {}
    while (asked := pipe.recv()) is not None:
        what, title, precision = asked
        if (title, precision) not in steps:
            steps = {(title, precision): make_step(title, precision, rule)}
        step = steps[title, precision]
        pipe.send(measure(step) if what == "step" else share_of_convolutions(step))


def make_step(title: str, precision: Stated, rule: Rule) -> Any:
    config = config_of(title)
    torch.manual_seed(0)
    network = build_network(config, len(RADII_VOX), STRIDE).train()
    old_layout = "channels-last" if config.name.startswith("dynunet") else "contiguous"
    prepare(network, Way(precision, "channels-last, fused" if rule.new else cast(Any, old_layout)))
    loss = build_loss(config, RADII_VOX, STRIDE, LossOptions())
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    labels = torch.arange(N_POINTS) % len(RADII_VOX)
    points = collate([(torch.rand(N_POINTS, 3) * CROP, labels, 1.0)] * BATCH)
    volume = torch.randn(BATCH, 1, CROP, CROP, CROP)

    def step() -> float:
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits, offsets_vox = network.logits(volume)
        total = loss(logits, offsets_vox, points).total
        total.backward()
        optimiser.step()
        return float(total.detach())

    return step


def measure(step: Any) -> Measured:
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    start = time.process_time()
    loss = step()
    seconds = time.process_time() - start
    return Measured(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults, loss)


def share_of_convolutions(step: Any) -> float:
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        for _ in range(PROFILED):
            step()
    rows = recorded.key_averages()
    own = sum(row.self_cpu_time_total for row in rows if any(part in row.key for part in CONVOLUTIONS))
    return float(own / sum(row.self_cpu_time_total for row in rows))


def main() -> None:
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    precisions = [precision for precision in PRECISIONS if precision in (sys.argv[1:] or PRECISIONS)]
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for rule in (Rule("before", False), Rule("now", True)):
        ours, theirs = context.Pipe()
        processes.append(context.Process(target=serve, args=(theirs, rule), daemon=True))
        processes[-1].start()
        pipes.append(ours)

    def ask(pipe: Connection, *what: str) -> Any:
        pipe.send(what)
        return pipe.recv()

    figures: dict[str, Any] = {}
    for title in NETWORKS:
        for precision in precisions:
            pairs = [tuple(ask(pipe, "step", title, precision) for pipe in pipes) for _ in range(WARM_UP + REPEATS)]
            before, now = ([pair[index].seconds for pair in pairs[WARM_UP:]] for index in (0, 1))
            figures[f"{title}, {precision}"] = {
                "before_s": round(median(before), 4),
                "now_s": round(median(now), 4),
                "times_faster": round(median(b / n for b, n in zip(before, now, strict=True)), 2),
                "page_faults": [round(median(pair[index].page_faults for pair in pairs[WARM_UP:])) for index in (0, 1)],
                "share_of_convolutions": [round(ask(pipe, "share", title, precision), 2) for pipe in pipes],
                "loss": [round(pair.loss, 4) for pair in pairs[-1]],
            }
            print(f"{title}, {precision}: {figures[f'{title}, {precision}']}", flush=True)
    for pipe, process in zip(pipes, processes, strict=True):
        pipe.send(None)
        process.join()
    batch = (BATCH, CROP, CROP, CROP)
    chosen = {
        title: str(fastest_way(config_of(title), len(RADII_VOX), STRIDE, batch, PRECISIONS, 1)) for title in NETWORKS
    }
    print(json.dumps({"steps": figures, "chosen": chosen}))


if __name__ == "__main__":
    main()
