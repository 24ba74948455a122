"""From density to tomogram in one pass through Fourier space.

::

    T = F^-1[ -s * rho(k) * W(k) * C(k) * L(k) + sqrt(P(k)) * white(k) ]

``W`` is the missing wedge of a tilt series from -45 to +45 degrees about y, ``C`` the contrast transfer function,
``L`` the envelope of resolution and denoising, ``P`` the power of the noise left after denoising. Weighted
back-projection of the projections of a density is the density filtered with ``W`` (central slice theorem, Crowther
et al. 1970), so no projections are computed. The noise power was fitted to slices of real denoised tomograms; its
autocorrelation agrees with theirs at 15 lags to 0.03.

Frequencies are in cycles per voxel. FFTs run on torch, where there is a GPU on it; white noise is always drawn by
numpy on the CPU, so that a seed means the same tomogram on every device, up to rounding.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tomopoint.simulate.density import Volume, add_blobs
from tomopoint.simulate.options import VOXEL_A, SimulationOptions
from tomopoint.simulate.particles import particle_model

if TYPE_CHECKING:
    import torch

ELECTRON_WAVELENGTH_A = 0.0197
"""At 300 kV."""

AMPLITUDE_PHASE = 0.07
"""Phase shift by amplitude contrast, radians."""

TILT_LIMIT_DEG = 45.0
RIBOSOME_MINIMUM = -5.0e-5
"""Mean over ribosomes of the darkest voxel, noise included, in real denoised tomograms."""

NOISE_SD = 4.05e-6
"""Standard deviation of pure noise; with the crowding of proteins the background then has the real robust 4.3e-6."""

RIBOSOME_REACH_VOX = 12
PADDING_VOX = 8
"""Empty border, so that a particle at one face does not appear at the opposite one."""

_CALIBRATION_SEED = 0
_CALIBRATION_RIBOSOMES = 8
_CALIBRATION_BOX = 64
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
class Look:
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


LOOKS: dict[str, Look] = {
    "denoised": Look(),
    "wbp": Look(envelope_scale=1.4, noise_scale=6.0, raw_noise=True, signed_ctf=True),
    "ctfdeconvolved": Look(envelope_scale=1.6, noise_scale=2.5, ctf_floor_scale=2.0),
    "isonetcorrected": Look(noise_scale=0.7, wedge_fill=1.0),
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


def image_density(
    density_zyx: Volume, parameters: ImagingParameters, looks: tuple[str, ...], rng: np.random.Generator, device: str
) -> dict[str, Volume]:
    """Image a density, once per look, all from the same noise.

    Parameters
    ----------
    density_zyx
        ``(D, H, W)`` float32, density per voxel; protein positive.
    looks
        Names in :data:`LOOKS`.
    rng
        Draws the white noise.
    device
        ``"cpu"``, ``"cuda"`` or ``"auto"`` (a GPU where there is one).

    Returns
    -------
    dict
        Per look ``(D, H, W)`` float32; protein is dark, values about 1e-5.
    """
    import torch

    with _one_thread():
        return _image(density_zyx, parameters, looks, rng, torch.device(resolve_device(device)))


def _image(
    density_zyx: Volume,
    parameters: ImagingParameters,
    looks: tuple[str, ...],
    rng: np.random.Generator,
    target: torch.device,
) -> dict[str, Volume]:
    import torch

    padded = padded_shape(density_zyx.shape)
    white = rng.standard_normal(padded, dtype=np.float32)
    noise_spectrum = torch.fft.rfftn(torch.from_numpy(white).to(target))
    del white
    room = torch.zeros(padded, dtype=torch.float32, device=target)
    depth, height, width = density_zyx.shape
    room[:depth, :height, :width] = torch.from_numpy(density_zyx).to(target)
    spectrum = torch.fft.rfftn(room)
    del room
    filters = {name: Filters(parameters, LOOKS[name], padded) for name in looks}
    scale = signal_scale(parameters)
    images: dict[str, Volume] = {}
    for index, name in enumerate(looks):
        last = index == len(looks) - 1
        mixed = spectrum if last else spectrum.clone()
        _mix(mixed, noise_spectrum, filters[name], scale)
        image = torch.fft.irfftn(mixed, s=padded)
        images[name] = np.ascontiguousarray(image[:depth, :height, :width].cpu().numpy())
    return images


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch to one thread on the CPU for a while.

    How arrays are split over threads shows in the last digit, so the bytes of a volume would depend on the number of
    cores and processes. Runs are made in parallel instead, which uses the cores better.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def resolve_device(device: str) -> str:
    """Turn ``"auto"`` into ``"cuda"`` where a GPU can be used, else ``"cpu"``."""
    import torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def padded_shape(shape_zyx: tuple[int, ...]) -> tuple[int, int, int]:
    """Return the shape the FFTs run at: some padding, then up to factors of 2, 3 and 5."""
    from scipy.fft import next_fast_len

    depth, height, width = (int(next_fast_len(size + PADDING_VOX, real=True)) for size in shape_zyx)
    return depth, height, width


class Filters:
    """The transfer functions of one look on the half grid of a real FFT.

    Parameters
    ----------
    parameters, look
        What is imaged and how.
    shape_zyx
        Shape of the (padded) volume.
    """

    def __init__(self, parameters: ImagingParameters, look: Look, shape_zyx: tuple[int, int, int]) -> None:
        self._parameters = parameters
        self._look = look
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
        parameters, look = self._parameters, self._look
        squared = kz**2 + ky**2 + kx**2
        # Phase of the transfer function at defocus dz: pi * wavelength * dz * k^2, k in 1/A (Cs is nil at 20 A).
        factor = math.pi * ELECTRON_WAVELENGTH_A * parameters.defocus_um * 1e4 / VOXEL_A**2
        transfer = (squared * factor + AMPLITUDE_PHASE).sin_()
        if not look.signed_ctf:
            transfer = transfer.abs_().clamp_(min=min(parameters.ctf_floor * look.ctf_floor_scale, 1.0))
        envelope = squared.mul_(-1.0 / (parameters.envelope * look.envelope_scale) ** 2).exp_()
        return transfer.mul_(envelope).mul_(self._wedge(kz, kx).clamp(min=look.wedge_fill))

    def _noise(self, kz: torch.Tensor, ky: torch.Tensor, kx: torch.Tensor) -> torch.Tensor:
        across = kz**2 + kx**2  # squared frequency perpendicular to the tilt axis: the ramp of back-projection
        wedge = self._wedge(kz, kx)
        ramp = across**0.25
        squared = across + ky**2
        if self._look.raw_noise:
            return (ramp * wedge).expand(squared.shape)
        radius = squared.sqrt()
        band = (radius / 0.145).pow_(1.25).neg_().exp_()
        band.mul_(ramp * (-((kz / 0.127) ** 2)).exp())
        band.add_(squared.mul(-1.0 / 0.044**2).exp_(), alpha=2.3)
        edge = squared.mul_(1.0 / 0.46**2).pow_(4).neg_().exp_()
        return band.mul_(edge).mul_(wedge.clamp(min=0.3 * self._look.wedge_fill))

    def noise_gain(self) -> float:
        """Return the factor on sqrt(power) that gives noise of unit variance its standard deviation.

        White noise of unit variance filtered by ``sqrt(P)`` has the variance ``mean(P)`` over the frequency cube.
        The mean is taken on a grid of fixed size, so that the noise does not depend on the volume's shape.
        """
        grid = Filters(self._parameters, self._look, (_GAIN_GRID,) * 3)
        total = 0.0
        for _, _, power in grid.slabs("cpu"):
            # All but the first and last plane of the half grid stand for two frequencies, +kx and -kx.
            total += float(2 * power.sum() - power[..., 0].sum() - power[..., -1].sum())
        return self._parameters.noise_sd * self._look.noise_scale / math.sqrt(total / _GAIN_GRID**3)


def _mix(spectrum: torch.Tensor, noise: torch.Tensor, filters: Filters, scale: float) -> None:
    """Filter signal and noise and add them, in place in `spectrum`; the mean becomes zero."""
    gain = filters.noise_gain()
    for planes, signal, power in filters.slabs(spectrum.device):
        spectrum[planes] *= signal.mul_(-scale)
        spectrum[planes] += noise[planes] * power.sqrt().mul_(gain)
    spectrum[0, 0, 0] = 0


def signal_scale(parameters: ImagingParameters) -> float:
    """Return ``s``: with it the darkest voxel of a ribosome is, on average, ``contrast * RIBOSOME_MINIMUM``.

    Each of a few ribosomes is imaged in a box of its own, with noise, and ``s`` is found by bisection: the minimum
    grows steadily with it. The seed is fixed, so ``s`` is a function of the parameters alone.
    """
    import torch

    shape = (_CALIBRATION_BOX,) * 3
    filters = Filters(parameters, LOOKS["denoised"], shape)
    _, signal_filter, power = next(filters.slabs("cpu", planes=_CALIBRATION_BOX))
    noise_filter = power.sqrt() * filters.noise_gain()
    near = _near_centre()
    pairs = []
    for ribosome, white in _calibration_spectra():
        signal = torch.fft.irfftn(ribosome * -signal_filter, s=shape)
        noise = torch.fft.irfftn(white * noise_filter, s=shape)
        pairs.append((signal.numpy()[near], noise.numpy()[near]))
    target = RIBOSOME_MINIMUM * parameters.contrast
    low, high = 0.0, 1e-3
    for _ in range(50):
        middle = (low + high) / 2
        mean = float(np.mean([(middle * signal + noise).min() for signal, noise in pairs]))
        low, high = (low, middle) if mean < target else (middle, high)
    return high


@functools.cache
def _calibration_spectra() -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    """Return the spectra of a few lone ribosomes and of white noise for each."""
    import torch

    rng = np.random.default_rng(_CALIBRATION_SEED)
    shape = (_CALIBRATION_BOX,) * 3
    pairs = []
    for _ in range(_CALIBRATION_RIBOSOMES):
        box = np.zeros(shape, dtype=np.float32)
        add_blobs(box, particle_model("ribosome").instance(rng), np.full(3, _CALIBRATION_BOX / 2 * VOXEL_A), VOXEL_A)
        white = rng.standard_normal(shape, dtype=np.float32)
        pairs.append((torch.fft.rfftn(torch.from_numpy(box)), torch.fft.rfftn(torch.from_numpy(white))))
    return tuple(pairs)


@functools.cache
def _near_centre() -> npt.NDArray[np.bool_]:
    offsets = np.indices((_CALIBRATION_BOX,) * 3) + 0.5 - _CALIBRATION_BOX / 2
    return np.asarray((offsets**2).sum(axis=0) < RIBOSOME_REACH_VOX**2)
