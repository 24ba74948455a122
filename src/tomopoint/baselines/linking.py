"""Boxes of slices linked over z into points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from scipy.stats import trim_mean

from tomopoint.baselines.found import Floats, Found
from tomopoint.baselines.recipe import LinkOptions

TRIMMED = 0.25
"""Share of a point's boxes, lowest and highest scored, that has no part in its score."""


@dataclass(frozen=True)
class SliceBoxes:
    """Boxes of all slices of a tomogram.

    Attributes
    ----------
    slices
        ``(N,)`` int64, index of the slice along z.
    boxes_yxyx
        ``(N, 4)`` float64, lower y, lower x, upper y, upper x, voxels.
    labels
        ``(N,)`` int64, class.
    scores
        ``(N,)`` float64 in [0, 1].
    """

    slices: npt.NDArray[np.int64]
    boxes_yxyx: Floats
    labels: npt.NDArray[np.int64]
    scores: Floats


@dataclass
class _Chain:
    """Boxes that are taken for one particle so far: their indices, and the slices of the first and the last."""

    first: int
    last: int
    boxes: list[int] = field(default_factory=list)


def link_boxes(found: SliceBoxes, options: LinkOptions, diameters_vox: Sequence[float]) -> Found:
    """Link boxes of each class over z into points.

    Slice by slice, every box goes on with at most one chain of boxes of its class, and every chain with at most one
    box, so that the sum of overlaps with the chains' last boxes is largest. The point of a chain is the mean of its
    boxes' centres, weighted by score; its score see :class:`LinkOptions`.

    Parameters
    ----------
    found
        Boxes of all slices.
    options
        How they are linked.
    diameters_vox
        Of the spheres that boxes were learnt from, per class.
    """
    parts = []
    for label, diameter in enumerate(diameters_vox):
        own = np.flatnonzero(found.labels == label)
        chains = _chains(found.slices[own], found.boxes_yxyx[own], options, longest=options.longest * diameter)
        if chains:
            places = [own[chain.boxes] for chain in chains]
            points = np.stack([_centre(found, place) for place in places])
            scores = np.array([_score(found.scores[place], options.saturation * diameter) for place in places])
            parts.append(Found(points, np.full(len(chains), label, dtype=np.int64), scores))
    return Found.joined(parts)


def _chains(slices: npt.NDArray[np.int64], boxes_yxyx: Floats, options: LinkOptions, longest: float) -> list[_Chain]:
    chains: list[_Chain] = []
    for z in np.unique(slices).tolist():
        own = np.flatnonzero(slices == z)
        growing = [c for c in chains if z - c.last <= options.gap + 1 and z - c.first < longest]
        overlaps = overlap_of(np.array([boxes_yxyx[c.boxes[-1]] for c in growing]).reshape(-1, 4), boxes_yxyx[own])
        taken = set()
        for chain, box in zip(*linear_sum_assignment(overlaps, maximize=True), strict=True):
            if overlaps[chain, box] >= options.least_overlap:
                growing[chain].boxes.append(int(own[box]))
                growing[chain].last = z
                taken.add(int(own[box]))
        chains += [_Chain(z, z, [box]) for box in own.tolist() if box not in taken]
    return chains


def _centre(found: SliceBoxes, place: npt.NDArray[np.int64]) -> Floats:
    """Return z, y, x of a chain, voxels; the middle of slice i lies at ``i + 0.5``."""
    boxes = found.boxes_yxyx[place]
    centres = np.column_stack([found.slices[place] + 0.5, (boxes[:, :2] + boxes[:, 2:]) / 2])
    centre: Floats = np.average(centres, axis=0, weights=found.scores[place])
    return centre


def _score(scores: Floats, enough: float) -> float:
    return float(trim_mean(scores, TRIMMED) * -np.expm1(-len(scores) / enough))


def overlap_of(first_yxyx: Floats, second_yxyx: Floats) -> Floats:
    """Return the intersection over union of every box of the first ``(N, 4)`` with every one of the second."""
    low = np.maximum(first_yxyx[:, None, :2], second_yxyx[None, :, :2])
    high = np.minimum(first_yxyx[:, None, 2:], second_yxyx[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=-1)
    first, second = ((boxes[:, 2:] - boxes[:, :2]).prod(axis=-1) for boxes in (first_yxyx, second_yxyx))
    overlap: Floats = common / np.maximum(first[:, None] + second[None] - common, np.finfo(np.float64).tiny)
    return overlap
