"""A tomogram as slabs through z, for a page: few, small and of one contrast."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tomopoint.data.tomograms import Tomogram
from tomopoint.evaluation.judging import Marks

SLAB_A = 80.0
"""Least thickness of a slab: enough to see particles through the noise, less than the smallest diameter."""

MOST_SLABS = 32
"""Of thicker tomograms slabs are thicker, and the page stays small. The competition's, 1840 A, have 23."""

BESIDE_A = 60.0
"""Centres up to this far above or below a slab are drawn on it: the particle then still touches the slab."""

LARGEST_EDGE = 480
"""Pixels of a picture's longer edge."""

CONTRAST = (0.003, 0.997)
"""Quantiles of all slabs of a run that are black and white: one contrast, so that depths compare."""

WEBP_QUALITY = 45
"""Noise is most of what a slab's bytes hold: below, particles lose their edges; at 80 the page is twice as large."""


@dataclass(frozen=True)
class Slab:
    """Some slices, averaged.

    Attributes
    ----------
    low, high
        First slice, and the one behind the last.
    picture
        WebP, y upwards.
    """

    low: int
    high: int
    picture: bytes

    @property
    def data_uri(self) -> str:
        """The picture as an address that holds it."""
        return webp_uri(self.picture)


@dataclass(frozen=True)
class SlabStack:
    """A tomogram from its first slice to its last, nothing left out.

    Attributes
    ----------
    slabs
        In order of z.
    shape_zyx
        Of the tomogram, voxels.
    voxel_A
        Edge of a voxel, Angstrom.
    """

    slabs: tuple[Slab, ...]
    shape_zyx: tuple[int, int, int]
    voxel_A: float

    @property
    def middles_A(self) -> npt.NDArray[np.float64]:
        """``(S,)``: z of each slab's middle, Angstrom."""
        return np.array([(slab.low + slab.high) / 2 * self.voxel_A for slab in self.slabs])

    @property
    def reach_A(self) -> float:
        """Centres up to this far from a slab's middle are drawn on it."""
        thickest = max(slab.high - slab.low for slab in self.slabs)
        return thickest * self.voxel_A / 2 + BESIDE_A

    def counts_of(self, marks: Marks, kinds: tuple[str, ...]) -> npt.NDArray[np.intp]:
        """Return how many marks of these kinds each slab has, ``(S,)``."""
        z_A = np.concatenate([points[:, 2] for kind in kinds for points in marks[kind].values()] or [np.zeros(0)])
        return np.asarray((np.abs(z_A[None, :] - self.middles_A[:, None]) <= self.reach_A).sum(axis=1), dtype=np.intp)

    def fullest(self, marks: Marks, kinds: tuple[str, ...]) -> int:
        """Return the slab with most marks of these kinds; of equally full ones the one in the middle."""
        counts = self.counts_of(marks, kinds)
        full = np.flatnonzero(counts == counts.max())
        return int(full[len(full) // 2])


def cut_slabs(tomogram: Tomogram) -> SlabStack:
    """Cut a tomogram into slabs of equal thickness, the last one perhaps thinner, and make a picture of each."""
    depth, height, width = tomogram.volume_zyx.shape
    thickness = max(1, round(SLAB_A / tomogram.voxel_A), -(-depth // MOST_SLABS))
    bounds = [(low, min(low + thickness, depth)) for low in range(0, depth, thickness)]
    means = [tomogram.volume_zyx[low:high].mean(axis=0) for low, high in bounds]
    black, white = np.quantile(np.stack([mean[::2, ::2] for mean in means]), CONTRAST)
    scale = 255.0 / max(float(white - black), float(np.finfo(np.float32).tiny))
    slabs = tuple(
        Slab(low, high, webp_of(np.clip((mean - black) * scale, 0, 255).astype(np.uint8)))
        for (low, high), mean in zip(bounds, means, strict=True)
    )
    return SlabStack(slabs, (depth, height, width), tomogram.voxel_A)


def webp_uri(picture: bytes) -> str:
    """Return a WebP as an address that holds it."""
    return f"data:image/webp;base64,{base64.b64encode(picture).decode()}"


def webp_of(image_yx: npt.NDArray[np.uint8]) -> bytes:
    """Return an image ``(H, W)`` as WebP, y upwards, no larger than a page needs."""
    from PIL import Image

    picture = Image.fromarray(image_yx[::-1])
    shrink = LARGEST_EDGE / max(picture.size)
    if shrink < 1:
        width, height = (max(1, round(edge * shrink)) for edge in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BOX)
    stream = io.BytesIO()
    picture.save(stream, format="webp", quality=WEBP_QUALITY, method=6)
    return stream.getvalue()
