"""The command `tomopoint validate`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tomopoint.command import CommandResult, parse_zyx
from tomopoint.errors import TomopointError


def validate(
    folders: list[Path],
    /,
    *,
    out: Path | None = None,
    data: Path | None = None,
    weights: Literal["equal", "out-of-fold"] = "equal",
    views: str = "identity",
    offset_average: Literal["mean", "score"] = "mean",
    window: str | None = None,
    overlap: str | None = None,
    thresholds: str = "curve",
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> CommandResult:
    """Score held-out runs by networks that never saw them.

    Predicts each with the average of all networks that never saw it and chooses thresholds. Writes pipeline.json, which
    is what is exported: weights, views, tiling, merging and decoding are those of the submission. Picks of a run are
    kept in validation/ beside it and not made again while weights and settings stay the same.

    Parameters
    ----------
    folders
        Training folders, which `tomopoint train` wrote; several are calibrated together, as the one average they will
        be.
    out
        Ensemble folder for the results of several; default beside the first, their names joined by +.
    data
        Project folder, where it is no longer the one that was trained on.
    weights
        Shares of the kinds of networks (architecture, training folder); out-of-fold: chosen on held-out runs, and taken
        only if they gain on runs that had no part in the choice, which predicts every run twice.
    views
        Views to average, e.g. identity,flip_x,flip_y,rot90: better and so many times slower, here and in the graph.
    offset_average
        score: offsets of the more certain networks count more.
    window
        Network input in voxels, as z,y,x; default that of the Pipeline, less where the tomograms are smaller.
    overlap
        Smallest overlap of neighbouring windows in voxels, as z,y,x; default 64, at most half the window.
    thresholds
        How they are chosen: curve (the centre of the plateau of F4), counts or counts:1.5 (so many picks per true
        particle; 2 by default), or the path of another training folder's pipeline.json to take them from.
    device
        Where to predict.
    """
    from tomopoint.data.tomograms import describe_tomogram
    from tomopoint.evaluation.calibration import CalibrationOptions
    from tomopoint.inference.tiles import choose_tiling
    from tomopoint.training.machine import Machine
    from tomopoint.validation.calibrate import (
        ValidationOptions,
        adopt_thresholds,
        base_pipeline,
        calibrate_ensemble,
        parse_thresholds,
    )
    from tomopoint.validation.ensemble_folder import load_ensemble

    calibration = parse_thresholds(thresholds)
    if isinstance(calibration, Path) and weights != "equal":
        raise TomopointError(
            f"--weights {weights} needs picks to judge by, but --thresholds {thresholds} predicts nothing; "
            "give one of them"
        )
    options = ValidationOptions(
        views=tuple(name.strip() for name in views.split(",")),
        offset_average=offset_average,
        weights=weights,
        calibration=calibration if isinstance(calibration, CalibrationOptions) else CalibrationOptions(),
        device="cuda" if Machine(device).on_gpu else "cpu",
    )
    window_zyx = None if window is None else parse_zyx("window", window)
    overlap_zyx = None if overlap is None else parse_zyx("overlap", overlap)
    ensemble = load_ensemble(folders, out)
    project = ensemble.project(data)
    names = [held_out.name for held_out in ensemble.held_out] or [run.name for run in project.runs("train")]
    shapes = [describe_tomogram(project.run(n, "train").tomogram_path(ensemble.tomo_type)).shape_zyx for n in names]
    tiling = choose_tiling(shapes, ensemble.divisor, window_zyx, overlap_zyx)
    pipeline = base_pipeline(ensemble, tiling, options)
    if isinstance(calibration, Path):
        return adopt_thresholds(ensemble, pipeline, calibration)
    return calibrate_ensemble(ensemble, pipeline, project, options)
