"""Full maps with 16,000 candidates per class to picks, beside a Python loop over suppressions.

``python benchmarks/decode.py``. Local maxima, top-k, suppression and the table of `tomopoint`; the same with a filter
over all cells and the loop in their places; the loop alone. Picks must be equal. Processor seconds, the least of a few
tries. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import pandas as pd
from scipy.ndimage import maximum_filter

from ready_maps import FULL_ZYX, VOXEL_A, peak_GB, pipeline_with, size
from tomopoint.inference import decode
from tomopoint.inference.tiles import VolumeMaps


def maxima_everywhere(scores: np.ndarray, floor: float) -> np.ndarray:
    """Local maxima by a filter over all cells; no two cells of these maps are equal above the floor."""
    highest = maximum_filter(scores, size=3, mode="constant", cval=-np.inf)
    return np.argwhere((scores >= highest) & (scores > floor))


def suppress_in_a_loop(points: np.ndarray, scores: np.ndarray, radius: float) -> np.ndarray:
    """Take the best of what is left, drop what is near it, and again."""
    left, kept = np.lexsort((points[:, 2], points[:, 1], points[:, 0], -scores)), []
    while len(left):
        kept.append(left[0])
        left = left[np.linalg.norm(points[left] - points[left[0]], axis=1) >= radius]
    return np.array(kept, dtype=np.int64)


def least(tries: int, act: Callable[[], pd.DataFrame]) -> tuple[float, pd.DataFrame]:
    """Return the least processor seconds of some tries, and what came out."""
    seconds = []
    for _ in range(tries):
        start = time.process_time()
        result = act()
        seconds.append(time.process_time() - start)
    return min(seconds), result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=size, default=FULL_ZYX, help="voxels of a tomogram")
    parser.add_argument("--candidates", type=int, default=16_000, help="per class")
    parser.add_argument("--tries", type=int, default=3)
    words = parser.parse_args()
    pipeline, rng = pipeline_with((192, 256, 256)), np.random.default_rng(0)
    cells = tuple(-(-n // pipeline.stride) for n in words.shape)
    scores = rng.uniform(0, 0.02, (len(pipeline.particles), *cells)).astype(np.float32)
    for own in scores:
        own.reshape(-1)[rng.choice(own.size, words.candidates, replace=False)] = rng.uniform(
            0.06, 0.95, words.candidates
        )
    maps = VolumeMaps(scores, rng.uniform(-1, 1, (3, *cells)).astype(np.float32), pipeline.stride, words.shape)
    counts = [len(decode.local_maxima(own, pipeline.decoding.floor)) for own in scores]

    def decoded() -> pd.DataFrame:
        return decode.decode_maps(maps, pipeline, VOXEL_A)

    ours, picks = least(words.tries, decoded)
    peak = peak_GB()
    looped = 0.0

    def timed_loop(points: np.ndarray, scores: np.ndarray, radius: float) -> np.ndarray:
        nonlocal looped
        start = time.process_time()
        kept = suppress_in_a_loop(points, scores, radius)
        looped += time.process_time() - start
        return kept

    with patch.multiple(decode, suppress=timed_loop, local_maxima=maxima_everywhere):
        peer, expected = least(1, decoded)
    figures = {
        "candidates_per_class": counts,
        "picks": len(picks),
        "equal": picks.equals(expected),
        "ours_cpu_s": round(ours, 3),
        "peer_cpu_s": round(peer, 3),
        "loop_alone_cpu_s": round(looped, 3),
        "peer/ours": round(peer / ours, 1),
        "loop_alone/ours": round(looped / ours, 1),
        "peak_GB": peak,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
