"""Colours of particle kinds, in the viewer and in files that have any."""

from __future__ import annotations

from collections.abc import Iterable

COLOURS = (
    *((0.90, 0.62, 0.0), (0.34, 0.71, 0.91), (0.0, 0.62, 0.45), (0.94, 0.89, 0.26)),
    *((0.0, 0.45, 0.70), (0.84, 0.37, 0.0), (0.80, 0.47, 0.65)),
)
"""Of Okabe and Ito, red, green, blue, apart for every kind of colour vision: orange, sky, green, yellow, blue,
vermilion, purple."""


def colours_of(names: Iterable[str]) -> dict[str, tuple[float, float, float]]:
    """Return a colour for each particle, in the order of their names."""
    return {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(sorted(set(names)))}
