"""How much F4 each rule for choosing a threshold loses on new data, against the best threshold there is.

Scores of right and wrong picks are drawn from random beta distributions; a rule sees the curve of one sample of n
particles, and its threshold is judged by the expected F4 of the distributions themselves.

    python benchmarks/thresholds.py
"""

import json

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.stats import beta

from tomopoint.evaluation.score import f_beta_of
from tomopoint.evaluation.thresholds import Curve, choose, threshold_grid

SAMPLES = 400
PARTICLES = (10, 30, 100, 300)
FOUND_SHARE = 0.93
GRID = threshold_grid(0.05)


def widest(f4: np.ndarray, tolerance: float) -> int:
    """Centre of the widest stretch within `tolerance` of the maximum."""
    inside = np.concatenate([[False], f4 >= (1 - tolerance) * f4.max(), [False]])
    edges = np.flatnonzero(np.diff(inside.astype(int))).reshape(-1, 2)
    low, high = edges[np.argmax(edges[:, 1] - edges[:, 0])]
    return int(low + high - 1) // 2


def rules(curve: Curve) -> dict[str, int]:
    """Index into the grid that each rule chooses."""
    f4 = curve.f_beta
    smooth = gaussian_filter1d(f4, 12, mode="nearest")
    return {
        "maximum": int(f4.argmax()),
        "plateau 0.005": widest(f4, 0.005),
        "plateau 0.01": widest(f4, 0.01),
        "plateau 0.02": widest(f4, 0.02),
        "smoothed over 0.06": int(smooth.argmax()),
        "tomopoint": int(np.searchsorted(GRID, choose(curve, 0.25).threshold - 1e-9)),
    }


def sample(rng: np.random.Generator, n: int) -> tuple[Curve, np.ndarray]:
    """One sampled curve, and the expected F4 at every threshold."""
    right, wrong = (rng.uniform(3, 7), rng.uniform(1.5, 4)), (rng.uniform(1, 2.5), rng.uniform(4, 8))
    wrong_per_particle = rng.uniform(0.5, 6)
    found = np.sort(rng.beta(*right, (rng.random(n) < FOUND_SHARE).sum()))
    other = np.sort(rng.beta(*wrong, rng.poisson(wrong_per_particle * n)))
    tp = len(found) - np.searchsorted(found, GRID)
    curve = Curve("ribosome", GRID, tp, tp + len(other) - np.searchsorted(other, GRID), n)
    share = FOUND_SHARE * beta.sf(GRID, *right)
    return curve, f_beta_of(share, wrong_per_particle * beta.sf(GRID, *wrong), 1 - share)


def main() -> None:
    rng = np.random.default_rng(0)
    figures: dict[str, dict[str, float]] = {}
    for n in PARTICLES:
        lost: dict[str, list[float]] = {}
        for _ in range(SAMPLES):
            curve, expected = sample(rng, n)
            for name, index in rules(curve).items():
                lost.setdefault(name, []).append(expected.max() - expected[index])
        figures[str(n)] = {name: round(float(np.mean(values)), 4) for name, values in lost.items()}
        print(f"{n} particles: {figures[str(n)]}")
    print(json.dumps({"mean_f4_lost": figures, "samples": SAMPLES}))


if __name__ == "__main__":
    main()
