"""One affine resampling per crop, moving the volume and its particles by the same matrix.

Convention (see :mod:`tomopoint.pipeline`): continuous voxel coordinates from the corner, voxel ``i`` centred at
``i + 0.5``. A crop of size ``n`` is centred at ``n / 2``; the crop coordinate ``q`` shows the volume coordinate
``p = A (q - n / 2) + c``. With ``A`` a flip and ``c`` the crop's own centre this is ``p -> n - p``, so flips,
rotations and labels agree to rounding error, not to half a voxel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from tomopoint.training.options.crops import AugmentationOptions

Matrix = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class CropTransform:
    """How crop coordinates relate to volume coordinates.

    Attributes
    ----------
    matrix_zyx
        ``(3, 3)`` A: from a displacement in the crop to one in the volume, voxels, axes z, y, x.
    centre_zyx
        ``(3,)`` c: the volume coordinate shown at the crop's centre, voxels.
    size_zyx
        Size of the crop, voxels.
    scale
        Enlargement of the contents: A is a rotation or reflection divided by this.
    """

    matrix_zyx: Matrix
    centre_zyx: Matrix
    size_zyx: tuple[int, int, int]
    scale: float = 1.0

    @property
    def extent_zyx(self) -> Matrix:
        """Return the size of the box in the volume that holds the whole crop, voxels."""
        extent: Matrix = np.abs(self.matrix_zyx) @ np.array(self.size_zyx, dtype=np.float64)
        return extent

    @property
    def copies_voxels(self) -> bool:
        """Whether A only swaps and reverses axes and the corner is a voxel's corner: no interpolation is needed."""
        corner = self.centre_zyx - self.extent_zyx / 2
        swaps_only = np.isin(np.abs(self.matrix_zyx), (0.0, 1.0)).all()
        return bool(swaps_only and (corner == np.rint(corner)).all())

    def to_crop(self, points_zyx: Matrix) -> Matrix:
        """Move ``(N, 3)`` volume coordinates to crop coordinates."""
        moved: Matrix = np.linalg.solve(self.matrix_zyx, (points_zyx - self.centre_zyx).T).T
        return moved + np.array(self.size_zyx) / 2


def draw_transform(
    rng: np.random.Generator,
    options: AugmentationOptions,
    centre_zyx: Matrix,
    size_zyx: tuple[int, int, int],
    scale: float | None = None,
) -> CropTransform:
    """Draw rotation, scale and flips of one crop; `scale` fixes the scale.

    A crop that is not resampled is moved by less than a voxel so that its corner falls on a voxel's corner.
    """
    flips = np.diag(rng.choice((-1.0, 1.0), size=3)) if options.flips else np.eye(3)
    if rng.random() < options.resample_probability or scale not in (None, 1.0):
        drawn = 1 + rng.uniform(-options.scale, options.scale)
        scale = drawn if scale is None else scale
        return CropTransform(_draw_rotation(rng, options) @ flips / scale, centre_zyx, size_zyx, scale)
    turns = int(rng.integers(4)) if options.quarter_turns else 0
    matrix = np.rint(rotation_matrix(turns * np.pi / 2, 0.0, 0.0)) @ flips
    extent = np.abs(matrix) @ np.array(size_zyx)
    return CropTransform(matrix, np.rint(centre_zyx - extent / 2) + extent / 2, size_zyx)


def rotation_matrix(about_z: float, about_y: float, about_x: float) -> Matrix:
    """Return ``Rz @ Ry @ Rx`` for column vectors ``(z, y, x)``; angles in radians."""
    return _plane_rotation(1, 2, about_z) @ _plane_rotation(0, 2, about_y) @ _plane_rotation(0, 1, about_x)


