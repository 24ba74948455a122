"""Read a store over and over with one of its files damaged, and print what came of it as JSON.

For a process of its own: what it is to show may kill it. Arguments: store, file, kind of damage, times, seed.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from tomopoint.data.tomograms import read_tomogram
from tomopoint.errors import DataError

BLOSC_HEADER_BYTES = 16


def damaged(whole: bytes, kind: str, rng: np.random.Generator) -> bytes:
    """Return a file cut at a random length, or with one byte changed in its first 16 or behind them."""
    if kind == "cut":
        return whole[: rng.integers(len(whole))]
    low, high = (0, BLOSC_HEADER_BYTES) if kind == "header" else (BLOSC_HEADER_BYTES, len(whole))
    content = bytearray(whole)
    content[rng.integers(low, high)] ^= int(rng.integers(1, 256))
    return bytes(content)


def main(store: Path, file: Path, kind: str, times: int, seed: int) -> None:
    """Count the reads that were refused, gave the same volume, or another."""
    logging.disable()
    whole, expected = file.read_bytes(), read_tomogram(store).volume_zyx
    rng, counts = np.random.default_rng(seed), Counter()
    for _ in range(times):
        file.write_bytes(damaged(whole, kind, rng))
        try:
            same = np.array_equal(read_tomogram(store).volume_zyx, expected)
        except DataError:
            counts["refused"] += 1
        else:
            counts["same" if same else "different"] += 1
    file.write_bytes(whole)
    sys.stdout.write(json.dumps(counts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
