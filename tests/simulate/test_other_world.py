"""The other world: a tilt series as physics has it, matter and shapes of its own, no imaging of the own world's."""

import ast
import dataclasses
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.distance import cdist

import tomopoint.simulate.other_world as other_world
from tomopoint.data.project import Project
from tomopoint.data.truth import read_truth
from tomopoint.errors import DataError
from tomopoint.simulate.density import UNITS_PER_KDA, Blobs, add_blobs
from tomopoint.simulate.options import FULL_SHAPE_ZYX, PERFECT_LABELS, VOXEL_A, SimulationOptions
from tomopoint.simulate.other_world import matter
from tomopoint.simulate.other_world.back_projection import project, shape_turned, turned
from tomopoint.simulate.other_world.denoising import FILTERS, POST_FILTERS, robust_sd
from tomopoint.simulate.other_world.imaging import TiltSeries, draw_tilt_series, image_by_projections
from tomopoint.simulate.other_world.microscope import MEAN_FREE_PATH_A, Exposure, Microscope, survival, tilt_scheme
from tomopoint.simulate.other_world.scene import draw_other_scene
from tomopoint.simulate.other_world.shapes import MELTED_MASS, deformed, deformed_copy, in_pieces, melted, radius_A
from tomopoint.simulate.particles.catalogue import competition_particle, competition_particles
from tomopoint.simulate.placement import UNLABELLED
from tomopoint.simulate.project import ProjectPlan, write_project
from tomopoint.simulate.tomogram import simulate_tomogram

OTHER = SimulationOptions(world="other", labels=PERFECT_LABELS)
PLAIN = Microscope(
    pixel_A=10.0, phase_per_unit=7e-4, ice_A=1600.0, amplitude_contrast=0.07, b_factor_A2=0.0, camera_at_nyquist=1.0
)
SINGLE = Exposure(
    tilt_deg=0.0,
    defocus_A=30000.0,
    estimated_defocus_A=30000.0,
    dose_before=0.0,
    dose=4.0,
    shift_vu_px=(0.0, 0.0),
    rotation_deg=0.0,
)
COUNTING = 0.02
"""Relative error of a standard deviation from 90,000 pixels is 0.0024; eight times that."""


def series(seed: int = 0, **changes: object) -> TiltSeries:
    return dataclasses.replace(draw_tilt_series(np.random.default_rng(seed), OTHER), **changes)  # type: ignore[arg-type]


def imaged(density: np.ndarray, settings: TiltSeries, seed: int = 0) -> np.ndarray:
    return image_by_projections(density, settings, ("denoised",), np.random.default_rng(seed), "cpu")["denoised"]


# The microscope


def test_tilts_are_taken_in_dose_symmetric_order() -> None:
    assert tilt_scheme(7.0, 3.0) == [0.0, 3.0, -3.0, 6.0, -6.0]
    assert len(tilt_scheme(45.0, 3.0)) == 31  # the competition's series


def test_counting_noise_follows_dose_and_thickness() -> None:
    empty = np.zeros((300, 300), dtype=np.float32)

    def noise(**changes: float) -> float:
        return float(
            PLAIN.expose(empty, dataclasses.replace(SINGLE, **changes), np.random.default_rng(0)).std()  # type: ignore[arg-type]
        )

    electrons = 4.0 * 10.0**2 * math.exp(-1600.0 / MEAN_FREE_PATH_A)
    assert noise() == pytest.approx(1 / math.sqrt(electrons), rel=COUNTING)
    assert noise() / noise(dose=16.0) == pytest.approx(2.0, rel=COUNTING)
    # At 60 degrees the ice is twice as thick.
    assert noise(tilt_deg=60.0) / noise() == pytest.approx(math.exp(0.5 * 1600.0 / MEAN_FREE_PATH_A), rel=COUNTING)


def test_transfer_begins_at_the_amplitude_contrast_and_changes_sign_at_its_zeros() -> None:
    # Without the spherical aberration, nil at such frequencies: pi * lambda * dz * k^2 + asin(0.07) = pi.
    zero = (math.pi - math.asin(0.07)) / (math.pi * 0.01969 * 30000.0)
    squared = np.array([0.0, 0.99 * zero, 1.01 * zero], dtype=np.float32)
    start, before, after = PLAIN.transfer(30000.0, squared)
    assert start == pytest.approx(-0.07, abs=1e-4)
    assert -0.05 < before < 0 < after < 0.05


