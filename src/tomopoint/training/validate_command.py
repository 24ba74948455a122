"""The command `tomopoint validate`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tomopoint.command import CommandResult, parse_zyx


def validate(
    run: Path,
    data: Path | None = None,
    views: str = "identity",
    window: str | None = None,
    overlap: str | None = None,
    thresholds: str = "curve",
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> CommandResult:
    """Predict every held-out run with the networks that never saw it; choose thresholds; write pipeline.json.

    Tiling, views, merging and decoding are those of the submission. Picks of a run are kept in RUN/validation and not
    made again while weights and settings stay the same.

    Parameters
    ----------
    run
        Folder that `tomopoint train` wrote.
    data
        Project folder, where it is no longer the one that was trained on.
    views
        Views to average, e.g. identity,flip_x,flip_y,rot90: better and so many times slower, here and in the graph.
    window
        Network input in voxels, as z,y,x; default 192,128,128, less where the tomograms are smaller.
    overlap
        Smallest overlap of neighbouring windows in voxels, as z,y,x; default 64, at most half the window.
    thresholds
        How they are chosen: curve (the centre of the plateau of F4), counts or counts:1.5 (so many picks per true
        particle; 2 by default), or the path of another run's pipeline.json to take them from.
    device
        Where to predict.
    """
    from tomopoint.data.tomograms import describe_tomogram
    from tomopoint.training.machine import Machine
    from tomopoint.training.trained import base_pipeline, load_trained_run
    from tomopoint.training.validate_steps import adopt_thresholds, calibrate_run, parse_thresholds
    from tomopoint.training.validation import PredictionOptions, choose_tiling

    calibration = parse_thresholds(thresholds)
    options = PredictionOptions(
        window_zyx=None if window is None else parse_zyx("window", window),
        overlap_zyx=None if overlap is None else parse_zyx("overlap", overlap),
        views=tuple(name.strip() for name in views.split(",")),
        device="cuda" if Machine(device).on_gpu else "cpu",
    )
    trained = load_trained_run(run)
    project = trained.project(data)
    names = [held_out.name for held_out in trained.held_out] or [r.name for r in project.runs("train")]
    shapes = [describe_tomogram(project.run(n, "train").tomogram_path(trained.tomo_type)).shape_zyx for n in names]
    pipeline = base_pipeline(trained, choose_tiling(shapes, trained.divisor, options), options.views)
    if isinstance(calibration, Path):
        return adopt_thresholds(run, pipeline, calibration)
    return calibrate_run(trained, pipeline, project, (options, calibration))
