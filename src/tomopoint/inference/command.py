"""The ``predict`` command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tomopoint.command import CommandResult

if TYPE_CHECKING:
    from tomopoint.inference.workers import PredictionSummary


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
    return CommandResult(_text(summary), _figures(summary), summary.ok)


def _figures(summary: PredictionSummary) -> dict[str, object]:
    return {
        "n_runs": len(summary.outcomes),
        "n_picks": summary.joined.n_picks,
        "n_submitted": summary.joined.n_submitted,
        "counts": summary.joined.counts,
        "not_done": {outcome.run: outcome.message for outcome in summary.failed},
        "seconds_per_run": round(summary.mean_run_seconds, 2),
        "workers": summary.n_workers,
        "submission": str(summary.folder.submission_path),
        "picks": str(summary.folder.picks_path),
    }


def _text(summary: PredictionSummary) -> str:
    n_done = len(summary.outcomes) - len(summary.failed)
    rows = [f"  {name:20} {count:6d}" for name, count in summary.joined.counts.items()]
    problems = [f"  {outcome.run} ({outcome.status}): {outcome.message}" for outcome in summary.failed]
    lines = [
        f"{n_done} of {len(summary.outcomes)} runs predicted in {summary.seconds:.0f} s, "
        f"{summary.joined.n_submitted} picks above their thresholds:",
        *rows,
        f"Submission: {summary.folder.submission_path}",
        f"All {summary.joined.n_picks} picks with scores: {summary.folder.picks_path}",
    ]
    if problems:
        lines += ["Not in the submission; mend the cause and run the same command again:", *problems]
    return "\n".join(lines)