def test_radiation_takes_the_fine_structure_first() -> None:
    late = dataclasses.replace(SINGLE, dose_before=98.0)
    at_20_A = 0.245 * 20.0**1.665 + 2.81  # critical exposure, electrons per square Angstrom
    coarse, fine = survival(late, np.array([1 / 200.0**2, 1 / 20.0**2], dtype=np.float32))
    assert fine == pytest.approx(math.exp(-100.0 / (2 * at_20_A)), rel=1e-4)
    assert coarse > 0.95


def test_flipping_phases_with_the_right_defocus_keeps_protein_dark() -> None:
    disc = np.zeros((64, 64), dtype=np.float32)
    disc[28:36, 28:36] = 200.0
    bright = dataclasses.replace(SINGLE, dose=1e4, dose_before=-5e3)  # nothing damaged yet, and no noise to speak of
    right = PLAIN.expose(disc, bright, np.random.default_rng(0))
    assert right[28:36, 28:36].mean() < -0.02
    fine = [
        np.corrcoef(
            (image - ndimage.gaussian_filter(image, 2)).ravel(), (disc - ndimage.gaussian_filter(disc, 2)).ravel()
        )[0, 1]
        for image in (
            right,
            PLAIN.expose(disc, dataclasses.replace(bright, estimated_defocus_A=70000.0), np.random.default_rng(0)),
        )
    ]
    assert fine[0] < fine[1] - 0.1  # darker where there is more of it, and worse with a wrong estimate


# Projections


def test_projections_keep_the_mass() -> None:
    rng = np.random.default_rng(0)
    volume = rng.random((20, 12, 30), dtype=np.float32)
    for image in project(volume, [-60.0, -17.3, 0.0, 45.0]):
        np.testing.assert_allclose(image.sum(axis=1), volume.sum(axis=(0, 2)), rtol=1e-4)
    # Untilted it is the sum along z, in the middle of the detector.
    (flat,) = project(volume, [0.0])
    margin = (flat.shape[1] - 30) / 2
    expected = ndimage.shift(np.pad(volume.sum(axis=0), ((0, 0), (0, flat.shape[1] - 30))), (0, margin), order=1)
    np.testing.assert_allclose(flat, expected, atol=1e-3)


def test_turning_there_and_back_loses_little() -> None:
    blob = np.zeros((3, 40, 52), dtype=np.float32)
    blob[:, 9, 40] = 1000.0
    blob = ndimage.gaussian_filter(blob, (0, 2, 2))
    around = shape_turned((40, 52), 25.0)
    back = turned(turned(blob, 25.0, around), -25.0, (40, 52))
    assert np.abs(back - blob).max() < 0.02 * blob.max()  # cubic interpolation, twice, of a Gaussian of two pixels


@pytest.mark.parametrize(("limit", "step", "axis"), [(40.0, 5.0, 6.0), (50.0, 2.5, -6.0), (60.0, 2.0, 0.0)])
def test_a_particle_is_dark_where_the_truth_says(limit: float, step: float, axis: float) -> None:
    """Off the middle, in a box of odd and even lengths, at contrast enough to see past the noise."""
    shape, centre_vox = (48, 75, 90), np.array([17.3, 52.8, 22.1])
    density = np.zeros(shape, dtype=np.float32)
    ball = Blobs(np.zeros((1, 3)), np.array([25.0]), np.array([20000.0]))
    add_blobs(density, ball, centre_vox * VOXEL_A, VOXEL_A)
    for post_filter in POST_FILTERS:
        settings = series(
            tilt_limit_deg=limit, tilt_step_deg=step, axis_deg=axis, contrast=6.0, post_filter=post_filter
        )
        image = ndimage.gaussian_filter(imaged(density, settings), 1.0)
        darkest = np.array(np.unravel_index(image.argmin(), shape)) + 0.5
        assert np.abs(darkest - centre_vox).max() <= 1.0
        assert image.min() < -5 * robust_sd(image)


