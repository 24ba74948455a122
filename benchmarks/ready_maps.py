"""What the benchmarks of the host's work share: maps that lie ready, an engine that returns them, and its worker."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from tomopoint.data.project import Run
from tomopoint.data.stores import write_tomogram
from tomopoint.inference.parts import PartOrigin
from tomopoint.inference.stream import Deal
from tomopoint.inference.tiles import TilePlan
from tomopoint.inference.worker import Job, Message, work
from tomopoint.pipeline import COMPETITION_PARTICLES, Pipeline, Tiling

FULL_ZYX = (184, 630, 630)
VOXEL_A = 10.012444310158676
BLOB_CELLS, BLOB_SIGMA_CELLS = 4, 1.6
Size = tuple[int, int, int]


def size(text: str) -> Size:
    """Read ``184,630,630``."""
    z, y, x = map(int, text.split(","))
    return z, y, x


def pipeline_with(window_zyx: Size) -> Pipeline:
    """Return the competition's particles, tiled with this window; overlaps as usual, or half a small window."""
    z, y, x = (min(64, n // 4 * 2) for n in window_zyx)
    return Pipeline(
        COMPETITION_PARTICLES, VOXEL_A, tiling=replace(Tiling(), window_zyx=window_zyx, overlap_zyx=(z, y, x))
    )


def write_maps(path: Path, shape_zyx: Size, n_blobs: int, n_classes: int, n_weak: int = 0) -> None:
    """Write scores of a volume at stride 2: noise below the floor, `n_blobs` particles per class, and weak peaks."""
    rng = np.random.default_rng(0)
    cells = [-(-n // 2) for n in shape_zyx]
    scores = rng.uniform(0, 0.02, (n_classes, *cells)).astype(np.float32)
    axis = np.arange(-BLOB_CELLS, BLOB_CELLS + 1)
    for own in scores:
        heights = np.concatenate([rng.uniform(0.4, 0.95, n_blobs), rng.uniform(0.06, 0.3, n_weak)])
        centres = np.stack([rng.uniform(0, n, len(heights)) for n in cells], axis=1)
        for centre, height in zip(centres, heights, strict=True):
            grids = [np.clip(int(c) + axis, 0, n - 1) for c, n in zip(centre, cells, strict=True)]
            z, y, x = (
                np.exp(-((g + 0.5 - c) ** 2) / (2 * BLOB_SIGMA_CELLS**2)) for g, c in zip(grids, centre, strict=True)
            )
            place = np.ix_(*grids)
            own[place] = np.maximum(own[place], height * z[:, None, None] * y[:, None] * x)
    np.save(path, scores)


class ReadyMaps:
    """An engine whose answers are views of maps that lie ready, at no cost but the seconds it sleeps.

    Parameters
    ----------
    path
        Of :func:`write_maps`.
    pipeline, shape_zyx
        How the volume is tiled.
    sleep
        Seconds that a window takes.
    """

    batch = 1

    def __init__(self, path: Path, pipeline: Pipeline, shape_zyx: Size, sleep: float = 0.0) -> None:
        self.window_zyx, self.sleep = pipeline.tiling.window_zyx, sleep
        self._starts = TilePlan.for_volume(shape_zyx, pipeline.tiling, pipeline.stride).starts_zyx
        self._cells = tuple(n // 2 for n in self.window_zyx)
        # Beyond the volume as far as windows reach: behind it, or on both sides, as a peer may pad.
        self._before = [max(0, w - n) // 4 for w, n in zip(self.window_zyx, shape_zyx, strict=True)]
        covered = TilePlan.for_volume(shape_zyx, pipeline.tiling, pipeline.stride).covered_zyx
        scores = np.load(path, mmap_mode="r")
        behind = [max(0, end // 2 - n) for end, n in zip(covered, scores.shape[1:], strict=True)]
        self.scores = np.pad(scores, [(0, 0), *zip(self._before, behind, strict=True)])
        # An offset that changes with x alone needs no memory.
        wave = (0.4 * np.sin(0.3 * np.arange(self.scores.shape[-1]))).astype(np.float32)
        self.offsets = np.broadcast_to(wave, (3, *self.scores.shape[1:]))
        self._n_calls = 0
        self.seconds = 0.0

    def at(self, start_zyx: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return the answer for the window that begins at this voxel."""
        place = tuple(
            slice(m + s // 2, m + s // 2 + n) for m, s, n in zip(self._before, start_zyx, self._cells, strict=True)
        )
        return self.scores[(slice(None), *place)], self.offsets[(slice(None), *place)]

    def infer(self, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the next window's answer, as a batch of one."""
        begun = time.perf_counter()
        if self.sleep:
            time.sleep(self.sleep)
        scores, offsets = self.at(self._starts[self._n_calls % len(self._starts)])
        self._n_calls += 1
        self.seconds += time.perf_counter() - begun
        return scores[np.newaxis], offsets[np.newaxis]

    def describe(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def close(self) -> None:
        """Nothing is held."""


def write_runs(root: Path, shape_zyx: Size, n: int) -> list[Run]:
    """Write one store of noise, and as many runs that are links to it."""
    runs = [Run(f"TS_{index}", "test", root) for index in range(n)]
    store = root / "denoised.zarr"
    volume = np.float32(1e-5) * np.random.default_rng(0).standard_normal(shape_zyx, dtype=np.float32)
    write_tomogram(store, volume, levels=1)
    for run in runs:
        run.tomogram_path().parent.mkdir(parents=True)
        run.tomogram_path().symlink_to(store.resolve())
    return runs


@dataclass(frozen=True)
class Heard:
    """A message of the worker, and the seconds since it was started."""

    message: Message
    seconds: float


def run_worker(
    engine: ReadyMaps,
    pipeline: Pipeline,
    runs: Sequence[Run],
    parts: Path,
    on_message: Callable[[Message], None] = lambda m: None,
) -> list[Heard]:
    """Do in this process what a worker process does, with another engine than the graph's; return what it said."""
    ours, theirs = multiprocessing.Pipe()
    heard: list[Heard] = []
    parts.mkdir(exist_ok=True)
    job = Job(Path("none.onnx"), "cpu", None, 1, parts, PartOrigin("0" * 64, "denoised"))
    start = time.perf_counter()

    def listen() -> None:
        for _ in range(len(runs)):
            while True:
                message = ours.recv()
                heard.append(Heard(message, time.perf_counter() - start))
                on_message(message)
                if message.kind in ("done", "failed"):
                    break

    with patch("tomopoint.inference.worker.load_engine", lambda *given: (engine, pipeline)):
        listener = threading.Thread(target=listen)
        listener.start()
        for run in runs:
            ours.send(Deal(run))
        ours.send(None)
        work(job, theirs)
        listener.join()
    if failed := [h.message.details["message"] for h in heard if h.message.kind == "failed"]:
        sys.exit(f"failed: {failed[0]}")
    return heard


def peak_GB() -> float:
    """Return the peak memory of this process."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)


@contextmanager
def measured(into: dict[str, float]) -> Iterator[None]:
    """Enter wall and processor seconds of what is done inside."""
    wall, processor = time.perf_counter(), time.process_time()
    yield
    into["wall_s"] = round(time.perf_counter() - wall, 3)
    into["cpu_s"] = round(time.process_time() - processor, 3)


def in_process(script: str, role: str, options: dict[str, Any]) -> dict[str, Any]:
    """Run a script of the benchmarks again, in a role, in a process of its own; return the JSON of its last line."""
    words = [sys.executable, script, "--role", role, "--given", json.dumps(options)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main(
    description: str | None,
    roles: dict[str, Callable[[dict[str, Any]], dict[str, Any]]],
    parser: argparse.ArgumentParser,
    all_of_it: Callable[[argparse.Namespace, Path], dict[str, Any]],
) -> None:
    """Parse the command line: a role of the script in a process of its own, or all of it. Prints JSON."""
    parser.description = description
    parser.add_argument("--role", choices=list(roles), help=argparse.SUPPRESS)
    parser.add_argument("--given", type=json.loads, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.role:
        print(json.dumps(roles[words.role](words.given)))
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(all_of_it(words, Path(folder))))
