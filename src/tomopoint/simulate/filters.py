"""The transfer functions of imaging and the power of its noise, on the grid of a real FFT.

Frequencies are in cycles per voxel. See :mod:`tomopoint.simulate.imaging` for what they are multiplied with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tomopoint.simulate.optics import ImagingParameters
from tomopoint.simulate.options import VOXEL_A

if TYPE_CHECKING:
    import torch

ELECTRON_WAVELENGTH_A = 0.0197
"""At 300 kV."""

TILTED_THICKNESS_A = 95.0 * VOXEL_A
"""Thickness of the ice: a projection is a slice of Fourier space of one over this thickness."""

_GAIN_GRID = 96
_SLAB_PLANES = 24
"""Planes filtered at a time: bounds the memory of the intermediate arrays."""

_NOISE_EDGE = 0.46
_LOW_NOISE = 0.022
"""Frequency (1/e) of the slow part of the noise: patches of some 45 voxels."""


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
        # The tilt axis lies in the x-y plane, a little off y.
        axis = math.radians(self._parameters.axis_deg)
        across = kx * math.cos(axis) + ky * math.sin(axis)
        for start in range(0, depth, planes):
            part = slice(start, min(start + planes, depth))
            kz = kz_all[part][:, None, None]
            squared = kz**2 + ky**2 + kx**2
            wedge = self._wedge(kz, across)
            yield part, self._signal(squared, wedge), self._noise(kz, across, squared, wedge)

    def _wedge(self, kz: torch.Tensor, across: torch.Tensor) -> torch.Tensor:
        """Which frequencies the tilt series has measured, 0 to 1, by their angle from the untilted projection's slice.

        Beyond the first and the last tilt lies the missing wedge; between two tilts, where their slices of one over
        the ice's thickness do not meet any more, less arrives.
        """
        import torch

        p = self._parameters
        angle = torch.rad2deg(torch.atan(kz / torch.where(across == 0, 1e-9, across)))
        inside = torch.sigmoid((p.last_tilt_deg - angle) / p.wedge_softness_deg)
        inside *= torch.sigmoid((angle - p.first_tilt_deg) / p.wedge_softness_deg)
        thickness_vox = TILTED_THICKNESS_A / p.voxel_A
        between = angle.sub_(p.first_tilt_deg).div_(p.tilt_step_deg)
        away = between.sub_(between.round()).mul_(math.radians(p.tilt_step_deg)).mul_(torch.hypot(kz, across))
        return inside.mul_(away.mul_(thickness_vox).square_().neg_().exp_())

    def _signal(self, squared: torch.Tensor, wedge: torch.Tensor) -> torch.Tensor:
        p, reconstruction = self._parameters, self._reconstruction
        # Phase of the transfer function at defocus dz: pi * wavelength * dz * k^2, k in 1/A (Cs is nil: 0.08 at 8 A).
        factor = math.pi * ELECTRON_WAVELENGTH_A * p.defocus_um * 1e4 / p.voxel_A**2
        transfer = (squared * factor + p.amplitude_phase).sin_()
        if not reconstruction.signed_ctf:
            transfer = transfer.abs_().clamp_(min=min(p.ctf_floor * reconstruction.ctf_floor_scale, 1.0))
        # Resolution and smoothing, both Gaussian.
        envelope = p.envelope * min(p.voxel_A / VOXEL_A, 1.0)
        falloff = 1.0 / (envelope * reconstruction.envelope_scale) ** 2 + 2 * (math.pi * p.smoothing_vox) ** 2
        transfer.mul_(squared.mul(-falloff).exp_())
        return transfer.mul_(wedge.clamp(min=reconstruction.wedge_fill))

    def _noise(
        self, kz: torch.Tensor, across: torch.Tensor, squared: torch.Tensor, wedge: torch.Tensor
    ) -> torch.Tensor:
        p = self._parameters
        # In cycles per voxel whatever the voxel: binned and then denoised tomograms look alike voxel by voxel, for a
        # denoiser learns what neighbouring voxels say of each other and knows no Angstrom.
        in_slices = kz**2 + across**2  # squared frequency perpendicular to the tilt axis: the ramp of back-projection
        smoothing = squared.mul(-4 * (math.pi * p.smoothing_vox) ** 2).exp_()
        if self._reconstruction.raw_noise:
            return smoothing.mul_(in_slices.pow_(0.25)).mul_(wedge)
        band = squared.sqrt().sub_(p.noise_peak).div_(p.noise_width).square_().neg_().exp_()
        band.mul_((-((kz / p.noise_depth) ** 2)).exp())
        # White noise has no band: the share of it that is left where the denoising was weak.
        power = band.add_(p.noise_white).mul_(in_slices.pow_(p.noise_ramp / 2))
        power.add_(squared.mul(-1.0 / _LOW_NOISE**2).exp_(), alpha=p.noise_low)
        edge = squared.mul(1.0 / _NOISE_EDGE**2).pow_(4).neg_().exp_()
        edge.mul_(smoothing)
        return power.mul_(edge).mul_(wedge.clamp(min=0.3 * self._reconstruction.wedge_fill))

    def noise_gain(self) -> float:
        """Return the factor on sqrt(power) that gives noise of unit variance its standard deviation.

        White noise of unit variance filtered by ``sqrt(P)`` has the variance ``mean(P)`` over the frequency cube.
        The mean is taken on a grid of fixed size, so that the noise does not depend on the volume's shape, and
        without smoothing, which takes noise away.
        """
        grid = Filters(replace(self._parameters, smoothing_vox=0.0), self._reconstruction, (_GAIN_GRID,) * 3)
        total = 0.0
        for _, _, power in grid.slabs("cpu"):
            # All but the first and last plane of the half grid stand for two frequencies, +kx and -kx.
            total += float(2 * power.sum() - power[..., 0].sum() - power[..., -1].sum())
        return self._parameters.noise_sd * self._reconstruction.noise_scale / math.sqrt(total / _GAIN_GRID**3)
