"""Densities as sums of Gaussian blobs: rotate, check, and add them to a volume.

Every molecule here is a set of isotropic Gaussians ("pseudo-atoms"). That makes a rotated, sub-voxel shifted copy exact
(no interpolation), band-limited, and cheap: a Gaussian separates along the axes, so a whole molecule is one small
matrix product.

Positions are z, y, x in Angstrom. Densities are in the arbitrary unit of the public density maps the models are
calibrated to, per voxel; one kDa of protein is about 28.6 of them, in however many voxels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tomopoint.simulate.options import VOXEL_A

Array = npt.NDArray[np.float64]
Volume = npt.NDArray[np.float32]

UNITS_PER_KDA = 28.6
"""Integral of a density per kDa of protein: apo-ferritin's 12,688 for 444 kDa (beta-galactosidase's agrees)."""

CUTOFF_SIGMAS = 3.5
"""A blob is added out to this many of its standard deviations; beyond lies 0.15 % of its integral."""

NARROWEST_VOX = 0.65
"""Narrower Gaussians, sampled at voxel centres, would have an integral that depends on where they lie."""


@dataclass(frozen=True)
class Blobs:
    """A density made of Gaussians.

    Attributes
    ----------
    positions_zyx_A
        ``(N, 3)`` centres z, y, x relative to the molecule's centre of mass, Angstrom.
    sigmas_A
        ``(N,)`` standard deviations, Angstrom.
    weights
        ``(N,)`` integrals.
    """

    positions_zyx_A: Array
    sigmas_A: Array
    weights: Array

    @property
    def integral(self) -> float:
        """Total of the weights."""
        return float(self.weights.sum())

    @property
    def reach_A(self) -> float:
        """Largest distance of a blob's centre from the origin, Angstrom."""
        return float(np.sqrt((self.positions_zyx_A**2).sum(axis=1).max()))

    def covariance_A2(self) -> Array:
        """Second moments about the centre of mass, ``(3, 3)``, square Angstrom."""
        share = self.weights / self.weights.sum()
        centred = self.positions_zyx_A - share @ self.positions_zyx_A
        spread = (centred * share[:, None]).T @ centred
        return np.asarray(spread + np.eye(3) * float(share @ self.sigmas_A**2))

    def centred(self) -> Blobs:
        """Return a copy whose centre of mass is the origin."""
        share = self.weights / self.weights.sum()
        return Blobs(self.positions_zyx_A - share @ self.positions_zyx_A, self.sigmas_A, self.weights)

    def rotated(self, rotation: Array) -> Blobs:
        """Return a copy turned by a ``(3, 3)`` rotation matrix."""
        return Blobs(self.positions_zyx_A @ rotation.T, self.sigmas_A, self.weights)

    def scaled(self, factor: float) -> Blobs:
        """Return a copy of `factor` times the size and the same density."""
        return Blobs(self.positions_zyx_A * factor, self.sigmas_A * factor, self.weights * factor**3)

    def with_integral(self, integral: float) -> Blobs:
        """Return a copy scaled to this integral."""
        return Blobs(self.positions_zyx_A, self.sigmas_A, self.weights * (integral / self.weights.sum()))


def joined(parts: list[Blobs]) -> Blobs:
    """Return all blobs of several densities as one."""
    return Blobs(
        np.concatenate([part.positions_zyx_A for part in parts]),
        np.concatenate([part.sigmas_A for part in parts]),
        np.concatenate([part.weights for part in parts]),
    )


def with_semi_axes(blobs: Blobs, semi_axes_A: tuple[float, float, float]) -> Blobs:
    """Stretch positions along z, y, x so that the ellipsoid of equal second moments has these semi-axes.

    A solid ellipsoid with semi-axis ``a`` has the second moment ``a**2 / 5`` along it. The blobs keep their width,
    so only the positions are stretched.

    Raises
    ------
    ValueError
        A semi-axis is smaller than the blobs themselves.
    """
    centred = blobs.centred()
    share = centred.weights / centred.weights.sum()
    target = np.asarray(semi_axes_A) ** 2 / 5.0 - float(share @ centred.sigmas_A**2)
    if (target <= 0).any():
        raise ValueError(f"semi-axes {semi_axes_A} A are smaller than the blobs")
    scale = np.sqrt(target / (share @ centred.positions_zyx_A**2))
    return Blobs(centred.positions_zyx_A * scale, centred.sigmas_A, centred.weights)