def sector_power(volume: np.ndarray, axes: tuple[int, int], limit: float) -> float:
    """Mean power beyond a tilt limit, over that within it, six degrees to either side left out."""
    other = next(axis for axis in range(3) if axis not in axes)
    moved = np.transpose(volume, (other, *axes)).astype(np.float64)
    window = np.hanning(moved.shape[1])[:, None] * np.hanning(moved.shape[2])
    power = (np.abs(np.fft.fft2(moved * window)) ** 2).mean(axis=0)
    first, second = np.abs(np.fft.fftfreq(moved.shape[1]))[:, None], np.abs(np.fft.fftfreq(moved.shape[2]))[None, :]
    angle, radius = np.degrees(np.arctan2(first, second)), np.hypot(first, second)
    ring = (radius > 0.08) & (radius < 0.2)
    return float(power[ring & (angle > limit + 6)].mean() / power[ring & (angle < limit - 6)].mean())


@pytest.mark.parametrize("limit", [40.0, 60.0])
def test_the_missing_wedge_is_empty_and_turns_with_the_axis(limit: float) -> None:
    empty = np.zeros((72, 72, 72), dtype=np.float32)
    settings = series(
        tilt_limit_deg=limit, tilt_step_deg=2.0, axis_deg=0.0, post_filter="gaussian", filter_strength=0.0
    )
    upright = imaged(empty, settings)
    assert sector_power(upright, (0, 2), limit) < 0.05
    assert sector_power(upright, (0, 1), limit) > 0.2  # along the axis nothing is missing
    turned_about = imaged(empty, dataclasses.replace(settings, axis_deg=90.0))
    assert sector_power(turned_about, (0, 1), limit) < 0.05
    assert sector_power(turned_about, (0, 2), limit) > 0.2


def test_more_dose_less_noise_beside_the_same_particle() -> None:
    density = np.zeros((40, 48, 48), dtype=np.float32)
    density[16:24, 20:28, 20:28] = 30.0
    depths = []
    for dose in (20.0, 120.0):
        image = imaged(density, series(dose=dose, post_filter="gaussian"))
        depths.append(-float(image[16:24, 20:28, 20:28].mean()) / robust_sd(image))
    assert depths[1] > 1.5 * depths[0]  # sqrt(6), less what radiation destroys


def test_difficulty_divides_the_contrast() -> None:
    hard = dataclasses.replace(OTHER, difficulty=2.0)
    easy, difficult = (draw_tilt_series(np.random.default_rng(0), options) for options in (OTHER, hard))
    assert easy == dataclasses.replace(difficult, contrast=2 * difficult.contrast)


@pytest.mark.parametrize("name", POST_FILTERS)
def test_filters_take_noise_and_leave_steps(name: str) -> None:
    rng = np.random.default_rng(0)
    step = np.zeros((24, 24, 24), dtype=np.float32)
    step[:, :, 18:] = 10.0
    filtered = FILTERS[name](step + rng.standard_normal(step.shape, dtype=np.float32), 0.5)  # type: ignore[index]
    assert filtered[:, :, 3:15].std() < 0.75
    assert filtered[:, :, 20:].mean() - filtered[:, :, 3:15].mean() == pytest.approx(10.0, abs=0.2)
    if name != "gaussian":
        assert (filtered[:, :, 18] - filtered[:, :, 17]).mean() > 7.0  # an edge stays one


# Shapes


@pytest.mark.parametrize("name", ["thyroglobulin", "virus-like-particle"])
def test_deformed_copies_keep_mass_and_centre_and_differ_by_a_few_percent(name: str) -> None:
    blobs = competition_particle(name).blobs
    sizes = []
    for seed in range(20):
        copy = deformed(np.random.default_rng(seed), blobs)
        assert copy.integral == pytest.approx(blobs.integral)
        np.testing.assert_allclose(copy.weights @ copy.positions_zyx_A, 0.0, atol=1e-6 * copy.integral)
        moved = np.linalg.norm(copy.positions_zyx_A - blobs.centred().positions_zyx_A, axis=1)
        assert 0.5 < moved.mean() < 0.2 * radius_A(blobs)
        extents = [np.sqrt(np.linalg.eigvalsh(kind.covariance_A2())) for kind in (copy, blobs)]
        sizes += list(extents[0] / extents[1])
    assert 0.8 < min(sizes) < max(sizes) < 1.2
    assert 0.01 < np.std(sizes) < 0.06


