"""How long a worker takes beyond its engine: four tomograms through an engine that sleeps for each window.

``python benchmarks/overlap.py``. The worker of `tomopoint predict`, in a process of its own; what it takes is compared
with the seconds inside the engine, the first tomogram's reading and the last one's decoding, of the same run, which no
overlap can hide. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ready_maps import (
    FULL_ZYX,
    ReadyMaps,
    in_process,
    main,
    measured,
    peak_GB,
    pipeline_with,
    run_worker,
    size,
    write_maps,
    write_runs,
)
from tomopoint.data.project import Run


def ours(given: dict[str, Any]) -> dict[str, Any]:
    """The worker, its messages, and the engine's own clock."""
    folder, pipeline = Path(given["folder"]), pipeline_with(tuple(given["window"]))
    engine = ReadyMaps(folder / "maps.npy", pipeline, tuple(given["shape"]), sleep=given["sleep"])
    runs = [Run(f"TS_{index}", "test", folder / "project") for index in range(given["n"])]
    figures: dict[str, Any] = {}
    with measured(figures):
        heard = run_worker(engine, pipeline, runs, folder / "parts")
    at = {
        (kind, which): [h.seconds for h in heard if h.message.kind == kind][which]
        for kind in ("reading", "begun", "window", "done")
        for which in (0, -1)
    }
    total = at["done", -1] - at["reading", 0]
    read, decode = at["begun", 0] - at["reading", 0], at["done", -1] - at["window", -1]
    return {
        **figures,
        "windows": sum(h.message.kind == "window" for h in heard),
        "total_s": round(total, 2),
        "engine_s": round(engine.seconds, 2),
        "one_read_s": round(read, 2),
        "one_decode_s": round(decode, 2),
        "beyond_engine_read_decode": round((total - read - decode) / engine.seconds - 1, 4),
        "peak_GB": peak_GB(),
    }


def all_of_it(words: argparse.Namespace, folder: Path) -> dict[str, Any]:
    write_maps(folder / "maps.npy", words.shape, 100, 6, n_weak=1000)
    write_runs(folder / "project", words.shape, words.tomograms)
    given = {"window": words.window, "shape": words.shape, "n": words.tomograms, "sleep": words.sleep}
    return in_process(__file__, "ours", {"folder": str(folder), **given})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", type=size, default=FULL_ZYX, help="voxels of a tomogram")
    parser.add_argument("--window", type=size, default=(192, 256, 256))
    parser.add_argument("--tomograms", type=int, default=4)
    parser.add_argument("--sleep", type=float, default=0.5, help="seconds of a window")
    main(__doc__, {"ours": ours}, parser, all_of_it)
