"""Local maxima, plateaus, suppression: against plain loops."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from tomopoint.data.tables import passing
from tomopoint.inference import decode
from tomopoint.inference.decode import decode_maps, local_maxima, peak_shifts, suppress
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


@settings(max_examples=150, deadline=None)
@given(
    n=st.integers(1, 300),
    radius=st.integers(1, 60),
    levels=st.integers(1, 300),
    spread=st.sampled_from([(1, 1, 1), (300, 1, 1), (30, 30, 1), (20, 20, 20)]),
    block=st.integers(1, 60),
    seed=st.integers(0, 10**6),
)
def test_suppression_in_blocks_is_the_greedy_one(n, radius, levels, spread, block, seed):
    """Few places, so that many points lie in one; lines, so that each point hangs on the one before it."""
    rng = np.random.default_rng(seed)
    points = rng.integers(0, spread, (n, 3)).astype(np.float64)
    scores = rng.integers(1, levels + 1, n) / levels
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode, "BLOCK_POINTS", block)
        kept = suppress(points, scores, radius)
    # Points in one place with one score are the same: which of them is kept shows nowhere.
    assert (
        np.column_stack([points, scores])[kept].tolist()
        == np.column_stack([points, scores])[greedy(points, scores, radius)].tolist()
    )


def test_a_chain_is_suppressed_link_by_link():
    """Every second point falls to the one before it, which only stands because the one before that fell."""
    n = decode.BLOCK_POINTS + 501
    points = np.zeros((n, 3))
    points[:, 0] = 5.0 * np.arange(n)
    assert suppress(points, np.linspace(1, 0.1, n), 6.0).tolist() == list(range(0, n, 2))


def test_all_candidates_in_one_place_leave_one():
    scores = np.random.default_rng(0).random(20_000)
    assert suppress(np.zeros((20_000, 3)), scores, 1.0).tolist() == [scores.argmax()]


def plateaus(scores: np.ndarray, floor: float) -> list[list[int]]:
    """The definition: cells that no neighbour exceeds, put together by touching, of each the most central."""
    standing = {
        cell
        for cell in np.ndindex(scores.shape)
        if scores[cell] > floor and scores[cell] >= scores[tuple(slice(max(i - 1, 0), i + 2) for i in cell)].max()
    }
    found = []
    while standing:
        together, edge = set(), {standing.pop()}
        while edge:
            together |= edge
            edge = {cell for cell in standing if any(max(np.abs(np.subtract(cell, e))) == 1 for e in edge)}
            standing -= edge
        cells = np.array(sorted(together))
        distance = ((len(cells) * cells - cells.sum(axis=0)) ** 2).sum(axis=1)
        found.append(cells[distance.argmin()].tolist())
    return sorted(found)


@settings(max_examples=100, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 7), st.integers(1, 8)),
    levels=st.integers(1, 12),
    planes=st.integers(1, 7),
    is_dense=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_local_maxima_against_loops(shape, levels, planes, is_dense, seed):
    """Both ways of looking, in blocks of any number of planes; few levels make many plateaus."""
    scores = (np.random.default_rng(seed).integers(0, levels + 1, shape) / levels).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode, "BLOCK_CELLS", planes * shape[1] * shape[2])
        patch.setattr(decode, "DENSE_SHARE", -1.0 if is_dense else 2.0)
        assert local_maxima(scores, 0.3).tolist() == plateaus(scores, 0.3)


def test_a_map_of_one_value_is_one_plateau():
    assert local_maxima(np.full((20, 31, 41), 0.5, np.float32), 0.1).tolist() == [[9, 15, 20]]
    assert local_maxima(np.full((20, 31, 41), 0.5, np.float32), 0.5).tolist() == []


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
    # A bar of 25 cells, eight times the suppression radius, is still one particle: at cell 14, voxel 29.
    bar = np.zeros((4, 5, 30))
    bar[1, 2, 2:27] = 0.7
    (row,) = one_class(bar).to_dict("records")
    assert (row["z"], row["y"], row["x"]) == (30.0, 50.0, 290.0)


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


def blurred_voxels(centres: np.ndarray, sigma: float, weight: float, size: int = 9) -> np.ndarray:
    """What a network says of single voxels it knows to within `sigma` cells: the share of each cell, weighted.

    One peak of its own map for each centre (in cells, z, y, x).
    """
    edges = np.arange(size + 1)
    shares = np.diff(ndtr((edges - centres[..., None]) / sigma), axis=-1)  # (N, 3, size)
    whole = np.einsum("nz,ny,nx->nzyx", shares[:, 0], shares[:, 1], shares[:, 2])
    return (weight * whole / (weight * whole + 1 - whole)).astype(np.float32)


@pytest.mark.parametrize("weight", [1, 64, 256])
@pytest.mark.parametrize("sigma", [0.25, 0.5, 0.9])
def test_planted_peaks_come_back_between_cells(weight, sigma):
    centres = 4 + np.random.default_rng(0).uniform(0, 1, (200, 3))
    cells = np.full((1, 3), 4)
    found = np.concatenate([4.5 + peak_shifts(m, cells) for m in blurred_voxels(centres, sigma, weight)])
    assert np.sqrt(np.mean((found - centres) ** 2)) < 0.02
    assert np.sqrt(np.mean((4.5 - centres) ** 2)) == pytest.approx(12**-0.5, abs=0.02)  # what unrefined peaks leave


def test_a_peak_without_slopes_stays_where_it_is():
    """A single voxel without a blur, a plateau, and the faces of the map."""
    scores = np.zeros((5, 5, 5), np.float32)
    scores[2, 2, 2] = 1.0
    assert peak_shifts(scores, np.array([[2, 2, 2]])).tolist() == [[0, 0, 0]]
    assert peak_shifts(np.full((5, 5, 5), 0.7, np.float32), np.array([[2, 2, 2]])).tolist() == [[0, 0, 0]]
    scores[0, 2, 4], scores[0, 1, 4] = 0.5, 0.4
    (shift,) = peak_shifts(scores, np.array([[0, 2, 4]]))
    assert shift[0] == shift[2] == 0
    assert -0.5 < shift[1] < -0.1


def test_the_pipeline_decides_whether_peaks_are_refined():
    (scores,) = blurred_voxels(np.array([[4.3, 4.8, 4.5]]), 0.5, 64)
    (plain,) = one_class(scores).to_dict("records")
    (refined,) = one_class(scores, refine_peaks=True).to_dict("records")
    assert [plain[axis] for axis in "zyx"] == [90.0, 90.0, 90.0]  # the cell's middle, at voxel 9
    assert [refined[axis] for axis in "zyx"] == pytest.approx([86.0, 96.0, 90.0], abs=0.5)
    assert refined["score"] == plain["score"]
