"""Analytic density models of the six labelled particles.

Shapes and symmetries are those of the molecules; integral, extent and radial shape are calibrated to public density
maps at 10 A per voxel (apo-ferritin 6PXM, beta-galactosidase 1F4A, 80S ribosome 6QZP, thyroglobulin 7N4Y, PP7
virus-like particle 8TUX; beta-amylase by its mass, 224 kDa). No map is needed to run it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from scipy.spatial.transform import Rotation

from tomopoint.simulate.density import Array, Blobs, joined, sphere_points, with_semi_axes

_MODEL_SEED = 20241105
"""Where a model is filled with irregular blobs, this fixes which: a molecule has one structure, for every user seed."""


@functools.cache
def analytic_shape(name: str) -> Blobs:
    """Return the density of a competition particle, centred, by its name.

    Raises
    ------
    KeyError
        Not one of the six.
    """
    build, integral = _MODELS[name]
    return build().with_integral(integral).centred()


def _apo_ferritin() -> Blobs:
    """24 subunits in octahedral symmetry, a hollow shell of radius 50 A."""
    # Three directions per subunit whose 72 copies lie far apart, at the inner, middle and outer side of the shell.
    unit = np.array([[-0.830, -0.111, 0.547], [0.247, -0.960, 0.130], [-0.741, 0.385, 0.550]])
    unit *= (np.array([46.0, 51.0, 56.0]) / np.linalg.norm(unit, axis=1))[:, None]
    positions = _orbit(unit, Rotation.create_group("O"))
    return Blobs(positions, np.full(len(positions), 9.5), np.ones(len(positions)))


def _virus_like_particle() -> Blobs:
    """PP7 capsid: 90 protein dimers in icosahedral (T=3) symmetry about a thin inner shell of RNA."""
    group = Rotation.create_group("I")
    two_fold = np.unique(np.round(_orbit(np.array([[0.0, 0.0, 1.0]]), group), 6), axis=0)
    quasi_two_fold = _orbit(_unit_rows(np.array([[0.36, 0.22, 1.0]])), group)
    axes = np.concatenate([two_fold, quasi_two_fold])
    # Each dimer: two layers across the shell, and two lobes along a fixed direction within it.
    across = _unit_rows(np.cross(axes, [0.57, 0.21, 0.79]))
    capsid = np.concatenate([r * _unit_rows(axes + s * across) for r in (122.0, 138.0) for s in (-0.12, 0.12)])
    rna = 70.0 * sphere_points(60)
    share = 0.955
    weights = np.concatenate([np.full(len(capsid), share / len(capsid)), np.full(len(rna), (1 - share) / len(rna))])
    sigmas = np.concatenate([np.full(len(capsid), 10.0), np.full(len(rna), 10.0)])
    return Blobs(np.concatenate([capsid, rna]), sigmas, weights)


def _ribosome() -> Blobs:
    """80S: a round large and a flat small subunit, RNA-dense cores under a rim of protein, fine texture."""
    rng = np.random.default_rng(_MODEL_SEED)
    large = _filled_ellipsoid(rng, (100.0, 108.0, 116.0), spacing_A=26.0) + np.array([0.0, 0.0, -38.0])
    small = _filled_ellipsoid(rng, (62.0, 78.0, 112.0), spacing_A=26.0)[:, [0, 2, 1]] + np.array([0.0, 8.0, 78.0])
    positions = np.concatenate([large, small])
    # RNA scatters about 1.5 times as strongly as protein; it fills the core of either subunit.
    depth = np.concatenate([_depth(large), _depth(small)])
    rna = np.where(depth < 0.72, 1.5, 1.0)
    texture = np.exp(rng.normal(0.0, 0.25, len(positions)))
    blobs = Blobs(positions, np.full(len(positions), 12.4), rna * texture)
    return with_semi_axes(_principal(blobs), (103.0, 116.0, 148.0))


def _thyroglobulin() -> Blobs:
    """C2 dimer of two elongated, bent lobes."""
    rng = np.random.default_rng(_MODEL_SEED + 1)
    arm = _filled_ellipsoid(rng, (38.0, 44.0, 66.0), spacing_A=19.0) + np.array([0.0, 16.0, 62.0])
    tip = _filled_ellipsoid(rng, (24.0, 30.0, 30.0), spacing_A=19.0) + np.array([14.0, -26.0, 84.0])
    chain = np.concatenate([arm, tip])
    texture = np.exp(rng.normal(0.0, 0.3, len(chain)))
    turned = chain * np.array([1.0, -1.0, -1.0])
    positions = np.concatenate([chain, turned])
    blobs = Blobs(positions, np.full(len(positions), 9.5), np.concatenate([texture, texture]))
    return with_semi_axes(_principal(blobs), (54.0, 59.0, 124.0))


def _beta_galactosidase() -> Blobs:
    """D2 tetramer, 174 x 134 x 82 A."""
    rng = np.random.default_rng(_MODEL_SEED + 2)
    subunit = _filled_ellipsoid(rng, (31.0, 36.0, 44.0), spacing_A=22.0) + np.array([8.0, 32.0, 44.0])
    return _d2_tetramer(rng, subunit, sigma_A=11.0, semi_axes_A=(41.0, 67.0, 87.0))


def _beta_amylase() -> Blobs:
    """D2 tetramer of half the mass of beta-galactosidase, 130 x 120 x 70 A."""
    rng = np.random.default_rng(_MODEL_SEED + 3)
    subunit = _filled_ellipsoid(rng, (26.0, 28.0, 28.0), spacing_A=16.0) + np.array([4.0, 30.0, 33.0])
    return _d2_tetramer(rng, subunit, sigma_A=8.5, semi_axes_A=(35.0, 60.0, 65.0))


def _d2_tetramer(
    rng: np.random.Generator, subunit: Array, sigma_A: float, semi_axes_A: tuple[float, float, float]
) -> Blobs:
    texture = np.exp(rng.normal(0.0, 0.25, len(subunit)))
    signs = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=np.float64)
    parts = [Blobs(subunit * sign, np.full(len(subunit), sigma_A), texture) for sign in signs]
    return with_semi_axes(joined(parts), semi_axes_A)


def _filled_ellipsoid(rng: np.random.Generator, semi_axes_A: tuple[float, float, float], spacing_A: float) -> Array:
    """Fill an ellipsoid with irregular points no closer than about `spacing_A` (dart throwing), z, y, x."""
    axes = np.asarray(semi_axes_A)
    darts = rng.uniform(-1.0, 1.0, (12000, 3))
    darts = darts[(darts**2).sum(axis=1) <= 1.0] * axes
    kept: list[Array] = []
    for dart in darts:
        if not kept or ((np.asarray(kept) - dart) ** 2).sum(axis=1).min() > spacing_A**2:
            kept.append(dart)
    return np.asarray(kept)


def _depth(points: Array) -> Array:
    """Return 0 at the centre of a cloud of points and about 1 at its rim, per point."""
    centred = points - points.mean(axis=0)
    whitened = centred / (centred.std(axis=0) * np.sqrt(5.0))
    return np.asarray(np.linalg.norm(whitened, axis=1))


def _principal(blobs: Blobs) -> Blobs:
    """Turn a density so that its principal axes are z, y, x, the longest along x."""
    centred = blobs.centred()
    _, axes = np.linalg.eigh(centred.covariance_A2())
    if np.linalg.det(axes) < 0:
        axes[:, 0] *= -1.0  # a rotation, not a mirror image
    return centred.rotated(axes.T)


def _orbit(points: Array, group: Rotation) -> Array:
    return np.concatenate([rotation.apply(points) for rotation in group])


def _unit_rows(vectors: Array) -> Array:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


_MODELS: dict[str, tuple[Callable[[], Blobs], float]] = {
    "apo-ferritin": (_apo_ferritin, 12688.0),
    "beta-amylase": (_beta_amylase, 6400.0),
    "beta-galactosidase": (_beta_galactosidase, 13243.0),
    "ribosome": (_ribosome, 93011.0),
    "thyroglobulin": (_thyroglobulin, 15112.0),
    "virus-like-particle": (_virus_like_particle, 77034.0),
}
"""Builder and integral (arbitrary unit of the maps, summed over 10 A voxels) of each particle."""
