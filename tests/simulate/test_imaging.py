"""The imaging model against figures measured on slices of real denoised tomograms."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.stats import skew

from tomopoint.errors import DataError
from tomopoint.simulate.density import add_blobs
from tomopoint.simulate.filters import RECONSTRUCTIONS, Filters
from tomopoint.simulate.imaging import RIBOSOME_MINIMUM, image_density, padded_shape, signal_scale
from tomopoint.simulate.optics import NOISE_SD, ImagingParameters, draw_imaging
from tomopoint.simulate.options import NO_VARIETY, VOXEL_A, SimulationOptions, Variety
from tomopoint.simulate.particles.catalogue import competition_particle
from tomopoint.simulate.tomogram import SimulatedTomogram, simulate_tomogram

AUTOCORRELATION = {  # lags 1 to 5, mean over nine real slices
    2: (0.46, -0.11, -0.15, -0.04, 0.00),
    1: (0.60, 0.22, 0.14, 0.12, 0.08),
    0: (0.87, 0.69, 0.51, 0.36, 0.25),
}
AUTOCORRELATION_RMS = 0.05
BACKGROUND_SD = 4.3e-6
BACKGROUND_TOLERANCE = 0.10
SKEW_RANGE = (-2.8, -1.1)
NOMINAL = SimulationOptions(variety=NO_VARIETY)
SHAPE = (128, 160, 160)


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    empty = np.zeros(SHAPE, dtype=np.float32)
    return image_density(empty, ImagingParameters(), ("denoised",), np.random.default_rng(0), "cpu")["denoised"]


@pytest.fixture(scope="module")
def tomograms() -> list[SimulatedTomogram]:
    return [simulate_tomogram(NOMINAL, (120, 176, 176), seed, "cpu") for seed in range(4)]


def robust_sd(values: np.ndarray) -> float:
    """Standard deviation of a normal distribution with this median absolute deviation."""
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def test_autocorrelation_of_noise(noise: np.ndarray) -> None:
    differences = []
    for axis, expected in AUTOCORRELATION.items():
        moved = np.moveaxis(noise, axis, 0).astype(np.float64)
        measured = [(moved[:-lag] * moved[lag:]).mean() / moved.var() for lag in range(1, 6)]
        differences.extend(np.array(measured) - expected)
    assert len(differences) == 15
    assert np.sqrt(np.mean(np.square(differences))) <= AUTOCORRELATION_RMS


def test_noise_has_its_standard_deviation_in_any_box(noise: np.ndarray) -> None:
    assert noise.std() == pytest.approx(NOISE_SD, rel=0.02)
    small = image_density(
        np.zeros((40, 50, 70), np.float32), ImagingParameters(), ("denoised",), np.random.default_rng(1), "cpu"
    )["denoised"]
    assert small.shape == (40, 50, 70)
    assert small.std() == pytest.approx(NOISE_SD, rel=0.1)  # few independent voxels along z


def sector_power(volume: np.ndarray, plane: tuple[int, int]) -> np.ndarray:
    """Mean power at 0-30, 30-40, 40-50 and beyond 50 degrees from the plane's second axis, over the first sector."""
    moved = np.moveaxis(volume, plane, (-2, -1)).astype(np.float64)
    n_first, n_second = moved.shape[-2:]
    window = np.hanning(n_first)[:, None] * np.hanning(n_second)[None, :]
    power = (np.abs(np.fft.fft2(moved * window)) ** 2).mean(axis=0)
    first, second = np.abs(np.fft.fftfreq(n_first))[:, None], np.abs(np.fft.fftfreq(n_second))[None, :]
    angle = np.degrees(np.arctan2(first, second))
    ring = (np.hypot(first, second) > 0.08) & (np.hypot(first, second) < 0.2)
    sectors = [ring & (angle >= low) & (angle < high) for low, high in ((0, 30), (30, 40), (40, 50), (50, 90))]
    values = np.array([power[sector].mean() for sector in sectors])
    return values / values[0]


def test_missing_wedge_lies_in_the_xz_plane_beyond_45_degrees(noise: np.ndarray) -> None:
    # Real slices, over the power near the x axis: 0.88 at 30-40 degrees, 0.22 at 40-50, 0.03 beyond.
    _, at_35, at_45, beyond = sector_power(noise, (0, 2))
    assert 0.5 < at_35 < 1.1
    assert 0.11 < at_45 < 0.44
    assert beyond < 0.06
    # A yz slice has no wedge: power reaches the z axis.
    assert sector_power(noise, (0, 1))[3] > 0.2


