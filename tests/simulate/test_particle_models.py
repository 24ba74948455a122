"""The analytic particle models against figures measured on public density maps at 10 A per voxel."""

import numpy as np
import pytest

from tomopoint.simulate.density import Blobs, add_blobs, random_rotation
from tomopoint.simulate.particles import PARTICLE_NAMES, particle_model

MAP_TOLERANCE = 0.15
"""The models stand for the maps to this share."""

INTEGRALS = {
    "apo-ferritin": 12_688,
    "beta-galactosidase": 13_243,
    "ribosome": 93_011,
    "thyroglobulin": 15_112,
    "virus-like-particle": 77_034,
    "beta-amylase": 6_400,
}
SEMI_AXES_A = {
    "apo-ferritin": (69, 69, 69),
    "beta-galactosidase": (87, 67, 41),
    "ribosome": (148, 116, 103),
    "thyroglobulin": (124, 59, 54),
    "beta-amylase": (65, 60, 35),
}
VOLUME_AT_10_PERCENT_A3 = {
    "apo-ferritin": 1.30e6,
    "beta-galactosidase": 1.22e6,
    "ribosome": 7.85e6,
    "thyroglobulin": 1.67e6,
    "virus-like-particle": 6.33e6,
    "beta-amylase": 0.6e6,
}
CENTROID_TOLERANCE_VOX = 0.1
BOX = 48


def render(blobs: Blobs, centre_vox: np.ndarray | None = None, voxel_A: float = 10.0) -> np.ndarray:
    volume = np.zeros((BOX,) * 3, dtype=np.float32)
    centre = np.full(3, BOX / 2) if centre_vox is None else centre_vox
    add_blobs(volume, blobs, centre * voxel_A, voxel_A)
    return volume


