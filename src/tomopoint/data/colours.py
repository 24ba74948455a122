"""Colours of particle kinds, wherever they have any: in files of other programs, the viewer and the report."""

from __future__ import annotations

from collections.abc import Iterable

COLOURS = (
    *((0.90, 0.62, 0.0), (0.34, 0.71, 0.91), (0.0, 0.62, 0.45), (0.94, 0.89, 0.26)),
    *((0.0, 0.45, 0.70), (0.84, 0.37, 0.0), (0.80, 0.47, 0.65)),
)
"""Of Okabe and Ito, red, green, blue, apart for every kind of colour vision: orange, sky, green, yellow, blue,
vermilion, purple."""


def colour_of(index: int) -> tuple[float, float, float]:
    """Return the colour of the particle at this place in the order of names."""
    return COLOURS[index % len(COLOURS)]


def hex_colour_of(index: int) -> str:
    """Return the same colour as a page writes it, ``#rrggbb``."""
    return "#" + "".join(f"{round(255 * part):02x}" for part in colour_of(index))


ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = map(hex_colour_of, range(len(COLOURS)))


def colours_of(names: Iterable[str]) -> dict[str, tuple[float, float, float]]:
    """Return a colour for each particle, in the order of their names."""
    return {name: colour_of(index) for index, name in enumerate(sorted(set(names)))}
