"""Windows cover everything, on the stride's grid, and merging is the weighted mean it says it is."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tomopoint.errors import PipelineError, TomopointError
from tomopoint.inference.tiles import (
    MACHINES,
    MapMemory,
    MapMerger,
    TilePlan,
    axis_starts,
    axis_weight,
    choose_tiling,
    mirror_beyond,
)
from tomopoint.pipeline import Tiling

SUM_TOLERANCE = 1e-5
"""Float32 sums of up to a few dozen terms of order one."""


def test_windows_fit_the_data_and_the_networks():
    standard = Tiling()
    large = choose_tiling([(184, 630, 630)], 32)
    assert (large.window_zyx, large.overlap_zyx) == (standard.window_zyx, standard.overlap_zyx)
    small = choose_tiling([(20, 50, 300), (24, 40, 120)], 8)
    assert (small.window_zyx, small.overlap_zyx) == ((24, 56, 304), (12, 28, 64))
    with pytest.raises(TomopointError, match="multiples of 16 along every axis; use --window 32,32,32"):
        choose_tiling([(20, 50, 300)], 16, window_zyx=(24, 32, 32))
    with pytest.raises(PipelineError, match="smaller than"):
        choose_tiling([(20, 50, 300)], 8, overlap_zyx=(24, 8, 8))


def test_windows_of_machines_and_of_shapes_between_them():
    # By hand: two windows of 347 cover 630 voxels with an overlap of 64, three of 253.
    assert choose_tiling([(184, 630, 630)], 16, largest=MACHINES["t4"]).window_zyx == (192, 256, 256)
    assert choose_tiling([(184, 630, 630)], 16, largest=MACHINES["cpu"]).window_zyx == (192, 352, 352)
    # 184 is a multiple of 8; 200 voxels of depth are read at once and not in two, mostly overlapping, windows.
    assert choose_tiling([(184, 630, 630)], 8).window_zyx == (184, 256, 256)
    assert choose_tiling([(200, 500, 500)], 8).window_zyx == (200, 216, 288)


@settings(max_examples=300, deadline=None)
@given(
    shape=st.tuples(st.integers(8, 300), st.integers(8, 900), st.integers(8, 900)),
    divisor=st.sampled_from([4, 8, 16, 32]),
    machine=st.sampled_from(sorted(MACHINES)),
    stride=st.sampled_from([1, 2, 4]),
)
def test_the_chosen_window_is_allowed_and_computes_no_more_than_the_largest(shape, divisor, machine, stride):
    largest = MACHINES[machine]
    tiling = choose_tiling([shape], divisor, largest=largest)
    assert all(size % divisor == 0 for size in tiling.window_zyx)
    most = prod(-(-size // divisor) * divisor for size in largest.window_zyx)
    assert prod(tiling.window_zyx) <= most
    computed = len(TilePlan.for_volume(shape, tiling, stride).starts_zyx) * prod(tiling.window_zyx)
    # The window of the machine itself, cut down to the volume, as a peer.
    cut = tuple(min(-(-n // divisor) * divisor, w) for n, w in zip(shape, largest.window_zyx, strict=True))
    overlap = tuple(min(o, w // 4 * 2) for o, w in zip(largest.overlap_zyx, cut, strict=True))
    peer = len(TilePlan.for_volume(shape, replace(largest, window_zyx=cut, overlap_zyx=overlap), stride).starts_zyx)
    assert computed <= peer * prod(cut)


@settings(max_examples=300, deadline=None)
@given(
    length=st.integers(1, 700), cells=st.integers(1, 100), overlap_cells=st.integers(0, 99), stride=st.integers(1, 4)
)
def test_starts_cover_the_axis_on_the_grid(length, cells, overlap_cells, stride):
    window, overlap = cells * stride, min(overlap_cells, cells - 1) * stride
    starts = axis_starts(length, window, overlap, stride)
    assert starts[0] == 0
    assert all(start % stride == 0 for start in starts)
    assert starts[-1] + window >= length
    assert starts[-1] + window - length < stride or starts == (0,)
    gaps = np.diff(starts)
    assert (gaps > 0).all()
    assert (gaps <= window - overlap).all()


def test_starts_of_the_competitions_axes():
    """630 voxels in windows of 128: nine would start at 62, 125, 188 ...; here every start is even."""
    assert axis_starts(630, 128, 64, 2) == (0, 62, 124, 188, 250, 312, 376, 438, 502)
    assert axis_starts(184, 192, 64, 2) == (0,)


TILINGS = {
    "overlap everywhere": Tiling((16, 16, 16), (8, 8, 4), 0.3),
    "none": Tiling((16, 8, 16), (0, 0, 0), 0.3),
    "some cells once, some twice": Tiling((16, 16, 12), (2, 4, 2), 0.01),
    "more than half": Tiling((8, 16, 16), (6, 12, 10), 1.0),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("tiling", TILINGS.values(), ids=TILINGS)
@pytest.mark.parametrize("shape", [(20, 30, 40), (7, 33, 16), (16, 16, 16), (3, 5, 60), (31, 17, 45), (1, 1, 1)])
def test_merging_equals_a_plain_weighted_mean(shape, tiling, dtype):
    """Against loops over every cell of every window, in float64; windows come in any order."""
    stride, n_classes, edge = 2, 2, tiling.edge_weight
    plan = TilePlan.for_volume(shape, tiling, stride)
    cells = [size // stride for size in tiling.window_zyx]
    merger, rng = MapMerger(plan, n_classes, edge), np.random.default_rng(1)
    total, weights = np.zeros((n_classes + 3, *plan.map_shape_zyx)), np.zeros(plan.map_shape_zyx)
    profiles = [[edge ** (((c + 0.5 - n / 2) / (n / 2)) ** 2) for c in range(n)] for n in cells]
    for start in rng.permutation(plan.starts_zyx).tolist():
        output = rng.uniform(0, 1, (n_classes + 3, *cells)).astype(dtype)
        merger.add(tuple(start), output[:n_classes], output[n_classes:])
        for cell in np.ndindex(*cells):
            place = tuple(s // 2 + c for s, c in zip(start, cell, strict=True))
            if all(p < n for p, n in zip(place, plan.map_shape_zyx, strict=True)):
                share = np.prod([profile[c] for profile, c in zip(profiles, cell, strict=True)])
                total[(slice(None), *place)] += share * output[(slice(None), *cell)].astype(np.float64)
                weights[place] += share
    maps = merger.maps()
    assert maps.scores.shape[1:] == tuple(-(-n // 2) for n in shape)
    assert maps.scores.dtype == maps.offsets.dtype == np.float32
    np.testing.assert_allclose(maps.scores, total[:n_classes] / weights, rtol=SUM_TOLERANCE)
    np.testing.assert_allclose(maps.offsets, total[n_classes:] / weights, rtol=SUM_TOLERANCE)


def test_a_cell_of_one_window_is_what_that_window_says():
    """To the last bit: it is copied."""
    plan = TilePlan.for_volume((16, 16, 28), Tiling((16, 16, 16), (4, 4, 4), 0.1), 2)
    merger, rng = MapMerger(plan, 1, 0.1), np.random.default_rng(0)
    outputs = {start: rng.random((4, 8, 8, 8), dtype=np.float32) for start in plan.starts_zyx}
    for start, output in outputs.items():
        merger.add(start, output[:1], output[1:])
    assert plan.starts_zyx == ((0, 0, 0), (0, 0, 12))
    np.testing.assert_array_equal(merger.maps().scores[..., :6], outputs[0, 0, 0][:1, ..., :6])
    np.testing.assert_array_equal(merger.maps().offsets[..., 8:], outputs[0, 0, 12][1:, ..., 2:])


def test_memory_of_earlier_maps_is_used_again_and_holds_nothing_of_them():
    plan, memory = TilePlan.for_volume((16, 16, 28), Tiling((16, 16, 16), (4, 4, 4)), 2), MapMemory()
    seen: list[np.ndarray] = []
    for seed, is_again in ((0, False), (1, True), (2, True)):
        rng = np.random.default_rng(seed)
        outputs = {start: rng.random((5, 8, 8, 8), dtype=np.float32) for start in plan.starts_zyx}
        own, fresh = MapMerger(plan, 2, 0.1, memory), MapMerger(plan, 2, 0.1)
        for start, output in outputs.items():
            own.add(start, output[:2], output[2:])
            fresh.add(start, output[:2], output[2:])
        maps = own.maps()
        np.testing.assert_array_equal(maps.scores, fresh.maps().scores)
        np.testing.assert_array_equal(maps.offsets, fresh.maps().offsets)
        assert any(np.shares_memory(maps.scores, earlier) for earlier in seen) is is_again
        seen.append(maps.scores)
        memory.give_back(maps)
    other = TilePlan.for_volume((16, 16, 16), Tiling((16, 16, 16), (4, 4, 4)), 2)
    assert MapMerger(other, 2, 0.1, memory).maps().scores.shape == (2, 8, 8, 8)  # of another shape: new


def test_windows_that_lie_on_no_grid_are_refused():
    plan = replace(
        TilePlan.for_volume((16, 16, 28), Tiling((16, 16, 16), (4, 4, 4)), 2), starts_zyx=((0, 0, 0), (0, 2, 12))
    )
    with pytest.raises(ValueError, match="product grid"):
        MapMerger(plan, 1, 0.1)


@pytest.mark.parametrize("shape", [(10, 21, 40), (16, 16, 28), (3, 33, 7), (1, 2, 16)])
def test_windows_show_the_volume_and_its_mirror_image_beyond_it(shape):
    volume = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    plan = TilePlan.for_volume(volume.shape, Tiling((16, 16, 16), (4, 4, 4)), 2)
    mirrored = np.pad(volume, [(0, 64 - size) for size in shape], mode="symmetric")
    whole = np.full(np.maximum(plan.covered_zyx, shape), np.nan, np.float32)
    whole[tuple(map(slice, shape))] = volume
    mirror_beyond(whole, shape)
    seen = 0
    for starts, windows in plan.batches(whole, 4):
        assert windows.shape[1:] == (1, 16, 16, 16)
        assert len(windows) <= 4
        for (z, y, x), window in zip(starts, windows[:, 0], strict=True):
            np.testing.assert_array_equal(window, mirrored[z : z + 16, y : y + 16, x : x + 16])
            seen += 1
    assert seen == len(plan.starts_zyx)


@pytest.mark.parametrize(("shape", "batch"), [((32, 16, 28), 1), ((32, 17, 28), 1), ((32, 16, 28), 3)])
def test_windows_inside_the_volume_are_no_copies_one_at_a_time(shape, batch):
    plan = TilePlan.for_volume(shape, Tiling((16, 16, 16), (4, 4, 4)), 2)
    volume = np.zeros(plan.covered_zyx, np.float32)
    for _, windows in plan.batches(volume, batch):
        assert np.shares_memory(windows, volume) == (batch == 1)


def test_weight_is_symmetric_and_nowhere_zero():
    weight = axis_weight(32, 2, 0.1)
    assert weight.shape == (16,)
    np.testing.assert_allclose(weight, weight[::-1], rtol=SUM_TOLERANCE)
    assert (np.diff(weight[:8]) > 0).all()
    assert 0 < weight.min() < weight.max() <= 1
    # 0.1 ** ((15.5 - 8) / 8) ** 2 half a cell inside the face.
    assert weight[15] == pytest.approx(0.1 ** ((7.5 / 8) ** 2), rel=SUM_TOLERANCE)


def test_outputs_of_another_engine_are_refused():
    plan = TilePlan.for_volume((16, 16, 16), Tiling((16, 16, 16), (0, 0, 0)), 2)
    merger = MapMerger(plan, 6, 0.5)
    with pytest.raises(PipelineError, match="do not belong together"):
        merger.add((0, 0, 0), np.zeros((5, 8, 8, 8), np.float32), np.zeros((3, 8, 8, 8), np.float32))
