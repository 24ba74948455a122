"""One full-size tomogram through `tomopoint predict`: time and memory, beside MONAI's sliding window on the same graph.

``python benchmarks/predict.py --model ensemble.onnx``. Simulates one 184x630x630 run in the competition's format
(or takes ``--data``), then predicts it in a process of its own, and again with
``monai.inferers.sliding_window_inference`` over the same ONNX Runtime session, window and overlap (its result is maps
only: no picks). The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tomopoint.inference.engines.engine import Array
from tomopoint.pipeline import Tiling

Predictor = Callable[[Any], tuple[Any, Any]]
"""A tensor of windows to tensors of scores and offsets."""

FULL_SHAPE = "184,630,630"


def sliding_window(volume: Array, tiling: Tiling, predictor: Predictor) -> tuple[Array, Array]:
    """Merge scores and offsets of a normalised volume as MONAI's inferer does, with the Pipeline's windows."""
    import torch
    from monai.inferers.utils import sliding_window_inference

    overlap = [o / w for o, w in zip(tiling.overlap_zyx, tiling.window_zyx, strict=True)]
    maps = sliding_window_inference(
        torch.from_numpy(volume)[None, None], tiling.window_zyx, 1, predictor, overlap=overlap, mode="gaussian"
    )
    assert isinstance(maps, tuple)
    return maps[0][0].numpy(), maps[1][0].numpy()


def monai_peer(model: Path, store: Path) -> None:
    """Run in a process of its own: the same tomogram and graph through MONAI's inferer."""
    import torch

    from tomopoint.data.normalisation import normalise
    from tomopoint.data.tomograms import read_tomogram
    from tomopoint.inference.engines.load import load_engine

    engine, pipeline = load_engine(model, "cpu")
    volume = normalise(read_tomogram(store).volume_zyx, pipeline.normalisation)

    def predictor(window: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores, offsets = engine.infer(window.numpy())
        return torch.from_numpy(scores), torch.from_numpy(offsets)

    sliding_window(volume, pipeline.tiling, predictor)


def measured(words: list[str]) -> dict[str, float]:
    """Run a command; return its wall seconds and the peak memory of its largest process, GB."""
    start = time.perf_counter()
    process = subprocess.Popen(words)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"{words} ended with status {status}")
    return {"seconds": round(time.perf_counter() - start, 1), "peak_GB": round(usage.ru_maxrss / 1e6, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="project with one full-size test run; default: simulate one")
    parser.add_argument("--peer", type=Path, nargs=2, metavar=("MODEL", "STORE"), help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.peer:
        monai_peer(*words.peer)
        return
    with tempfile.TemporaryDirectory() as folder:
        data = words.data or Path(folder) / "data"
        tomopoint = [sys.executable, "-m", "tomopoint"]
        if words.data is None:
            runs = ["--train-runs", "0", "--test-runs", "1", "--shape", FULL_SHAPE]
            subprocess.run([*tomopoint, "simulate", str(data), *runs], check=True)
        (store,) = (data / "test").rglob("denoised.zarr")
        out = Path(folder) / "out"
        # The worker is a child of the command; the peak is that of the largest process of the tree.
        predict = [*tomopoint, "predict", "--data", str(data), "--model", str(words.model), "--provider", "cpu"]
        ours = measured([*predict, "--out", str(out)])
        script = [sys.executable, __file__, "--model", str(words.model)]
        peer = measured([*script, "--peer", str(words.model), str(store)])
    ratio = {name: round(ours[name] / peer[name], 2) for name in ours}
    print(f"tomopoint predict: {ours}\nMONAI sliding_window_inference, maps only: {peer}")
    print(json.dumps({"tomopoint": ours, "monai": peer, "ratio": ratio}))


if __name__ == "__main__":
    main()
