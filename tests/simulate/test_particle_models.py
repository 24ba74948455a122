"""The six particles, measured and analytic, against figures of public density maps at 10 A per voxel."""

import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.spatial.distance import pdist

from tomopoint.simulate.density import Blobs, add_blobs, random_rotation
from tomopoint.simulate.options import Shapes
from tomopoint.simulate.particles.catalogue import competition_particle
from tomopoint.simulate.particles.variety import INCOMPLETE_SHARE, LOST_MASS, STRAIN, smooth_displacement, varied_copy

MAP_TOLERANCE = 0.15
"""The models stand for the maps to this share."""

BEAD_VOLUME_TOLERANCE = 0.35
"""A tenth of the peak lies in the tails of the Gaussians, which are wider than the rim of a shell in a map."""

SHAPES: tuple[Shapes, ...] = ("measured", "analytic")

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


def mean_profile(name: str, shapes: Shapes, n_instances: int = 4) -> np.ndarray:
    """Profile of turned and textured copies, as they occur in tomograms."""
    rng = np.random.default_rng(0)
    profiles = [radial_profile(render(competition_particle(name, shapes).instance(rng))) for _ in range(n_instances)]
    return np.mean(profiles, axis=0)


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("name", INTEGRALS)
def test_integral(name: str, shapes: Shapes) -> None:
    assert render(competition_particle(name, shapes).blobs).sum() == pytest.approx(INTEGRALS[name], rel=0.01)


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("name", SEMI_AXES_A)
def test_semi_axes_from_the_rendered_density(name: str, shapes: Shapes) -> None:
    volume = render(competition_particle(name, shapes).blobs).astype(np.float64)
    offsets = (np.indices(volume.shape) + 0.5 - BOX / 2).reshape(3, -1) * 10.0
    moments = np.cov(offsets, aweights=volume.ravel())
    # A solid ellipsoid of semi-axis a has the second moment a^2 / 5 along it.
    semi_axes = np.sqrt(5 * np.linalg.eigvalsh(moments)[::-1])
    np.testing.assert_allclose(semi_axes, SEMI_AXES_A[name], rtol=MAP_TOLERANCE)


@pytest.mark.parametrize(("shapes", "tolerance"), [("measured", BEAD_VOLUME_TOLERANCE), ("analytic", MAP_TOLERANCE)])
@pytest.mark.parametrize("name", VOLUME_AT_10_PERCENT_A3)
def test_volume_above_a_tenth_of_the_peak(name: str, shapes: Shapes, tolerance: float) -> None:
    volume = render(competition_particle(name, shapes).blobs)
    above = float((volume > 0.1 * volume.max()).sum()) * 1000.0
    assert above == pytest.approx(VOLUME_AT_10_PERCENT_A3[name], rel=tolerance)


@pytest.mark.parametrize("shapes", SHAPES)
def test_apo_ferritin_is_a_hollow_shell(shapes: Shapes) -> None:
    profile = mean_profile("apo-ferritin", shapes)
    assert np.argmax(profile) in (4, 5)  # peak at 40-60 A
    assert profile[0] < 0.05 * profile.max()


@pytest.mark.parametrize("shapes", SHAPES)
def test_virus_like_particle_is_a_shell_with_a_thin_inner_one(shapes: Shapes) -> None:
    profile = mean_profile("virus-like-particle", shapes, 2)
    assert np.argmax(profile) in (12, 13)  # peak at 120-140 A
    thickness_A = 10.0 * (profile[9:] > profile.max() / 2).sum()
    assert thickness_A == pytest.approx(30.0, abs=10.0)  # shells are 10 A apart
    assert profile[6:8].mean() == pytest.approx(0.2 * profile.max(), rel=0.3)  # RNA at 60-80 A
    assert profile[:4].max() < 0.02 * profile.max()


@pytest.mark.parametrize("shapes", SHAPES)
def test_ribosome_is_solid_with_half_density_at_95_to_105_A(shapes: Shapes) -> None:
    profile = mean_profile("ribosome", shapes)
    inside = profile[:4].mean()
    half_A = 10.0 * (np.argmax(profile < inside / 2) + 0.5) - 5.0
    assert 95.0 * (1 - MAP_TOLERANCE) <= half_A <= 105.0 * (1 + MAP_TOLERANCE)


