"""What differs from run to run in how a scene is imaged: ranges, each argued from physics, and their nominal values."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tomopoint.simulate.options import VOXEL_A, SimulationOptions

NOISE_SD = 4.0e-6
"""Standard deviation of pure noise: that of real denoised slices between what is dark in them."""


@dataclass(frozen=True)
class ImagingParameters:
    """What differs from run to run; the defaults are the nominal run, as the real denoised tomograms are on average.

    Attributes
    ----------
    contrast
        Signal over that of real tomograms.
    noise_sd
        Standard deviation of the noise in the denoised tomogram.
    noise_peak, noise_width
        Its power is a band about this frequency, falling to 1/e at this distance from it; cycles per voxel.
    noise_depth
        Frequency along z at which its power has fallen to 1/e: what blurs z beyond the missing wedge.
    noise_ramp
        Exponent of its rise perpendicular to the tilt axis: 1 is the ramp of back-projection, 0 none.
    noise_low, noise_white
        Power of slow patches and of white noise, over that of the band.
    defocus_um
        Defocus, micrometre.
    amplitude_phase
        Phase shift by amplitude contrast, radians.
    ctf_floor
        The transfer function's modulus is lifted to at least this: zeros are filled by tilts of other defocus, low
        frequencies by amplitude contrast, inelastic scattering and correction. 1: no trace of it.
    envelope
        Frequency at which the envelope has fallen to 1/e, cycles per voxel of 10 A. In coarser voxels it is cycles per
        voxel, for there denoising limits resolution; in finer ones the optics still do, at the same Angstrom.
    first_tilt_deg, last_tilt_deg, tilt_step_deg
        The tilt series, degrees.
    axis_deg
        Tilt axis from y towards x, degrees.
    wedge_softness_deg
        Width of the missing wedge's edge, degrees.
    smoothing_vox
        Standard deviation of a Gaussian that the reconstruction was smoothed with, voxels.
    adaptive
        How much of a locally adaptive filter, which smooths where nothing stands out, was applied: 0 to 1.
    gradient
        Standard deviation of a slow background over the volume, in standard deviations of the noise.
    hot_spots
        Isolated extreme voxels per million.
    voxel_A
        Edge of a voxel; the same in all runs of a project.
    """

    contrast: float = 1.0
    noise_sd: float = NOISE_SD
    noise_peak: float = 0.03
    noise_width: float = 0.225
    noise_depth: float = 0.125
    noise_ramp: float = 0.42
    noise_low: float = 40.0
    noise_white: float = 0.0
    defocus_um: float = 3.0
    amplitude_phase: float = 0.07
    ctf_floor: float = 0.25
    envelope: float = 0.35
    first_tilt_deg: float = -45.0
    last_tilt_deg: float = 45.0
    tilt_step_deg: float = 3.0
    axis_deg: float = 0.0
    wedge_softness_deg: float = 4.8
    smoothing_vox: float = 0.0
    adaptive: float = 0.0
    gradient: float = 0.0
    hot_spots: float = 0.0
    voxel_A: float = VOXEL_A


def draw_imaging(rng: np.random.Generator, options: SimulationOptions) -> ImagingParameters:
    """Draw one run's imaging parameters; docs/simulator.md argues the ranges.

    Every aspect of :class:`~tomopoint.simulate.options.Variety` shrinks its ranges towards the nominal values; all
    numbers are drawn whatever the widths, so that switching one aspect off changes none of the others.
    """
    nominal, variety = ImagingParameters(), options.variety

    def spread(width: float, low: float, high: float, middle: float) -> float:
        return middle + width * (float(rng.uniform(low, high)) - middle)

    def factor(width: float, mean: float, sigma: float) -> float:
        return math.exp(width * float(np.clip(rng.normal(mean, sigma), mean - 2.5 * sigma, mean + 2.5 * sigma)))

    def sometimes(width: float, share: float, low: float, high: float, otherwise: float) -> float:
        happens, value = float(rng.random()) < share * width, float(rng.uniform(low, high))
        return value if happens else otherwise

    contrast = factor(variety.contrast, -0.25, 0.32) / options.difficulty
    noise = {
        "noise_sd": NOISE_SD * factor(variety.noise, 0.0, 0.15),
        "noise_peak": spread(variety.noise, 0.0, 0.16, nominal.noise_peak),
        "noise_width": spread(variety.noise, 0.1, 0.3, nominal.noise_width),
        # A plain back-projection has noise at all frequencies along z that the tilts have measured.
        "noise_depth": sometimes(variety.noise, 0.35, 0.25, 0.8, nominal.noise_depth * factor(variety.noise, 0.0, 0.3)),
        "noise_ramp": spread(variety.noise, 0.0, 1.0, nominal.noise_ramp),
        "noise_low": nominal.noise_low * factor(variety.noise, -0.4, 0.5),
        "noise_white": sometimes(variety.noise, 0.35, 0.0, 0.8, nominal.noise_white),
    }
    optics = {
        "defocus_um": spread(variety.optics, 1.5, 5.0, nominal.defocus_um),
        "amplitude_phase": spread(variety.optics, 0.04, 0.14, nominal.amplitude_phase),
        "ctf_floor": spread(variety.optics, 0.08, 0.45, nominal.ctf_floor),
        "envelope": spread(variety.optics, 0.22, 0.48, nominal.envelope),
    }
    # A corrected (deconvolved) tomogram, or one taken with a phase plate, shows the density itself.
    optics["ctf_floor"] = sometimes(variety.optics, 0.1, 0.7, 1.0, optics["ctf_floor"])
    reach = spread(variety.tilt, 40.0, 65.0, nominal.last_tilt_deg)
    tilt = {
        "first_tilt_deg": -reach + spread(variety.tilt, -4.0, 4.0, 0.0),
        "last_tilt_deg": reach + spread(variety.tilt, -4.0, 4.0, 0.0),
        "tilt_step_deg": spread(variety.tilt, 1.0, 5.0, nominal.tilt_step_deg),
        "axis_deg": spread(variety.tilt, -8.0, 8.0, nominal.axis_deg),
        "wedge_softness_deg": spread(variety.tilt, 2.0, 6.5, nominal.wedge_softness_deg),
    }
    look = {
        "smoothing_vox": sometimes(variety.look, 0.25, 0.3, 0.9, nominal.smoothing_vox),
        "adaptive": sometimes(variety.look, 0.25, 0.3, 1.0, nominal.adaptive),
        "gradient": spread(variety.look, 0.0, 0.4, nominal.gradient),
        "hot_spots": sometimes(variety.look, 0.2, 0.0, 5.0, nominal.hot_spots),
    }
    return ImagingParameters(contrast=contrast, **noise, **optics, **tilt, **look, voxel_A=options.voxel_A)
