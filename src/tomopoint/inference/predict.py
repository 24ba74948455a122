"""From one tomogram to its picks. Validation and submission both call this."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from tomopoint.data.normalisation import normalise
from tomopoint.data.reading import VOXEL_TOLERANCE
from tomopoint.data.tomograms import Tomogram
from tomopoint.errors import DataError, EngineError, PipelineError
from tomopoint.inference.decode import decode_maps
from tomopoint.inference.engines.engine import OFFSETS, SCORES, Array, Engine
from tomopoint.inference.tiles import MapMemory, MapMerger, Size, TilePlan, VolumeMaps, mirror_beyond
from tomopoint.pipeline import Pipeline

OnWindow = Callable[[int, int], None]
"""Called after each call of the engine, with how many of a tomogram's windows are computed, and how many it has."""


def predict_tomogram(
    tomogram: Tomogram, engine: Engine, pipeline: Pipeline, on_window: OnWindow = lambda n_done, n_windows: None
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
    on_window: OnWindow = lambda n_done, n_windows: None,
) -> VolumeMaps:
    """Normalise a raw volume ``(D, H, W)``, run the engine over its windows and merge the outputs."""
    with ThreadPoolExecutor(max_workers=1) as merging:
        return compute(prepare(volume_zyx, pipeline), engine, pipeline, merging, on_window).result()


OUTPUTS_BEHIND = 3
"""Outputs of the engine that wait to be merged, or are merged, while it goes on: 57 MB for each of the
winner's windows, of which a call may take several."""


@dataclass(frozen=True)
class Prepared:
    """A tomogram as the engine's windows are cut from it.

    Attributes
    ----------
    volume_zyx
        Normalised; mirrored beyond its end as far as windows reach, so that every window is a view.
    plan
        Where the windows lie.
    """

    volume_zyx: npt.NDArray[np.float32]
    plan: TilePlan


def prepare(volume_zyx: npt.NDArray[np.float32], pipeline: Pipeline, give_away: bool = False) -> Prepared:
    """Normalise a raw volume ``(D, H, W)`` and make room for the windows that reach beyond its end.

    With `give_away` the caller does not need the volume any more: it is overwritten where nothing has to be added.

    Raises
    ------
    DataError
        It cannot be normalised.
    """
    plan = TilePlan.for_volume(volume_zyx.shape, pipeline.tiling, pipeline.stride)
    covered = tuple(max(size, end) for size, end in zip(plan.shape_zyx, plan.covered_zyx, strict=True))
    if covered == plan.shape_zyx:
        return Prepared(normalise(volume_zyx, pipeline.normalisation, out=volume_zyx if give_away else None), plan)
    whole = np.empty(covered, dtype=np.float32)
    normalise(volume_zyx, pipeline.normalisation, out=whole[tuple(slice(0, size) for size in plan.shape_zyx)])
    mirror_beyond(whole, plan.shape_zyx)
    return Prepared(whole, plan)


def compute(
    prepared: Prepared,
    engine: Engine,
    pipeline: Pipeline,
    merging: Executor,
    on_window: OnWindow = lambda n_done, n_windows: None,
    memory: MapMemory | None = None,
) -> Future[VolumeMaps]:
    """Run the engine over a tomogram's windows; return once it is done, while the last outputs may still be merged.

    What one call of the engine returned is merged while it computes the next; merging may be `OUTPUTS_BEHIND` calls
    behind, so that the engine does not wait for a merger that had to wait for the processor itself.

    Parameters
    ----------
    merging
        One thread, which merges.
    on_window
        See :data:`OnWindow`.
    memory
        Of earlier maps, for these; None: new.

    Raises
    ------
    PipelineError
        The engine does not belong to the Pipeline.
    EngineError
        It failed. What it returned last is looked at while it is merged: of that, the future tells.
    """
    if engine.window_zyx != pipeline.tiling.window_zyx:
        raise PipelineError(
            f"the engine takes windows of {engine.window_zyx}, the pipeline cuts {pipeline.tiling.window_zyx}; "
            "they do not belong together, export or build again"
        )
    merger = merging.submit(
        MapMerger, prepared.plan, len(pipeline.particles), pipeline.tiling.edge_weight, memory or MapMemory()
    )
    behind: deque[Future[None]] = deque()
    n_done, n_windows = 0, len(prepared.plan.starts_zyx)
    for starts, windows in prepared.plan.batches(prepared.volume_zyx, engine.batch):
        outputs = engine.infer(windows)
        while behind and (behind[0].done() or len(behind) == OUTPUTS_BEHIND):
            behind.popleft().result()
        behind.append(merging.submit(_merge, merger, starts, outputs))
        n_done += len(starts)
        on_window(n_done, n_windows)
    return merging.submit(_maps_after, tuple(behind), merger)


def _merge(merger: Future[MapMerger], starts: Sequence[Size], outputs: tuple[Array, Array]) -> None:
    scores, offsets = _checked(outputs)
    for index, start in enumerate(starts):
        merger.result().add(start, scores[index], offsets[index])


def _maps_after(behind: Sequence[Future[None]], merger: Future[MapMerger]) -> VolumeMaps:
    for merged in behind:
        merged.result()  # one thread merges: it is done, and says what went wrong
    return merger.result().maps()


def _checked(outputs: tuple[Array, Array]) -> tuple[Array, Array]:
    """Refuse what is not finite: NaN from an overflow in half precision would pass as a tomogram without picks."""
    for name, values in zip((SCORES, OFFSETS), outputs, strict=True):
        if not all(np.isfinite(channel).all() for window in values for channel in window):
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
