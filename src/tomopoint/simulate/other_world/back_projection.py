"""Projections of a volume, and a volume from projections, as one sparse matrix per tilt.

The specimen turns about y, so every x-z plane is projected by itself and all of them alike: a matrix of two weights per
voxel, times a volume that is laid out plane by plane. Back-projection is the transposed matrix.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage, sparse

Image = npt.NDArray[np.float32]
Volume = npt.NDArray[np.float32]


class TiltGeometry:
    """How voxels fall on a detector.

    Parameters
    ----------
    depth, width
        Of the volume, voxels.

    Attributes
    ----------
    detector_width
        Pixels across the tilt axis that hold the volume at every tilt.
    """

    def __init__(self, depth: int, width: int) -> None:
        self._depth, self._width = depth, width
        self.detector_width = math.ceil(math.hypot(depth, width)) + 3

    def matrix(self, tilt_deg: float) -> sparse.csr_array:
        """Return ``(D * W, U)``: the two pixels a voxel's centre falls between, and their shares."""
        angle = math.radians(tilt_deg)
        z = np.arange(self._depth) - (self._depth - 1) / 2
        x = np.arange(self._width) - (self._width - 1) / 2
        u = (x[None, :] * math.cos(angle) + z[:, None] * math.sin(angle)).ravel() + (self.detector_width - 1) / 2
        left = np.floor(u).astype(np.int32)
        share = (u - left).astype(np.float32)
        columns = np.stack([left, left + 1], axis=1).ravel()
        weights = np.stack([1 - share, share], axis=1).ravel()
        starts = np.arange(0, len(columns) + 1, 2, dtype=np.int32)
        return sparse.csr_array((weights, columns, starts), shape=(len(u), self.detector_width))


def project(volume_zyx: Volume, tilts_deg: Sequence[float]) -> Iterator[Image]:
    """Yield ``(H, U)`` projections of a ``(D, H, W)`` volume along z, turned about y by each tilt in turn."""
    depth, height, width = volume_zyx.shape
    geometry = TiltGeometry(depth, width)
    planes = np.ascontiguousarray(volume_zyx.transpose(0, 2, 1)).reshape(depth * width, height)
    for tilt in tilts_deg:
        yield np.ascontiguousarray((geometry.matrix(tilt).T.tocsr() @ planes).T)


def back_project(
    images: Iterator[tuple[float, Image]], shape_zyx: tuple[int, int, int], cutoff: float, tilt_step_deg: float
) -> Volume:
    """Return the weighted back-projection of (tilt, image) pairs.

    Parameters
    ----------
    images
        Tilt in degrees, and ``(H, U)`` as :func:`project` gives.
    cutoff
        Frequency across the axis, cycles per pixel, above which the ramp filter falls off (a Gaussian of width 0.05).
    tilt_step_deg
        Spacing of the tilts: the weight of one.
    """
    depth, height, width = shape_zyx
    geometry = TiltGeometry(depth, width)
    planes = np.zeros((depth * width, height), dtype=np.float32)
    for tilt, image in images:
        planes += geometry.matrix(tilt) @ _ramped(image, cutoff, tilt_step_deg).T
    return np.ascontiguousarray(planes.reshape(depth, width, height).transpose(0, 2, 1))


def _ramped(image_vu: Image, cutoff: float, tilt_step_deg: float) -> Image:
    """Weight frequencies across the axis by their distance to it, up to a soft cutoff."""
    size = int(fft.next_fast_len(2 * image_vu.shape[1], real=True))  # twice: its ends do not meet
    frequency = fft.rfftfreq(size)
    # Below one part in the image's length there is no frequency to tell from nought: they keep a little.
    ramp = np.maximum(frequency, 0.25 / image_vu.shape[1])
    ramp *= np.exp(-0.5 * (np.maximum(frequency - cutoff, 0.0) / 0.05) ** 2) * math.radians(tilt_step_deg)
    filtered = fft.irfft(fft.rfft(image_vu, size, axis=1) * ramp.astype(np.float32), size, axis=1)
    return np.ascontiguousarray(filtered[:, : image_vu.shape[1]], dtype=np.float32)


def turned(volume_zyx: Volume, degrees: float, shape_yx: tuple[int, int]) -> Volume:
    """Return a volume turned about z by `degrees`, middle on middle, in planes of another shape; nought outside."""
    angle = math.radians(degrees)
    matrix = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    middle_in = (np.array(volume_zyx.shape[1:]) - 1) / 2
    middle_out = (np.array(shape_yx) - 1) / 2
    result = np.empty((len(volume_zyx), *shape_yx), dtype=np.float32)
    offset = middle_in - matrix @ middle_out
    for index, plane in enumerate(volume_zyx):
        result[index] = ndimage.affine_transform(plane, matrix, offset, shape_yx, output=np.float32, order=3)
    return result


def shape_turned(shape_yx: tuple[int, int], degrees: float) -> tuple[int, int]:
    """Return the shape of planes that hold a turned one of `shape_yx` whole."""
    cosine, sine = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    height, width = shape_yx
    return math.ceil(height * cosine + width * sine), math.ceil(height * sine + width * cosine)