def test_wedge_filters_the_signal_too() -> None:
    """The power of a point, with and without the wedge, differs by the wedge squared."""
    point = np.zeros((56, 56, 56), dtype=np.float32)
    point[28, 28, 28] = 1e9  # so dense that noise does not count
    dense = ImagingParameters(tilt_step_deg=0.5)  # no gaps between tilts
    images = image_density(point, dense, ("denoised", "isonetcorrected"), np.random.default_rng(0), "cpu")
    with_wedge, without = (np.abs(np.fft.fftn(images[name])) ** 2 for name in ("denoised", "isonetcorrected"))
    kz, kx = (np.abs(np.fft.fftfreq(56))[index] for index in (np.s_[:, None, None], np.s_[None, None, :]))
    angle = np.degrees(np.arctan2(kz, kx)) + np.zeros((56, 56, 56))
    ratio = [with_wedge[part].sum() / without[part].sum() for part in (angle < 30, angle > 60)]
    assert ratio[0] > 0.9
    assert ratio[1] < 0.02


def measured_share(parameters: ImagingParameters, first_deg: float, last_deg: float, k: float = 0.2) -> float:
    """Mean of the wedge filter between two angles of the plane across the tilt axis, at one frequency."""
    filters = Filters(parameters, RECONSTRUCTIONS["denoised"], (32, 32, 32))
    angle = torch.deg2rad(torch.linspace(first_deg, last_deg, 4001))
    return float(filters._wedge(k * angle.sin(), k * angle.cos()).mean())


def test_the_tilt_series_decides_what_is_measured() -> None:
    sharp = ImagingParameters(wedge_softness_deg=0.2, tilt_step_deg=0.1)
    for first, last in ((-45.0, 45.0), (-60.0, 40.0)):
        series = dataclasses.replace(sharp, first_tilt_deg=first, last_tilt_deg=last)
        assert measured_share(series, -89.9, 89.9) == pytest.approx((last - first) / 180.0, abs=0.01)
        assert measured_share(series, first + 2, last - 2) > 0.99
        assert measured_share(series, last + 2, 89.9) < 0.01
    # Slices are one over the ice's thickness thick: at high frequency few tilts leave gaps, at low frequency none.
    coarse = dataclasses.replace(sharp, tilt_step_deg=5.0)
    assert measured_share(coarse, -40.0, 40.0, k=0.4) < 0.7
    assert measured_share(coarse, -40.0, 40.0, k=0.02) > 0.98


def test_the_tilt_axis_turns_the_wedge() -> None:
    """With the axis along x the wedge lies in the y-z plane instead."""
    turned = dataclasses.replace(ImagingParameters(), axis_deg=90.0)
    empty = np.zeros((64, 96, 96), dtype=np.float32)
    noise = image_density(empty, turned, ("denoised",), np.random.default_rng(0), "cpu")["denoised"]
    assert sector_power(noise, (0, 1))[3] < 0.06
    assert sector_power(noise, (0, 2))[3] > 0.2


def test_absolute_values(tomograms: list[SimulatedTomogram]) -> None:
    minima, backgrounds, skews = [], [], []
    for made in tomograms:
        volume = made.volume_zyx
        backgrounds.append(robust_sd(volume))
        skews.append(skew(volume, axis=None))
        for centre in made.points_xyz_A["ribosome"]:
            z, y, x = (centre[::-1] / VOXEL_A).astype(int)
            minima.append(volume[max(z - 12, 0) : z + 13, max(y - 12, 0) : y + 13, max(x - 12, 0) : x + 13].min())
    assert np.mean(backgrounds) == pytest.approx(BACKGROUND_SD, rel=BACKGROUND_TOLERANCE)
    assert np.mean(minima) == pytest.approx(RIBOSOME_MINIMUM, rel=0.15)
    assert SKEW_RANGE[0] <= np.mean(skews) <= SKEW_RANGE[1]