def test_melting_takes_the_stated_mass_from_one_side() -> None:
    blobs = competition_particle("ribosome").blobs
    for share in MELTED_MASS:
        rest = melted(np.random.default_rng(0), blobs, share)
        assert rest.integral == pytest.approx((1 - share) * blobs.integral, rel=1e-3)
        np.testing.assert_array_equal(rest.positions_zyx_A, blobs.positions_zyx_A)
        shift = np.linalg.norm(rest.weights @ rest.positions_zyx_A) / rest.integral
        assert shift > 0.2 * share * radius_A(blobs)


def test_some_copies_have_melted_and_most_have_not() -> None:
    blobs = competition_particle("beta-galactosidase").blobs
    rng = np.random.default_rng(0)
    whole = [deformed_copy(rng, blobs).integral > 0.99 * blobs.integral for _ in range(200)]
    assert 0.8 < np.mean(whole) < 0.97


def test_pieces_are_the_whole() -> None:
    filament = matter.actin_filament(np.random.default_rng(0))
    pieces = in_pieces(filament, 320.0)
    assert len(pieces) > 2
    placed = np.concatenate([piece.positions_zyx_A + centre for centre, piece in pieces])
    assert cdist(filament.positions_zyx_A, placed).min(axis=1).max() < 1e-9
    assert sum(piece.integral for _, piece in pieces) == pytest.approx(filament.integral)
    assert max(piece.reach_A for _, piece in pieces) <= 160.0 * math.sqrt(3)


# Matter


@pytest.mark.parametrize(
    ("draw", "kda"),
    [
        (matter.capped_proteasome, (690, 2510)),
        (matter.chaperonin, (790, 880)),
        (matter.fatty_acid_synthase, (2590, 2610)),
        (matter.chromatin, (199, 1601)),
        (matter.clathrin_cage, (1000, 22000)),
        (matter.lipoprotein, (50, 9000)),
        (matter.loose_chain, (90, 1000)),
        (matter.bilobed, (180, 701)),
        (matter.starfish, (180, 1201)),
        (matter.small_protein, (12, 161)),
    ],
)
def test_complexes_have_the_masses_they_state(draw: object, kda: tuple[float, float]) -> None:
    for seed in range(20):
        blobs: Blobs = draw(np.random.default_rng(seed))  # type: ignore[operator]
        assert kda[0] <= blobs.integral / UNITS_PER_KDA <= kda[1]
        assert (blobs.weights > 0).all()
        assert blobs.sigmas_A.min() >= 5.0  # nothing finer than half a voxel


def test_filaments_have_their_build() -> None:
    rng = np.random.default_rng(0)
    for draw, kda_per_A in ((matter.actin_filament, 42 / 27.5), (matter.microtubule, 13 * 50 / 40)):
        blobs = draw(rng)
        # Along the axis; a slight bend shortens it by less than one part in a hundred.
        length = np.ptp(blobs.positions_zyx_A[:, 2])
        assert blobs.integral / UNITS_PER_KDA / length == pytest.approx(kda_per_A, rel=0.1)
    tube = matter.microtubule(rng).positions_zyx_A
    across = tube[np.abs(tube[:, 2]) < 100.0]
    assert np.ptp(across[:, 0]) == pytest.approx(224.0, abs=10.0)


def test_cages_are_soccer_balls() -> None:
    corners = matter._soccer_ball()
    assert corners.shape == (60, 3)
    np.testing.assert_allclose(np.linalg.norm(corners, axis=1), 1.0)
    distance = cdist(corners, corners)
    np.testing.assert_array_equal((distance < 1.01 * distance[distance > 0.01].min()).sum(axis=1), 4)  # itself and 3


def test_small_proteins_have_the_mean_mass_their_number_is_made_from() -> None:
    rng = np.random.default_rng(0)
    mean = np.mean([matter.small_protein(rng).integral for _ in range(4000)]) / UNITS_PER_KDA * 1210.0
    assert mean == pytest.approx(matter.mean_small_protein_A3(), rel=0.05)


def test_a_full_size_scene_is_a_crowded_lysate() -> None:
    kinds = competition_particles()
    unlabelled, ratios = [], []
    for seed in range(3):
        scene = draw_other_scene(np.random.default_rng(seed), OTHER, FULL_SHAPE_ZYX, kinds)
        unlabelled.append(sum(molecule.name == UNLABELLED for molecule in scene.molecules))
        counts = {name: len(points) for name, points in scene.points_xyz_A().items()}
        ratios += [counts[kind.name] / kind.statistics.mean for kind in kinds]
        # Every labelled particle lies in the ice.
        for molecule in scene.molecules:
            if molecule.name != UNLABELLED:
                assert scene.slab.contains(molecule.centre_zyx_A)
    assert min(unlabelled) >= 25
    assert 0.7 < np.mean(ratios) < 1.3
    assert np.std(ratios) > 0.15  # uniform between 0.5 and 1.5 alone has 0.29


