"""Views of a volume for test-time averaging, and the way back for maps and offsets: all 16 symmetries of the voxel grid
that keep z an axis.

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

    Every symmetry of the grid that keeps z an axis is of this form. In continuous coordinates (origin at the corner)
    reversing an axis of length n maps p to n - p and a vector component v to -v.
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


def _views() -> dict[str, View]:
    """Return the eight views of the x-y plane, then the same with z reversed too."""
    plane = (
        View("identity"),
        View("rot90", transpose=True, flips=(Y,)),
        View("rot180", flips=(Y, X)),
        View("rot270", transpose=True, flips=(X,)),
        View("flip_x", flips=(X,)),
        View("flip_y", flips=(Y,)),
        View("transpose", transpose=True),
        View("antitranspose", transpose=True, flips=(Y, X)),
    )
    deep = [View(f"{v.name}_flip_z".removeprefix("identity_"), v.transpose, (Z, *v.flips)) for v in plane]
    return {view.name: view for view in (*plane, *deep)}


VIEWS: Mapping[str, View] = _views()
"""By name: what is done in the x-y plane, and ``_flip_z`` where z is reversed too. ``rot90`` is ``numpy.rot90`` over
the axes y, x: it turns y towards x; ``transpose`` exchanges x and y, ``antitranspose`` mirrors at the other
diagonal."""

BEST_SPREAD: Mapping[int, tuple[str, ...]] = {
    1: ("identity",),
    2: ("identity", "flip_x_flip_z"),
    4: ("identity", "flip_x_flip_z", "flip_y_flip_z", "rot180"),
    8: (
        *("identity", "flip_x_flip_z", "flip_y_flip_z", "rot180"),
        *("rot90", "rot270", "transpose_flip_z", "antitranspose_flip_z"),
    ),
    16: tuple(VIEWS),
}
"""Which views to take, by their number; each set holds the smaller ones.

A view is four steps, done or not: exchange x and y, reverse z, reverse y, reverse x. Every two of up to eight views
differ in two or more of them; no four and no eight do better. Up to eight they are turns, which mirror no molecule, up
to four half turns, which leave the missing wedge where it is. Of two views the other reverses z, along which the wedge
draws particles out and the ice ends."""


def find_view(name: str) -> View:
    """Return the view called `name`; TomopointError lists the known ones."""
    if name not in VIEWS:
        raise TomopointError(f"unknown view {name!r}; known are {', '.join(VIEWS)}")
    return VIEWS[name]


def parse_views(text: str) -> tuple[str, ...]:
    """Return the names of the views that a user asks for: ``"4"``, one of :data:`BEST_SPREAD`, or names and commas.

    Raises
    ------
    TomopointError
        Another number, an unknown name, or one that is there twice.
    """
    if text.strip().isdigit():
        if int(text) not in BEST_SPREAD:
            raise TomopointError(f"--views {text}: give {', '.join(map(str, BEST_SPREAD))}, or names of views")
        return BEST_SPREAD[int(text)]
    names = tuple(find_view(name.strip()).name for name in text.split(","))
    if len(set(names)) < len(names):
        raise TomopointError(f"--views {text}: a view is named twice; name every one once")
    return names
