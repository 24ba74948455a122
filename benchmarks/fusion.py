"""How well picks of two sources fuse, by the scale on which their scores are averaged.

Points and scores are made up, there are no tomograms. A particle is as hard for both sources as its difficulty says;
half of their wrong picks stand in the same places. The second source is worse, and its scores are bolder. Thresholds
are chosen on a few runs, maps from score to precision fitted to the same, and F4 taken of others.

    python benchmarks/fusion.py
"""

import json

import numpy as np
import pandas as pd

from tomopoint.data.tables import passing
from tomopoint.evaluation.calibration import CalibrationOptions
from tomopoint.evaluation.score import score_picks
from tomopoint.evaluation.tuning import tune_thresholds
from tomopoint.fusion.clusters import fuse_picks
from tomopoint.fusion.fuse import FLOOR
from tomopoint.fusion.scales import PrecisionMap, calibrated, fit_maps, ranked
from tomopoint.pipeline import COMPETITION_PARTICLES

SEEDS, RUNS, OTHER_RUNS = 8, 6, 30
PARTICLES = tuple(p for p in COMPETITION_PARTICLES if p.name in ("apo-ferritin", "thyroglobulin"))
N_TRUE, N_WRONG = 40, 300
SIZE_A = (6300.0, 6300.0, 1840.0)
LOWEST = 0.05

Truth = dict[str, dict[str, np.ndarray]]
Tables = list[pd.DataFrame]
Maps = list[dict[str, PrecisionMap]]


def draw(rng: np.random.Generator, n_runs: int) -> tuple[Truth, Tables]:
    """Return the truth of some runs, and the picks of both sources."""
    truth: Truth = {}
    parts: list[list[pd.DataFrame]] = [[], []]
    for index in range(n_runs):
        run = f"R{index}"
        truth[run] = {}
        for particle in PARTICLES:
            centres = rng.uniform(0, SIZE_A, (N_TRUE, 3))
            truth[run][particle.name] = centres
            ease, shared_ease = rng.normal(size=N_TRUE), rng.normal(size=N_WRONG)
            shared = rng.uniform(0, SIZE_A, (N_WRONG, 3))
            for rows, skill, bold in ((parts[0], 1.5, False), (parts[1], 1.2, True)):
                logits = np.concatenate(
                    [
                        skill + 0.7 * ease + 1.2 * rng.normal(size=N_TRUE),
                        -2.5 + 0.8 * shared_ease + 1.2 * rng.normal(size=N_WRONG),
                        -2.5 + 1.4 * rng.normal(size=N_WRONG),
                    ]
                )
                found = centres + rng.normal(0, 0.12 * particle.radius_A, centres.shape)
                points = np.concatenate(
                    [found, shared + rng.normal(0, 8, shared.shape), rng.uniform(0, SIZE_A, (N_WRONG, 3))]
                )
                scores = 1 / (1 + np.exp(-(logits / 2 + 1 if bold else logits)))
                table = pd.DataFrame(points, columns=["x", "y", "z"]).assign(score=scores)
                rows.append(table[scores > LOWEST].assign(experiment=run, particle_type=particle.name))
    return truth, [pd.concat(rows, ignore_index=True) for rows in parts]


def plain(tables: Tables, maps: Maps) -> Tables:
    """Precisions as they are, in the place of the scores."""
    changed = []
    for table, own in zip(tables, maps, strict=True):
        scores = table["score"].to_numpy(copy=True)
        for name, rows in table.groupby("particle_type").indices.items():
            scores[rows] = own[str(name)](scores[rows])
        changed.append(table.assign(score=scores))
    return changed


def worth(truth: Truth, picks: pd.DataFrame, other_truth: Truth, other_picks: pd.DataFrame) -> float:
    """F4 of other runs at thresholds chosen on these."""
    tuning = tune_thresholds(truth, picks, PARTICLES, CalibrationOptions(floor=FLOOR))
    return score_picks(other_truth, passing(other_picks, tuning.calibration.thresholds), PARTICLES).score


def main() -> None:
    scores: dict[str, list[float]] = {}
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        (truth, tables), (other_truth, others) = draw(rng, RUNS), draw(rng, OTHER_RUNS)
        maps = [fit_maps(table, truth, PARTICLES, sorted(truth)) for table in tables]
        arms = {
            "as they are": (tables, others),
            "ranks": (ranked(tables), ranked(others)),
            "plain precisions": (plain(tables, maps), plain(others, maps)),
            "weighted precisions": (calibrated(tables, maps), calibrated(others, maps)),
        }
        for index, name in enumerate("AB"):
            scores.setdefault(f"{name} alone", []).append(worth(truth, tables[index], other_truth, others[index]))
        for name, (own, other) in arms.items():
            fused = [fuse_picks(part, PARTICLES) for part in (own, other)]
            scores.setdefault(name, []).append(worth(truth, fused[0], other_truth, fused[1]))
        print(f"seed {seed}: " + ", ".join(f"{name} {values[-1]:.4f}" for name, values in scores.items()), flush=True)
    figures = {name: [round(float(v), 4) for v in (np.mean(own), np.std(own, ddof=1))] for name, own in scores.items()}
    print(json.dumps({"f4_mean_and_sd": figures, "seeds": SEEDS}))


if __name__ == "__main__":
    main()
