"""What reconstructions go through after imaging."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from tomopoint.simulate.looks import adaptively_smoothed, apply_look
from tomopoint.simulate.optics import NOISE_SD, ImagingParameters


@pytest.fixture
def volume() -> np.ndarray:
    """Noise of some voxels' grain, and one strong blob in the middle."""
    rng = np.random.default_rng(0)
    noise = gaussian_filter(rng.standard_normal((40, 48, 56)), 1.0)
    z, y, x = (np.arange(n) - n / 2 for n in noise.shape)
    distance2 = z[:, None, None] ** 2 + y[:, None] ** 2 + x**2
    return (NOISE_SD * (noise / noise.std() - 12 * np.exp(-distance2 / 18))).astype(np.float32)


def test_without_a_look_nothing_changes(volume: np.ndarray) -> None:
    seen = apply_look(volume.copy(), ImagingParameters(), np.random.default_rng(0))
    np.testing.assert_array_equal(seen, volume)


def test_adaptive_smoothing_quiets_the_background_and_keeps_what_stands_out(volume: np.ndarray) -> None:
    smoothed = adaptively_smoothed(volume, 1.0)
    corner, middle = np.s_[:10, :10, :10], np.s_[20, 24, 28]
    assert smoothed[corner].std() < 0.6 * volume[corner].std()
    assert smoothed[middle] == pytest.approx(volume[middle], rel=0.15)
    half = adaptively_smoothed(volume, 0.5)
    np.testing.assert_allclose(half, (volume + smoothed) / 2, atol=1e-3 * NOISE_SD)


def test_adaptive_look_keeps_the_spread(volume: np.ndarray) -> None:
    seen = apply_look(volume.copy(), ImagingParameters(adaptive=0.8), np.random.default_rng(0))
    assert seen.std() == pytest.approx(volume.std(), rel=1e-3)


def test_gradient_is_slow_and_as_strong_as_said(volume: np.ndarray) -> None:
    rms = []
    for seed in range(12):
        added = apply_look(volume.copy(), ImagingParameters(gradient=0.4), np.random.default_rng(seed)) - volume
        rms.append(added.std() / NOISE_SD)
        steps = [np.abs(np.diff(added, axis=axis)).max() for axis in range(3)]
        assert max(steps) < 0.4 * 0.4 * NOISE_SD
    assert np.mean(rms) == pytest.approx(0.4, rel=0.3)


def test_hot_spots_are_as_many_as_said_and_far_out(volume: np.ndarray) -> None:
    seen = apply_look(volume.copy(), ImagingParameters(hot_spots=300.0), np.random.default_rng(0))
    changed = seen != volume
    assert changed.sum() == pytest.approx(300.0 * volume.size / 1e6, rel=0.5)
    assert np.abs(seen[changed]).min() > 7.9 * volume.std()
