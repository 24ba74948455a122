"""Cutting a tomogram into windows, and merging what the network says of each into maps of the whole.

Window starts are multiples of the stride: output cells of a window then coincide with cells of the whole map. (A start
of 125 at stride 2 would shift every pick of that window by a voxel.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import numpy.typing as npt

from tomopoint.errors import PipelineError, TomopointError
from tomopoint.pipeline import Tiling

Array = npt.NDArray[np.float32]
Size = tuple[int, int, int]


def axis_starts(length: int, window: int, overlap: int, stride: int) -> tuple[int, ...]:
    """Return the starts of windows along one axis, voxels.

    The windows cover ``[0, length)``, neighbours share at least `overlap` voxels, starts are multiples of `stride`
    and as evenly spaced as that allows. Where the axis is shorter than the window there is one, padded at its end;
    the last may reach past the end by less than `stride`.
    """
    if length <= window:
        return (0,)
    last = -(-(length - window) // stride) * stride
    gaps = -(-last // (window - overlap))
    spacing = last / gaps
    return (*(int(index * spacing // stride) * stride for index in range(gaps)), last)


def choose_tiling(
    shapes_zyx: Sequence[Size], divisor: int, window_zyx: Size | None = None, overlap_zyx: Size | None = None
) -> Tiling:
    """Return the tiling for some tomograms: what is given, else the standard window where they are that large.

    Along an axis on which every tomogram is smaller than the standard window, the window is the extent rounded up to
    what the networks take, so that small data are not mostly padding. Overlaps are at most half the window.

    Parameters
    ----------
    shapes_zyx
        Voxels along z, y, x of the tomograms.
    divisor
        Window sizes must be multiples of this.
    window_zyx, overlap_zyx
        Voxels, taken where given.

    Raises
    ------
    TomopointError
        A window that is no multiple of `divisor`; the message names the nearest that is.
    PipelineError
        An overlap that does not fit the window.
    """
    standard = Tiling()
    extent = [max(sizes) for sizes in zip(*shapes_zyx, strict=True)]
    z, y, x = (
        min(_round_up(size, divisor), _round_up(n, divisor))
        for size, n in zip(standard.window_zyx, extent, strict=True)
    )
    window = window_zyx or (z, y, x)
    if any(size % divisor for size in window):
        given, legal = (",".join(map(str, sizes)) for sizes in (window, [_round_up(n, divisor) for n in window]))
        raise TomopointError(
            f"--window {given}: these networks take multiples of {divisor} along every axis; use --window {legal}"
        )
    z, y, x = (min(o, w // 4 * 2) for o, w in zip(standard.overlap_zyx, window, strict=True))
    return replace(standard, window_zyx=window, overlap_zyx=overlap_zyx or (z, y, x))


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


@dataclass(frozen=True)
class TilePlan:
    """Where the windows of one tomogram lie.

    Attributes
    ----------
    shape_zyx
        Of the tomogram, voxels.
    window_zyx
        Of a window, voxels.
    starts_zyx
        First voxel of each window.
    stride
        Voxels per cell of the maps.
    """

    shape_zyx: Size
    window_zyx: Size
    starts_zyx: tuple[Size, ...]
    stride: int

    @classmethod
    def for_volume(cls, shape_zyx: Sequence[int], tiling: Tiling, stride: int) -> TilePlan:
        """Plan the windows of a volume of any shape."""
        depth, height, width = (int(size) for size in shape_zyx)
        axes = [
            axis_starts(length, window, overlap, stride)
            for length, window, overlap in zip(
                (depth, height, width), tiling.window_zyx, tiling.overlap_zyx, strict=True
            )
        ]
        starts = tuple((z, y, x) for z, y, x in product(*axes))
        return cls((depth, height, width), tiling.window_zyx, starts, stride)

    @property
    def map_shape_zyx(self) -> Size:
        """Cells of the merged maps: a last, incomplete cell counts."""
        z, y, x = (-(-size // self.stride) for size in self.shape_zyx)
        return z, y, x

    def window(self, volume_zyx: Array, start_zyx: Size) -> Array:
        """Cut one window out of a normalised volume; beyond its end there are zeros, its mean."""
        slices = tuple(slice(s, s + w) for s, w in zip(start_zyx, self.window_zyx, strict=True))
        part = volume_zyx[slices]
        if part.shape == self.window_zyx:
            return part
        whole = np.zeros(self.window_zyx, dtype=np.float32)
        whole[tuple(slice(0, size) for size in part.shape)] = part
        return whole

    def batches(self, volume_zyx: Array, size: int) -> Iterator[tuple[Sequence[Size], Array]]:
        """Yield starts and windows ``(B, 1, D, H, W)``, at most `size` at a time."""
        for first in range(0, len(self.starts_zyx), size):
            starts = self.starts_zyx[first : first + size]
            yield starts, np.stack([self.window(volume_zyx, start)[np.newaxis] for start in starts])


def window_weight(window_zyx: Size, stride: int, edge_weight: float) -> Array:
    """Return the weight of each cell of a window's output in the merged mean.

    The product of one Gaussian per axis, 1 at the centre; it falls to ``edge_weight`` at the middle of a face, so that
    a cell is judged by the window that sees most around it.

    Returns
    -------
    ndarray
        ``(D/s, H/s, W/s)`` float32 in (0, 1].
    """
    profiles = []
    for size in window_zyx:
        cells = size // stride
        distance = np.abs(np.arange(cells) + 0.5 - cells / 2) / (cells / 2)  # 0 at the centre, about 1 at the edge
        profiles.append(np.float64(edge_weight) ** (distance**2))
    z, y, x = profiles
    weight = z[:, None, None] * y[None, :, None] * x[None, None, :]
    return np.asarray(weight, dtype=np.float32)


@dataclass(frozen=True)
class VolumeMaps:
    """What the networks say of a whole tomogram.

    Attributes
    ----------
    scores
        ``(C, d, h, w)`` float32 in (0, 1); channels in the Pipeline's order.
    offsets
        ``(3, d, h, w)`` float32, voxels; channels z, y, x.
    stride
        Voxels per cell.
    shape_zyx
        Of the tomogram, voxels.
    """

    scores: Array
    offsets: Array
    stride: int
    shape_zyx: Size


class MapMerger:
    """Weighted mean of window outputs, accumulated in float32."""

    def __init__(self, plan: TilePlan, n_classes: int, edge_weight: float) -> None:
        self.plan = plan
        self.weight = window_weight(plan.window_zyx, plan.stride, edge_weight)
        self._scores = np.zeros((n_classes, *plan.map_shape_zyx), dtype=np.float32)
        self._offsets = np.zeros((3, *plan.map_shape_zyx), dtype=np.float32)
        self._weights = np.zeros(plan.map_shape_zyx, dtype=np.float32)

    def add(self, start_zyx: Size, scores: Array, offsets: Array) -> None:
        """Add the output of one window: ``(C, d, h, w)`` and ``(3, d, h, w)``.

        Raises
        ------
        PipelineError
            Scores of another number of classes or another shape than the plan's windows give.
        """
        expected = (self._scores.shape[0], *self.weight.shape)
        if scores.shape != expected or offsets.shape != (3, *self.weight.shape):
            raise PipelineError(
                f"the engine returns scores {scores.shape} and offsets {offsets.shape}, the pipeline needs {expected} "
                f"and {(3, *self.weight.shape)}; engine and pipeline do not belong together"
            )
        first = [s // self.plan.stride for s in start_zyx]
        sizes = [min(w, n - f) for w, n, f in zip(self.weight.shape, self.plan.map_shape_zyx, first, strict=True)]
        target = tuple(slice(f, f + n) for f, n in zip(first, sizes, strict=True))
        source = tuple(slice(0, n) for n in sizes)
        weight = self.weight[source]
        self._weights[target] += weight
        # Channel by channel: the temporary is one map, not all of them.
        for total, values in ((self._scores, scores), (self._offsets, offsets)):
            for channel in range(total.shape[0]):
                total[channel][target] += values[channel][source] * weight

    def maps(self) -> VolumeMaps:
        """Return the means; the merger is spent."""
        for total in (self._scores, self._offsets):
            for channel in range(total.shape[0]):
                total[channel] /= self._weights
        return VolumeMaps(self._scores, self._offsets, self.plan.stride, self.plan.shape_zyx)
