"""What a baseline finds in a tomogram, and how that becomes picks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from tomopoint.data.tables import PICK_COLUMNS
from tomopoint.inference.decode import suppress
from tomopoint.pipeline import Pipeline

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Found:
    """Points with scores.

    Attributes
    ----------
    points_zyx_vox
        ``(N, 3)`` voxels from the volume's corner.
    labels
        ``(N,)`` int64, class.
    scores
        ``(N,)`` in [0, 1].
    """

    points_zyx_vox: Floats
    labels: npt.NDArray[np.int64]
    scores: Floats

    @staticmethod
    def joined(parts: list[Found]) -> Found:
        """Return all of some parts, which may be none."""
        return Found(
            np.concatenate([np.zeros((0, 3)), *(part.points_zyx_vox for part in parts)]),
            np.concatenate([np.zeros(0, np.int64), *(part.labels for part in parts)]),
            np.concatenate([np.zeros(0), *(part.scores for part in parts)]),
        )


def picks_of(found: Found, pipeline: Pipeline, shape_zyx: tuple[int, int, int], voxel_A: float) -> pd.DataFrame:
    """Turn points into picks by the Pipeline's floor, residual and suppression, as decoding does with peaks of a map.

    Returns
    -------
    DataFrame
        ``particle_type, x, y, z, score``; Angstrom; per particle, highest score first.
    """
    size_xyz_A = np.asarray(shape_zyx[::-1]) * voxel_A
    tables = []
    for label, particle in enumerate(pipeline.particles):
        own = (found.labels == label) & (found.scores > pipeline.decoding.floor)
        points_xyz_A = found.points_zyx_vox[own][:, ::-1] * voxel_A - np.asarray(pipeline.decoding.residual_xyz_A)
        points_xyz_A, scores = np.clip(points_xyz_A, 0.0, size_xyz_A), found.scores[own]
        kept = suppress(points_xyz_A, scores, particle.suppression_A)[: pipeline.decoding.max_picks]
        x, y, z = points_xyz_A[kept].T
        columns = {"particle_type": particle.name, "x": x, "y": y, "z": z, "score": scores[kept]}
        tables.append(pd.DataFrame(columns, columns=list(PICK_COLUMNS[1:])))
    return pd.concat(tables, ignore_index=True)
