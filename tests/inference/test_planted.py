"""Particles planted anywhere come back through the whole of predict: normalise, tile, merge, decode.

The network is an oracle that works from a window's content alone: the volume is a ramp whose value at a voxel is that
voxel's linear index, so a window tells where it was cut out. It then answers as a perfect network would, knowing only
the particles inside its window.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tomopoint.data.normalisation import normalise
from tomopoint.data.tomograms import Tomogram
from tomopoint.errors import DataError, EngineError, PipelineError
from tomopoint.inference.predict import predict_tomogram, predict_volume, prepare
from tomopoint.inference.tiles import TilePlan
from tomopoint.pipeline import COMPETITION_PARTICLES, Decoding, Normalisation, Pipeline, Tiling

VOXEL_A = 10.0
HALF_A_VOXEL_A = 5.0
HANG_SECONDS = 60.0
"""What waits longer for another thread waits for ever."""

PIPELINE = Pipeline(
    particles=COMPETITION_PARTICLES,
    voxel_A=VOXEL_A,
    normalisation=Normalisation(quantiles=(0.0, 1.0), clip_sd=100.0),
    tiling=Tiling((32, 32, 32), (8, 8, 8), 0.1),
    decoding=Decoding(floor=0.3),
)


class Oracle:
    """A perfect network for known particles; finds out where a window lies from its voxels."""

    batch = 3

    def __init__(self, volume: np.ndarray, points: dict[int, np.ndarray], pipeline: Pipeline) -> None:
        self.shape, self.points, self.stride = volume.shape, points, pipeline.stride
        self.window_zyx = pipeline.tiling.window_zyx
        self.n_classes = len(pipeline.particles)
        self.mean, self.sd = volume.astype(np.float64).mean(), volume.astype(np.float64).std()
        self.starts: list[tuple[int, ...]] = []

    def infer(self, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        outputs = [self._one(window[0]) for window in windows]
        return np.stack([o[0] for o in outputs]), np.stack([o[1] for o in outputs])

    def _one(self, window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        start = np.unravel_index(round(float(window[0, 0, 0]) * self.sd + self.mean), self.shape)
        self.starts.append(tuple(int(s) for s in start))
        cells = [size // self.stride for size in self.window_zyx]
        anchors = (np.stack(np.indices(cells), axis=-1) + 0.5) * self.stride
        scores = np.zeros((self.n_classes, *cells), np.float32)
        offsets = np.zeros((3, *cells), np.float32)
        nearest = np.full(cells, np.inf)
        for label, points in self.points.items():
            for point in points - np.asarray(start):
                if not ((point >= 0) & (point < self.window_zyx)).all():
                    continue
                delta = point - anchors
                distance = np.linalg.norm(delta, axis=-1)
                scores[label] = np.maximum(scores[label], 0.95 * np.exp(-(distance**2) / (2 * 3.0**2)))
                closer = distance < nearest
                nearest[closer] = distance[closer]
                for axis in range(3):
                    offsets[axis][closer] = np.clip(delta[..., axis], -self.stride, self.stride)[closer]
        return scores, offsets

    def describe(self) -> dict[str, object]:
        return {"runtime": "oracle"}

    def close(self) -> None:
        pass


def ramp(shape: tuple[int, int, int]) -> np.ndarray:
    """Linear indices; float32 holds them exactly up to 16 million."""
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def spread(candidates: np.ndarray, distance_vox: float) -> np.ndarray:
    """Greedily keep candidates that are far enough from all kept ones."""
    kept: list[np.ndarray] = []
    for point in candidates:
        if all(np.linalg.norm(point - other) > distance_vox for other in kept):
            kept.append(point)
    return np.array(kept)


def boundary_points(shape: tuple[int, int, int], pipeline: Pipeline) -> np.ndarray:
    """Points on, just before and just behind every start and end of a window along every axis."""
    plan = TilePlan.for_volume(shape, pipeline.tiling, pipeline.stride)
    rng, points = np.random.default_rng(0), []
    for axis in range(3):
        edges = {s[axis] for s in plan.starts_zyx} | {s[axis] + plan.window_zyx[axis] for s in plan.starts_zyx}
        for edge in sorted(edges):
            for shift in (-1.0, -0.5, -0.01, 0.0, 0.49, 1.0):
                point = rng.uniform(1.0, np.array(shape) - 1.0)
                point[axis] = np.clip(edge + shift, 0.2, shape[axis] - 0.2)
                points.append(point)
    return rng.permutation(np.array(points))


@pytest.mark.parametrize("label", [0, 2])
@pytest.mark.parametrize("shape", [(64, 96, 80), (20, 70, 33), (9, 9, 9), (31, 45, 32), (33, 65, 97)])
def test_every_particle_comes_back_within_half_a_voxel(shape, label):
    volume = ramp(shape)
    particle = PIPELINE.particles[label]
    apart = 1.05 * particle.suppression_A / VOXEL_A
    points = spread(boundary_points(shape, PIPELINE), apart)
    oracle = Oracle(volume, {label: points}, PIPELINE)
    picks = predict_tomogram(Tomogram(volume, VOXEL_A, Path("ramp")), oracle, PIPELINE)
    assert set(picks["particle_type"]) == {particle.name}
    assert len(picks) == len(points)
    found_zyx_A = picks[["z", "y", "x"]].to_numpy()
    distance = np.linalg.norm(found_zyx_A[:, None] - points[None] * VOXEL_A, axis=2)
    # One to one: every point's nearest pick is its own, within half a voxel.
    assert distance.min(axis=0).max() < HALF_A_VOXEL_A
    assert len(set(distance.argmin(axis=0))) == len(points)
    assert {s for start in oracle.starts for s in start if s % 2} == set()


def test_the_tomograms_own_voxel_size_scales_picks_and_the_residual_is_subtracted():
    shape, point = (40, 40, 40), np.array([[11.3, 21.7, 30.1]])
    pipeline = replace(PIPELINE, decoding=replace(PIPELINE.decoding, residual_xyz_A=(1.0, -2.0, 4.0)))
    picks = predict_tomogram(
        Tomogram(ramp(shape), 10.1, Path("ramp")), Oracle(ramp(shape), {0: point}, pipeline), pipeline
    )
    expected = point[0, ::-1] * 10.1 - np.array([1.0, -2.0, 4.0])
    np.testing.assert_allclose(picks[["x", "y", "z"]].to_numpy()[0], expected, atol=0.1)


def test_outputs_that_are_not_finite_are_an_error_not_an_empty_tomogram():
    class Overflowing(Oracle):
        def infer(self, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            scores, offsets = super().infer(windows)
            scores[0, 0, 0, 0, 0] = np.nan
            return scores, offsets

    volume = ramp((40, 40, 40))
    with pytest.raises(EngineError, match="scores that are not finite"):
        predict_volume(volume, Overflowing(volume, {}, PIPELINE), PIPELINE)


def test_a_volume_is_padded_once_and_kept_unless_it_is_given_away():
    rng = np.random.default_rng(0)
    for shape, is_padded in (((32, 56, 33), True), ((32, 56, 32), False), ((5, 6, 7), True)):
        volume = rng.normal(size=shape).astype(np.float32)
        before = volume.copy()
        kept = prepare(volume, PIPELINE)
        np.testing.assert_array_equal(volume, before)
        given = prepare(volume, PIPELINE, give_away=True)
        assert np.shares_memory(given.volume_zyx, volume) == (not is_padded)
        np.testing.assert_array_equal(given.volume_zyx, kept.volume_zyx)
        np.testing.assert_array_equal(
            kept.volume_zyx[tuple(map(slice, shape))], normalise(before, PIPELINE.normalisation)
        )
        assert np.ptp(kept.volume_zyx) == np.ptp(kept.volume_zyx[tuple(map(slice, shape))])
        for _, windows in kept.plan.batches(kept.volume_zyx, 1):
            assert np.shares_memory(windows, kept.volume_zyx)


def test_one_output_is_merged_while_the_next_is_computed():
    """The second call of the engine does not return before the first output is being merged."""
    merging, order = threading.Event(), []

    class Waiting(Oracle):
        batch = 1

        def infer(self, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            if len(self.starts) == 1:
                assert merging.wait(HANG_SECONDS)
            scores, offsets = super().infer(windows)
            order.append("infer")
            return scores.view(Told), offsets

    class Told(np.ndarray):
        """Tells that it is looked at."""

        def __iter__(self):
            merging.set()
            return super().__iter__()

    def order_window(n_done, n_windows):
        order.append(f"window {n_done} of {n_windows}")

    volume = ramp((32, 32, 60))
    maps = predict_volume(volume, Waiting(volume, {}, PIPELINE), PIPELINE, order_window)
    assert maps.scores.shape == (6, 16, 16, 30)
    assert order == ["infer", "window 1 of 3", "infer", "window 2 of 3", "infer", "window 3 of 3"]


def test_another_voxel_size_is_refused():
    with pytest.raises(DataError, match=r"voxels of 7.840 A, the networks were trained at 10.000 A"):
        predict_tomogram(Tomogram(ramp((40, 40, 40)), 7.84, Path("a")), Oracle(ramp((4, 4, 4)), {}, PIPELINE), PIPELINE)


def test_engine_and_pipeline_of_different_windows_are_refused():
    other = replace(PIPELINE, tiling=replace(PIPELINE.tiling, window_zyx=(64, 32, 32)))
    with pytest.raises(PipelineError, match="do not belong together"):
        predict_volume(ramp((40, 40, 40)), Oracle(ramp((4, 4, 4)), {}, PIPELINE), other)
