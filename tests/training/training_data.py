"""Small training data for the tests of this folder: Gaussian blobs in noise, at known places."""

import numpy as np
import torch

from tomopoint.data.picks import write_picks
from tomopoint.data.project import Run
from tomopoint.data.stores import write_tomogram
from tomopoint.pipeline import Particle
from tomopoint.training.crops.tomograms import TrainingTomogram

VOXEL_A = 10.012444309968956
"""Mean of the competition's scale, which `write_tomogram` writes."""

PARTICLES = (Particle("small", 30.0, 1.0, 0.25, 30.0), Particle("large", 60.0, 1.0, 0.25, 60.0))


def blobs(shape, centres_zyx, sigmas_vox, rng):
    volume = rng.standard_normal(shape).astype(np.float32)
    for centre, sigma in zip(centres_zyx, sigmas_vox, strict=True):
        axes = [np.exp(-((np.arange(n) + 0.5 - c) ** 2) / (2 * sigma**2)) for n, c in zip(shape, centre, strict=True)]
        volume -= (8 * axes[0][:, None, None] * axes[1][:, None] * axes[2]).astype(np.float32)
    return volume


def make_run(name="TS_0", shape=(40, 48, 48), n_particles=12, seed=0):
    """Return a TrainingTomogram with two classes, three of four particles of the first."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(4, np.array(shape) - 4, (n_particles, 3))
    labels = (np.arange(n_particles) % 4 == 3).astype(np.int64)
    volume = blobs(shape, centres, 1.5 + 1.5 * labels, rng)
    return TrainingTomogram(name, {"denoised": torch.from_numpy(volume).half()}, centres, labels, VOXEL_A)


def write_project(root, n_runs=3, shape=(40, 48, 48)):
    """Write training runs TS_0, TS_1 ... in the competition's layout."""
    for index in range(n_runs):
        made = make_run(f"TS_{index}", shape, seed=index)
        run = Run(made.name, "train", root)
        write_tomogram(run.tomogram_path(), made.volumes_zyx["denoised"].float().numpy() * 1e-5, levels=1)
        for label, particle in enumerate(PARTICLES):
            points_xyz_A = made.centres_zyx[made.labels == label][:, ::-1] * VOXEL_A
            write_picks(run.picks_folder / f"{particle.name}.json", run.name, particle.name, points_xyz_A)
    return root
