"""A tilt series as a microscope takes it: transfer, radiation damage, counting noise, camera, misalignment.

Everything happens to one projection at a time, in real units. Sources: transfer function and sign conventions, Rohou
and Grigorieff 2015 (CTFFIND4); radiation damage, Grant and Grigorieff 2015; inelastic mean free path in ice, Rice et
al. 2018; mean inner potentials, Vulovic et al. 2013 (protein) and Harscher and Lichte 1998 (ice).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

from tomopoint.simulate.options import VOXEL_A

Image = npt.NDArray[np.float32]

WAVELENGTH_A = 0.01969
"""Of an electron at 300 kV."""

SPHERICAL_ABERRATION_A = 2.7e7
MEAN_FREE_PATH_A = 3200.0
"""Between inelastic events in ice at 300 kV; an energy filter takes the electrons out that had one."""

PHASE_PER_UNIT = 9.7e-4
"""Phase shift by one unit of density in a 10 A voxel, radians: protein over ice is 3.5 V (7.0 and 3.5), the interaction
constant 6.53e-4 rad / (V A), and 23.6 units fill a voxel with protein (28.6 units per kDa, 1.21 A^3 per Da)."""

DARKEST_INTENSITY = 0.05
"""Even gold lets some electrons through: the linear transfer of a strong phase would go below nothing."""

DEFOCUS_STRIPS = 5
"""Defoci across a tilted specimen; between them images are blended."""

PADDING_PX = 14
"""Border of a projection of 10 A pixels, for the spread of the transfer function (6 pixels at 5 um and Nyquist) and
misalignment. That spread grows with the square of a finer pixel's Nyquist frequency, counted in pixels."""


@dataclass(frozen=True)
class Exposure:
    """One image of a tilt series.

    Attributes
    ----------
    tilt_deg
        Angle of the stage.
    defocus_A, estimated_defocus_A
        At the tilt axis: the true one, and the one phases are flipped with.
    dose_before, dose
        Electrons per square Angstrom on the specimen before this image, and in it.
    shift_vu_px, rotation_deg
        How far it is misaligned.
    """

    tilt_deg: float
    defocus_A: float
    estimated_defocus_A: float
    dose_before: float
    dose: float
    shift_vu_px: tuple[float, float]
    rotation_deg: float


