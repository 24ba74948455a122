"""Task-aligned assignment of output cells to particles (TOOD, Feng et al. 2021), for points.

The similarity of two points is ``exp(-d^2 / (2 sigma^2))`` with sigma the radius of the particle's class in voxels
(the object keypoint similarity of COCO, Lin et al. 2014). For a particle g of class c and a cell a:

* alignment ``t = s^alpha * u^beta``; s the cell's score for c, u the similarity of the cell's predicted centre to g;
* candidates are the cells whose anchor has a similarity to g above `min_anchor_similarity`;
* the `topk` candidates of highest alignment, of all strides that the network predicts at, are claimed by g; of
  several claims on one cell the one with the highest u holds;
* the cell's target score for c is ``t / max t * max u``, the maxima over the cells that g kept: its best cell is
  asked for exactly its similarity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from math import prod

import torch
from torch import Tensor

from tomopoint.training.losses.cell_boxes import CellBoxes, PointList, cell_boxes
from tomopoint.training.options.losses import AssignmentOptions

SMALLEST_ALIGNMENT = 1e-9
"""Added to the largest alignment before division, as in TOOD: a particle whose every alignment underflows gets targets
of zero and no division by zero."""


@dataclass(frozen=True)
class Assignment:
    """Cells assigned to particles, P of them; each (entry, cell) occurs at most once. No gradient.

    Attributes
    ----------
    entry, cell, label
        Shape (P,), int64: entry of the batch, flat index of the cell in the map, class.
    point
        Shape (P,), int64: row of the PointList.
    target
        Shape (P,): target score.
    """

    entry: Tensor
    cell: Tensor
    label: Tensor
    point: Tensor
    target: Tensor


@dataclass(frozen=True)
class _Claims:
    point: Tensor
    cell: Tensor
    alignment: Tensor
    similarity: Tensor


@dataclass(frozen=True)
class LevelMaps:
    """What a network says at one stride.

    Attributes
    ----------
    logits
        Class logits (B,C,d,h,w), float32 or float64.
    offsets_vox
        Predicted offsets (B,3,d,h,w), channels z, y, x, of the same type.
    stride
        Voxels per cell.
    """

    logits: Tensor
    offsets_vox: Tensor
    stride: int

    @property
    def map_zyx(self) -> tuple[int, int, int]:
        """Cells along z, y, x."""
        return self.logits.shape[2], self.logits.shape[3], self.logits.shape[4]

    @property
    def n_cells(self) -> int:
        """Of one entry of the batch."""
        return prod(self.map_zyx)


@torch.no_grad()
def assign(levels: Sequence[LevelMaps], points: PointList, options: AssignmentOptions) -> list[Assignment]:
    """Assign cells to particles: of all levels together, for a particle knows cells and no levels.

    Working memory is bounded by the cells near one particle (see `neighbours`), whatever the number of particles.

    Parameters
    ----------
    levels
        Of the same crops.
    points
        True particles; none at all is legal.

    Returns
    -------
    list of Assignment
        Of each level, its cells counted in its own map.
    """
    reach_vox = points.sigma_vox * options.reach_sigmas
    first_cells = [0, *accumulate(level.n_cells for level in levels)]
    found = [
        replace(claims, cell=claims.cell + first)
        for level, first in zip(levels, first_cells, strict=False)
        for near in cell_boxes(points, reach_vox, level.map_zyx, level.stride)
        for claims in [_claim(level.logits, level.offsets_vox, points, near, options)]
    ]
    if not found:
        none = torch.zeros(0, dtype=torch.int64, device=points.entry.device)
        return [Assignment(none, none, none, none, level.logits.new_zeros(0)) for level in levels]
    names = ("point", "cell", "alignment", "similarity")
    claims = _Claims(*(torch.cat([getattr(claim, name) for claim in found]) for name in names))
    if len(levels) > 1:
        claims = _best_of_each(claims, options.topk)
    assigned = _targets(_settle(claims, points.entry[claims.point] * first_cells[-1] + claims.cell), points)
    return [_of_level(assigned, first, last) for first, last in pairwise(first_cells)]


def _best_of_each(claims: _Claims, count: int) -> _Claims:
    """Keep the best claims of every particle, `count` at most; of equal ones the earlier."""
    best_first = torch.argsort(claims.alignment, descending=True, stable=True)
    order = best_first[torch.argsort(claims.point[best_first], stable=True)]
    point = claims.point[order]
    is_first = torch.ones_like(point, dtype=torch.bool)
    is_first[1:] = point[1:] != point[:-1]
    position = torch.arange(len(point), device=point.device)
    rank = position - position.masked_fill(~is_first, 0).cummax(0).values
    kept = order[rank < count].sort().values
    return _Claims(claims.point[kept], claims.cell[kept], claims.alignment[kept], claims.similarity[kept])


def _of_level(assigned: Assignment, first: int, last: int) -> Assignment:
    """Return what is assigned of one level's cells, counted from its first."""
    own = (assigned.cell >= first) & (assigned.cell < last)
    return Assignment(
        assigned.entry[own], assigned.cell[own] - first, assigned.label[own], assigned.point[own], assigned.target[own]
    )


