"""How copies of one molecule differ: conformations, lost parts, damage by the beam.

A network that has seen one rigid shape learns that shape; the copies in a cell are a crowd. What is drawn here is the
large and slow part of that: it needs no force field, only the shape.
"""

from __future__ import annotations

import numpy as np

from tomopoint.simulate.density import Array, Blobs

STRAIN = 0.02
"""Amplitude of the smooth deformation, per axis, over the molecule's radius.

Half of the six is known for motions of 2-6 A rms (ribosomes ratchet and turn their heads by 5-10 degrees,
thyroglobulin's arms swing, capsids flatten in thin ice), the others for 1-2 A. Two per cent is 1.3 A for
beta-galactosidase, 2.5 A for a ribosome, and, because elongated molecules bend, more at the tips of thyroglobulin.
"""

INCOMPLETE_SHARE = 0.15
"""Share of copies that lack a part: subunits dissociate, cofactors of ribosomes come and go, grids tear molecules."""

LOST_MASS = (0.03, 0.12)
"""How much of its mass an incomplete copy lacks: up to one of the eight to ten domains a complex of this size has."""

DAMAGE_WEIGHT = 0.12
"""Spread of the logarithm of blob weights: what 120 electrons per square Angstrom leave of a domain differs."""

DAMAGE_A = 2.5
"""Spread of blob positions, per axis, Angstrom: side chains and loops, and the coarse grain of the blobs themselves."""


def varied_copy(rng: np.random.Generator, blobs: Blobs, variety: float) -> Blobs:
    """Draw one copy of a molecule, in its standard orientation, about its own centre of mass.

    An incomplete copy is centred on what remains, for that is what an annotator sees and a picker can find.

    Parameters
    ----------
    blobs
        The molecule.
    variety
        Scales all widths: 0, every copy is `blobs`; 1, as the constants of this module argue; more is allowed.

    Returns
    -------
    Blobs
        With the integral of `blobs`, less what was lost.
    """
    if variety == 0:
        return blobs.centred()
    kept = np.full(blobs.weights.shape, True)
    if rng.random() < INCOMPLETE_SHARE * variety:
        kept &= ~_outer_part(rng, blobs, min(variety, 1.0) * float(rng.uniform(*LOST_MASS)))
    moved = blobs.positions_zyx_A + smooth_displacement(rng, blobs, STRAIN * variety)
    moved = moved + rng.normal(0.0, DAMAGE_A * variety, moved.shape)
    damaged = blobs.weights * np.exp(rng.normal(0.0, DAMAGE_WEIGHT * variety, blobs.weights.shape))
    remaining = float(blobs.weights[kept].sum())
    return Blobs(moved[kept], blobs.sigmas_A[kept], damaged[kept]).with_integral(remaining).centred()


def smooth_displacement(rng: np.random.Generator, blobs: Blobs, strain: float) -> Array:
    """Draw a displacement of every blob, ``(N, 3)``, that varies slowly over the molecule.

    A polynomial of second degree in the position with normally distributed coefficients: its linear terms stretch and
    shear, its quadratic ones bend and twist. Positions count in radii of the solid sphere with the same radius of
    gyration, so a round molecule moves by about `strain` times that radius on each axis; the tips of an elongated one
    lie beyond it and bend further, as they do.
    """
    positions = blobs.centred().positions_zyx_A
    radius_A = float(np.sqrt(5.0 / 3.0 * np.trace(blobs.covariance_A2())))
    z, y, x = positions.T / radius_A
    modes = np.stack([z, y, x, z * z, y * y, x * x, z * y, y * x, x * z], axis=1)
    return np.asarray(modes @ rng.normal(0.0, strain * radius_A, (modes.shape[1], 3)))


def _outer_part(
    rng: np.random.Generator, blobs: Blobs, share: float
) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Choose the blobs around one at the surface that hold up to this share of the mass."""
    direction = rng.standard_normal(3)
    tip = blobs.positions_zyx_A[int(np.argmax(blobs.positions_zyx_A @ direction))]
    nearest_first = np.argsort(((blobs.positions_zyx_A - tip) ** 2).sum(axis=1))
    mass = np.cumsum(blobs.weights[nearest_first]) / blobs.weights.sum()
    lost = np.full(blobs.weights.shape, False)
    lost[nearest_first[mass <= share]] = True
    return lost
