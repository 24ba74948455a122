"""The simulator's two worlds side by side: how far particles stand out, what the noise is like, what a run costs.

    make bench-worlds [ARGS="--runs 8 --figure docs/figures/worlds.png"]

Per world some runs of 128 x 320 x 320 with default options. "stands out": the darkest voxel within half the particle's
radius of the truth (within all of it for the two hollow ones), over the robust standard deviation of the
volume, mean over all particles; in brackets the same at random places. Noise: the same imaging of empty ice. The
last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import skew

from tomopoint.pipeline import COMPETITION_PARTICLES
from tomopoint.simulate.options import FULL_SHAPE_ZYX, VOXEL_A, SimulationOptions, WorldName
from tomopoint.simulate.tomogram import SimulatedTomogram, simulate_tomogram
from tomopoint.simulate.world import WORLDS

SHAPE = (128, 320, 320)
NOISE_SHAPE = (96, 160, 160)
LAGS = (1, 2, 3)
HOLLOW = ("apo-ferritin", "virus-like-particle")
N_PLACES = 200
FIGURE_RUNS = 3


def darkest(volume: np.ndarray, centre_zyx_vox: np.ndarray, radius_vox: float) -> float:
    """Return the lowest value in a ball; as much of it as lies in the volume."""
    low = np.maximum(np.floor(centre_zyx_vox - radius_vox), 0).astype(int)
    high = np.minimum(np.ceil(centre_zyx_vox + radius_vox).astype(int), volume.shape)
    box = volume[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    offsets = np.indices(box.shape).reshape(3, -1).T + low + 0.5 - centre_zyx_vox
    return float(box.ravel()[(offsets**2).sum(axis=1) < radius_vox**2].min())


def spread(volume: np.ndarray) -> float:
    return float(1.4826 * np.median(np.abs(volume - np.median(volume))))


def standing_out(runs: list[SimulatedTomogram]) -> dict[str, tuple[float, float]]:
    """Per particle: how far its darkest voxel lies below nought at the truth, and at random places."""
    rng = np.random.default_rng(0)
    found = {}
    for particle in COMPETITION_PARTICLES:
        radius = particle.radius_A / VOXEL_A * (1.0 if particle.name in HOLLOW else 0.5)
        there, elsewhere = [], []
        for run in runs:
            sd = spread(run.volume_zyx)
            places = rng.uniform(radius, np.array(run.volume_zyx.shape) - radius, (N_PLACES, 3))
            centres = run.points_xyz_A[particle.name][:, ::-1] / VOXEL_A
            there += [-darkest(run.volume_zyx, centre, radius) / sd for centre in centres]
            elsewhere += [-darkest(run.volume_zyx, place, radius) / sd for place in places]
        found[particle.name] = (float(np.mean(there)), float(np.mean(elsewhere)))
    return found


def noise_correlation(world: WorldName, n_runs: int) -> dict[str, list[float]]:
    """Autocorrelation of empty ice along each axis, mean over runs."""
    options, empty = SimulationOptions(world=world), np.zeros(NOISE_SHAPE, dtype=np.float32)
    rows: dict[str, list[list[float]]] = {"z": [], "y": [], "x": []}
    for seed in range(n_runs):
        rng = np.random.default_rng(seed)
        imaging = WORLDS[world].draw_imaging(rng, options)
        volume = WORLDS[world].image_density(empty, imaging, ("denoised",), rng, "cpu")["denoised"].astype(np.float64)
        for axis, name in enumerate(rows):
            moved = np.moveaxis(volume - volume.mean(), axis, 0)
            rows[name].append([float((moved[:-lag] * moved[lag:]).mean() / moved.var()) for lag in LAGS])
    return {name: [round(float(value), 2) for value in np.mean(row, axis=0)] for name, row in rows.items()}


def measure(world: WorldName, n_runs: int) -> tuple[dict[str, Any], list[SimulatedTomogram]]:
    runs, seconds = [], []
    for seed in range(n_runs):
        start = time.process_time()
        runs.append(simulate_tomogram(SimulationOptions(world=world), SHAPE, seed, "cpu"))
        seconds.append(time.process_time() - start)
    start = time.process_time()
    simulate_tomogram(SimulationOptions(world=world), FULL_SHAPE_ZYX, 0, "cpu")
    sds = [float(run.volume_zyx.std()) for run in runs]
    skews = [float(skew(run.volume_zyx, axis=None)) for run in runs]
    return {
        "stands out": {name: [round(value, 1) for value in pair] for name, pair in standing_out(runs).items()},
        "noise correlation": noise_correlation(world, n_runs),
        "background sd": [float(f"{spread(run.volume_zyx):.3g}") for run in runs],
        "sd": float(f"{np.mean(sds):.3g}"),
        "skew": round(float(np.mean(skews)), 2),
        "skew of runs": [round(min(skews), 2), round(max(skews), 2)],
        "seconds": round(float(np.mean(seconds)), 1),
        "full-size seconds": round(time.process_time() - start, 1),
    }, runs


def draw(runs: dict[WorldName, list[SimulatedTomogram]], path: Path) -> None:
    """Draw xy slices through the middle of the ice and xz slices below, -6 to 4 background deviations."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [("own", runs["own"][0]), *(("other", run) for run in runs["other"][:FIGURE_RUNS])]
    figure, axes = plt.subplots(2, len(shown), figsize=(4 * len(shown), 5.8), height_ratios=(SHAPE[1], SHAPE[0]))
    for column, (title, run) in enumerate(shown):
        middle = int(np.clip(run.scene.slab.middle_A / VOXEL_A, 0, SHAPE[0] - 1))
        for row, image in enumerate((run.volume_zyx[middle], run.volume_zyx[:, SHAPE[1] // 2])):
            sd = spread(run.volume_zyx)
            axes[row, column].imshow(image, cmap="gray", vmin=-6 * sd, vmax=4 * sd, origin="lower")
            axes[row, column].set(xticks=[], yticks=[])
        axes[0, column].set_title(title)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=56)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=8, help="per world")
    parser.add_argument("--figure", type=Path, help="also draw the figure of docs/simulator.md to this file")
    words = parser.parse_args()
    measured = {world: measure(world, words.runs) for world in WORLDS}
    figures = {world: found for world, (found, _) in measured.items()}
    own, other = figures["own"], figures["other"]
    print("| | own | other |\n|---|---|---|")
    for particle in COMPETITION_PARTICLES:
        pairs = [found["stands out"][particle.name] for found in (own, other)]
        print(f"| {particle.name} stands out | {' | '.join(f'{there} ({random})' for there, random in pairs)} |")
    for axis in "zyx":
        rows = [" ".join(f"{v:.2f}" for v in found["noise correlation"][axis]) for found in (own, other)]
        print(f"| noise correlation along {axis}, lags {', '.join(map(str, LAGS))} | {' | '.join(rows)} |")
    ranges = [f"{min(found['background sd']):.1e} to {max(found['background sd']):.1e}" for found in (own, other)]
    print(f"| robust background sd | {' | '.join(ranges)} |")
    print(f"| sd | {own['sd']:.1e} | {other['sd']:.1e} |")
    skews = [f"{found['skew']} ({found['skew of runs'][0]} to {found['skew of runs'][1]})" for found in (own, other)]
    print(f"| skewness, mean (runs) | {' | '.join(skews)} |")
    print(f"| seconds of processor per run, full size | {own['full-size seconds']} | {other['full-size seconds']} |")
    if words.figure is not None:
        draw({world: runs for world, (_, runs) in measured.items()}, words.figure)
    print(json.dumps({**figures, "runs": words.runs}))


if __name__ == "__main__":
    main()
