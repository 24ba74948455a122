"""Everything but the network, for one tomogram, beside a straightforward peer with the same network.

``python benchmarks/overhead.py``. The network is a stand-in that returns maps that lie ready, in a process each: a
worker of `tomopoint predict` (read, normalise, cut, merge, decode, write), and zarr, the same normalisation by
`numpy.quantile`, MONAI's sliding window with Gaussian weights, max-pooling, and greedy suppression in a Python loop.
Both must find the same picks. Figures are those of a tomogram, the mean of a few. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ready_maps import (
    FULL_ZYX,
    VOXEL_A,
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
from tomopoint.inference.parts import load_part, part_path

SAME_A = 0.1
"""Two picks this close are the same: a hundredth of a voxel."""


def ours(given: dict[str, Any]) -> dict[str, Any]:
    """The worker of `tomopoint predict`."""
    folder, pipeline = Path(given["folder"]), pipeline_with(tuple(given["window"]))
    engine = ReadyMaps(folder / "maps.npy", pipeline, tuple(given["shape"]))
    runs = [Run(f"TS_{index}", "test", folder / "project") for index in range(given["n"])]
    figures: dict[str, Any] = {}
    with measured(figures):
        heard = run_worker(engine, pipeline, runs, folder / "parts")
    load_part(part_path(folder / "parts", "TS_0"))[1].to_csv(folder / "ours.csv")
    n_windows = sum(h.message.kind == "window" for h in heard) // given["n"]
    return {"windows": n_windows, **{k: round(v / given["n"], 3) for k, v in figures.items()}, "peak_GB": peak_GB()}


def peer(given: dict[str, Any]) -> dict[str, Any]:
    """What one writes with zarr, MONAI and PyTorch."""
    import torch
    import zarr
    from monai.inferers.utils import sliding_window_inference

    folder, pipeline = Path(given["folder"]), pipeline_with(tuple(given["window"]))
    engine = ReadyMaps(folder / "maps.npy", pipeline, tuple(given["shape"]))
    tiling = pipeline.tiling
    before = [max(0, w - n) // 2 for w, n in zip(tiling.window_zyx, given["shape"], strict=True)]  # MONAI's padding

    def predictor(window: torch.Tensor, coordinates: Any) -> tuple[torch.Tensor, torch.Tensor]:
        (place,) = coordinates
        scores, offsets = engine.at([p.start - b for p, b in zip(place[2:], before, strict=True)])
        return torch.from_numpy(scores[None].copy()), torch.from_numpy(offsets[None].copy())

    def picks_of(store: Path) -> pd.DataFrame:
        values = np.asarray(zarr.open_array(str(store / "0"), mode="r")[...])
        with measured(normalising):
            clipped = np.clip(values, *np.quantile(values, pipeline.normalisation.quantiles))
            volume = torch.from_numpy((values - clipped.mean()) / clipped.std())
            volume = volume.clip(-pipeline.normalisation.clip_sd, pipeline.normalisation.clip_sd)
        scores, offsets = sliding_window_inference(
            volume[None, None],
            tiling.window_zyx,
            1,
            predictor,
            overlap=[o / w for o, w in zip(tiling.overlap_zyx, tiling.window_zyx, strict=True)],
            mode="gaussian",
            with_coord=True,
        )
        is_peak = (torch.nn.functional.max_pool3d(scores, 3, 1, 1) == scores) & (scores > pipeline.decoding.floor)
        tables = []
        for channel, particle in enumerate(pipeline.particles):
            cells = is_peak[0, channel].nonzero()
            heights = scores[0, channel][tuple(cells.T)]
            best = heights.argsort(descending=True)[: pipeline.decoding.max_picks]
            cells, heights = cells[best], heights[best]
            shift = torch.stack([offsets[0, axis][tuple(cells.T)] for axis in range(3)], dim=1)
            centres = (((cells + 0.5) * pipeline.stride + shift).numpy() * VOXEL_A)[:, ::-1]
            kept, left = [], np.arange(len(centres))
            while len(left):
                kept.append(left[0])
                left = left[np.linalg.norm(centres[left] - centres[left[0]], axis=1) >= particle.suppression_A]
            x, y, z = centres[kept].T
            tables.append(
                pd.DataFrame({"particle_type": particle.name, "x": x, "y": y, "z": z, "score": heights[kept]})
            )
        return pd.concat(tables)

    figures: dict[str, Any] = {}
    normalising: dict[str, float] = {}
    with torch.inference_mode(), measured(figures):
        for index in range(given["n"]):
            picks = picks_of(Run(f"TS_{index}", "test", folder / "project").tomogram_path())
            picks.to_csv(folder / "peer.csv")
    each = {name: round(value / given["n"], 3) for name, value in figures.items()}
    return {**each, "of_it_normalise_cpu_s": normalising["cpu_s"], "peak_GB": peak_GB()}


def n_different(folder: Path) -> tuple[int, int]:
    """Return how many picks there are, and how many of either side have no equal on the other."""
    one, other = (pd.read_csv(folder / f"{name}.csv") for name in ("ours", "peer"))
    different = 0
    for particle in set(one["particle_type"]) | set(other["particle_type"]):
        a, b = (t.loc[t["particle_type"] == particle, ["x", "y", "z"]].to_numpy() for t in (one, other))
        distance = np.linalg.norm(a[:, None] - b[None], axis=2)
        for axis in (0, 1):
            different += int((distance.min(axis=axis, initial=np.inf) > SAME_A).sum())
    return len(one), different


def all_of_it(words: argparse.Namespace, folder: Path) -> dict[str, Any]:
    write_maps(folder / "maps.npy", words.shape, words.picks, 6, n_weak=10 * words.picks)
    write_runs(folder / "project", words.shape, words.tomograms)
    result: dict[str, Any] = {}
    for window in words.windows:
        given = {"folder": str(folder), "window": window, "shape": words.shape, "n": words.tomograms}
        figures = {role: in_process(__file__, role, given) for role in ("ours", "peer")}
        n_picks, different = n_different(folder)
        ratio = {
            name: round(figures["peer"][name] / figures["ours"][name], 1) for name in ("wall_s", "cpu_s", "peak_GB")
        }
        result["x".join(map(str, window))] = {**figures, "peer/ours": ratio, "picks": n_picks, "different": different}
        print(window, result["x".join(map(str, window))])
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", type=size, default=FULL_ZYX, help="voxels of a tomogram")
    parser.add_argument("--windows", type=size, nargs="+", default=[(192, 128, 128), (192, 256, 256)])
    parser.add_argument("--picks", type=int, default=100, help="particles per class; ten times as many weak peaks")
    parser.add_argument("--tomograms", type=int, default=3)
    main(__doc__, {"ours": ours, "peer": peer}, parser, all_of_it)
