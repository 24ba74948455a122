"""Large structures given by their surfaces: vesicles (bilayers) and the edge of the support film."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tomopoint.simulate.density import Array, Volume, width_on_grid
from tomopoint.simulate.options import VOXEL_A

LEAFLET_DISTANCE_A = 40.0
"""Distance of the two head group layers of a bilayer."""

LEAFLET_SIGMA_A = 8.0
MEMBRANE_CLEARANCE_A = 38.0
"""Nothing is placed nearer to a bilayer's middle than this."""

_MEMBRANE_GRAIN = 0.4
_FILM_GRAIN = 0.8
"""Voxel-wise spread of the density of membranes (proteins, lipid patches) and film, over its mean."""

_FILM_SOFTNESS_A = 12.0
_FILM_CLEARANCE_A = 40.0


@dataclass(frozen=True)
class Vesicle:
    """A closed bilayer.

    Attributes
    ----------
    centre_zyx_A
        ``(3,)``, from the box's corner.
    semi_axes_zyx_A
        ``(3,)`` of the bilayer's middle surface.
    waves
        ``(K, 4)``: direction z, y, x times wave number, and amplitude, of gentle undulations.
    leaflet_density
        Peak density of one head group layer, per 10 A voxel.
    grain_seed
        Seed of its granular texture.
    """

    centre_zyx_A: Array
    semi_axes_zyx_A: Array
    waves: Array
    leaflet_density: float
    grain_seed: int

    def distance_A(self, points_zyx_A: Array) -> Array:
        """Signed distance of ``(..., 3)`` points from the middle surface, outside positive (to first order)."""
        relative = points_zyx_A - self.centre_zyx_A
        radial = np.maximum(np.sqrt(((relative / self.semi_axes_zyx_A) ** 2).sum(axis=-1)), 1e-6)
        slope = np.sqrt(((relative / self.semi_axes_zyx_A**2) ** 2).sum(axis=-1)) / radial
        direction = relative / np.maximum(np.linalg.norm(relative, axis=-1, keepdims=True), 1e-6)
        undulation = (np.sin(direction @ self.waves[:, :3].T) * self.waves[:, 3]).sum(axis=-1)
        return np.asarray((radial - 1.0 - undulation) / np.maximum(slope, 1e-6))

    def surface(self, direction_zyx: Array) -> tuple[Array, Array]:
        """Return the surface point in a direction from the centre, and the unit normal there."""
        undulation = float((np.sin(direction_zyx @ self.waves[:, :3].T) * self.waves[:, 3]).sum())
        reach = (1.0 + undulation) / np.linalg.norm(direction_zyx / self.semi_axes_zyx_A)
        normal = direction_zyx / self.semi_axes_zyx_A**2
        return self.centre_zyx_A + reach * direction_zyx, normal / np.linalg.norm(normal)


@dataclass(frozen=True)
class FilmEdge:
    """The rim of a hole in the support film: everything beyond a circle in the x-y plane, within a sheet in z.

    Attributes
    ----------
    centre_yx_A
        Centre of the hole.
    radius_A
        Radius of the hole.
    middle_z_A, half_thickness_A
        Where the sheet lies.
    density
        Mean density of the film, per 10 A voxel.
    grain_seed
        Seed of its granular texture.
    """

    centre_yx_A: Array
    radius_A: float
    middle_z_A: float
    half_thickness_A: float
    density: float
    grain_seed: int

    def contains(self, points_zyx_A: Array) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        """Tell which of ``(N, 3)`` points lie in the film or within a particle's breadth of it."""
        beyond = np.hypot(*(points_zyx_A[:, 1:] - self.centre_yx_A).T) > self.radius_A - _FILM_CLEARANCE_A
        inside = np.abs(points_zyx_A[:, 0] - self.middle_z_A) < self.half_thickness_A + _FILM_CLEARANCE_A
        return np.asarray(beyond & inside)


def draw_vesicle(rng: np.random.Generator, centre_zyx_A: Array, largest_A: float) -> Vesicle:
    """Draw a vesicle of radius 150-700 A, small ones more often; `largest_A` bounds its height."""
    radius = float(np.exp(rng.uniform(math.log(150.0), math.log(700.0))))
    axes = radius * rng.uniform(0.8, 1.15, 3)
    axes[0] = min(axes[0], largest_A)
    directions = rng.standard_normal((3, 3))
    numbers = rng.uniform(2.0, 4.5, (3, 1))
    directions *= numbers / np.linalg.norm(directions, axis=1, keepdims=True)
    waves = np.concatenate([directions, rng.uniform(0.005, 0.035, (3, 1))], axis=1)
    return Vesicle(centre_zyx_A, axes, waves, float(rng.uniform(7.0, 13.0)), int(rng.integers(2**31)))


