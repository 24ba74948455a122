"""The ``predict`` command."""

from __future__ import annotations

from pathlib import Path

from tomopoint.command import CommandResult


def predict(
    data: Path,
    model: Path,
    out: Path,
    split: str = "test",
    runs: str = "",
    workers: int = 0,
    provider: str = "auto",
    tomo_type: str = "denoised",
    limit_hours: float | None = None,
    engine: Path | None = None,
) -> CommandResult:
    """Pick particles in every tomogram of a split and write submission.csv.

    Run the same command again after a stop: runs that are done are not repeated.

    Parameters
    ----------
    data
        Project folder, the one that holds train/ and test/.
    model
        The graph, ensemble.onnx.
    out
        Folder for parts, picks.csv (all picks with scores), submission.csv and log.jsonl.
    split
        train or test.
    runs
        Only these runs, by name, separated by commas.
    workers
        Processes; 0: one per GPU, or one where there is none. They share the CPU's cores.
    provider
        auto, tensorrt, cuda or cpu.
    tomo_type
        Reconstruction to read.
    limit_hours
        Start no further run after this time and write the submission from what is done.
    engine
        engine.json of a TensorRT engine that `tomopoint engine` or the build_engine notebook made for the model.
    """
    from tomopoint.data.project import Project
    from tomopoint.inference.workers import PredictOptions, predict_runs

    project = Project(data)
    chosen = [project.run(name.strip(), split) for name in runs.split(",")] if runs else project.runs(split)
    options = PredictOptions(workers, provider, tomo_type, limit_hours, engine)
    summary = predict_runs(chosen, model, out, options)
    return CommandResult(summary.text(), summary.figures(), summary.ok)
