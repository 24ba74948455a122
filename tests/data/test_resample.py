"""Resampling, against cosines that the grids hold exactly: values, positions, what folds back, memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from tomopoint.data.resample import resample, resampled_shape

TARGET_A = 10.0124
SHAPE_ZYX = (24, 40, 56)

PASSED = 0.003
"""Of a band-limited signal's standard deviation, root mean square: 60 dB per axis, three axes."""

STOPPED = 0.004
"""Of the amplitude of a wave that the new grid cannot hold, away from the faces, whose mirror image bends it."""

POSITION_VOX = 0.05

BAND = 0.85
"""Share of the coarser grid's Nyquist frequency up to which signals pass unchanged."""


def pieces(volume, n):
    return ((begin, volume[begin : begin + n]) for begin in range(0, len(volume), n))


def cosines(sizes_A, coarser_A, rng):
    """Return a function of positions from the corner: waves that are even about both faces, as the mirror image is."""
    waves = []
    for size_A in sizes_A:
        highest = int(BAND * size_A / coarser_A)
        waves.append((np.arange(highest), rng.normal(size=highest), size_A))

    def at(*positions_A):
        profiles = [
            np.cos(np.pi * np.outer(p, k) / size) @ amplitudes
            for p, (k, amplitudes, size) in zip(positions_A, waves, strict=True)
        ]
        return np.einsum("i,j,k->ijk", *profiles)

    return at


def centres_A(shape_zyx, voxel_A):
    return [(np.arange(size) + 0.5) * voxel_A for size in shape_zyx]


@pytest.mark.parametrize("voxel_A", [4.1, 7.84, 10.5, 13.48, 20.0])
def test_a_band_limited_signal_is_the_same_at_the_new_places(voxel_A):
    rng = np.random.default_rng(0)
    signal = cosines([size * voxel_A for size in SHAPE_ZYX], max(voxel_A, TARGET_A), rng)
    old = signal(*centres_A(SHAPE_ZYX, voxel_A)).astype(np.float32)
    new = resample(pieces(old, 7), SHAPE_ZYX, voxel_A, TARGET_A)
    expected = signal(*centres_A(new.shape, TARGET_A))
    assert new.shape == resampled_shape(SHAPE_ZYX, voxel_A, TARGET_A)
    assert np.sqrt(np.mean((new - expected) ** 2)) / expected.std() < PASSED


@pytest.mark.parametrize("nyquists", [1.15, 1.3, 2.0])
def test_what_the_new_voxels_cannot_hold_does_not_fold_back(nyquists):
    voxel_A, n = 4.1, 240
    wave = np.cos(2 * np.pi * nyquists / (2 * TARGET_A) * (np.arange(n) + 0.5) * voxel_A)
    old = np.broadcast_to(wave.astype(np.float32), (4, 4, n))
    new = resample(pieces(old, 4), (4, 4, n), voxel_A, TARGET_A)
    assert np.abs(new[..., 30:-30]).max() < STOPPED


@pytest.mark.parametrize("voxel_A", [4.1, 7.84, 13.48, 20.0])
def test_particles_stay_where_they_are_in_angstrom(voxel_A):
    """Gaussian particles, planted analytically: their centres of mass from the corner, before and after."""
    rng = np.random.default_rng(1)
    shape_zyx = tuple(round(600 / voxel_A) for _ in range(3))
    sigma_A = 35.0
    for _ in range(4):
        place_A = rng.uniform(250, 350, 3)
        profiles = [
            np.exp(-((grid - centre) ** 2) / (2 * sigma_A**2))
            for grid, centre in zip(centres_A(shape_zyx, voxel_A), place_A, strict=True)
        ]
        old = np.einsum("i,j,k->ijk", *profiles).astype(np.float32)
        new = resample(pieces(old, 16), shape_zyx, voxel_A, TARGET_A).astype(np.float64)
        grids = np.meshgrid(*centres_A(new.shape, TARGET_A), indexing="ij")
        found_A = [float((grid * new).sum() / new.sum()) for grid in grids]
        assert np.abs(np.array(found_A) - place_A).max() < POSITION_VOX * TARGET_A


def test_the_same_voxels_stay_what_they_are_and_constants_constant():
    volume = np.random.default_rng(2).normal(size=(9, 10, 11)).astype(np.float32)
    assert np.allclose(resample(pieces(volume, 4), volume.shape, 10.0, 10.0), volume, atol=1e-5)
    flat = np.full((9, 10, 11), 3e-5, np.float32)
    assert np.allclose(resample(pieces(flat, 4), flat.shape, 7.84, 10.0), 3e-5, rtol=1e-5)


def test_slabs_may_be_of_any_size():
    volume = np.random.default_rng(3).normal(size=(30, 20, 20)).astype(np.float32)
    whole = resample(pieces(volume, 30), volume.shape, 7.84, TARGET_A)
    assert np.allclose(resample(pieces(volume, 4), volume.shape, 7.84, TARGET_A), whole, atol=1e-5)


def test_only_slabs_of_the_original_are_held():
    """A tomogram of 4 A, made plane by plane as it is asked for: the peak is far below its own size."""
    shape_zyx, n = (160, 160, 160), 8

    def made():
        rng = np.random.default_rng(4)
        for begin in range(0, shape_zyx[0], n):
            yield begin, rng.normal(size=(n, *shape_zyx[1:])).astype(np.float32)

    tracemalloc.start()
    try:
        new = resample(made(), shape_zyx, 4.0, TARGET_A)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    slab = 4 * n * shape_zyx[1] * shape_zyx[2]
    assert peak < 3 * new.nbytes + 6 * slab < 4 * np.prod(shape_zyx) / 1.5