def radial_profile(volume: np.ndarray, step_A: float = 10.0) -> np.ndarray:
    """Mean density per shell of `step_A` about the box's centre."""
    distance = np.sqrt(((np.indices(volume.shape) + 0.5 - BOX / 2) ** 2).sum(axis=0)) * 10.0
    shells = (distance // step_A).astype(int)
    return np.bincount(shells.ravel(), volume.ravel())[:24] / np.bincount(shells.ravel())[:24]


def mean_profile(name: str, n_instances: int = 4) -> np.ndarray:
    """Profile of turned and textured copies, as they occur in tomograms."""
    rng = np.random.default_rng(0)
    profiles = [radial_profile(render(particle_model(name).instance(rng))) for _ in range(n_instances)]
    return np.mean(profiles, axis=0)


@pytest.mark.parametrize("name", PARTICLE_NAMES)
def test_integral(name: str) -> None:
    instance = particle_model(name).instance(np.random.default_rng(1))
    assert render(instance).sum() == pytest.approx(INTEGRALS[name], rel=0.01)


@pytest.mark.parametrize("name", SEMI_AXES_A)
def test_semi_axes_from_the_rendered_density(name: str) -> None:
    volume = render(particle_model(name).blobs).astype(np.float64)
    offsets = (np.indices(volume.shape) + 0.5 - BOX / 2).reshape(3, -1) * 10.0
    moments = np.cov(offsets, aweights=volume.ravel())
    # A solid ellipsoid of semi-axis a has the second moment a^2 / 5 along it.
    semi_axes = np.sqrt(5 * np.linalg.eigvalsh(moments)[::-1])
    np.testing.assert_allclose(semi_axes, SEMI_AXES_A[name], rtol=MAP_TOLERANCE)


@pytest.mark.parametrize("name", VOLUME_AT_10_PERCENT_A3)
def test_volume_above_a_tenth_of_the_peak(name: str) -> None:
    volume = render(particle_model(name).blobs)
    above = float((volume > 0.1 * volume.max()).sum()) * 1000.0
    assert above == pytest.approx(VOLUME_AT_10_PERCENT_A3[name], rel=MAP_TOLERANCE)


def test_apo_ferritin_is_a_hollow_shell() -> None:
    profile = mean_profile("apo-ferritin")
    assert np.argmax(profile) in (4, 5)  # peak at 40-60 A
    assert profile[0] < 0.05 * profile.max()


def test_virus_like_particle_is_a_shell_with_a_thin_inner_one() -> None:
    profile = mean_profile("virus-like-particle", 2)
    assert np.argmax(profile) in (12, 13)  # peak at 120-140 A
    thickness_A = 10.0 * (profile[9:] > profile.max() / 2).sum()
    assert thickness_A == pytest.approx(30.0, abs=10.0)  # shells are 10 A apart
    assert profile[6:8].mean() == pytest.approx(0.2 * profile.max(), rel=0.3)  # RNA at 60-80 A
    assert profile[:4].max() < 0.02 * profile.max()


def test_ribosome_is_solid_with_half_density_at_95_to_105_A() -> None:
    profile = mean_profile("ribosome")
    inside = profile[:4].mean()
    half_A = 10.0 * (np.argmax(profile < inside / 2) + 0.5) - 5.0
    assert 95.0 * (1 - MAP_TOLERANCE) <= half_A <= 105.0 * (1 + MAP_TOLERANCE)


def test_the_two_tetramers_have_d2_symmetry_and_thyroglobulin_has_c2() -> None:
    half_turns = {"x": np.diag([-1.0, -1.0, 1.0]), "y": np.diag([-1.0, 1.0, -1.0]), "z": np.diag([1.0, -1.0, -1.0])}
    for name, axes in (("beta-galactosidase", "xyz"), ("beta-amylase", "xyz")):
        blobs = particle_model(name).blobs
        for axis in axes:
            np.testing.assert_allclose(render(blobs.rotated(half_turns[axis])), render(blobs), atol=1e-3)
    blobs = particle_model("thyroglobulin").blobs
    agreements = [
        np.corrcoef(render(blobs.rotated(turn)).ravel(), render(blobs).ravel())[0, 1] for turn in half_turns.values()
    ]
    assert sorted(value > 0.9999 for value in agreements) == [False, False, True]


@pytest.mark.parametrize("name", PARTICLE_NAMES)
def test_intensity_weighted_centre_is_the_stated_centre(name: str) -> None:
    rng = np.random.default_rng(3)
    centre_vox = BOX / 2 + rng.uniform(-1.0, 1.0, 3)
    volume = render(particle_model(name).instance(rng), centre_vox, voxel_A=10.0124).astype(np.float64)
    # Voxel i spans [i, i + 1): its centre is i + 0.5.
    centroid = [(volume * (np.indices(volume.shape)[axis] + 0.5)).sum() / volume.sum() for axis in range(3)]
    assert np.abs(np.array(centroid) - centre_vox).max() < CENTROID_TOLERANCE_VOX


def test_copies_differ_in_texture_only() -> None:
    rng = np.random.default_rng(4)
    first, second = (particle_model("ribosome").instance(rng) for _ in range(2))
    assert first.integral == pytest.approx(second.integral)
    assert not np.allclose(np.sort(first.weights), np.sort(second.weights))


def test_a_molecule_across_the_edge_is_cut_not_wrapped() -> None:
    blobs = particle_model("apo-ferritin").blobs
    volume = render(blobs, np.array([0.0, 24.0, 24.0]))
    assert volume.sum() == pytest.approx(INTEGRALS["apo-ferritin"] / 2, rel=0.05)
    assert volume[BOX // 2 :].max() == 0.0
    assert render(blobs, np.array([-40.0, 24.0, 24.0])).max() == 0.0


def test_random_rotations_are_proper_and_uniform() -> None:
    rng = np.random.default_rng(5)
    rotations = np.stack([random_rotation(rng) for _ in range(2000)])
    np.testing.assert_allclose(np.linalg.det(rotations), 1.0)
    np.testing.assert_allclose(
        rotations @ rotations.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (2000, 3, 3)), atol=1e-12
    )
    assert np.abs(rotations.mean(axis=0)).max() < 4 / np.sqrt(3 * 2000)  # four standard errors of a uniform direction
