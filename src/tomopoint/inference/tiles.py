"""Cutting a tomogram into windows, and merging what the network says of each into maps of the whole.

Window starts are multiples of the stride: output cells of a window then coincide with cells of the whole map. (A start
of 125 at stride 2 would shift every pick of that window by a voxel.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise, product
from math import prod

import numpy as np
import numpy.typing as npt

from tomopoint.errors import PipelineError, TomopointError
from tomopoint.pipeline import Tiling

Array = npt.NDArray[np.float32]
Output = npt.NDArray[np.float32] | npt.NDArray[np.float16]
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


MACHINES = {
    "t4": Tiling(),
    "cpu": replace(Tiling(), window_zyx=(192, 352, 352)),
}
"""Voxels of the largest window, and the smallest overlap, by what computes it ("Which window" in docs/benchmarks.md).

Larger windows read less twice. The default window of a Pipeline is the largest for a T4, of those whose tensors stay
below 2^31 bytes in float32; on a CPU there is no such limit, and more memory.
"""


def choose_tiling(
    shapes_zyx: Sequence[Size],
    divisor: int,
    window_zyx: Size | None = None,
    overlap_zyx: Size | None = None,
    largest: Tiling = MACHINES["t4"],
) -> Tiling:
    """Return the tiling for some tomograms: what is given, else the one that computes the fewest voxels.

    Windows are as small as their number allows, so small data are not mostly padding and nothing is read twice for no
    gain. Overlaps are at most half the window.

    Parameters
    ----------
    shapes_zyx
        Voxels along z, y, x of the tomograms; the largest along each axis count.
    divisor
        Window sizes must be multiples of this.
    window_zyx, overlap_zyx
        Voxels, taken where given.
    largest
        A window of as many voxels as may be computed at once, and the smallest overlap: one of `MACHINES`.

    Raises
    ------
    TomopointError
        A window that is no multiple of `divisor`; the message names the nearest that is.
    PipelineError
        An overlap that does not fit the window.
    """
    if window_zyx is None:
        extent = [max(sizes) for sizes in zip(*shapes_zyx, strict=True)]
        most = prod(_round_up(size, divisor) for size in largest.window_zyx)
        window_zyx = _cheapest_window(extent, overlap_zyx or largest.overlap_zyx, most, divisor)
    if any(size % divisor for size in window_zyx):
        given, legal = (
            ",".join(map(str, sizes)) for sizes in (window_zyx, [_round_up(n, divisor) for n in window_zyx])
        )
        raise TomopointError(
            f"--window {given}: these networks take multiples of {divisor} along every axis; use --window {legal}"
        )
    z, y, x = (min(o, w // 4 * 2) for o, w in zip(largest.overlap_zyx, window_zyx, strict=True))
    return replace(largest, window_zyx=window_zyx, overlap_zyx=overlap_zyx or (z, y, x))


LARGEST_STRIDE = 4
"""Of any network. The start of a last window is rounded up to the stride."""


def _cheapest_window(extent: Sequence[int], overlap: Sequence[int], most: int, divisor: int) -> Size:
    """Return the window that covers a volume with the fewest voxels computed; of equals the larger.

    Parameters
    ----------
    extent, overlap
        Voxels along each axis.
    most
        Voxels of a window.
    divisor
        Of its sizes.
    """
    choices = [
        [(n, size) for n in range(1, max(2, length // divisor + 1)) if (size := _window_of(length, n, o, divisor))]
        for length, o in zip(extent, overlap, strict=True)
    ]
    plans = [tuple(zip(*axes, strict=True)) for axes in product(*choices)]
    fitting = [(prod(n) * prod(sizes), prod(n), sizes) for n, sizes in plans if prod(sizes) <= most]
    if not fitting:  # overlaps that are large against what may be computed at once
        fitting = [(prod(n) * prod(sizes), prod(n), sizes) for n, sizes in [min(plans, key=lambda plan: prod(plan[1]))]]
    _, _, (z, y, x) = min(fitting)
    return z, y, x


def _window_of(length: int, n_windows: int, overlap: int, divisor: int) -> int | None:
    """Return the size of windows of which so many cover an axis; None where they would overlap by more than half."""
    if n_windows == 1:
        return _round_up(length, divisor)
    covered = _round_up(length, LARGEST_STRIDE) + (n_windows - 1) * overlap
    size = _round_up(-(-covered // n_windows), divisor)
    return size if overlap <= size // 4 * 2 else None


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

    @property
    def covered_zyx(self) -> Size:
        """Voxels from the first to the last that a window shows: the tomogram, and what lies beyond its end."""
        z, y, x = (max(s[axis] for s in self.starts_zyx) + self.window_zyx[axis] for axis in range(3))
        return z, y, x

    def window(self, volume_zyx: Array, start_zyx: Size) -> Array:
        """Cut one window out of a normalised volume of shape `covered_zyx`: a view."""
        return volume_zyx[tuple(slice(s, s + w) for s, w in zip(start_zyx, self.window_zyx, strict=True))]

    def batches(self, volume_zyx: Array, size: int) -> Iterator[tuple[Sequence[Size], Array]]:
        """Yield starts and windows ``(B, 1, D, H, W)``, at most `size` at a time; a single one is not copied."""
        for first in range(0, len(self.starts_zyx), size):
            starts = self.starts_zyx[first : first + size]
            windows = [self.window(volume_zyx, start)[np.newaxis] for start in starts]
            yield starts, windows[0][np.newaxis] if len(windows) == 1 else np.stack(windows)


def mirror_beyond(volume_zyx: Array, shape_zyx: Size) -> None:
    """Fill a volume beyond its first `shape_zyx` voxels with their mirror image, in place.

    The norms of the networks take their statistics from the whole window: a mirror image has those of the tomogram,
    zeros have not. What is found in it lies outside the tomogram and is not merged.
    """
    known = [slice(0, size) for size in shape_zyx]
    for axis, size in enumerate(shape_zyx):
        beyond = np.arange(size, volume_zyx.shape[axis]) % (2 * size)  # to and fro, where it is more than once
        images = np.where(beyond < size, beyond, 2 * size - 1 - beyond)
        for index, image in enumerate(images, start=size):
            known[axis] = slice(index, index + 1)
            target = volume_zyx[tuple(known)]
            known[axis] = slice(image, image + 1)
            target[...] = volume_zyx[tuple(known)]
        known[axis] = slice(0, volume_zyx.shape[axis])


def axis_weight(size: int, stride: int, edge_weight: float) -> npt.NDArray[np.float64]:
    """Return the weight along one axis of the cells of a window of `size` voxels.

    A Gaussian, 1 at the centre, that falls to `edge_weight` at the window's face, so that a cell is judged by the
    window that sees most around it. The weight of a cell is the product of those along its three axes.
    """
    cells = size // stride
    distance = np.abs(np.arange(cells) + 0.5 - cells / 2) / (cells / 2)  # 0 at the centre, about 1 at the edge
    return np.asarray(np.float64(edge_weight) ** (distance**2))


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


class MapMemory:
    """Memory of maps that nobody needs any more, for those of the next tomogram.

    Those of a tomogram of the competition take 330 MB: to get them anew costs the kernel half a second, in which the
    engine may have to wait. Threads may share it.
    """

    def __init__(self) -> None:
        self._spare: deque[Array] = deque(maxlen=1)

    def take(self, shape: tuple[int, ...]) -> Array:
        """Return zeros of a shape, every page of them touched."""
        with suppress(IndexError):
            spare = self._spare.pop()
            if spare.shape == shape:
                spare.fill(0.0)
                return spare
        return np.full(shape, 0.0, dtype=np.float32)

    def give_back(self, maps: VolumeMaps) -> None:
        """Take what a :class:`MapMerger` returned; it must not be looked at afterwards."""
        if isinstance(maps.scores.base, np.ndarray):  # scores and offsets lie in one array
            self._spare.append(maps.scores.base)


@dataclass(frozen=True)
class _Piece:
    """Cells of a window, along one axis, that are merged alike.

    Attributes
    ----------
    source, target
        Where they lie in the window and in the map.
    share
        Of each of them, float32, in the weighted mean; None: no other window covers them.
    """

    source: slice
    target: slice
    share: Array | None


def _axis_pieces(starts: Sequence[int], weight: npt.NDArray[np.float64], n_cells: int) -> dict[int, list[_Piece]]:
    """Cut the windows of one axis, by their first cells, where they begin or end to share cells with others."""
    total, n_windows = np.zeros(n_cells), np.zeros(n_cells, dtype=np.int64)
    spans = [(start, min(start + len(weight), n_cells)) for start in starts]
    for start, stop in spans:
        total[start:stop] += weight[: stop - start]
        n_windows[start:stop] += 1
    pieces = {}
    for start, stop in spans:
        is_alone = n_windows[start:stop] == 1
        share = (weight[: stop - start] / total[start:stop]).astype(np.float32)
        cuts = (np.flatnonzero(np.diff(is_alone)) + 1).tolist()
        pieces[start] = [
            _Piece(slice(a, b), slice(start + a, start + b), None if is_alone[a] else share[a:b])
            for a, b in pairwise([0, *cuts, stop - start])
        ]
    return pieces


class MapMerger:
    """Weighted mean of window outputs, in float32, of which nothing is left to do once the last one is added.

    Windows lie on a product grid and their weights are products of one factor per axis, so the sum of the weights in a
    cell is such a product, too, and known before there is any output: each output is added with its share. Where no
    other window comes it is copied. Beside the maps there is one temporary, of one channel of a window.

    Parameters
    ----------
    plan
        Where the windows lie; each is to be added once, in any order.
    n_classes
        Channels of the scores.
    edge_weight
        See :func:`axis_weight`.
    memory
        Where the maps lie; None: in new memory.
    """

    def __init__(self, plan: TilePlan, n_classes: int, edge_weight: float, memory: MapMemory | None = None) -> None:
        self.plan = plan
        axes = [sorted({start[axis] // plan.stride for start in plan.starts_zyx}) for axis in range(3)]
        if len(plan.starts_zyx) != prod(map(len, axes)):
            raise ValueError(f"windows are merged on a product grid, these starts are none: {plan.starts_zyx}")
        weights = [axis_weight(size, plan.stride, edge_weight) for size in plan.window_zyx]
        self._pieces = [_axis_pieces(*axis) for axis in zip(axes, weights, plan.map_shape_zyx, strict=True)]
        self._cells = tuple(map(len, weights))
        maps = (memory or MapMemory()).take((n_classes + 3, *plan.map_shape_zyx))
        self._scores, self._offsets = maps[:n_classes], maps[n_classes:]
        self._temporary = np.empty(prod(self._cells), dtype=np.float32)

    def add(self, start_zyx: Size, scores: Output, offsets: Output) -> None:
        """Add the output of one window: ``(C, d, h, w)`` and ``(3, d, h, w)``, float32 or float16.

        Raises
        ------
        PipelineError
            Scores of another number of classes or another shape than the plan's windows give.
        """
        expected, three = (self._scores.shape[0], *self._cells), (3, *self._cells)
        if scores.shape != expected or offsets.shape != three:
            raise PipelineError(
                f"the engine returns scores {scores.shape} and offsets {offsets.shape}, the pipeline needs {expected} "
                f"and {three}; engine and pipeline do not belong together"
            )
        of_axes = [pieces[s // self.plan.stride] for pieces, s in zip(self._pieces, start_zyx, strict=True)]
        for z, y, x in product(*of_axes):
            source, target = (z.source, y.source, x.source), (z.target, y.target, x.target)
            share = _product(z.share, y.share, x.share)
            for total, values in ((self._scores, scores), (self._offsets, offsets)):
                for channel in range(total.shape[0]):
                    self._merge(total[channel][target], values[channel][source], share)

    def _merge(self, total: Array, values: Output, share: Array | None) -> None:
        if share is None:
            total[...] = values
            return
        temporary = self._temporary[: values.size].reshape(values.shape)
        np.multiply(values, share, out=temporary)  # float16 becomes float32 here
        total += temporary

    def maps(self) -> VolumeMaps:
        """Return the means; the merger is spent."""
        return VolumeMaps(self._scores, self._offsets, self.plan.stride, self.plan.shape_zyx)


def _product(z: Array | None, y: Array | None, x: Array | None) -> Array | None:
    """Return the product of shares along the axes, as far as there are any; it broadcasts to ``(z, y, x)``."""
    shapes = ((z, (-1, 1, 1)), (y, (1, -1, 1)), (x, (1, 1, -1)))
    present = [share.reshape(shape) for share, shape in shapes if share is not None]
    return reduce(np.multiply, present) if present else None
