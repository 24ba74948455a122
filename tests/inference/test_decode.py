"""Local maxima, plateaus, suppression: against plain loops."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tomopoint.data.tables import passing
from tomopoint.inference.decode import decode_maps, local_maxima, suppress
from tomopoint.inference.tiles import VolumeMaps
from tomopoint.pipeline import COMPETITION_PARTICLES, Decoding, Pipeline


def greedy(points: np.ndarray, scores: np.ndarray, radius: float) -> list[int]:
    """The definition, in O(n^2)."""
    order = sorted(range(len(points)), key=lambda i: (-scores[i], *points[i]))
    kept: list[int] = []
    for index in order:
        if all(np.linalg.norm(points[index] - points[other]) >= radius for other in kept):
            kept.append(index)
    return kept


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(0, 80), radius=st.floats(0.5, 40), levels=st.integers(1, 50))
def test_suppression_is_the_greedy_one(seed, n, radius, levels):
    """Few score levels make many ties; grid positions make distances of exactly the radius."""
    rng = np.random.default_rng(seed)
    points = rng.integers(0, 50, (n, 3)).astype(np.float64)
    points = np.unique(points, axis=0)
    scores = rng.integers(1, levels + 1, len(points)) / levels
    radius = round(radius) or 1.0
    assert suppress(points, scores, radius).tolist() == greedy(points, scores, radius)


def test_suppression_does_not_depend_on_the_order_given():
    rng = np.random.default_rng(3)
    points, scores = rng.uniform(0, 30, (60, 3)), rng.integers(1, 4, 60) / 4
    shuffled = rng.permutation(60)
    kept = {tuple(p) for p in points[suppress(points, scores, 9.0)]}
    assert {tuple(p) for p in points[shuffled][suppress(points[shuffled], scores[shuffled], 9.0)]} == kept


def test_local_maxima_against_loops():
    scores = np.random.default_rng(0).integers(0, 6, (6, 7, 8)).astype(np.float32) / 6
    expected = []
    for z, y, x in np.ndindex(scores.shape):
        around = scores[max(z - 1, 0) : z + 2, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
        if scores[z, y, x] > 0.5 and scores[z, y, x] >= around.max():
            expected.append([z, y, x])
    assert local_maxima(scores, 0.5).tolist() == expected


def one_class(scores: np.ndarray, offsets: np.ndarray | None = None, **decoding: float) -> pd.DataFrame:
    maps = VolumeMaps(
        scores[np.newaxis].astype(np.float32),
        np.zeros((3, *scores.shape), np.float32) if offsets is None else offsets.astype(np.float32),
        stride=2,
        shape_zyx=tuple(2 * n for n in scores.shape),
    )
    pipeline = Pipeline(COMPETITION_PARTICLES[:1], voxel_A=10.0, decoding=Decoding(**decoding))
    return decode_maps(maps, pipeline, 10.0)


def test_a_plateau_gives_one_pick():
    scores = np.zeros((10, 10, 10))
    scores[4:6, 4:6, 4:6] = 0.7
    assert len(one_class(scores)) == 1


def test_centre_is_anchor_plus_offset():
    """Cell (2, 3, 4) at stride 2 has its anchor at (5, 7, 9) voxels; offsets are z, y, x."""
    scores, offsets = np.zeros((8, 8, 8)), np.zeros((3, 8, 8, 8))
    scores[2, 3, 4] = 0.8
    offsets[:, 2, 3, 4] = (0.5, -1.0, 1.5)
    (row,) = one_class(scores, offsets).to_dict("records")
    assert (row["z"], row["y"], row["x"]) == pytest.approx((55.0, 60.0, 105.0))
    assert row["score"] == pytest.approx(0.8, rel=1e-6)


def test_offsets_out_of_the_volume_are_brought_back():
    scores, offsets = np.zeros((4, 4, 4)), np.zeros((3, 4, 4, 4))
    scores[0, 0, 3] = 0.8
    offsets[:, 0, 0, 3] = (-1.9, -1.9, 1.9)
    (row,) = one_class(scores, offsets).to_dict("records")
    assert (row["z"], row["y"], row["x"]) == (0.0, 0.0, 80.0)


def test_floor_and_top_k():
    scores = np.zeros((40, 4, 4))
    scores[1::10, 1, 1] = (0.2, 0.9, 0.5, 0.04)
    assert one_class(scores, floor=0.05)["score"].round(3).tolist() == [0.9, 0.5, 0.2]
    assert one_class(scores, floor=0.05, max_picks=2)["score"].round(3).tolist() == [0.9, 0.5]


def test_thresholds_are_inclusive_and_per_particle():
    pipeline = Pipeline(COMPETITION_PARTICLES, voxel_A=10.0).with_thresholds({"ribosome": 0.4, "apo-ferritin": 0.6})
    picks = pd.DataFrame({"particle_type": ["ribosome", "ribosome", "apo-ferritin"], "score": [0.4, 0.39, 0.5]})
    assert passing(picks, pipeline.thresholds).to_dict("records") == [{"particle_type": "ribosome", "score": 0.4}]