# Whole runs


def test_same_seed_same_bytes_and_other_seed_other_volume() -> None:
    first, again, other = (simulate_tomogram(OTHER, (32, 64, 60), seed, "cpu") for seed in (1, 1, 2))
    assert first.volume_zyx.tobytes() == again.volume_zyx.tobytes()
    assert first.imaging == again.imaging
    assert first.volume_zyx.tobytes() != other.volume_zyx.tobytes()


def test_values_are_those_of_real_tomograms() -> None:
    made = simulate_tomogram(OTHER, (64, 128, 128), 5, "cpu")
    assert made.volume_zyx.shape == (64, 128, 128)
    assert made.volume_zyx.dtype == np.float32
    assert robust_sd(made.volume_zyx) == pytest.approx(made.imaging.background_sd, rel=1e-3)  # type: ignore[union-attr]
    assert abs(float(made.volume_zyx.mean())) < 0.2e-6
    for name, points in made.points_xyz_A.items():
        np.testing.assert_array_equal(points, made.labels_xyz_A[name])  # perfect labels were asked for


def test_particles_are_dark_where_the_truth_says() -> None:
    """Mean over all particles of a few runs of what lies within 50 A, against the rest."""
    at_particles, spreads = [], []
    for seed in range(3):
        made = simulate_tomogram(OTHER, (96, 160, 160), seed, "cpu")
        smooth = ndimage.uniform_filter(made.volume_zyx, 9)
        spreads.append(smooth.std())
        for name in ("ribosome", "thyroglobulin", "beta-galactosidase"):
            at_particles += [
                smooth[tuple((point[::-1] / VOXEL_A).astype(int))] / spreads[-1] for point in made.points_xyz_A[name]
            ]
    assert len(at_particles) >= 10
    assert np.mean(at_particles) < -1.0


def test_a_project_records_its_world_and_refuses_another(tmp_path: Path) -> None:
    plan = ProjectPlan(tmp_path / "project", 1, 1, (32, 96, 80), 0, OTHER, "cpu")
    records = write_project(plan, workers=1)
    assert records[0].imaging["post_filter"] in POST_FILTERS
    assert [record.counts for record in write_project(plan, workers=1)] == [record.counts for record in records]
    (run,) = Project(plan.out).runs("train")
    truth = read_truth(plan.out, [kind.name for kind in competition_particles()])
    assert {name: len(points) for name, points in truth[run.name].items()} == records[0].counts
    own = dataclasses.replace(plan, options=dataclasses.replace(OTHER, world="own"))
    with pytest.raises(DataError, match=r"options\.world was other, now own"):
        write_project(own, workers=1)


def test_what_the_other_world_does_not_have_is_refused() -> None:
    with pytest.raises(DataError, match="denoised tomograms only"):
        SimulationOptions(world="other", tomo_types=("denoised", "wbp"))
    with pytest.raises(DataError, match="own or other, got third"):
        SimulationOptions(world="third")  # type: ignore[arg-type]


# Independence


def test_it_shares_nothing_with_the_own_worlds_imaging_and_matter() -> None:
    folder = Path(other_world.__file__).parent
    imported = set()
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                imported |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
    for name in ("filters", "imaging", "optics", "looks", "matter", "particles.variety", "world"):
        assert f"tomopoint.simulate.{name}" not in imported
    # Nor by way of what it does import: the scene's and the placement's modules.
    modules = [f"tomopoint.simulate.other_world.{path.stem}" for path in folder.glob("*.py") if path.stem != "__init__"]
    code = f"import importlib, sys\nfor m in {modules!r}: importlib.import_module(m)\nprint(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {*(f"tomopoint.simulate.{name}" for name in ("filters", "imaging", "optics", "looks")), "torch"} & set(
        loaded
    )


def test_it_is_never_the_default() -> None:
    assert SimulationOptions().world == "own"
    recipes = Path(__file__).parents[2] / "recipes"
    assert all("world" not in path.read_text() for path in recipes.glob("*.yaml"))