def test_the_two_analytic_tetramers_have_d2_symmetry_and_thyroglobulin_has_c2() -> None:
    half_turns = {"x": np.diag([-1.0, -1.0, 1.0]), "y": np.diag([-1.0, 1.0, -1.0]), "z": np.diag([1.0, -1.0, -1.0])}
    for name, axes in (("beta-galactosidase", "xyz"), ("beta-amylase", "xyz")):
        blobs = competition_particle(name, "analytic").blobs
        for axis in axes:
            np.testing.assert_allclose(render(blobs.rotated(half_turns[axis])), render(blobs), atol=1e-3)
    blobs = competition_particle("thyroglobulin", "analytic").blobs
    agreements = [
        np.corrcoef(render(blobs.rotated(turn)).ravel(), render(blobs).ravel())[0, 1] for turn in half_turns.values()
    ]
    assert sorted(value > 0.9999 for value in agreements) == [False, False, True]


@pytest.mark.parametrize("name", INTEGRALS)
def test_intensity_weighted_centre_is_the_stated_centre(name: str) -> None:
    rng = np.random.default_rng(3)
    centre_vox = BOX / 2 + rng.uniform(-1.0, 1.0, 3)
    volume = render(competition_particle(name).instance(rng), centre_vox, voxel_A=10.0124).astype(np.float64)
    # Voxel i spans [i, i + 1): its centre is i + 0.5.
    centroid = [(volume * (np.indices(volume.shape)[axis] + 0.5)).sum() / volume.sum() for axis in range(3)]
    assert np.abs(np.array(centroid) - centre_vox).max() < CENTROID_TOLERANCE_VOX


def test_without_variety_every_copy_is_the_structure() -> None:
    model = competition_particle("thyroglobulin")
    copy = model.instance(np.random.default_rng(4), variety=0.0)
    np.testing.assert_array_equal(copy.weights, model.blobs.weights)
    np.testing.assert_allclose(pdist(copy.positions_zyx_A), pdist(model.blobs.positions_zyx_A), rtol=1e-9)


def test_an_incomplete_copy_lacks_one_connected_part_and_is_centred_on_the_rest() -> None:
    blobs = competition_particle("ribosome").blobs
    copies = [varied_copy(np.random.default_rng(seed), blobs, 1.0) for seed in range(400)]
    lost = np.array([1.0 - copy.integral / blobs.integral for copy in copies])
    incomplete = lost > 1e-9
    assert incomplete.mean() == pytest.approx(INCOMPLETE_SHARE, abs=4 * np.sqrt(INCOMPLETE_SHARE / 400))
    assert lost[incomplete].min() > 0.0
    assert 0.06 < lost.max() <= LOST_MASS[1]
    for copy in copies:
        share = copy.weights / copy.weights.sum()
        np.testing.assert_allclose(share @ copy.positions_zyx_A, 0.0, atol=1e-9)


def test_deformation_is_smooth_a_few_A_wide_and_bends_what_is_elongated() -> None:
    def rms_A(name: str, strain: float = STRAIN) -> float:
        blobs = competition_particle(name).blobs
        rng = np.random.default_rng(0)
        return float(
            np.mean([np.square(smooth_displacement(rng, blobs, strain)).sum(1).mean() ** 0.5 for _ in range(50)])
        )

    found = {name: rms_A(name) for name in INTEGRALS}
    assert min(found.values()) > 1.0
    assert max(found.values()) < 8.0
    assert rms_A("ribosome", 2 * STRAIN) == pytest.approx(2 * found["ribosome"])
    # Neighbouring beads of the ribosome, some 23 A apart, move together: by less than a tenth of their distance apart.
    blobs = competition_particle("ribosome").blobs
    moved = smooth_displacement(np.random.default_rng(1), blobs, STRAIN)
    near = cKDTree(blobs.positions_zyx_A).query(blobs.positions_zyx_A, k=2)[1][:, 1]
    distances = np.linalg.norm(blobs.positions_zyx_A - blobs.positions_zyx_A[near], axis=1)
    assert np.median(np.linalg.norm(moved - moved[near], axis=1) / distances) < 0.1
    # The ends of the elongated thyroglobulin bend more, against its radius, than the surface of the round apo-ferritin.
    ends = {}
    for name in ("thyroglobulin", "apo-ferritin"):
        blobs = competition_particle(name).blobs
        outer = np.argsort(np.linalg.norm(blobs.positions_zyx_A, axis=1))[-20:]
        rng = np.random.default_rng(2)
        fields = [smooth_displacement(rng, blobs, STRAIN)[outer] for _ in range(50)]
        radius_A = np.sqrt(5 / 3 * np.trace(blobs.covariance_A2()))
        ends[name] = np.sqrt(np.mean(np.square(fields))) / radius_A
    assert ends["thyroglobulin"] > 1.3 * ends["apo-ferritin"]


def test_a_molecule_across_the_edge_is_cut_not_wrapped() -> None:
    blobs = competition_particle("apo-ferritin").blobs
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
