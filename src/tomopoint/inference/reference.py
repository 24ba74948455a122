"""The reference: one batch of windows and what PyTorch made of it in float32. numpy only: the kernels read it.

It travels beside the graph as ``reference.npz``, so that an engine can be tested where it will run.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from tomopoint.errors import DataError, EngineError, reason_of
from tomopoint.files import require_file, whole_or_absent
from tomopoint.inference.parity import PRECISIONS, Array, Outputs
from tomopoint.pipeline import Pipeline

REFERENCE_NAME = "reference.npz"

DIP_SD = 3.0
"""Depth of a planted particle, standard deviations of the noise: about that of a large one in a denoised tomogram."""
DIPS_PER_WINDOW = 12
SMOOTH_VOX = 1.5
"""Noise of a denoised tomogram is correlated over a few voxels; half of the variance is made so."""


_ARRAYS = ("windows", "scores", "offsets", "precision", "onnx_sha256")
"""In the file, each as ``.npy``."""


def _read_array(archive: zipfile.ZipFile, name: str) -> Array:
    """Return one array; ValueError where its entry is compressed, or of another length than its header says.

    :func:`numpy.savez` compresses nothing. What is compressed may be a thousand times as large as the file, and what
    a header promises is allocated before it is read.
    """
    entry = archive.getinfo(name)
    if entry.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed")
    with archive.open(entry) as stream:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(stream)
        if math.prod(shape) * dtype.itemsize != entry.file_size - stream.tell() or dtype.hasobject:
            raise ValueError(f"{name} is not as long as its header says")
        stream.seek(0)
        return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))


@dataclass(frozen=True)
class Reference:
    """A batch of windows with PyTorch's outputs.

    Attributes
    ----------
    windows
        ``(B, 1, D, H, W)`` float32, normalised: the graph's exact input shape.
    outputs
        PyTorch's, float32.
    precision
        ``"fp32"`` or ``"fp16"``: of the graph it belongs to.
    onnx_sha256
        Hash of that graph.
    """

    windows: Array
    outputs: Outputs
    precision: str
    onnx_sha256: str

    @property
    def window_zyx(self) -> tuple[int, int, int]:
        """Size of a window, voxels."""
        depth, height, width = self.windows.shape[2:]
        return depth, height, width

    @property
    def stride(self) -> int:
        """Voxels per cell of the outputs."""
        return int(self.windows.shape[2] // self.outputs.scores.shape[2])

    def save(self, path: Path) -> None:
        """Write ``reference.npz``, atomically."""
        with whole_or_absent(path) as temporary, temporary.open("wb") as stream:
            np.savez(
                stream,
                windows=self.windows,
                scores=self.outputs.scores,
                offsets=self.outputs.offsets,
                precision=np.array(self.precision),
                onnx_sha256=np.array(self.onnx_sha256),
            )

    @classmethod
    def load(cls, path: Path) -> Reference:
        """Read what :meth:`save` wrote.

        Raises
        ------
        DataError
            Missing, damaged, or another file of that name.
        """
        try:
            require_file(path)
            with path.open("rb") as stream, zipfile.ZipFile(stream) as archive:
                stored = {name: _read_array(archive, f"{name}.npy") for name in _ARRAYS}
        except OSError as error:
            raise DataError(f"cannot read {path} ({error.strerror or error}); export the graph again") from error
        # What zipfile and numpy raise for damaged files has no common base.
        except (ValueError, KeyError, EOFError, RuntimeError, SyntaxError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(
                f"{path} is damaged or no reference ({reason_of(error)}); export the graph again"
            ) from error
        windows, scores, offsets = (stored[name] for name in _ARRAYS[:3])
        reference = cls(windows, Outputs(scores, offsets), str(stored["precision"]), str(stored["onnx_sha256"]))
        numbers = all(
            a.dtype == np.float32 and a.ndim == 5 and a.size and np.isfinite(a).all()
            for a in (windows, scores, offsets)
        )
        if not numbers or reference.precision not in PRECISIONS:
            raise DataError(f"{path} is no reference of a graph; export the graph again")
        return reference

    def require_graph(self, onnx_sha256: str, path: Path) -> None:
        """Raise EngineError where this is not the reference of the graph with that hash; `path` names the graph."""
        if onnx_sha256 != self.onnx_sha256:
            raise EngineError(
                f"{path} is not the graph its reference was made with (SHA-256 {onnx_sha256[:12]}, expected "
                f"{self.onnx_sha256[:12]}): damaged or replaced; export it again"
            )


def synthetic_windows(pipeline: Pipeline, window_zyx: Sequence[int], batch: int, seed: int = 0) -> Array:
    """Make windows with the statistics of a normalised tomogram: correlated noise of mean 0 and deviation 1, dark dips.

    The dips are Gaussian, as wide as the particles of `pipeline`, ``DIP_SD`` deep. They are no tomogram: they only
    make the networks answer over their whole range, so that an error shows.

    Returns
    -------
    ndarray
        ``(batch, 1, D, H, W)`` float32, the same for the same arguments.
    """
    rng = np.random.default_rng(seed)
    windows = np.empty((batch, 1, *window_zyx), dtype=np.float32)
    for window in windows[:, 0]:
        white = rng.standard_normal(window.shape, dtype=np.float32)
        smooth = gaussian_filter(rng.standard_normal(window.shape, dtype=np.float32), SMOOTH_VOX)
        volume = white / np.float32(np.sqrt(2)) + smooth / np.float32(np.sqrt(2) * smooth.std())
        for count in range(DIPS_PER_WINDOW):
            particle = pipeline.particles[count % len(pipeline.particles)]
            centre_zyx, width_vox = rng.uniform(0, window.shape), particle.radius_A / pipeline.voxel_A / 2
            # A Gaussian of that standard deviation, separably.
            profiles = [
                np.exp(-0.5 * ((np.arange(size, dtype=np.float32) + 0.5 - centre) / width_vox) ** 2)
                for size, centre in zip(window.shape, centre_zyx, strict=True)
            ]
            volume -= np.float32(DIP_SD) * np.einsum("z,y,x->zyx", *profiles)
        window[...] = (volume - volume.mean()) / volume.std()
    return windows
