"""From density to tomogram in one pass through Fourier space.

::

    T = F^-1[ -s * rho(k) * W(k) * C(k) * L(k) + sqrt(P(k)) * white(k) ]

``W`` is the missing wedge of a tilt series (nominally from -45 to +45 degrees about y), ``C`` the contrast transfer
function, ``L`` the envelope of resolution and denoising, ``P`` the power of the noise left after denoising. Weighted
back-projection of the projections of a density is the density filtered with ``W`` (central slice theorem, Crowther
et al. 1970), so no projections are computed. The nominal noise power was fitted to slices of real denoised tomograms;
its autocorrelation agrees with theirs at 15 lags to 0.03. :mod:`tomopoint.simulate.optics` has what differs from run
to run.

Frequencies are in cycles per voxel. FFTs run on torch, where there is a GPU on it; white noise is always drawn by
numpy on the CPU, so that a seed means the same tomogram on every device, up to rounding.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from tomopoint.simulate.density import Volume, add_blobs
from tomopoint.simulate.filters import RECONSTRUCTIONS, Filters
from tomopoint.simulate.looks import apply_look
from tomopoint.simulate.optics import NOISE_SD, ImagingParameters
from tomopoint.simulate.options import VOXEL_A
from tomopoint.simulate.particles.catalogue import competition_particle

if TYPE_CHECKING:
    import torch

RIBOSOME_MINIMUM = -5.0e-5
"""Mean over ribosomes of the darkest voxel, noise included, in real denoised tomograms."""

RIBOSOME_REACH_A = 12 * VOXEL_A
PADDING_A = 8 * VOXEL_A
"""Empty border, so that a particle at one face does not appear at the opposite one."""

_CALIBRATION_SEED = 0
_CALIBRATION_RIBOSOMES = 8
_CALIBRATION_BOX_A = 64 * VOXEL_A


def image_density(
    density_zyx: Volume,
    parameters: ImagingParameters,
    reconstructions: tuple[str, ...],
    rng: np.random.Generator,
    device: str,
) -> dict[str, Volume]:
    """Image a density, once per reconstruction, all from the same noise.

    Parameters
    ----------
    density_zyx
        ``(D, H, W)`` float32, density per voxel; protein positive.
    reconstructions
        Names in :data:`RECONSTRUCTIONS`.
    rng
        Draws the white noise.
    device
        ``"cpu"``, ``"cuda"`` or ``"auto"`` (a GPU where there is one).

    Returns
    -------
    dict
        Per reconstruction ``(D, H, W)`` float32; protein is dark, values about 1e-5.
    """
    import torch

    target = torch.device(resolve_device(device))
    padded = padded_shape(density_zyx.shape, parameters.voxel_A)
    # How arrays are split over threads shows in the last digit, so the bytes of a volume would depend on the number of
    # cores and processes. Runs are made in parallel instead, which uses the cores better.
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        look_seed = int(rng.integers(2**32))
        white = rng.standard_normal(padded, dtype=np.float32)
        noise_spectrum = torch.fft.rfftn(torch.from_numpy(white).to(target))
        del white
        room = torch.zeros(padded, dtype=torch.float32, device=target)
        depth, height, width = density_zyx.shape
        room[:depth, :height, :width] = torch.from_numpy(density_zyx).to(target)
        spectrum = torch.fft.rfftn(room)
        del room
        scale = signal_scale(parameters)
        images: dict[str, Volume] = {}
        for index, name in enumerate(reconstructions):
            # Filter signal and noise and add them; the mean becomes zero.
            mixed = spectrum if index == len(reconstructions) - 1 else spectrum.clone()
            filters = Filters(parameters, RECONSTRUCTIONS[name], padded)
            gain = filters.noise_gain()
            for planes, signal, power in filters.slabs(mixed.device):
                mixed[planes] *= signal.mul_(-scale)
                mixed[planes] += noise_spectrum[planes] * power.sqrt().mul_(gain)
            mixed[0, 0, 0] = 0
            image = torch.fft.irfftn(mixed, s=padded)[:depth, :height, :width].cpu().numpy()
            images[name] = np.ascontiguousarray(apply_look(image, parameters, np.random.default_rng(look_seed)))
        return images
    finally:
        torch.set_num_threads(n_threads)


def resolve_device(device: str) -> str:
    """Turn ``"auto"`` into ``"cuda"`` where a GPU can be used, else ``"cpu"``."""
    import torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def padded_shape(shape_zyx: tuple[int, ...], voxel_A: float = VOXEL_A) -> tuple[int, int, int]:
    """Return the shape the FFTs run at: some padding, then up to factors of 2, 3 and 5."""
    from scipy.fft import next_fast_len

    padding = round(PADDING_A / voxel_A)
    depth, height, width = (int(next_fast_len(size + padding, real=True)) for size in shape_zyx)
    return depth, height, width


def signal_scale(parameters: ImagingParameters) -> float:
    """Return ``s``: at contrast 1 the darkest voxel of a ribosome is, on average, :data:`RIBOSOME_MINIMUM`.

    That is with the nominal level of noise, so that more noise means less signal to noise, not both less; and the
    contrast multiplies the signal, not the minimum, which holds the noise's own.

    Each of a few ribosomes is imaged in a box of its own, with noise, and ``s`` is found by bisection: the minimum
    grows steadily with it. The seed is fixed, so ``s`` is a function of the parameters alone.
    """
    import torch

    size = _calibration_size(parameters.voxel_A)
    shape = (size,) * 3
    filters = Filters(replace(parameters, noise_sd=NOISE_SD), RECONSTRUCTIONS["denoised"], shape)
    _, signal_filter, power = next(filters.slabs("cpu", planes=size))
    noise_filter = power.sqrt() * filters.noise_gain()
    offsets = np.indices(shape) + 0.5 - size / 2
    near = (offsets**2).sum(axis=0) < (RIBOSOME_REACH_A / parameters.voxel_A) ** 2
    pairs = []
    for ribosome, white in _calibration_spectra(parameters.voxel_A):
        signal = torch.fft.irfftn(ribosome * -signal_filter, s=shape)
        noise = torch.fft.irfftn(white * noise_filter, s=shape)
        pairs.append((signal.numpy()[near], noise.numpy()[near]))
    low, high = 0.0, 1e-3 * (VOXEL_A / parameters.voxel_A) ** 3  # a voxel holds the more, the larger it is
    for _ in range(50):
        middle = (low + high) / 2
        mean = float(np.mean([(middle * signal + noise).min() for signal, noise in pairs]))
        low, high = (low, middle) if mean < RIBOSOME_MINIMUM else (middle, high)
    return high * parameters.contrast


@functools.cache
def _calibration_spectra(voxel_A: float) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    """Return the spectra of a few lone ribosomes and of white noise for each, whatever particles a project has."""
    import torch

    rng = np.random.default_rng(_CALIBRATION_SEED)
    size = _calibration_size(voxel_A)
    shape = (size,) * 3
    pairs = []
    for _ in range(_CALIBRATION_RIBOSOMES):
        box = np.zeros(shape, dtype=np.float32)
        add_blobs(box, competition_particle("ribosome").instance(rng), np.full(3, size / 2 * voxel_A), voxel_A)
        white = rng.standard_normal(shape, dtype=np.float32)
        pairs.append((torch.fft.rfftn(torch.from_numpy(box)), torch.fft.rfftn(torch.from_numpy(white))))
    return tuple(pairs)


def _calibration_size(voxel_A: float) -> int:
    """Return the edge of a ribosome's box, an even number of voxels: it has the same room whatever they measure."""
    return 2 * round(_CALIBRATION_BOX_A / voxel_A / 2)