def test_mean_is_zero_and_protein_is_dark(tomograms: list[SimulatedTomogram]) -> None:
    volume = tomograms[0].volume_zyx
    assert volume.dtype == np.float32
    assert abs(float(volume.mean())) < 0.1 * NOISE_SD  # the padding that was cut away takes a little of it
    at_ribosomes = [
        volume[tuple((centre[::-1] / VOXEL_A).astype(int))] for centre in tomograms[0].points_xyz_A["ribosome"]
    ]
    assert np.mean(at_ribosomes) < -BACKGROUND_SD


def test_points_mark_the_particles_in_the_image() -> None:
    """Without noise, wedge and transfer function left, the dark centre of mass lies at the stated centre."""
    rng = np.random.default_rng(2)
    centre_vox = 24.0 + rng.uniform(-0.5, 0.5, 3)
    density = np.zeros((48, 48, 48), dtype=np.float32)
    add_blobs(density, competition_particle("apo-ferritin").instance(rng, variety=0.0), centre_vox * VOXEL_A, VOXEL_A)
    # All filters are even in k: they keep the centroid of the squared image of a symmetric shell.
    clear = dataclasses.replace(ImagingParameters(), noise_sd=1e-12)
    image = image_density(density, clear, ("denoised",), rng, "cpu")["denoised"].astype(np.float64)
    weights = np.clip(-image - 0.3 * float((-image).max()), 0.0, None)
    centroid = [(weights * (np.indices(image.shape)[axis] + 0.5)).sum() / weights.sum() for axis in range(3)]
    assert np.abs(np.array(centroid) - centre_vox).max() < 0.5


def test_difficulty_divides_the_contrast() -> None:
    rng = np.random.default_rng(0)
    easy = draw_imaging(rng, SimulationOptions(variety=NO_VARIETY, difficulty=0.5))
    hard = draw_imaging(rng, SimulationOptions(variety=NO_VARIETY, difficulty=2.0))
    assert easy.contrast / hard.contrast == pytest.approx(4.0)
    assert easy.noise_sd == hard.noise_sd == NOISE_SD


def test_contrast_multiplies_the_signal_and_not_the_noise() -> None:
    full = signal_scale(ImagingParameters())
    for contrast in (0.2, 0.5, 2.0):
        assert signal_scale(ImagingParameters(contrast=contrast)) == pytest.approx(contrast * full, rel=1e-6)
    # More noise at the same contrast leaves the signal as it is.
    assert signal_scale(ImagingParameters(noise_sd=2 * NOISE_SD)) == full


def test_smoothing_takes_as_much_of_raw_noise_as_of_denoised() -> None:
    empty = np.zeros((48, 64, 64), dtype=np.float32)
    for name in ("denoised", "wbp"):
        sds = [
            image_density(empty, ImagingParameters(smoothing_vox=width), (name,), np.random.default_rng(0), "cpu")[
                name
            ].std()
            for width in (0.0, 0.8)
        ]
        assert sds[1] < 0.8 * sds[0], name


def test_parameters_vary_within_their_ranges() -> None:
    drawn = [draw_imaging(np.random.default_rng(seed), SimulationOptions()) for seed in range(500)]
    ranges = {
        "contrast": (0.34, 1.74),
        "noise_sd": (0.68 * NOISE_SD, 1.46 * NOISE_SD),
        "noise_peak": (0.0, 0.16),
        "noise_white": (0.0, 0.8),
        "defocus_um": (1.5, 5.0),
        "ctf_floor": (0.08, 1.0),
        "envelope": (0.22, 0.48),
        "first_tilt_deg": (-69.0, -36.0),
        "last_tilt_deg": (36.0, 69.0),
        "tilt_step_deg": (1.0, 5.0),
        "axis_deg": (-8.0, 8.0),
        "wedge_softness_deg": (2.0, 6.5),
        "smoothing_vox": (0.0, 0.9),
        "adaptive": (0.0, 1.0),
        "gradient": (0.0, 0.4),
    }
    for name, (low, high) in ranges.items():
        values = np.array([getattr(parameters, name) for parameters in drawn])
        assert values.min() >= low
        assert values.max() <= high
        assert np.ptp(values) > 0.5 * (high - low)
    assert np.mean([parameters.contrast for parameters in drawn]) == pytest.approx(
        0.82, abs=0.02
    )  # exp(-0.25 + 0.32**2 / 2)
    assert draw_imaging(np.random.default_rng(1), NOMINAL) == ImagingParameters()


