"""The host's seconds against the volume of a tomogram and the number of its picks: both should be a straight line.

``python benchmarks/growth.py``. Normalise, cut, merge and decode, with maps that lie ready; processor seconds, the
least of a few tries. Draws ``work/growth.png``. The last line is one JSON object; `exponent` is the slope of a straight
line through the logarithms of seconds and volume, 1 where time is proportional to it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from ready_maps import FULL_ZYX, VOXEL_A, ReadyMaps, pipeline_with, size, write_maps
from tomopoint.inference.decode import decode_maps
from tomopoint.inference.predict import predict_volume
from tomopoint.inference.tiles import VolumeMaps

WINDOW_ZYX = (192, 128, 128)
CLASSES = 6


def of_volume(shape: tuple[int, int, int], folder: Path, tries: int) -> dict[str, Any]:
    """Time one tomogram of this shape, with as many picks per voxel as the others."""
    pipeline = pipeline_with(WINDOW_ZYX)
    n_picks = max(1, round(1000 * np.prod(shape) / np.prod(FULL_ZYX)))
    write_maps(folder / "maps.npy", shape, n_picks, CLASSES)
    volume = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    seconds = []
    for _ in range(tries):
        engine = ReadyMaps(folder / "maps.npy", pipeline, shape)
        start = time.process_time()
        picks = decode_maps(predict_volume(volume, engine, pipeline), pipeline, VOXEL_A)
        seconds.append(time.process_time() - start)
    return {"voxels": int(np.prod(shape)), "picks": len(picks), "cpu_s": round(min(seconds), 4)}


def of_picks(n: int, shape: tuple[int, int, int], tries: int) -> dict[str, Any]:
    """Time the decoding of maps of this shape with `n` candidates per class."""
    pipeline, rng = pipeline_with(WINDOW_ZYX), np.random.default_rng(n)
    cells = tuple(-(-length // pipeline.stride) for length in shape)
    scores = rng.uniform(0, 0.02, (CLASSES, *cells)).astype(np.float32)
    for own in scores:
        own.reshape(-1)[rng.choice(own.size, n, replace=False)] = rng.uniform(0.06, 0.95, n)
    maps = VolumeMaps(scores, np.zeros((3, *cells), np.float32), pipeline.stride, shape)
    seconds = []
    for _ in range(tries):
        start = time.process_time()
        picks = decode_maps(maps, pipeline, VOXEL_A)
        seconds.append(time.process_time() - start)
    return {"candidates": n * CLASSES, "picks": len(picks), "cpu_s": round(min(seconds), 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=size, default=FULL_ZYX, help="the largest tomogram, voxels")
    parser.add_argument("--tries", type=int, default=3)
    parser.add_argument("--plot", type=Path, default=Path("work/growth.png"))
    words = parser.parse_args()
    depth, height, width = words.shape
    with tempfile.TemporaryDirectory() as folder:
        shapes = [(depth, int(height * r**0.5), int(width * r**0.5)) for r in (1 / 8, 1 / 4, 1 / 2, 3 / 4, 1)]
        volumes = [of_volume(shape, Path(folder), words.tries) for shape in shapes]
    counts = [of_picks(n, words.shape, words.tries) for n in (250, 1000, 2000, 4000, 8000, 16000)]
    x, y = np.log([v["voxels"] for v in volumes]), np.log([v["cpu_s"] for v in volumes])
    candidates, seconds = ([c[name] for c in counts] for name in ("candidates", "cpu_s"))
    slope, base = np.polyfit(candidates, seconds, 1)
    straight = float(np.abs(slope * np.array(candidates) + base - seconds).max() / max(seconds))

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    left.plot([v["voxels"] / 1e6 for v in volumes], [v["cpu_s"] for v in volumes], "o-")
    left.set(xlabel="million voxels", ylabel="processor seconds", title="normalise, cut, merge, decode", ylim=0, xlim=0)
    right.plot(np.array(candidates) / 1e3, seconds, "o-")
    right.set(xlabel="thousand candidates", title="decode", ylim=0, xlim=0)
    words.plot.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(words.plot, dpi=120)
    result = {
        "volumes": volumes,
        "exponent": round(float(np.polyfit(x, y, 1)[0]), 2),
        "picks": counts,
        "us_per_candidate": round(1e6 * float(slope), 2),
        "farthest_from_a_line": round(straight, 3),
        "plot": str(words.plot),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
