"""Views of a volume (flips and quarter turns about z) for test-time averaging, and the way back for maps and offsets.

Written with flips and transpositions of whole axes only, so that they can stand inside an exported graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tomopoint.errors import TomopointError

Z, Y, X = -3, -2, -1


@dataclass(frozen=True)
class View:
    """A symmetry of the voxel grid: first exchange y and x where `transpose`, then reverse the axes `flips`.

    Every flip and every turn about z is of this form. In continuous coordinates (origin at the corner) reversing an
    axis of length n maps p to n - p and a vector component v to -v.
    """

    name: str
    transpose: bool = False
    flips: tuple[int, ...] = ()

    def apply(self, volume: Tensor) -> Tensor:
        """Return the view of a volume or map (...,D,H,W)."""
        turned = volume.transpose(Y, X) if self.transpose else volume
        return torch.flip(turned, self.flips) if self.flips else turned

    def undo(self, maps: Tensor) -> Tensor:
        """Return maps (...,d,h,w) of the view in the frame of the volume."""
        upright = torch.flip(maps, self.flips) if self.flips else maps
        return upright.transpose(Y, X) if self.transpose else upright

    def undo_offsets(self, offsets_vox: Tensor) -> Tensor:
        """Return offsets (B,3,d,h,w), channels z, y, x, of the view as vectors in the frame of the volume."""
        signs = [-1.0 if axis in self.flips else 1.0 for axis in (Z, Y, X)]
        source = (0, 2, 1) if self.transpose else (0, 1, 2)
        back = self.undo(offsets_vox)
        return torch.cat([back[:, channel : channel + 1] * signs[channel] for channel in source], dim=1)


VIEWS: Mapping[str, View] = {
    view.name: view
    for view in (
        View("identity"),
        View("flip_z", flips=(Z,)),
        View("flip_y", flips=(Y,)),
        View("flip_x", flips=(X,)),
        View("rot90", transpose=True, flips=(Y,)),
        View("rot180", flips=(Y, X)),
        View("rot270", transpose=True, flips=(X,)),
    )
}
"""By name. ``rot90`` is ``numpy.rot90`` over the axes y, x: it turns y towards x."""


def find_view(name: str) -> View:
    """Return the view called `name`; TomopointError lists the known ones."""
    if name not in VIEWS:
        raise TomopointError(f"unknown view {name!r}; known are {', '.join(VIEWS)}")
    return VIEWS[name]
