"""The labels of simulated training runs: the truth, with an annotator's mistakes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tomopoint.simulate.density import Array, random_direction
from tomopoint.simulate.options import LabelImperfections

HARD_PARTICLES = ("beta-galactosidase", "thyroglobulin")
"""The two kinds of the competition that are overlooked now and then."""

CONFUSED_WITH = ("thyroglobulin", "beta-amylase")
"""What beta-galactosidase is labelled as, in addition, where labels conflict; 10-41 A away in the real runs."""


def imperfect_labels(
    truth_xyz_A: Mapping[str, Array],
    imperfections: LabelImperfections,
    extent_xyz_A: Array,
    rng: np.random.Generator,
) -> dict[str, Array]:
    """Return labels as in real training runs: those mistakes among the competition's kinds, jitter for all.

    Parameters
    ----------
    truth_xyz_A
        Per particle ``(N, 3)`` true centres x, y, z, Angstrom.
    extent_xyz_A
        ``(3,)`` box; labels stay inside.

    Returns
    -------
    dict
        The same particles; ``(M, 3)`` x, y, z.
    """
    labels = {name: np.array(points, dtype=np.float64).reshape(-1, 3) for name, points in truth_xyz_A.items()}
    for name in (hard for hard in HARD_PARTICLES if hard in labels):
        labels[name] = labels[name][rng.random(len(labels[name])) >= imperfections.missing]
    extra: dict[str, list[Array]] = {name: [] for name in labels}
    confusing = [name for name in CONFUSED_WITH if name in labels]
    for point in labels.get("beta-galactosidase", ()):
        if confusing and rng.random() < imperfections.conflicting:
            other = confusing[int(rng.integers(len(confusing)))]
            extra[other].append(point + rng.uniform(10.0, 41.0) * random_direction(rng))
    for point in labels.get("apo-ferritin", ()):
        if rng.random() < imperfections.double:
            extra["apo-ferritin"].append(point + rng.uniform(20.0, 40.0) * random_direction(rng))
    for name, points in labels.items():
        together = np.concatenate([points, np.array(extra[name]).reshape(-1, 3)])
        if imperfections.jitter_A > 0:
            together = together + rng.normal(0.0, imperfections.jitter_A, together.shape)
        labels[name] = np.clip(together, 0.0, extent_xyz_A)
    return labels
