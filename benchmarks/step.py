"""Processor time of one training step of narrow networks on a CPU: number type and memory layout.

Forward pass, loss, gradient and AdamW, batch 2 of 64x64x64 voxels with 12 particles each; the fastest of five steps.
Processor seconds on one thread, so that other work on the machine does not enter them.

    python benchmarks/step.py
"""

from __future__ import annotations

import json
import time
from typing import Any, cast

import torch

from tomopoint.networks.build import build_network
from tomopoint.networks.config import NetworkConfig
from tomopoint.training.losses.build import build_loss
from tomopoint.training.losses.points import collate
from tomopoint.training.recipe import LossOptions

STRIDE, BATCH, CROP, N_POINTS, REPEATS = 2, 2, 64, 12, 5
RADII_VOX = (5.993, 8.989, 14.982, 12.984, 13.484, 6.492)
DYNUNET = {"filters": (8, 16, 32, 64), "features": 16}
NETWORKS = {
    "SegResNet, 8 filters, blocks 1-2-2": ("segresnet", {"init_filters": 8, "blocks_down": (1, 2, 2), "dropout": 0.0}),
    "SegResNet, 8 filters, blocks 0-2-2": ("segresnet", {"init_filters": 8, "blocks_down": (0, 2, 2), "dropout": 0.0}),
    "SegResNet, 16 filters, blocks 0-2-2": (
        "segresnet",
        {"init_filters": 16, "blocks_down": (0, 2, 2), "dropout": 0.0},
    ),
    "DynUNet, filters 8-16-32-64": ("dynunet", DYNUNET),
    "residual DynUNet, filters 8-16-32-64": ("dynunet-residual", DYNUNET),
}
SETTINGS = {
    "bf16_contiguous": (True, torch.contiguous_format),
    "bf16_channels_last": (True, torch.channels_last_3d),
    "fp32_contiguous": (False, torch.contiguous_format),
    "fp32_channels_last": (False, torch.channels_last_3d),
}


def seconds_per_step(config: NetworkConfig, bf16: bool, layout: torch.memory_format) -> float:
    torch.manual_seed(0)
    network = build_network(config, len(RADII_VOX), STRIDE).train()
    network.to(memory_format=layout)  # type: ignore[call-overload]
    loss = build_loss(config, RADII_VOX, STRIDE, LossOptions())
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    labels = torch.arange(N_POINTS) % len(RADII_VOX)
    points = collate([(torch.rand(N_POINTS, 3) * CROP, labels, 1.0)] * BATCH)
    volume = torch.randn(BATCH, 1, CROP, CROP, CROP).contiguous(memory_format=layout)
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits, offsets_vox = network.logits(volume)
        loss(logits, offsets_vox, points).total.backward()
        optimiser.step()
        times.append(time.process_time() - start)
    return round(min(times), 3)


def main() -> None:
    torch.set_num_threads(1)
    figures = {}
    for title, (name, options) in NETWORKS.items():
        config = NetworkConfig(name, class_width=16, offset_width=8, **cast(Any, options))
        figures[title] = {key: seconds_per_step(config, *setting) for key, setting in SETTINGS.items()}
        print(f"{title:38s} {figures[title]}", flush=True)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
