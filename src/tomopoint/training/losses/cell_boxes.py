"""Cells near points: what keeps assignment linear in memory.

Every quantity of the assignment vanishes beyond a few radii of a point, so only the box of cells around each point
is ever looked at. Points of one class share a box size and are handled together, a bounded number of cells at a
time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tomopoint.training.losses.points import FIRST_BORDER_LABEL, PointBatch

MAX_CELLS = 1 << 20
"""Cells (points times box) handled at once: about 60 MB of working memory in the assignment, whatever the batch."""


@dataclass(frozen=True)
class PointList:
    """The true particles of a batch without padding, in order of batch entry. G rows.

    Attributes
    ----------
    entry
        Shape (G,), int64: which entry of the batch.
    centre_zyx
        Shape (G,3), voxels.
    label
        Shape (G,), int64.
    sigma_vox
        Shape (G,): class radius times the entry's scale, voxels.
    """

    entry: Tensor
    centre_zyx: Tensor
    label: Tensor
    sigma_vox: Tensor

    @classmethod
    def of(cls, points: PointBatch, radii_vox: Tensor, border: bool = False) -> PointList:
        """List the particles in the crops, or those just outside (`border`), with radii from `radii_vox` (C,)."""
        chosen = points.labels <= FIRST_BORDER_LABEL if border else points.labels >= 0
        entry, row = torch.nonzero(chosen, as_tuple=True)
        label = FIRST_BORDER_LABEL - points.labels[entry, row] if border else points.labels[entry, row]
        sigma_vox = radii_vox[label] * points.scale[entry].to(radii_vox.dtype)
        return cls(entry, points.centres_zyx[entry, row].to(radii_vox.dtype), label, sigma_vox)

    def where(self, chosen: Tensor) -> PointList:
        """Return the rows where `chosen` (G,) is true."""
        return PointList(self.entry[chosen], self.centre_zyx[chosen], self.label[chosen], self.sigma_vox[chosen])

    def lie_in(self, size_zyx: Sequence[int]) -> Tensor:
        """Return (G,) bool: whether the centre lies in a crop of `size_zyx` voxels."""
        size = torch.tensor(size_zyx, dtype=self.centre_zyx.dtype, device=self.centre_zyx.device)
        return ((self.centre_zyx >= 0) & (self.centre_zyx < size)).all(dim=1)


@dataclass(frozen=True)
class CellBoxes:
    """Boxes of K cells, K = kz * ky * kx, around G' of the points.

    Attributes
    ----------
    point
        Shape (G',), int64: rows of the PointList.
    cell
        Shape (G',K), int64: flat index of each cell in the map (d,h,w). All cells lie in the map.
    from_point_vox
        From the point to the cell's anchor, one tensor per axis z, y, x, of shapes (G',kz,1,1), (G',1,ky,1) and
        (G',1,1,kx): they broadcast to the box.
    """

    point: Tensor
    cell: Tensor
    from_point_vox: tuple[Tensor, Tensor, Tensor]

    def squared_distance(self) -> Tensor:
        """Return the squared distances of anchors and points, (G',K), square voxels."""
        z, y, x = self.from_point_vox
        return (z**2 + y**2 + x**2).flatten(1)


def cell_boxes(points: PointList, reach_vox: Tensor, map_zyx: tuple[int, int, int], stride: int) -> Iterator[CellBoxes]:
    """Yield boxes that together hold every cell whose anchor is within `reach_vox` of a point.

    Parameters
    ----------
    points
        G points; they may lie outside the map.
    reach_vox
        Shape (G,). Points of one class share the box size that the largest of them needs.
    map_zyx
        Cells of the output map along z, y, x.
    stride
        Voxels per cell.
    """
    labels, reaches = points.label.tolist(), reach_vox.tolist()
    for label in sorted(set(labels)):
        rows = [row for row, other in enumerate(labels) if other == label]
        # The cell of the point is at most half a cell off, so this many on each side reach everything.
        half = int(max(reaches[row] for row in rows) / stride + 0.5)
        box_zyx = tuple(min(2 * half + 1, n_cells) for n_cells in map_zyx)
        n_at_once = max(1, MAX_CELLS // (box_zyx[0] * box_zyx[1] * box_zyx[2]))
        for start in range(0, len(rows), n_at_once):
            chosen = torch.tensor(rows[start : start + n_at_once], device=points.entry.device)
            yield _boxes(chosen, points.centre_zyx[chosen], box_zyx, map_zyx, stride)


def _boxes(
    point: Tensor, centre_zyx: Tensor, box_zyx: tuple[int, ...], map_zyx: tuple[int, int, int], stride: int
) -> CellBoxes:
    indices, from_point = [], []
    for axis, (size, n_cells) in enumerate(zip(box_zyx, map_zyx, strict=True)):
        first = torch.floor(centre_zyx[:, axis] / stride).to(torch.int64) - size // 2
        # A box that would leave the map is moved back into it; it is as long as the map or still covers its reach.
        index = first.clamp(0, n_cells - size)[:, None] + torch.arange(size, device=point.device)
        shape = [len(point), 1, 1, 1]
        shape[axis + 1] = size
        indices.append(index.view(shape))
        from_point.append(((index + 0.5) * stride - centre_zyx[:, axis, None]).view(shape))
    _, height, width = map_zyx
    cell = (indices[0] * height + indices[1]) * width + indices[2]
    return CellBoxes(point, cell.flatten(1), (from_point[0], from_point[1], from_point[2]))
