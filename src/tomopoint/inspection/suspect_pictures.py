"""Small pictures of places that labels and networks contradict each other about."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd

from tomopoint.data.colours import ORANGE, SKY, VERMILION, YELLOW
from tomopoint.data.tomograms import Tomogram
from tomopoint.evaluation.page import Markup, escape
from tomopoint.evaluation.slices import CONTRAST, webp_of, webp_uri
from tomopoint.inspection.suspects import DISPLACED, NOT_FOUND, NOT_LABELLED, OTHER_PARTICLE
from tomopoint.pipeline import Particle
from tomopoint.progress import track

SHOWN_SUSPECTS = 60
"""Pictures in the page, the most doubtful first; about 3 kB each."""

WIDTH_RADII = 6.0
"""Edge of a picture, in radii of the particle: it, and its neighbours."""

THICKNESS_RADII = 1.0
"""Thickness of the slab that is averaged, in radii: the particle, and little above and below it."""

EDGE_PIXELS = 160

COLOURS = {NOT_FOUND: SKY, OTHER_PARTICLE: YELLOW, DISPLACED: ORANGE, NOT_LABELLED: VERMILION}

STYLE = (
    ".suspects{display:grid;grid-template-columns:repeat(auto-fill,minmax(165px,1fr));gap:12px}"
    ".suspects figure{margin:0;font-size:12px;line-height:1.35}"
    ".suspects .stage{width:160px;height:160px}.suspects circle{fill:none;stroke-width:2px}"
)


def suspect_pictures(
    suspects: pd.DataFrame, particles: Mapping[str, Particle], read: Callable[[str], Tomogram]
) -> Markup:
    """Return a picture for each of the first suspects; every tomogram is read once, one at a time.

    Parameters
    ----------
    suspects
        See :func:`tomopoint.inspection.suspects.find_suspects`.
    particles
        By name.
    read
        From a run's name to its tomogram.
    """
    shown = suspects.head(SHOWN_SUSPECTS)
    figures: dict[int, str] = {}
    for run, rows in track(list(shown.groupby("run", sort=True)), "pictures"):
        tomogram = read(str(run))
        limits = np.quantile(tomogram.volume_zyx[::4, ::4, ::4].astype(np.float64), CONTRAST)
        for index, row in rows.iterrows():
            particle = particles[row["particle"]]
            picture, centre = _cut(tomogram, row[["x", "y", "z"]].to_numpy(dtype=np.float64), particle, limits)
            figures[int(str(index))] = _figure(picture, centre, row, int(str(index)) + 1)
    cells = "".join(figures[index] for index in sorted(figures))
    return Markup(f'<style>{STYLE}</style><div class="suspects">{cells}</div>')


def _cut(
    tomogram: Tomogram, place_xyz_A: npt.NDArray[np.float64], particle: Particle, limits: npt.NDArray[np.float64]
) -> tuple[bytes, tuple[float, float]]:
    """Return a picture about a place, and where in it that place is: shares of its width and height, y downwards.

    At the faces of the tomogram the picture is moved inwards.
    """
    x, y, z = place_xyz_A / tomogram.voxel_A
    radius = particle.radius_A / tomogram.voxel_A
    depth, height, width = tomogram.volume_zyx.shape
    z_low, z_high = _window(z, THICKNESS_RADII * radius, depth)
    y_low, y_high = _window(y, WIDTH_RADII * radius, height)
    x_low, x_high = _window(x, WIDTH_RADII * radius, width)
    mean = tomogram.volume_zyx[z_low:z_high, y_low:y_high, x_low:x_high].mean(axis=0)
    black, white = limits.tolist()
    # A slab's mean varies less than its voxels: half of their range is all of its own.
    middle, half = (black + white) / 2, max((white - black) / 4, float(np.finfo(np.float32).tiny))
    grey = np.clip((mean - middle) / half * 127.5 + 127.5, 0, 255).astype(np.uint8)
    return webp_of(grey), ((x - x_low) / (x_high - x_low), 1 - (y - y_low) / (y_high - y_low))


def _window(centre: float, edge: float, size: int) -> tuple[int, int]:
    n = min(size, max(1, round(edge)))
    low = min(max(round(centre - n / 2), 0), size - n)
    return low, low + n


def _figure(picture: bytes, centre: tuple[float, float], row: pd.Series, rank: int) -> str:
    x, y = (share * EDGE_PIXELS for share in centre)
    radius = EDGE_PIXELS / WIDTH_RADII
    seen = f", seen: {row['seen']}" if row["seen"] and row["seen"] != row["particle"] else ""
    place = ", ".join(f"{row[axis]:.0f}" for axis in "xyz")
    said = f"{rank}. {row['run']}: {row['particle']}, {row['kind']}{seen}"
    return (
        f'<figure><div class="stage"><img src="{webp_uri(picture)}" alt="{escape(said)}">'
        f'<svg viewBox="0 0 {EDGE_PIXELS} {EDGE_PIXELS}" aria-hidden="true">'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" stroke="{COLOURS[row["kind"]]}"/></svg></div>'
        f"<figcaption>{escape(said)}<br>score {row['score']:.3f}, doubt {row['doubt']:.2f}<br>{place} A</figcaption>"
        "</figure>"
    )