@dataclass(frozen=True)
class Microscope:
    """What is the same for all images of a tilt series.

    Attributes
    ----------
    pixel_A
        Edge of a pixel.
    phase_per_unit
        Phase shift by one unit of projected density, radians.
    ice_A
        Thickness that takes electrons away, untilted.
    amplitude_contrast
        Share of the contrast that is absorption.
    b_factor_A2
        Envelope of the images, ``exp(-B k^2 / 4)``.
    camera_at_nyquist
        Modulation transfer of the camera, a Gaussian, at half a cycle per pixel.
    """

    pixel_A: float
    phase_per_unit: float
    ice_A: float
    amplitude_contrast: float
    b_factor_A2: float
    camera_at_nyquist: float

    def transfer(self, defocus_A: float, squared: Image) -> Image:
        """Return the contrast transfer function, -1 to 1 and negative first, at squared frequencies in 1/A^2."""
        aberration = 0.5 * math.pi * SPHERICAL_ABERRATION_A * WAVELENGTH_A**3
        phase = math.pi * WAVELENGTH_A * defocus_A * squared - aberration * squared**2
        return np.asarray(-np.sin(phase + math.asin(self.amplitude_contrast)), dtype=np.float32)

    def expose(self, projection_vu: Image, exposure: Exposure, rng: np.random.Generator) -> Image:
        """Take one image.

        Parameters
        ----------
        projection_vu
            ``(V, U)`` projected density, the tilt axis along v.
        exposure
            How it is taken.
        rng
            Draws the electrons.

        Returns
        -------
        numpy.ndarray
            ``(V, U)`` float32: counts over their mean, less one; protein is negative as far as phases are right.
        """
        shape = projection_vu.shape
        padding = math.ceil(PADDING_PX * max(VOXEL_A / self.pixel_A, 1.0) ** 2)
        padded = np.pad(projection_vu, padding)
        if exposure.rotation_deg:
            padded = ndimage.rotate(padded, exposure.rotation_deg, reshape=False, order=3)
        size = tuple(int(fft.next_fast_len(length, real=True)) for length in padded.shape)
        frequency_v, frequency_u = fft.fftfreq(size[0])[:, None], fft.rfftfreq(size[1])[None, :]
        squared = ((frequency_v**2 + frequency_u**2) / self.pixel_A**2).astype(np.float32)

        # 1. The wave: everything that damps it, misalignment as a phase ramp, and the defocus of each strip.
        shift_v, shift_u = exposure.shift_vu_px
        ramp = np.exp(-2j * math.pi * (frequency_v * shift_v + frequency_u * shift_u)).astype(np.complex64)
        damped = np.exp(-squared * (self.b_factor_A2 / 4)) * survival(exposure, squared)
        spectrum = fft.rfft2(padded, s=size) * ramp * (2 * self.phase_per_unit * damped)
        place = np.arange(padded.shape[1]) - (padded.shape[1] - 1) / 2
        strips = np.linspace(-1.0, 1.0, DEFOCUS_STRIPS if abs(exposure.tilt_deg) > 1 else 1) * place[-1]
        contrast = np.zeros(padded.shape, dtype=np.float32)
        for index, centre in enumerate(strips):
            # A specimen tilted by t lies u * tan(t) higher or lower at u than at the axis.
            defocus = exposure.defocus_A + centre * self.pixel_A * math.tan(math.radians(exposure.tilt_deg))
            image = fft.irfft2(spectrum * self.transfer(defocus, squared), s=size)[: padded.shape[0], : padded.shape[1]]
            weight = np.interp(place, strips, np.eye(len(strips))[index])
            contrast += image * weight.astype(np.float32)

        # 2. Electrons, counted one by one, fewer through thicker ice; the camera spreads each a little.
        path = self.ice_A / math.cos(math.radians(exposure.tilt_deg))
        electrons = exposure.dose * self.pixel_A**2 * math.exp(-path / MEAN_FREE_PATH_A)
        counts = rng.poisson(electrons * np.maximum(1 + contrast, DARKEST_INTENSITY)).astype(np.float32)
        relative = counts / np.float32(electrons) - 1
        camera = np.exp(squared * (math.log(self.camera_at_nyquist) * (2 * self.pixel_A) ** 2))

        # 3. Phases are flipped with the defocus that was estimated, one for the whole image.
        flip = np.where(self.transfer(exposure.estimated_defocus_A, squared) > 0, -1, 1)
        flipped = fft.irfft2(fft.rfft2(relative, s=size) * (camera * flip).astype(np.float32), s=size)
        inner = np.s_[padding : padding + shape[0], padding : padding + shape[1]]
        return np.ascontiguousarray(flipped[inner], dtype=np.float32)


def survival(exposure: Exposure, squared: Image) -> Image:
    """Return what radiation has left of a structure's amplitude in the middle of an exposure.

    ``exp(-N / (2 Nc))`` with the critical exposure ``Nc = 0.245 k^-1.665 + 2.81`` electrons per square Angstrom.
    """
    # At frequency nought the critical exposure is infinite.
    critical = 0.245 * np.maximum(squared, 1e-12) ** (-1.665 / 2) + 2.81
    return np.asarray(np.exp(-(exposure.dose_before + exposure.dose / 2) / (2 * critical)), dtype=np.float32)


def tilt_scheme(tilt_limit_deg: float, tilt_step_deg: float) -> list[float]:
    """Return tilts in dose-symmetric order (Hagen et al. 2017): 0, then one step to either side in turns."""
    steps = int(tilt_limit_deg / tilt_step_deg + 1e-6)
    return sorted((step * tilt_step_deg for step in range(-steps, steps + 1)), key=lambda tilt: (abs(tilt), -tilt))
