"""From density to tomogram the long way: projections, a microscope, back-projection, a filter.

Nothing happens in the Fourier space of the volume: missing wedge, streaks, the colour of the noise and what
misalignment blurs come out of a tilt series, as in a laboratory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from tomopoint.simulate.options import VOXEL_A, SimulationOptions
from tomopoint.simulate.other_world.back_projection import back_project, project, shape_turned, turned
from tomopoint.simulate.other_world.denoising import FILTERS, POST_FILTERS, PostFilter, robust_sd
from tomopoint.simulate.other_world.microscope import PHASE_PER_UNIT, Exposure, Image, Microscope, tilt_scheme

Volume = npt.NDArray[np.float32]

TILT_STEPS_DEG = (2.0, 2.5, 3.0, 4.0, 5.0)


@dataclass(frozen=True)
class TiltSeries:
    """What differs from run to run.

    Attributes
    ----------
    tilt_limit_deg, tilt_step_deg
        Range and spacing of the tilts.
    axis_deg
        Angle of the tilt axis to y, in the plane of the ice.
    dose
        Electrons per square Angstrom over the series.
    defocus_um, defocus_spread_um, defocus_error_um
        Mean defocus, its spread over tilts, and that of its estimates.
    amplitude_contrast, b_factor_A2, camera_at_nyquist, ice_A
        See :class:`~tomopoint.simulate.other_world.microscope.Microscope`.
    contrast
        Phase shift over that of protein in ice.
    shift_px, rotation_deg
        Spread of the misalignment per tilt; pixels of 10 A, for markers and frames limit it, not binning.
    ramp_cutoff
        Of the ramp filter, cycles per pixel.
    low_pass_vox
        Of the reconstruction, a Gaussian.
    post_filter, filter_strength
        What is done to the reconstruction, and how much of it (0 to 1).
    background_sd
        Robust standard deviation the values are scaled to.
    voxel_A
        Edge of a voxel; the same in all runs of a project.
    """

    tilt_limit_deg: float
    tilt_step_deg: float
    axis_deg: float
    dose: float
    defocus_um: float
    defocus_spread_um: float
    defocus_error_um: float
    amplitude_contrast: float
    b_factor_A2: float
    camera_at_nyquist: float
    ice_A: float
    contrast: float
    shift_px: float
    rotation_deg: float
    ramp_cutoff: float
    low_pass_vox: float
    post_filter: PostFilter
    filter_strength: float
    background_sd: float
    voxel_A: float


def draw_tilt_series(rng: np.random.Generator, options: SimulationOptions) -> TiltSeries:
    """Draw how one run is imaged. Of the options difficulty and voxel size count: this world varies in its own ways."""
    return TiltSeries(
        tilt_limit_deg=float(rng.uniform(40.0, 60.0)),
        tilt_step_deg=float(rng.choice(TILT_STEPS_DEG)),
        axis_deg=float(rng.uniform(-6.0, 6.0)),
        dose=float(rng.uniform(100.0, 150.0)),
        defocus_um=float(rng.uniform(2.0, 5.0)),
        defocus_spread_um=float(rng.uniform(0.0, 0.15)),
        defocus_error_um=float(rng.uniform(0.02, 0.15)),
        amplitude_contrast=float(rng.uniform(0.05, 0.12)),
        b_factor_A2=float(rng.uniform(50.0, 500.0)),
        camera_at_nyquist=float(rng.uniform(0.45, 0.85)),
        ice_A=float(rng.uniform(1100.0, 2200.0)),
        contrast=float(rng.uniform(1.0, 1.4)) / options.difficulty,
        shift_px=float(rng.uniform(0.3, 0.9)),
        rotation_deg=float(rng.uniform(0.0, 0.25)),
        ramp_cutoff=float(rng.uniform(0.3, 0.42)),
        low_pass_vox=float(rng.uniform(0.8, 1.2)),
        post_filter=POST_FILTERS[int(rng.integers(len(POST_FILTERS)))],
        filter_strength=float(rng.uniform(0.0, 1.0)),
        background_sd=float(rng.uniform(3.5e-6, 5.5e-6)),
        voxel_A=options.voxel_A,
    )


def image_by_projections(
    density_zyx: Volume,
    series: TiltSeries,
    reconstructions: tuple[str, ...],
    rng: np.random.Generator,
    device: str,
) -> dict[str, Volume]:
    """Image a density by a tilt series.

    Parameters
    ----------
    density_zyx
        ``(D, H, W)`` float32, density per voxel; protein positive.
    series
        How it is imaged.
    reconstructions
        Only ``("denoised",)``: this world has no other.
    rng
        Draws electrons and misalignment.
    device
        Is not used: all of it runs on one core of the CPU.

    Returns
    -------
    dict
        ``{"denoised": (D, H, W) float32}``; protein is dark, values about 1e-5.
    """
    depth, height, width = density_zyx.shape
    # The axis is turned against y: turn the specimen instead, and the reconstruction back.
    around = shape_turned((height, width), series.axis_deg)
    specimen = turned(density_zyx, series.axis_deg, around)
    reconstruction = back_project(
        _tilt_images(specimen, series, rng), (depth, *around), series.ramp_cutoff, series.tilt_step_deg
    )
    volume = turned(reconstruction, -series.axis_deg, (height, width))
    del specimen, reconstruction
    volume = ndimage.gaussian_filter(volume, series.low_pass_vox)
    volume = FILTERS[series.post_filter](volume, series.filter_strength)
    volume -= volume.mean()
    # Nothing at all in a noiseless, empty volume: it stays so.
    volume *= np.float32(series.background_sd / (robust_sd(volume) or 1.0))
    return dict.fromkeys(reconstructions, volume)


def _tilt_images(specimen_zyx: Volume, series: TiltSeries, rng: np.random.Generator) -> Iterator[tuple[float, Image]]:
    """Yield every tilt and its aligned image with phases flipped, in the order they are taken."""
    microscope = Microscope(
        pixel_A=series.voxel_A,
        # The same matter shifts phases the less, the larger the pixel is that it stands in.
        phase_per_unit=PHASE_PER_UNIT * series.contrast * (VOXEL_A / series.voxel_A) ** 2,
        ice_A=series.ice_A,
        amplitude_contrast=series.amplitude_contrast,
        b_factor_A2=series.b_factor_A2,
        camera_at_nyquist=series.camera_at_nyquist,
    )
    tilts = tilt_scheme(series.tilt_limit_deg, series.tilt_step_deg)
    # Alignment sets where the middle of a tomogram is, so misalignment is nought on average.
    shifts = rng.normal(0.0, series.shift_px, (len(tilts), 2))
    shifts = np.clip(shifts - shifts.mean(axis=0), -1.5, 1.5) * (VOXEL_A / series.voxel_A)
    dose = series.dose / len(tilts)
    for index, (tilt, projection) in enumerate(zip(tilts, project(specimen_zyx, tilts), strict=True)):
        defocus = 1e4 * (series.defocus_um + rng.normal(0.0, series.defocus_spread_um))
        exposure = Exposure(
            tilt_deg=tilt,
            defocus_A=defocus,
            estimated_defocus_A=defocus + 1e4 * rng.normal(0.0, series.defocus_error_um),
            dose_before=index * dose,
            dose=dose,
            shift_vu_px=(float(shifts[index, 0]), float(shifts[index, 1])),
            rotation_deg=float(rng.normal(0.0, series.rotation_deg)),
        )
        yield tilt, microscope.expose(projection, exposure, rng)
