"""Which slabs of a tomogram the report shows, and what lies in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from tomopoint.data.tables import COORDINATES
from tomopoint.data.tomograms import Tomogram
from tomopoint.evaluation.matching import match_points
from tomopoint.evaluation.score import DISTANCE_MULTIPLIER
from tomopoint.pipeline import Particle

Floats = npt.NDArray[np.float64]

SLAB_A = 80.0
"""Thickness averaged into one picture: enough to see particles through the noise, less than the smallest diameter."""

REACH_A = 100.0
"""Centres up to this far from the slab's middle are drawn: the particle then still touches the slab."""

Marks = Mapping[str, Mapping[str, Floats]]
"""``"found"``, ``"wrong"``, ``"missed"`` -> particle -> places in voxels: picks that reach a true centre, picks that
reach none, and centres that no pick reaches."""


@dataclass(frozen=True)
class SliceView:
    """One slab and the marks on it.

    Attributes
    ----------
    title
        Run, slices and counts, in words.
    image_yx
        ``(H, W)``: mean over the slab.
    voxel_A
        Edge of a voxel, Angstrom.
    marks
        ``(N, 2)`` x, y in voxels.
    """

    title: str
    image_yx: npt.NDArray[np.float32]
    voxel_A: float
    marks: Marks


def judge_picks(
    truth: Mapping[str, Floats], picks: pd.DataFrame, particles: Sequence[Particle], voxel_A: float
) -> Marks:
    """Sort the picks of one run into found and wrong, and name the centres that were missed.

    Parameters
    ----------
    truth
        Particle -> ``(N, 3)`` x, y, z in Angstrom.
    picks
        ``particle_type, x, y, z`` of this run.
    particles
        Whose radii decide.
    voxel_A
        Edge of a voxel, Angstrom.

    Returns
    -------
    Marks
        ``(N, 3)`` x, y, z.
    """
    judged: dict[str, dict[str, Floats]] = {"found": {}, "wrong": {}, "missed": {}}
    for particle in particles:
        centres = truth.get(particle.name, np.zeros((0, 3)))
        own = picks.loc[picks["particle_type"] == particle.name, list(COORDINATES)].to_numpy(dtype=np.float64)
        match = match_points(centres, own, particle.radius_A * DISTANCE_MULTIPLIER)
        judged["found"][particle.name] = own[match.hits] / voxel_A
        judged["wrong"][particle.name] = own[~match.hits] / voxel_A
        judged["missed"][particle.name] = centres[~match.found] / voxel_A
    return judged


def choose_slabs(tomogram: Tomogram, judged: Marks, run: str, count: int = 2) -> list[SliceView]:
    """Return the slab with most marks, then of those that share no mark with it the fullest, and so on; by depth."""
    depth, reach_vox = tomogram.volume_zyx.shape[0], REACH_A / tomogram.voxel_A
    marks = np.concatenate([points[:, 2] for part in judged.values() for points in part.values()])
    middles = np.arange(depth)
    n_near = (np.abs(marks[None, :] - (middles[:, None] + 0.5)) <= reach_vox).sum(axis=1)
    chosen: list[int] = []
    free = np.ones(depth, dtype=bool)
    while free.any() and len(chosen) < count:
        fullest = np.flatnonzero(free & (n_near == n_near[free].max()))
        # Of equally full slabs the one in the middle: no preference for an end of the tomogram.
        chosen.append(int(fullest[len(fullest) // 2]))
        free &= np.abs(middles - chosen[-1]) > 2 * reach_vox
    return [_view(tomogram, judged, run, middle) for middle in sorted(chosen)]


def _view(tomogram: Tomogram, judged: Marks, run: str, middle: int) -> SliceView:
    depth = tomogram.volume_zyx.shape[0]
    thickness, reach_vox = max(1, round(SLAB_A / tomogram.voxel_A)), REACH_A / tomogram.voxel_A
    low = max(0, min(middle - thickness // 2, depth - thickness))
    high = min(depth, low + thickness)
    near = {
        kind: {name: points[np.abs(points[:, 2] - (middle + 0.5)) <= reach_vox, :2] for name, points in part.items()}
        for kind, part in judged.items()
    }
    listing = ", ".join(f"{sum(map(len, part.values()))} {kind}" for kind, part in near.items())
    title = f"{run}, slices {low}-{high - 1} of {depth}: {listing}"
    return SliceView(title, tomogram.volume_zyx[low:high].mean(axis=0), tomogram.voxel_A, near)
