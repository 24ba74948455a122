"""The transfer functions of imaging and the power of its noise, on the grid of a real FFT.

Frequencies are in cycles per voxel. See :mod:`tomopoint.simulate.imaging` for what they are multiplied with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tomopoint.simulate.options import VOXEL_A, SimulationOptions

if TYPE_CHECKING:
    import torch

ELECTRON_WAVELENGTH_A = 0.0197
"""At 300 kV."""

AMPLITUDE_PHASE = 0.07
"""Phase shift by amplitude contrast, radians."""

TILT_LIMIT_DEG = 45.0
NOISE_SD = 4.05e-6
"""Standard deviation of pure noise; with the crowding of proteins the background then has the real robust 4.3e-6."""

_GAIN_GRID = 96
_SLAB_PLANES = 24
"""Planes filtered at a time: bounds the memory of the intermediate arrays."""


@dataclass(frozen=True)
class ImagingParameters:
    """What differs from run to run.

    Attributes
    ----------
    defocus_um
        Defocus, micrometre.
    ctf_floor
        The transfer function's modulus is lifted to at least this: zeros are filled by tilts of other defocus.
    envelope
        Frequency at which the envelope has fallen to 1/e, cycles per voxel.
    wedge_softness_deg
        Width of the missing wedge's edge, degrees.
    contrast
        Darkest voxel of the mean ribosome, relative to the real mean.
    noise_sd
        Standard deviation of the noise in the denoised tomogram.
    """

    defocus_um: float = 3.0
    ctf_floor: float = 0.175
    envelope: float = 0.35
    wedge_softness_deg: float = 4.8
    contrast: float = 1.0
    noise_sd: float = NOISE_SD


@dataclass(frozen=True)
class Reconstruction:
    """How one kind of reconstruction differs from the denoised one.

    Attributes
    ----------
    envelope_scale
        Multiplies the envelope's frequency.
    noise_scale
        Multiplies the noise's standard deviation.
    raw_noise
        Whether the noise keeps its high frequencies (nothing was denoised).
    signed_ctf
        Whether phases are left flipped beyond the transfer function's first zero.
    ctf_floor_scale
        Multiplies the transfer function's floor.
    wedge_fill
        Lower bound of the wedge filter: 0 leaves the missing wedge empty, 1 fills it.
    """

    envelope_scale: float = 1.0
    noise_scale: float = 1.0
    raw_noise: bool = False
    signed_ctf: bool = False
    ctf_floor_scale: float = 1.0
    wedge_fill: float = 0.0


RECONSTRUCTIONS: dict[str, Reconstruction] = {
    "denoised": Reconstruction(),
    "wbp": Reconstruction(envelope_scale=1.4, noise_scale=6.0, raw_noise=True, signed_ctf=True),
    "ctfdeconvolved": Reconstruction(envelope_scale=1.6, noise_scale=2.5, ctf_floor_scale=2.0),
    "isonetcorrected": Reconstruction(noise_scale=0.7, wedge_fill=1.0),
}


def draw_imaging(rng: np.random.Generator, options: SimulationOptions) -> ImagingParameters:
    """Draw one run's imaging parameters; see docs/simulator.md for the ranges.

    With ``variation`` 0 every parameter is nominal; between 0 and 1 the ranges shrink towards the nominal value.
    """
    nominal = ImagingParameters()

    def within(low: float, high: float, middle: float) -> float:
        return middle + options.variation * (float(rng.uniform(low, high)) - middle)

    contrast = math.exp(options.variation * float(np.clip(rng.normal(0.0, 0.15), -0.4, 0.4)))
    return ImagingParameters(
        defocus_um=within(1.5, 4.5, nominal.defocus_um),
        ctf_floor=within(0.05, 0.3, nominal.ctf_floor),
        envelope=within(0.25, 0.45, nominal.envelope),
        wedge_softness_deg=within(3.6, 6.0, nominal.wedge_softness_deg),
        contrast=contrast / options.difficulty,
        noise_sd=within(0.93, 1.07, 1.0) * NOISE_SD,
    )


class Filters:
    """The transfer functions of one reconstruction on the half grid of a real FFT.

    Parameters
    ----------
    parameters, reconstruction
        The run's defocus, noise and contrast, and which kind of reconstruction is made of it.
    shape_zyx
        Shape of the (padded) volume.
    """

    def __init__(
        self, parameters: ImagingParameters, reconstruction: Reconstruction, shape_zyx: tuple[int, int, int]
    ) -> None:
        self._parameters = parameters
        self._reconstruction = reconstruction
        self._shape = shape_zyx

    def slabs(self, device: Any, planes: int = _SLAB_PLANES) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
        """Yield (range of kz, signal filter, noise power), filters of shape ``(planes, H, W // 2 + 1)``, float32."""
        import torch

        depth, height, width = self._shape
        kz_all = torch.fft.fftfreq(depth, device=device)
        ky = torch.fft.fftfreq(height, device=device)[None, :, None]
        kx = torch.fft.rfftfreq(width, device=device)[None, None, :]
        for start in range(0, depth, planes):
            part = slice(start, min(start + planes, depth))
            kz = kz_all[part][:, None, None]
            yield part, self._signal(kz, ky, kx), self._noise(kz, ky, kx)

    def _wedge(self, kz: torch.Tensor, kx: torch.Tensor) -> torch.Tensor:
        """Missing wedge, ``(planes, 1, W // 2 + 1)``: tilts turn about y, so ky does not enter."""
        import torch

        angle = torch.rad2deg(torch.atan2(kz.abs(), kx.abs()))
        return torch.sigmoid((TILT_LIMIT_DEG - angle) / self._parameters.wedge_softness_deg)

    def _signal(self, kz: torch.Tensor, ky: torch.Tensor, kx: torch.Tensor) -> torch.Tensor:
        parameters, reconstruction = self._parameters, self._reconstruction
        squared = kz**2 + ky**2 + kx**2
        # Phase of the transfer function at defocus dz: pi * wavelength * dz * k^2, k in 1/A (Cs is nil at 20 A).
        factor = math.pi * ELECTRON_WAVELENGTH_A * parameters.defocus_um * 1e4 / VOXEL_A**2
        transfer = (squared * factor + AMPLITUDE_PHASE).sin_()
        if not reconstruction.signed_ctf:
            transfer = transfer.abs_().clamp_(min=min(parameters.ctf_floor * reconstruction.ctf_floor_scale, 1.0))
        envelope = squared.mul_(-1.0 / (parameters.envelope * reconstruction.envelope_scale) ** 2).exp_()
        return transfer.mul_(envelope).mul_(self._wedge(kz, kx).clamp(min=reconstruction.wedge_fill))

    def _noise(self, kz: torch.Tensor, ky: torch.Tensor, kx: torch.Tensor) -> torch.Tensor:
        across = kz**2 + kx**2  # squared frequency perpendicular to the tilt axis: the ramp of back-projection
        wedge = self._wedge(kz, kx)
        ramp = across**0.25
        squared = across + ky**2
        if self._reconstruction.raw_noise:
            return (ramp * wedge).expand(squared.shape)
        radius = squared.sqrt()
        band = (radius / 0.145).pow_(1.25).neg_().exp_()
        band.mul_(ramp * (-((kz / 0.127) ** 2)).exp())
        band.add_(squared.mul(-1.0 / 0.044**2).exp_(), alpha=2.3)
        edge = squared.mul_(1.0 / 0.46**2).pow_(4).neg_().exp_()
        return band.mul_(edge).mul_(wedge.clamp(min=0.3 * self._reconstruction.wedge_fill))

    def noise_gain(self) -> float:
        """Return the factor on sqrt(power) that gives noise of unit variance its standard deviation.

        White noise of unit variance filtered by ``sqrt(P)`` has the variance ``mean(P)`` over the frequency cube.
        The mean is taken on a grid of fixed size, so that the noise does not depend on the volume's shape.
        """
        grid = Filters(self._parameters, self._reconstruction, (_GAIN_GRID,) * 3)
        total = 0.0
        for _, _, power in grid.slabs("cpu"):
            # All but the first and last plane of the half grid stand for two frequencies, +kx and -kx.
            total += float(2 * power.sum() - power[..., 0].sum() - power[..., -1].sum())
        return self._parameters.noise_sd * self._reconstruction.noise_scale / math.sqrt(total / _GAIN_GRID**3)
