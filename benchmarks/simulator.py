"""How close simulated tomograms come to the real ones, and what one costs.

``python benchmarks/simulator.py [--figure PATH]`` prints every figure beside the measured one it is held against
(public density maps, nine slices and seven runs' labels of real tomograms); the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree
from scipy.stats import skew

from tomopoint.simulate.density import add_blobs
from tomopoint.simulate.imaging import image_density
from tomopoint.simulate.labels import imperfect_labels
from tomopoint.simulate.optics import ImagingParameters
from tomopoint.simulate.options import (
    FULL_SHAPE_ZYX,
    NO_VARIETY,
    VOXEL_A,
    LabelImperfections,
    SimulationOptions,
)
from tomopoint.simulate.particles.catalogue import competition_particle, competition_particles
from tomopoint.simulate.scene import draw_scene
from tomopoint.simulate.tomogram import SimulatedTomogram, simulate_tomogram

MAPS = {  # integral, semi-axes A, volume above 10 % of the peak A^3
    "apo-ferritin": (12_688, (69, 69, 69), 1.30e6),
    "beta-galactosidase": (13_243, (87, 67, 41), 1.22e6),
    "ribosome": (93_011, (148, 116, 103), 7.85e6),
    "thyroglobulin": (15_112, (124, 59, 54), 1.67e6),
    "virus-like-particle": (77_034, None, 6.33e6),
    "beta-amylase": (6_400, (65, 60, 35), 0.6e6),
}
AUTOCORRELATION = {"x": (0.46, -0.11, -0.15, -0.04, 0.0), "y": (0.6, 0.22, 0.14, 0.12, 0.08),
                   "z": (0.87, 0.69, 0.51, 0.36, 0.25)}  # fmt: skip
REAL_RUNS = {  # mean and spread of counts; neighbour quantiles 5, 25, 50, 75, 95 %; z mean, 5 %, 95 %
    "apo-ferritin": ((53.6, 21), (99, 120, 130, 402, 1022), (627, 150, 1218)),
    "beta-amylase": ((12.4, 4), (271, 667, 859, 1150, 2217), (802, 252, 1250)),
    "beta-galactosidase": ((16.0, 5), (376, 566, 761, 1076, 1474), (774, 355, 1150)),
    "ribosome": ((47.3, 19), (240, 270, 300, 360, 792), (894, 321, 1277)),
    "thyroglobulin": ((35.9, 8), (320, 393, 589, 761, 1207), (781, 309, 1220)),
    "virus-like-particle": ((16.1, 7), (349, 555, 783, 990, 1625), (764, 376, 1093)),
}
SLICE_AUTOCORRELATION = {"x": (0.67, 0.18, 0.05, 0.11, 0.12), "y": (0.75, 0.42, 0.31, 0.26, 0.21),
                         "z": (0.95, 0.83, 0.69, 0.56, 0.46)}  # fmt: skip
"""Of whole slices, with all that is in them; AUTOCORRELATION is that of the noise between."""
REAL_SLICES = {"background_sd": 4.3e-6, "sd": 6.1e-6, "ribosome_minimum": -5.0e-5, "skew": (-2.8, -1.1)}
REAL_SECTORS = (0.88, 0.22, 0.03)
N_PLACED_RUNS = 60
N_IMAGED_RUNS = 24
FIGURE_SEED = 9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--figure", type=Path, help="also draw the figure of docs/simulator.md to this file")
    arguments = parser.parse_args()
    # The full-size run comes first: peak memory is that of the whole process so far.
    figures = {"cost": cost(), "models": models(), "noise": noise(), "tomograms": tomograms(), "placement": placement()}
    if arguments.figure is not None:
        draw(arguments.figure)
    print(json.dumps(figures))


def cost() -> dict[str, Any]:
    """Seconds at three sizes, and peak memory."""
    options, seconds, work = SimulationOptions(), {}, {}
    simulate_tomogram(options, (32, 64, 64), 0, "cpu")
    full = int(np.prod(FULL_SHAPE_ZYX))
    for shape in (FULL_SHAPE_ZYX, (184, 446, 446), (184, 315, 315)):
        start, work_start = time.perf_counter(), time.process_time()
        simulate_tomogram(options, shape, 1, "cpu")
        seconds[shape], work[shape] = time.perf_counter() - start, time.process_time() - work_start
        share, of_full = np.prod(shape) / full, work[shape] / work[FULL_SHAPE_ZYX]
        taken = f"{seconds[shape]:.1f} s ({work[shape]:.1f} s of processor)"
        print(f"{shape}: {taken}, volume x{share:.2f}, processor time x{of_full:.2f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"peak memory {peak:.2f} GB\n")
    return {
        "full_seconds": round(seconds[FULL_SHAPE_ZYX], 1),
        "full_processor_seconds": round(work[FULL_SHAPE_ZYX], 1),
        "quarter_volume_time_share": round(work[(184, 315, 315)] / work[FULL_SHAPE_ZYX], 3),
        "half_volume_time_share": round(work[(184, 446, 446)] / work[FULL_SHAPE_ZYX], 3),
        "peak_gb": round(peak, 2),
    }


def models() -> dict[str, Any]:
    """Model over map: integral, semi-axes, volume."""
    found = {}
    print("model / map            integral  semi-axes           volume at 10 %")
    for name, (integral, axes, above) in MAPS.items():
        volume = np.zeros((48, 48, 48), dtype=np.float32)
        add_blobs(volume, competition_particle(name).blobs, np.full(3, 240.0), 10.0)
        ratios = [float(volume.sum() / integral)]
        offsets = (np.indices(volume.shape) + 0.5 - 24).reshape(3, -1) * 10.0
        own = np.sqrt(5 * np.linalg.eigvalsh(np.cov(offsets, aweights=volume.ravel().astype(np.float64)))[::-1])
        ratios += list(own / axes) if axes else []
        ratios.append(float((volume > 0.1 * volume.max()).sum() * 1000.0 / above))
        print(f"{name:22} {np.round(ratios, 2)}")
        found[name] = [round(float(value), 3) for value in ratios]
    worst = max(abs(value - 1) for values in found.values() for value in values)
    print(f"largest deviation {worst:.1%}\n")
    return {"ratios": found, "largest_deviation": round(worst, 3)}


def noise() -> dict[str, Any]:
    """Autocorrelation of pure noise, and where its power lies in the x-z plane."""
    volume = image_density(
        np.zeros((160, 224, 224), np.float32), ImagingParameters(), ("denoised",), np.random.default_rng(0), "cpu"
    )["denoised"]
    differences: list[float] = []
    for name, axis in (("x", 2), ("y", 1), ("z", 0)):
        own = autocorrelation(volume, axis)
        differences.extend(own - AUTOCORRELATION[name])
        print(f"autocorrelation {name}: {own.round(2)}, real {AUTOCORRELATION[name]}")
    rms = float(np.sqrt(np.mean(np.square(differences))))
    sectors = [round(float(value), 3) for value in sector_power(volume)]
    print(f"rms {rms:.3f}; power at 30-40, 40-50, >50 degrees {sectors}, real {REAL_SECTORS}\n")
    return {"autocorrelation_rms": round(rms, 4), "wedge_power": sectors}


def sector_power(volume: np.ndarray) -> np.ndarray:
    """Power in the x-z plane at 30-40, 40-50 and beyond 50 degrees from x, over that within 30 degrees."""
    moved = np.moveaxis(volume, 1, 0).astype(np.float64)
    window = np.hanning(moved.shape[1])[:, None] * np.hanning(moved.shape[2])
    power = (np.abs(np.fft.fft2(moved * window)) ** 2).mean(axis=0)
    kz, kx = np.abs(np.fft.fftfreq(moved.shape[1]))[:, None], np.abs(np.fft.fftfreq(moved.shape[2]))[None, :]
    angle, radius = np.degrees(np.arctan2(kz, kx)), np.hypot(kz, kx)
    ring = (radius > 0.08) & (radius < 0.2)
    means = [
        power[ring & (angle >= low) & (angle < high)].mean() for low, high in ((0, 30), (30, 40), (40, 50), (50, 91))
    ]
    return np.asarray(np.array(means[1:]) / means[0])


def tomograms() -> dict[str, Any]:
    """Values of whole tomograms with default options."""
    rows, correlations = [], []
    for seed in range(N_IMAGED_RUNS):
        made = simulate_tomogram(SimulationOptions(), (128, 224, 224), 100 + seed, "cpu")
        volume = made.volume_zyx
        background = 1.4826 * np.median(np.abs(volume - np.median(volume)))
        rows.append((background, volume.std(), skew(volume, axis=None), np.mean(ribosome_minima(made) or [np.nan])))
        correlations.append([autocorrelation(volume, axis) for axis in (2, 1, 0)])
    mean = np.nanmean(np.array(rows, dtype=np.float64), axis=0)
    keys = ("background_sd", "sd", "skew", "ribosome_minimum")
    for key, value in zip(keys, mean, strict=True):
        print(f"{key} {value:.3g}, real {REAL_SLICES[key]}")
    for key, column in zip(("sd, 1e-6", "skew"), (1, 2), strict=True):
        print(f"{key} per run", np.round([row[column] * (1e6 if column == 1 else 1) for row in rows], 1))
    own, real = np.mean(correlations, axis=0), np.array(list(SLICE_AUTOCORRELATION.values()))
    rms = float(np.sqrt(np.mean(np.square(own - real))))
    for name, values in zip("xyz", own, strict=True):
        print(f"autocorrelation of whole runs {name}: {values.round(2)}, real slices {SLICE_AUTOCORRELATION[name]}")
    print(f"rms {rms:.3f}\n")
    found = {key: float(f"{value:.4g}") for key, value in zip(keys, mean, strict=True)}
    return {**found, "slice_autocorrelation_rms": round(rms, 4)}


def autocorrelation(volume: np.ndarray, axis: int) -> np.ndarray:
    """Correlation of a volume with itself, shifted by 1 to 5 voxels along an axis."""
    moved = np.moveaxis(volume, axis, 0).astype(np.float64)
    moved -= moved.mean()
    return np.array([(moved[:-lag] * moved[lag:]).mean() / moved.var() for lag in range(1, 6)])


def ribosome_minima(made: SimulatedTomogram) -> list[float]:
    """Darkest voxel within 12 voxels of each ribosome."""
    boxes = [
        tuple(slice(max(index - 12, 0), index + 13) for index in (centre[::-1] / VOXEL_A).astype(int))
        for centre in made.points_xyz_A["ribosome"]
    ]
    return [float(made.volume_zyx[box].min()) for box in boxes]


def placement() -> dict[str, Any]:
    """Labels of full-size runs against those of seven real ones."""
    options, extent = SimulationOptions(crowding=0.0, variety=NO_VARIETY), np.array(FULL_SHAPE_ZYX[::-1]) * VOXEL_A
    start = time.perf_counter()
    scenes = [
        draw_scene(np.random.default_rng(seed), options, FULL_SHAPE_ZYX, competition_particles())
        for seed in range(N_PLACED_RUNS)
    ]
    print(f"placed {N_PLACED_RUNS} full-size runs in {time.perf_counter() - start:.1f} s; simulated / real:")
    runs = [
        imperfect_labels(scene.points_xyz_A(), LabelImperfections(), extent, np.random.default_rng(seed))
        for seed, scene in enumerate(scenes)
    ]
    found = {}
    for name in REAL_RUNS:
        (count, spread), neighbours, heights = REAL_RUNS[name]
        counts = np.array([len(run[name]) for run in runs])
        distances = np.concatenate(
            [np.asarray(cKDTree(r[name]).query(r[name], k=2)[0])[:, 1] for r in runs if len(r[name]) > 1]
        )
        z = np.concatenate([run[name][:, 2] for run in runs])
        nearest = np.quantile(distances, (0.05, 0.25, 0.5, 0.75, 0.95))
        own_heights = np.array([z.mean(), *np.quantile(z, (0.05, 0.95))])
        print(f"{name:22} count {counts.mean():.1f} ({counts.std():.1f}) / {count} ({spread})")
        print(f"{'':22} neighbour A {nearest.round().astype(int)} / {neighbours}")
        print(f"{'':22} z mean, 5, 95 % {own_heights.round().astype(int)} / {heights}")
        ratios = (counts.mean() / count, nearest[2] / neighbours[2], own_heights[0] / heights[0])
        found[name] = [round(float(value), 3) for value in ratios]
    worst = max(abs(value - 1) for values in found.values() for value in values)
    print(f"largest deviation of mean count, median neighbour, mean z: {worst:.1%}\n")
    return {"count_neighbour_z": found, "largest_deviation": round(worst, 3)}


def draw(path: Path) -> None:
    """Draw xy, xz and yz slices at display contrast; below, with the true centres within 100 A of the plane."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    made = simulate_tomogram(SimulationOptions(), (184, 400, 400), FIGURE_SEED, "cpu")
    ribosomes = made.points_xyz_A["ribosome"][:, ::-1] / VOXEL_A
    through = ribosomes[np.linalg.norm(ribosomes - [92, 200, 200], axis=1).argmin()].astype(int)
    figure, axes = plt.subplots(2, 3, figsize=(12, 8.6))
    for column, (axis, title) in enumerate(((0, "xy"), (1, "xz"), (2, "yz"))):
        rows, columns = (other for other in range(3) if other != axis)
        start = [
            0 if n <= 200 else int(np.clip(c - 100, 0, n - 200))
            for n, c in zip(made.volume_zyx.shape, through, strict=True)
        ]
        window = tuple(int(through[a]) if a == axis else slice(start[a], start[a] + 200) for a in range(3))
        for row in range(2):
            axes[row, column].imshow(made.volume_zyx[window], cmap="gray", vmin=-2.5e-5, vmax=1.5e-5, origin="lower")
            axes[row, column].set(xticks=[0, 100, 200], xticklabels=["0", "100 nm", "200 nm"], yticks=[])
            axes[row, column].set(xlim=(-0.5, 199.5), ylim=(-0.5, 199.5))
        axes[0, column].set_title(f"simulated, {title}")
        for number, name in enumerate(REAL_RUNS):
            points = made.points_xyz_A[name][:, ::-1] / VOXEL_A
            near = points[np.abs(points[:, axis] - through[axis] - 0.5) < 10] - start - 0.5
            axes[1, column].scatter(
                near[:, columns], near[:, rows], s=170, facecolors="none", edgecolors=f"C{number}", label=name
            )
    handles, names = axes[1, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="lower center", ncols=6, frameon=False)
    figure.subplots_adjust(left=0.02, right=0.98, top=0.96, bottom=0.08, wspace=0.06, hspace=0.1)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=64)
    plt.close(figure)


if __name__ == "__main__":
    main()
