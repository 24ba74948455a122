"""Small projects with labels, each run good until a test spoils it."""

import numpy as np

from tomopoint.data.picks import write_picks
from tomopoint.data.project import VOXEL_FOLDER, Run
from tomopoint.data.stores import write_tomogram
from tomopoint.pipeline import Particle

SHAPE_ZYX = (24, 60, 60)
VOXEL_A = 10.0
NAMES = ("ball", "rod")
BALL = Particle("ball", 60.0, 1.0, 0.4, 72.0)
ROD = Particle("rod", 100.0, 2.0, 0.4, 120.0)
PARTICLES_YAML = "particles: [{name: ball, radius_A: 60}, {name: rod, radius_A: 100, weight: 2}]\n"
RECIPE_YAML = "base: demo-scratch\nfolds: {folds}\n"


def volume(seed, sd=1e-5):
    """Noise with dark particles: each of some 150 A."""
    rng = np.random.default_rng(seed)
    z, y, x = np.ogrid[: SHAPE_ZYX[0], : SHAPE_ZYX[1], : SHAPE_ZYX[2]]
    field = rng.standard_normal(SHAPE_ZYX).astype(np.float32)
    for cz, cy, cx in rng.uniform(8, [16, 52, 52], (14, 3)):
        field[(z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2 < 40] -= 3
    return field * np.float32(sd)


def grid_points(seed, n, first=0):
    """Places 150 A apart or more, jittered; those of different `first` do not meet."""
    rng = np.random.default_rng(seed)
    places = [(x, y, z) for z in (70.0, 170.0) for y in (100.0, 300.0, 500.0) for x in (100.0, 300.0, 500.0)]
    return np.array(places[first : first + n]).reshape(-1, 3) + rng.uniform(-8, 8, (n, 3))


def write_run(root, name, seed, split="train", n_ball=8, n_rod=4, sd=1e-5, voxel_A=VOXEL_A, field=None):
    run = Run(name, split, root)
    store = root / split / "static" / "ExperimentRuns" / name / VOXEL_FOLDER / "denoised.zarr"
    write_tomogram(store, volume(seed, sd) if field is None else field, [voxel_A] * 3, levels=1)
    if split == "train":
        for particle, points in (("ball", grid_points(seed, n_ball)), ("rod", grid_points(seed + 50, n_rod, 9))):
            if len(points):
                write_picks(run.picks_folder / f"{particle}.json", name, particle, points)
    return run


def write_project(root, n_runs=6, folds="kfold-2", skip=()):
    root.mkdir(parents=True, exist_ok=True)
    (root / "particles.yaml").write_text(PARTICLES_YAML)
    (root / "recipe.yaml").write_text(RECIPE_YAML.format(folds=folds))
    return {f"R{i}": write_run(root, f"R{i}", i) for i in range(n_runs) if f"R{i}" not in skip}
