"""Contrast, told from values alone: planted proteins under noise, and what tells nothing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from tomopoint.data.contrast import KNOWN, Statistics, measure, protein_of, unlike

VOXEL_A = 10.0
SHAPE_ZYX = (48, 96, 96)


def proteins(rng, n=60):
    volume = np.zeros(SHAPE_ZYX, np.float32)
    places = rng.uniform((6, 6, 6), np.array(SHAPE_ZYX) - 6, (n, 3)).astype(int)
    volume[tuple(places.T)] = -1.0
    return gaussian_filter(volume, 4.0) / gaussian_filter(volume, 4.0).std()


@pytest.mark.parametrize("noise", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e4])
def test_dark_and_light_protein_are_told_at_any_scale_and_noise(noise, scale):
    rng = np.random.default_rng(0)
    volume = (scale * (proteins(rng) + noise * rng.normal(size=SHAPE_ZYX) + 3)).astype(np.float32)
    assert protein_of(measure(volume, VOXEL_A)) == "dark"
    assert protein_of(measure(-volume, VOXEL_A)) == "light"


def test_noise_alone_tells_nothing_and_neither_does_one_bright_thing():
    rng = np.random.default_rng(1)
    volume = gaussian_filter(rng.normal(size=SHAPE_ZYX), 1.0).astype(np.float32)
    assert protein_of(measure(volume, VOXEL_A)) == "unclear"
    volume[20:26, 40:46, 40:46] += 30 * volume.std()
    assert protein_of(measure(volume, VOXEL_A)) == "unclear"


def test_inverting_a_volume_inverts_its_statistics():
    rng = np.random.default_rng(2)
    volume = (proteins(rng) + rng.normal(size=SHAPE_ZYX)).astype(np.float32)
    one, other = measure(volume, VOXEL_A), measure(-volume, VOXEL_A).inverted()
    assert other.skewness == pytest.approx(one.skewness, abs=1e-4)
    assert other.negative_share == one.negative_share
    assert other.correlation_zyx == pytest.approx(one.correlation_zyx)


def test_statistics_are_those_of_textbooks():
    """White noise: no tails, no correlation; smoothed by s voxels, neighbours correlate by exp(-1 / 4 s^2)."""
    rng = np.random.default_rng(3)
    white = rng.normal(size=(64, 96, 96)).astype(np.float32)
    measured = measure(white, VOXEL_A)
    assert measured.tails == pytest.approx(0.0, abs=0.03)
    assert measured.correlation_zyx == pytest.approx((0, 0, 0), abs=0.01)
    smooth = gaussian_filter(white, (1.0, 1.5, 2.0))
    expected = [np.exp(-1 / (4 * s**2)) for s in (1.0, 1.5, 2.0)]
    assert measure(smooth, VOXEL_A).correlation_zyx == pytest.approx(expected, abs=0.02)


def test_a_volume_smaller_than_the_band_is_measured_too():
    volume = np.random.default_rng(4).normal(size=(1, 2, 3)).astype(np.float32)
    assert protein_of(measure(volume, VOXEL_A)) == "unclear"


def test_what_is_far_from_training_is_named_and_only_that():
    known = KNOWN["denoised"]
    usual = Statistics(-1.7, 1.0, 8.0, (0.9, 0.8, 0.7))
    assert unlike(usual, "denoised") == []
    odd = Statistics(-1.7, 1.0, 8.0, (0.9, 0.8, -0.3))
    (sentence,) = unlike(odd, "denoised")
    assert "neighbours along x" in sentence
    assert f"{known.correlation_x.low:g} to {known.correlation_x.high:g}" in sentence
    assert unlike(odd, "a reconstruction of nobody") == []
