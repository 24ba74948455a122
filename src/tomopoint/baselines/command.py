"""The command `tomopoint baseline`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from tomopoint.command import CommandResult
from tomopoint.errors import TomopointError

logger = logging.getLogger(__name__)


def baseline(
    recipe: str,
    /,
    *,
    data: Path,
    out: Path,
    folds: str | None = None,
    steps: int | None = None,
    seed: int | None = None,
    thresholds: str = "curve",
    predict: Path | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    workers: int | None = None,
) -> CommandResult:
    """Train a 2-D baseline on slices, something to beat: a detector, or a segmenter.

    Trains it on every fold, predicts each held-out run by the networks that never saw it, and chooses thresholds as
    tomopoint validate does. Run the same command again to go on after an interruption. It is never exported.

    Parameters
    ----------
    recipe
        detector, segmenter, or the path of a YAML file; one file may change another with base: NAME.
    data
        Project folder in the competition's layout; its train runs need picks.
    out
        Folder to write, e.g. trained/slices.
    folds
        Only these folds, e.g. 0,1; default all.
    steps
        Instead of the recipe's.
    seed
        Instead of the recipe's.
    thresholds
        How they are chosen: curve, curve:0.5, counts or counts:1.5, as of tomopoint validate.
    predict
        Project whose test runs the average of all folds predicts then, into the folder picks.
    device
        Where to train.
    workers
        Processes that cut crops; default none on a CPU, up to eight on a GPU.
    """
    import json
    from dataclasses import replace

    import pandas as pd

    from tomopoint import __version__
    from tomopoint.baselines.cross_validation import make_baseline_plan, predict_held_out, predict_run, train_folds
    from tomopoint.baselines.folder import PICKS, open_baseline_folder
    from tomopoint.baselines.recipe_files import load_baseline
    from tomopoint.data.particles import project_particles
    from tomopoint.data.project import Project
    from tomopoint.data.sources.find import check_project
    from tomopoint.data.tables import passing, write_pick_table, write_submission
    from tomopoint.data.truth import read_truth
    from tomopoint.evaluation.calibration import VALIDATION_NAME, calibrate
    from tomopoint.files import write_atomically
    from tomopoint.inference.folder import PredictionFolder
    from tomopoint.pipeline import PIPELINE_NAME
    from tomopoint.training.machine import Machine
    from tomopoint.validation.result import calibrated, parse_thresholds, validation_text

    options = parse_thresholds(thresholds)
    if isinstance(options, Path):
        raise TomopointError(f"--thresholds {thresholds}: a baseline chooses its own; use curve or counts")
    check_project(data)
    chosen = load_baseline(recipe, project_particles(data))
    chosen = chosen if steps is None else replace(chosen, fit=replace(chosen.fit, steps=steps))
    chosen = chosen if seed is None else replace(chosen, seed=seed)
    machine = Machine(device, workers)
    processor = "cuda" if machine.on_gpu else "cpu"
    plan = make_baseline_plan(chosen, data, out, folds)
    test_runs = [] if predict is None else Project(predict).runs("test")
    open_baseline_folder(out, chosen, data, plan.records)

    # Train, predict out of fold, calibrate.
    trained = train_folds(plan, machine)
    pipeline = plan.pipeline()
    picks, records = predict_held_out(plan, pipeline, processor)
    truth = read_truth(data, pipeline.particle_names, list(records))
    options = replace(options, floor=pipeline.decoding.floor)
    calibration = calibrate(truth, picks, plan.groups, pipeline.particles, options)
    final = calibrated(pipeline, calibration)
    project = Project(data)
    content = {
        "method": options.method,
        "score_loss": options.score_loss,
        "training_folders": [str(out)],
        "data_root": str(data.resolve()),
        "simulated": project.is_simulated,
        "predictions": records,
        **calibration.to_dict(),
    }
    record = {"tomopoint": __version__, "pipeline_sha256": final.digest, **content}
    write_atomically(out / VALIDATION_NAME, json.dumps(record) + "\n")
    final.save(out / PIPELINE_NAME)
    lines = [f"{chosen.title}, {len(plan.folds)} folds in {out}", validation_text(calibration, project.is_simulated)]
    figures = {name: value for name, value in content.items() if name not in ("curves", "per_group")}
    figures |= {"out": str(out), "trained": trained}

    # Other runs, by all networks.
    if test_runs:
        folder = PredictionFolder(out / PICKS)
        tables = [
            predict_run(plan, plan.folds, final, run, folder.parts_path / f"{run.name}.csv", processor)[0]
            for run in test_runs
        ]
        all_picks = pd.concat(tables, ignore_index=True)
        write_pick_table(all_picks, folder.picks_path)
        write_submission(passing(all_picks, final.thresholds), folder.submission_path)
        final.save(folder.pipeline_path)
        lines.append(f"wrote {folder.picks_path} and {folder.submission_path.name}: {len(test_runs)} runs")
        figures["picks"] = str(folder.picks_path)
    return CommandResult("\n".join(lines), figures)