def random_rotation(rng: np.random.Generator) -> Array:
    """Draw a rotation matrix uniformly, from a uniform unit quaternion (Shoemake 1992)."""
    quaternion = rng.standard_normal(4)
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def random_upright(rng: np.random.Generator, normal_zyx: Array) -> Array:
    """Draw a rotation matrix that turns the z axis to a unit vector, and anyhow about it."""
    across = np.cross(normal_zyx, random_direction(rng))
    across /= np.linalg.norm(across)
    return np.stack([normal_zyx, across, np.cross(normal_zyx, across)], axis=1)


def random_direction(rng: np.random.Generator) -> Array:
    """Draw a unit vector uniformly on the sphere, z, y, x."""
    vector = rng.standard_normal(3)
    return np.asarray(vector / np.linalg.norm(vector))


def sphere_points(n_points: int) -> Array:
    """Spread points evenly over the unit sphere (Fibonacci lattice), ``(n_points, 3)``."""
    index = np.arange(n_points) + 0.5
    polar = np.arccos(1.0 - 2.0 * index / n_points)
    azimuth = np.pi * (1.0 + np.sqrt(5.0)) * index
    return np.stack([np.cos(polar), np.sin(polar) * np.sin(azimuth), np.sin(polar) * np.cos(azimuth)], axis=1)


def add_blobs(volume_zyx: Volume, blobs: Blobs, centre_zyx_A: Array, voxel_A: float) -> None:
    """Add a molecule to a volume in place; what lies outside is left out.

    Parameters
    ----------
    volume_zyx
        ``(D, H, W)`` float32, density per voxel.
    centre_zyx_A
        Where the molecule's origin goes, from the volume's corner: voxel ``i`` has its centre at ``i + 0.5``.
    voxel_A
        Edge of a voxel, Angstrom.
    """
    centres = (blobs.positions_zyx_A + centre_zyx_A) / voxel_A - 0.5
    sigmas = width_on_grid(blobs.sigmas_A, voxel_A) / voxel_A
    reach = CUTOFF_SIGMAS * sigmas[:, None]
    low = np.maximum(np.floor((centres - reach).min(axis=0)).astype(int), 0)
    high = np.minimum(np.ceil((centres + reach).max(axis=0)).astype(int) + 1, volume_zyx.shape)
    if (low >= high).any():
        return
    profiles = [_profiles(centres[:, axis], sigmas, int(low[axis]), int(high[axis])) for axis in range(3)]
    along_z, along_y, along_x = profiles
    along_z = along_z * blobs.weights[:, None].astype(np.float32)
    planes = (along_z[:, :, None] * along_y[:, None, :]).reshape(len(sigmas), -1)
    box = (planes.T @ along_x).reshape(along_z.shape[1], along_y.shape[1], along_x.shape[1])
    volume_zyx[low[0] : high[0], low[1] : high[1], low[2] : high[2]] += box


def width_on_grid(sigma_A: Array, voxel_A: float) -> Array:
    """Return the widths that Gaussians have in voxels of some size: coarser ones than the competition's blur them.

    What is :data:`NARROWEST_VOX` wide there stays so many voxels wide, as if it were smoothed before it is binned.
    """
    if voxel_A <= VOXEL_A:
        return sigma_A
    return np.sqrt(sigma_A**2 + NARROWEST_VOX**2 * (voxel_A**2 - VOXEL_A**2))


def _profiles(centres: Array, sigmas: Array, low: int, high: int) -> npt.NDArray[np.float32]:
    """Return ``(N, high - low)``: each blob's normalised Gaussian along one axis."""
    distance = (np.arange(low, high)[None, :] - centres[:, None]) / sigmas[:, None]
    values = np.exp(-0.5 * distance**2) / (np.sqrt(2 * np.pi) * sigmas[:, None])
    return np.asarray(values, dtype=np.float32)
