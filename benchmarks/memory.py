"""A worker's memory over many tomograms: it must not grow with their number.

``python benchmarks/memory.py``; ``--shape 184,630,630 --window 192,256,256 --tomograms 8`` for full size. The worker of
`tomopoint predict`, in a process of its own, with an engine that returns maps that lie ready; its resident memory is
looked at whenever a tomogram is done. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from ready_maps import ReadyMaps, in_process, main, peak_GB, pipeline_with, run_worker, size, write_maps, write_runs
from tomopoint.data.project import Run
from tomopoint.inference.worker import Message

PAGE_BYTES = 4096
WARM_UP = 5
"""Tomograms until buffers and pools have their size."""


def ours(given: dict[str, Any]) -> dict[str, Any]:
    """The worker, and its resident memory when each tomogram is done."""
    folder, pipeline = Path(given["folder"]), pipeline_with(tuple(given["window"]))
    engine = ReadyMaps(folder / "maps.npy", pipeline, tuple(given["shape"]))
    runs = [Run(f"TS_{index}", "test", folder / "project") for index in range(given["n"])]
    resident: list[float] = []

    def look(message: Message) -> None:
        if message.kind == "done":
            resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES / 1e9)

    before = peak_GB()
    run_worker(engine, pipeline, runs, folder / "parts", look)
    warm = np.array(resident[min(WARM_UP, len(resident) // 2) :])
    halves = np.array_split(warm, 2)
    return {
        "tomograms": len(resident),
        "ready_maps_GB": round(engine.scores.nbytes / 1e9, 2),
        "peak_before_GB": before,
        "peak_GB": peak_GB(),
        "resident_GB": [round(value, 3) for value in resident],
        "mean_of_first_half_GB": round(float(halves[0].mean()), 3),
        "mean_of_second_half_GB": round(float(halves[1].mean()), 3),
        "growth_MB_per_tomogram": round(1e3 * float(np.polyfit(np.arange(len(warm)), warm, 1)[0]), 3),
    }


def all_of_it(words: argparse.Namespace, folder: Path) -> dict[str, Any]:
    write_maps(folder / "maps.npy", words.shape, 30, 6, n_weak=300)
    write_runs(folder / "project", words.shape, words.tomograms)
    given = {"window": words.window, "shape": words.shape, "n": words.tomograms}
    return in_process(__file__, "ours", {"folder": str(folder), **given})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", type=size, default=(64, 160, 160), help="voxels of a tomogram")
    parser.add_argument("--window", type=size, default=(64, 96, 96))
    parser.add_argument("--tomograms", type=int, default=50)
    main(__doc__, {"ours": ours}, parser, all_of_it)