def _claim(
    logits: Tensor, offsets_vox: Tensor, points: PointList, near: CellBoxes, options: AssignmentOptions
) -> _Claims:
    """Return the claims of the particles of one neighbourhood."""
    entry, label = points.entry[near.point, None], points.label[near.point, None]
    variance = points.sigma_vox[near.point, None] ** 2
    candidate = near.squared_distance() < variance * options.reach_sigmas**2
    flat_offsets = offsets_vox.flatten(2)
    squared = torch.zeros_like(near.cell, dtype=logits.dtype)
    for axis, from_point in enumerate(near.from_point_vox):
        offset = flat_offsets[entry, axis, near.cell]
        squared += (offset.view(len(offset), *_box(near)) + from_point).flatten(1) ** 2
    similarity = torch.exp(-squared / (2 * variance))
    score = torch.sigmoid(logits.flatten(2)[entry, label, near.cell])
    alignment = (score**options.alpha * similarity**options.beta).masked_fill(~candidate, -1.0)
    best, column = alignment.topk(min(options.topk, alignment.shape[1]), dim=1)
    kept = best >= 0
    return _Claims(
        point=near.point[:, None].expand_as(best)[kept],
        cell=near.cell.gather(1, column)[kept],
        alignment=best[kept],
        similarity=similarity.gather(1, column)[kept],
    )


def _box(near: CellBoxes) -> tuple[int, int, int]:
    z, y, x = near.from_point_vox
    return z.shape[1], y.shape[2], x.shape[3]


def _settle(claims: _Claims, key: Tensor) -> _Claims:
    """Of the claims on one cell (equal `key`) keep that of highest similarity, of equal ones the first particle's."""
    _, group = torch.unique(key, return_inverse=True)
    n_groups = int(group.max()) + 1 if len(group) else 0
    highest = claims.similarity.new_full((n_groups,), -1.0).scatter_reduce(0, group, claims.similarity, "amax")
    wins = claims.similarity == highest[group]
    never = torch.iinfo(torch.int64).max
    first = torch.full((n_groups,), never, device=key.device).scatter_reduce(
        0, group, claims.point.masked_fill(~wins, never), "amin"
    )
    wins &= claims.point == first[group]
    return _Claims(claims.point[wins], claims.cell[wins], claims.alignment[wins], claims.similarity[wins])


def _targets(claims: _Claims, points: PointList) -> Assignment:
    def highest(values: Tensor) -> Tensor:
        zeros = values.new_zeros(len(points.label))
        return zeros.scatter_reduce(0, claims.point, values, "amax")[claims.point]

    target = claims.alignment / (highest(claims.alignment) + SMALLEST_ALIGNMENT) * highest(claims.similarity)
    return Assignment(points.entry[claims.point], claims.cell, points.label[claims.point], claims.point, target)