def resample(volume_zyx: Tensor, transform: CropTransform) -> Tensor:
    """Cut one crop out of a volume.

    Parameters
    ----------
    volume_zyx
        ``(D, H, W)``, normalised, any float type.
    transform
        Where and how.

    Returns
    -------
    Tensor
        ``transform.size_zyx`` float32. Beyond the volume it is 0, the mean of a normalised volume.
    """
    if transform.copies_voxels:
        return _copy(volume_zyx, transform)
    low = np.floor(transform.centre_zyx - transform.extent_zyx / 2 - 1).astype(int)
    high = np.ceil(transform.centre_zyx + transform.extent_zyx / 2 + 1).astype(int)
    low = np.clip(low, 0, np.array(volume_zyx.shape) - 1)
    high = np.clip(high, low + 1, volume_zyx.shape)
    box = volume_zyx[low[0] : high[0], low[1] : high[1], low[2] : high[2]].float()
    grid = _sampling_grid(transform, low, np.array(box.shape))
    return grid_sample(box[None, None], grid[None], mode="bilinear", padding_mode="zeros", align_corners=False)[0, 0]


def inside(points_zyx: Matrix, size_zyx: Sequence[int], margin_vox: float = 0.0) -> npt.NDArray[np.bool_]:
    """Return which ``(N, 3)`` crop coordinates lie in the crop, widened by `margin_vox` on every side."""
    within: npt.NDArray[np.bool_] = np.all(
        (points_zyx >= -margin_vox) & (points_zyx < np.array(size_zyx) + margin_vox), axis=1
    )
    return within


def _draw_rotation(rng: np.random.Generator, options: AugmentationOptions) -> Matrix:
    z, tilt = np.radians(options.rotation_degrees), np.radians(options.tilt_degrees)
    return rotation_matrix(rng.uniform(-z, z), rng.uniform(-tilt, tilt), rng.uniform(-tilt, tilt))


def _plane_rotation(first: int, second: int, angle: float) -> Matrix:
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = np.cos(angle)
    matrix[first, second], matrix[second, first] = -np.sin(angle), np.sin(angle)
    return matrix


def _sampling_grid(transform: CropTransform, low: Matrix, box_shape: Matrix) -> Tensor:
    """Return grid_sample's coordinates ``(d, h, w, 3)``, last axis x, y, z.

    With ``align_corners=False`` it takes ``2 p / n - 1`` for the corner-origin coordinate p of an axis of n voxels.
    The grid is a sum of three vectors, one per crop axis, so it is built by broadcasting.
    """
    per_axis = transform.matrix_zyx * (2 / box_shape)[:, None]
    constant = (transform.centre_zyx - low) * 2 / box_shape - 1
    depth, height, width = (
        torch.from_numpy((np.arange(n) + 0.5 - n / 2)[:, None] * per_axis[::-1, axis]).float()
        for axis, n in enumerate(transform.size_zyx)
    )
    offset = torch.from_numpy(constant[::-1].copy()).float()
    return depth[:, None, None] + (height[:, None] + (width + offset))


def _copy(volume_zyx: Tensor, transform: CropTransform) -> Tensor:
    """Cut, swap and reverse axes."""
    matrix = transform.matrix_zyx
    extent = transform.extent_zyx
    start = np.rint(transform.centre_zyx - extent / 2).astype(int)
    box = torch.zeros(tuple(int(n) for n in extent), dtype=torch.float32)
    low = np.clip(start, 0, volume_zyx.shape)
    high = np.clip(start + extent.astype(int), low, volume_zyx.shape)
    target = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))
    box[target] = volume_zyx[tuple(slice(a, b) for a, b in zip(low, high, strict=True))].float()
    # Crop axis j runs along volume axis sources[j], backwards where the matrix says -1.
    sources = [int(np.argmax(np.abs(matrix[:, axis]))) for axis in range(3)]
    backwards = [axis for axis in range(3) if matrix[sources[axis], axis] < 0]
    return box.permute(sources).flip(backwards).contiguous() if backwards else box.permute(sources).contiguous()
