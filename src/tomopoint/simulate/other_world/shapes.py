"""How copies of a labelled particle differ here: stretched, twisted, bent, sharper or softer, and melted on one side.

These are the lowest normal modes of an elastic body, along axes that each copy draws for itself (Tama and Sanejouand
2001: few of them hold most of a molecule's motion).
"""

from __future__ import annotations

import math

import numpy as np

from tomopoint.simulate.density import Array, Blobs, random_rotation

STRETCH = 0.04
"""Spread of the strain along one axis; across it a copy narrows so that its volume stays."""

TWIST_DEG = 7.0
"""Spread of the turn about an axis per radius along it."""

BEND = 0.05
"""Spread of the sag of an axis over one radius, in radii."""

SOFTNESS = (0.85, 1.25)
"""Width of the density's falloff over the model's."""

MELTED_SHARE = 0.1
"""Share of copies that have lost structure on one side, as at the air-water interface (D'Imprima et al. 2019)."""

MELTED_MASS = (0.1, 0.3)
"""How much of it."""

_MELTING_WIDTH = 0.15
"""Of the border between what melted and what stayed, radii."""


def deformed_copy(rng: np.random.Generator, blobs: Blobs) -> Blobs:
    """Draw a copy of a molecule, its centre of mass at the origin, that may lack mass on one side.

    What melted away does not move the origin: a particle is where the whole of it was.
    """
    copy = deformed(rng, blobs)
    return melted(rng, copy, float(rng.uniform(*MELTED_MASS))) if rng.random() < MELTED_SHARE else copy


def deformed(rng: np.random.Generator, blobs: Blobs) -> Blobs:
    """Draw a smoothly deformed copy of the same mass, its centre of mass at the origin."""
    frame = random_rotation(rng)
    radius = radius_A(blobs)
    along, across, third = (blobs.centred().positions_zyx_A @ frame.T / radius).T
    strain = float(np.clip(rng.normal(0.0, STRETCH), -0.1, 0.1))
    along, across, third = along * (1 + strain), across / math.sqrt(1 + strain), third / math.sqrt(1 + strain)
    turn = math.radians(rng.normal(0.0, TWIST_DEG)) * along
    across, third = across * np.cos(turn) - third * np.sin(turn), across * np.sin(turn) + third * np.cos(turn)
    across = across + rng.normal(0.0, BEND) * along**2
    positions = radius * np.stack([along, across, third], axis=1) @ frame
    return Blobs(positions, blobs.sigmas_A * rng.uniform(*SOFTNESS), blobs.weights).centred()


def melted(rng: np.random.Generator, blobs: Blobs, share: float) -> Blobs:
    """Take `share` of the mass away from one side, softly."""
    direction = random_rotation(rng)[0]
    height = blobs.positions_zyx_A @ direction / radius_A(blobs)
    low, high = -3.0, 3.0
    for _ in range(40):  # the border's height, by bisection: what is kept grows with it
        border = (low + high) / 2
        kept = 1 / (1 + np.exp((height - border) / _MELTING_WIDTH))
        low, high = (border, high) if kept @ blobs.weights < (1 - share) * blobs.integral else (low, border)
    return Blobs(blobs.positions_zyx_A, blobs.sigmas_A, blobs.weights * kept)


def radius_A(blobs: Blobs) -> float:
    """Return the radius of the solid sphere with the same second moments."""
    return math.sqrt(5 / 3 * float(np.trace(blobs.covariance_A2())))


def in_pieces(blobs: Blobs, edge_A: float) -> list[tuple[Array, Blobs]]:
    """Cut a long or wide structure into cubes, each with its place: (centre, blobs about it)."""
    cubes = np.floor(blobs.positions_zyx_A / edge_A).astype(int)
    pieces = []
    for cube in np.unique(cubes, axis=0):
        here = (cubes == cube).all(axis=1)
        centre = (cube + 0.5) * edge_A
        pieces.append((centre, Blobs(blobs.positions_zyx_A[here] - centre, blobs.sigmas_A[here], blobs.weights[here])))
    return pieces
