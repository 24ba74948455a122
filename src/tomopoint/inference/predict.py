"""From one tomogram to its picks. Validation and submission both call this."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pandas as pd

from tomopoint.data.normalisation import normalise
from tomopoint.data.tomograms import Tomogram
from tomopoint.errors import DataError, EngineError, PipelineError
from tomopoint.inference.decode import decode_maps
from tomopoint.inference.engines.engine import OFFSETS, SCORES, Array, Engine
from tomopoint.inference.tiles import MapMerger, TilePlan, VolumeMaps
from tomopoint.pipeline import Pipeline

VOXEL_TOLERANCE = 0.02
"""Voxel sizes may differ from the training's by this share: a 2 % scale is within the +-5 % of the augmentation."""


def predict_tomogram(
    tomogram: Tomogram, engine: Engine, pipeline: Pipeline, on_window: Callable[[], None] = lambda: None
) -> pd.DataFrame:
    """Find the particles of one tomogram.

    Returns
    -------
    DataFrame
        ``particle_type, x, y, z, score``: all picks above the Pipeline's floor, Angstrom.

    Raises
    ------
    DataError
        Its voxel size is not the one the networks were trained at, or it cannot be normalised.
    PipelineError
        The engine does not belong to the Pipeline.
    """
    check_voxel_size(tomogram, pipeline)
    maps = predict_volume(tomogram.volume_zyx, engine, pipeline, on_window)
    return decode_maps(maps, pipeline, tomogram.voxel_A)


def predict_volume(
    volume_zyx: npt.NDArray[np.float32],
    engine: Engine,
    pipeline: Pipeline,
    on_window: Callable[[], None] = lambda: None,
) -> VolumeMaps:
    """Normalise a raw volume ``(D, H, W)``, run the engine over its windows and merge the outputs.

    After each call of the engine `on_window` is called.
    """
    if engine.window_zyx != pipeline.tiling.window_zyx:
        raise PipelineError(
            f"the engine takes windows of {engine.window_zyx}, the pipeline cuts {pipeline.tiling.window_zyx}; "
            "they do not belong together, export or build again"
        )
    normalised = normalise(volume_zyx, pipeline.normalisation)
    plan = TilePlan.for_volume(volume_zyx.shape, pipeline.tiling, pipeline.stride)
    merger = MapMerger(plan, len(pipeline.particles), pipeline.tiling.edge_weight)
    for starts, windows in plan.batches(normalised, engine.batch):
        scores, offsets = _checked(engine.infer(windows))
        for index, start in enumerate(starts):
            merger.add(start, scores[index], offsets[index])
        on_window()
    return merger.maps()


def _checked(outputs: tuple[Array, Array]) -> tuple[Array, Array]:
    """Refuse what is not finite: NaN from an overflow in half precision would pass as a tomogram without picks."""
    for name, values in zip((SCORES, OFFSETS), outputs, strict=True):
        if not np.isfinite(values).all():
            raise EngineError(
                f"the engine returned {name} that are not finite; check its precision (fp16 overflow?) with "
                "the build_engine notebook, or use the fp32 graph"
            )
    return outputs


def check_voxel_size(tomogram: Tomogram, pipeline: Pipeline) -> None:
    """DataError where a tomogram's voxels are not those the networks were trained on."""
    if abs(tomogram.voxel_A / pipeline.voxel_A - 1) > VOXEL_TOLERANCE:
        raise DataError(
            f"{tomogram.path} has voxels of {tomogram.voxel_A:.3f} A, the networks were trained at "
            f"{pipeline.voxel_A:.3f} A; resample the tomogram to that voxel size"
        )
