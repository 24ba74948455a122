"""From maps to picks: local maxima, threshold, top-k, suppression of neighbours."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.ndimage import maximum_filter
from scipy.spatial import cKDTree

from tomopoint.data.tables import PICK_COLUMNS
from tomopoint.inference.tiles import VolumeMaps
from tomopoint.pipeline import Particle, Pipeline

Floats = npt.NDArray[np.float64]


def decode_maps(maps: VolumeMaps, pipeline: Pipeline, voxel_A: float) -> pd.DataFrame:
    """Turn maps into picks: all above the Pipeline's floor, whatever the thresholds.

    Parameters
    ----------
    maps
        Merged maps of a tomogram.
    pipeline
        Particles in the channel order of the scores, and how to decode.
    voxel_A
        The tomogram's own voxel size, Angstrom.

    Returns
    -------
    DataFrame
        ``particle_type, x, y, z, score``; Angstrom; per particle, highest score first.
    """
    tables = [
        _decode_class(maps, channel, particle, pipeline, voxel_A) for channel, particle in enumerate(pipeline.particles)
    ]
    return pd.concat(tables, ignore_index=True)


def local_maxima(scores_zyx: npt.NDArray[np.float32], floor: float) -> npt.NDArray[np.int64]:
    """Return the cells above `floor` that none of their 26 neighbours exceeds.

    Of equal neighbours (a plateau) all are returned; suppression keeps one of them.

    Returns
    -------
    ndarray
        ``(N, 3)`` indices z, y, x.
    """
    highest = maximum_filter(scores_zyx, size=3, mode="constant", cval=-np.inf)
    return np.argwhere((scores_zyx >= highest) & (scores_zyx > floor))


def suppress(points: Floats, scores: Floats, radius: float) -> npt.NDArray[np.int64]:
    """Greedy suppression: take the highest score, drop all within `radius` of it, and so on.

    Parameters
    ----------
    points
        ``(N, 3)`` positions, any unit.
    scores
        ``(N,)``; ties are broken by position, so the result does not depend on the order given.
    radius
        Two kept points are at least this far apart, in the unit of `points`.

    Returns
    -------
    ndarray
        Indices of the kept points, highest score first.
    """
    order = np.lexsort((points[:, 2], points[:, 1], points[:, 0], -scores))
    if len(order) == 0:
        return order
    tree = cKDTree(points)
    alive = np.ones(len(points), dtype=bool)
    kept = []
    for index in order:
        if not alive[index]:
            continue
        kept.append(index)
        # Strictly closer: the tree's ball is closed, the next smaller radius makes it open.
        alive[tree.query_ball_point(points[index], np.nextafter(radius, 0.0))] = False
    return np.array(kept, dtype=np.int64)


def _decode_class(
    maps: VolumeMaps, channel: int, particle: Particle, pipeline: Pipeline, voxel_A: float
) -> pd.DataFrame:
    cells_zyx = local_maxima(maps.scores[channel], pipeline.decoding.floor)
    scores = maps.scores[channel][tuple(cells_zyx.T)].astype(np.float64)
    if len(scores) > pipeline.decoding.max_picks:
        best = np.argsort(-scores, kind="stable")[: pipeline.decoding.max_picks]
        cells_zyx, scores = cells_zyx[best], scores[best]
    offsets_zyx = np.stack([maps.offsets[axis][tuple(cells_zyx.T)] for axis in range(3)], axis=1)
    centres_zyx_vox = (cells_zyx + 0.5) * maps.stride + offsets_zyx
    centres_xyz_A = centres_zyx_vox[:, ::-1] * voxel_A - np.asarray(pipeline.decoding.residual_xyz_A)
    # A pick outside the tomogram is certainly wrong; its nearest place inside is not.
    centres_xyz_A = np.clip(centres_xyz_A, 0.0, np.asarray(maps.shape_zyx[::-1]) * voxel_A)
    kept = suppress(centres_xyz_A, scores, particle.suppression_A)
    x, y, z = centres_xyz_A[kept].T
    columns = {"particle_type": particle.name, "x": x, "y": y, "z": z, "score": scores[kept]}
    return pd.DataFrame(columns, columns=list(PICK_COLUMNS[1:]))