def add_vesicle(volume_zyx: Volume, vesicle: Vesicle, voxel_A: float) -> None:
    """Add a bilayer's density to a volume in place, one plane at a time."""
    sigma = float(width_on_grid(np.asarray(LEAFLET_SIGMA_A), voxel_A))
    peak = vesicle.leaflet_density * (voxel_A / VOXEL_A) ** 3 * (LEAFLET_SIGMA_A / sigma)
    reach = vesicle.semi_axes_zyx_A * 1.12 + LEAFLET_DISTANCE_A + 4 * sigma
    low = np.maximum(np.floor((vesicle.centre_zyx_A - reach) / voxel_A).astype(int), 0)
    high = np.minimum(np.ceil((vesicle.centre_zyx_A + reach) / voxel_A).astype(int) + 1, volume_zyx.shape)
    if (low >= high).any():
        return
    y, x = ((np.arange(low[axis], high[axis]) + 0.5) * voxel_A for axis in (1, 2))
    rng = np.random.default_rng(vesicle.grain_seed)
    points = np.empty((len(y), len(x), 3))
    points[..., 1] = y[:, None]
    points[..., 2] = x[None, :]
    for plane in range(low[0], high[0]):
        points[..., 0] = (plane + 0.5) * voxel_A
        distance = vesicle.distance_A(points)
        leaflets = np.exp(-0.5 * ((np.abs(distance) - LEAFLET_DISTANCE_A / 2) / sigma) ** 2)
        grain = 1.0 + _MEMBRANE_GRAIN * rng.standard_normal(distance.shape, dtype=np.float32)
        volume_zyx[plane, low[1] : high[1], low[2] : high[2]] += peak * leaflets * grain


def draw_film_edge(rng: np.random.Generator, extent_zyx_A: Array, middle_z_A: float) -> FilmEdge:
    """Draw a film edge that cuts off one corner of the box: 250-1100 A along the diagonal, hole radius 0.5-1 um."""
    corner = np.array([float(rng.integers(2)), float(rng.integers(2))])
    inward = np.where(corner > 0.5, -1.0, 1.0) * rng.uniform(0.6, 1.4, 2)
    inward /= np.linalg.norm(inward)
    depth, radius = rng.uniform(250.0, 1100.0), rng.uniform(5000.0, 10000.0)
    centre = corner * extent_zyx_A[1:] + inward * (radius + depth)
    return FilmEdge(
        centre,
        radius,
        middle_z_A + rng.normal(0.0, 60.0),
        rng.uniform(50.0, 110.0),
        rng.uniform(4.0, 9.0),
        int(rng.integers(2**31)),
    )


def add_film_edge(volume_zyx: Volume, film: FilmEdge, voxel_A: float) -> None:
    """Add the film to a volume in place: a granular sheet with a soft, curved edge."""
    depth, height, width = volume_zyx.shape
    y, x = (np.arange(height) + 0.5) * voxel_A, (np.arange(width) + 0.5) * voxel_A
    beyond = np.hypot(y[:, None] - film.centre_yx_A[0], x[None, :] - film.centre_yx_A[1]) - film.radius_A
    rows, columns = np.nonzero(beyond > -3 * _FILM_SOFTNESS_A)
    if len(rows) == 0:
        return
    area = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    across = 1.0 / (1.0 + np.exp(np.clip(-beyond[area] / _FILM_SOFTNESS_A, -40, 40)))
    density = film.density * (voxel_A / VOXEL_A) ** 3
    rng = np.random.default_rng(film.grain_seed)
    for plane in range(depth):
        outside = abs((plane + 0.5) * voxel_A - film.middle_z_A) - film.half_thickness_A
        share = 1.0 / (1.0 + math.exp(min(max(outside / _FILM_SOFTNESS_A, -40.0), 40.0)))
        if share < 1e-3:
            continue
        grain = 1.0 + _FILM_GRAIN * rng.standard_normal(across.shape, dtype=np.float32)
        volume_zyx[plane][area] += density * share * across * grain