ASPECTS = {
    "contrast": {"contrast"},
    "noise": {"noise_sd", "noise_peak", "noise_width", "noise_depth", "noise_ramp", "noise_low", "noise_white"},
    "optics": {"defocus_um", "amplitude_phase", "ctf_floor", "envelope"},
    "tilt": {"first_tilt_deg", "last_tilt_deg", "tilt_step_deg", "axis_deg", "wedge_softness_deg"},
    "look": {"smoothing_vox", "adaptive", "gradient", "hot_spots"},
}


@pytest.mark.parametrize("aspect", ASPECTS)
def test_an_aspect_switched_off_is_nominal_and_changes_no_other(aspect: str) -> None:
    for seed in range(40):
        full = vars(draw_imaging(np.random.default_rng(seed), SimulationOptions()))
        without = Variety(**{aspect: 0.0})
        off = vars(draw_imaging(np.random.default_rng(seed), SimulationOptions(variety=without)))
        nominal = vars(ImagingParameters())
        assert all(off[name] == nominal[name] for name in ASPECTS[aspect])
        assert all(off[name] == full[name] for name in set(full) - ASPECTS[aspect])


def test_four_looks_of_one_scene() -> None:
    options = dataclasses.replace(NOMINAL, tomo_types=tuple(RECONSTRUCTIONS))
    made = simulate_tomogram(options, (64, 96, 96), 3, "cpu")
    assert set(made.reconstructions) == {"denoised", "wbp", "ctfdeconvolved", "isonetcorrected"}
    alone = simulate_tomogram(NOMINAL, (64, 96, 96), 3, "cpu")
    np.testing.assert_allclose(made.reconstructions["denoised"], alone.volume_zyx, atol=1e-9)
    ratio = robust_sd(made.reconstructions["wbp"]) / robust_sd(made.reconstructions["denoised"])
    assert 4 < ratio < 8
    # The corrected reconstruction has power in the wedge, the others have none.
    assert (
        sector_power(made.reconstructions["isonetcorrected"], (0, 2))[3]
        > 5 * sector_power(made.reconstructions["denoised"], (0, 2))[3]
    )


def test_same_seed_same_bytes_and_other_seed_other_volume() -> None:
    first, again, other = (simulate_tomogram(SimulationOptions(), (32, 64, 64), seed, "cpu") for seed in (1, 1, 2))
    assert first.volume_zyx.tobytes() == again.volume_zyx.tobytes()
    assert first.imaging == again.imaging
    assert first.volume_zyx.tobytes() != other.volume_zyx.tobytes()


def test_the_number_of_threads_changes_no_byte() -> None:
    before = torch.get_num_threads()
    volumes = []
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            # Large enough that torch would use several threads.
            volumes.append(simulate_tomogram(SimulationOptions(), (80, 230, 230), 3, "cpu").volume_zyx)
    finally:
        torch.set_num_threads(before)
    assert volumes[0].tobytes() == volumes[1].tobytes()


def test_odd_shapes_are_padded_to_fast_ones() -> None:
    assert padded_shape((184, 630, 630)) == (192, 640, 640)
    for size in (17, 47, 101):
        padded = padded_shape((size,) * 3)[0]
        assert padded >= size + 8
        for factor in (2, 3, 5):
            while padded % factor == 0:
                padded //= factor
        assert padded == 1
    assert simulate_tomogram(SimulationOptions(), (17, 47, 31), 0, "cpu").volume_zyx.shape == (17, 47, 31)


@pytest.mark.parametrize("shape", [(8, 64, 64), (64, 64), (0, 64, 64)])
def test_senseless_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="at least 16"):
        simulate_tomogram(SimulationOptions(), shape, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"difficulty": 0.0}, "difficulty"),
        ({"crowding": 4.0}, "crowding"),
        ({"tomo_types": ("denoised", "sharpened")}, "unknown tomogram type sharpened"),
        ({"tomo_types": ("wbp",)}, "must contain 'denoised'"),
    ],
)
def test_senseless_options_are_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(DataError, match=words):
        SimulationOptions(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [-0.1, 1.1])
def test_a_width_of_variety_is_a_share(width: float) -> None:
    with pytest.raises(DataError, match=r"variety\.tilt must lie in \[0, 1\]"):
        Variety(tilt=width)
