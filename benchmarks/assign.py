"""Peak memory and time of the assignment and the loss, beside a dense assigner, in one run.

The size of a full training step: crops of 96x128x128 voxels (196 608 cells at stride 2), 60 particles each, batch 4,
six classes. The peer is task-aligned assignment as it is usually written: every particle against every cell, and
the top-k mask as a sum of one-hot rows; it is written here, from the formulas. Each variant runs in a process of its
own, whose peak memory is counted above what it held before the call. Times are processor seconds on one thread, so
that other work on the machine does not enter them.

    python benchmarks/assign.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from tomopoint.training.losses.assignment import LevelMaps, assign
from tomopoint.training.losses.cell_boxes import PointList
from tomopoint.training.losses.detection import DetectionLoss
from tomopoint.training.losses.points import PointBatch, collate
from tomopoint.training.options.losses import AssignmentOptions

BATCH, N_POINTS, N_CLASSES, STRIDE = 4, 60, 6, 2
CROP_ZYX = (96, 128, 128)
RADII_VOX = (5.993, 8.989, 14.982, 12.984, 13.484, 6.492)
REPEATS = 3
LIMIT_GB = 1.5


def case() -> tuple[torch.Tensor, torch.Tensor, PointBatch]:
    """Return random logits and offsets, and uniformly placed particles of every class."""
    torch.manual_seed(0)
    map_zyx = tuple(n // STRIDE for n in CROP_ZYX)
    logits = torch.randn(BATCH, N_CLASSES, *map_zyx) - 4
    offsets = torch.tanh(torch.randn(BATCH, 3, *map_zyx)) * STRIDE
    labels = torch.arange(N_POINTS) % N_CLASSES
    return logits, offsets, collate([(torch.rand(N_POINTS, 3) * torch.tensor(CROP_ZYX), labels, 1.0)] * BATCH)


def ours(logits: torch.Tensor, offsets: torch.Tensor, points: PointBatch) -> tuple[int, float]:
    listed = PointList.of(points, torch.tensor(RADII_VOX))
    (got,) = assign([LevelMaps(logits, offsets, STRIDE)], listed, AssignmentOptions())
    return len(got.cell), float(got.target.sum())


def loss_and_gradient(logits: torch.Tensor, offsets: torch.Tensor, points: PointBatch) -> tuple[int, float]:
    terms = DetectionLoss(RADII_VOX, STRIDE)(logits.requires_grad_(), offsets.requires_grad_(), points)
    terms.total.backward()
    return terms.n_positive, float(terms.total.detach())


@torch.no_grad()
def dense(logits: torch.Tensor, offsets: torch.Tensor, points: PointBatch) -> tuple[int, float]:
    """Assign with tensors of (batch, particles, cells)."""
    options = AssignmentOptions()
    axes = [(torch.arange(n) + 0.5) * STRIDE for n in logits.shape[2:]]
    anchors = torch.cartesian_prod(*axes)
    predicted = anchors + offsets.flatten(2).transpose(1, 2)
    variance = (torch.tensor(RADII_VOX)[points.labels] * points.scale[:, None]) ** 2

    def similarity(places: torch.Tensor) -> torch.Tensor:
        squared = sum((places[:, None, :, i] - points.centres_zyx[:, :, None, i]) ** 2 for i in range(3))
        return torch.exp(-squared / (2 * variance[:, :, None]))

    candidate = similarity(anchors[None]) > options.min_anchor_similarity
    u = similarity(predicted)
    index = points.labels[:, :, None].expand(-1, -1, anchors.shape[0])
    t = torch.sigmoid(logits.flatten(2)).gather(1, index) ** options.alpha * u**options.beta * candidate
    best = t.topk(options.topk, dim=-1).indices
    mask = (F.one_hot(best, anchors.shape[0]).sum(-2) > 0) & candidate
    mask &= (u * mask) == (u * mask).amax(1, keepdim=True)
    t, u = t * mask, u * mask
    target = t / (t.amax(-1, keepdim=True) + 1e-9) * u.amax(-1, keepdim=True)
    return int(mask.sum()), float(target.sum())


VARIANTS = {"assign": ours, "loss_and_gradient": loss_and_gradient, "dense_peer": dense}


def peak_bytes() -> int:
    """Return the most memory this process ever held: VmHWM of the kernel."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def measure(name: str) -> dict[str, float]:
    torch.set_num_threads(1)
    inputs = case()
    held = peak_bytes()
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        n_positive, checksum = VARIANTS[name](*inputs)
        times.append(time.process_time() - start)
    return {
        "cpu_seconds": round(min(times), 4),
        "peak_gb": round((peak_bytes() - held) / 1e9, 3),
        "n_positive": n_positive,
        "checksum": round(checksum, 3),
    }


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
        return
    figures = {}
    for name in VARIANTS:
        answer = subprocess.run([sys.executable, __file__, name], check=True, capture_output=True, text=True)
        figures[name] = json.loads(answer.stdout.splitlines()[-1])
        print(f"{name:18s} {figures[name]}", flush=True)
    mine, peer = figures["assign"], figures["dense_peer"]
    summary = {
        **figures,
        "same_answer": mine["n_positive"] == peer["n_positive"] and abs(mine["checksum"] - peer["checksum"]) < 0.01,
        "peer_memory_ratio": round(peer["peak_gb"] / mine["peak_gb"], 1),
        "peer_time_ratio": round(peer["cpu_seconds"] / mine["cpu_seconds"], 1),
        "within_limit": max(mine["peak_gb"], figures["loss_and_gradient"]["peak_gb"]) < LIMIT_GB,
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
