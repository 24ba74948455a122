"""The commands ``score`` and ``report``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tomopoint.command import CommandResult
from tomopoint.errors import DataError

REPORT_NAME = "report.html"


def score(submission: Path, /, *, truth: Path, pipeline: Path | None = None, beta: float = 4.0) -> CommandResult:
    """Compute the official score of a submission.

    Runs of the submission that the truth does not hold are left out, as in the official metric; runs of the truth
    that the submission does not hold count as missed.

    Parameters
    ----------
    submission
        CSV with experiment, particle_type, x, y, z (Angstrom).
    truth
        Folder of true picks: a project, its overlay, or any folder with RUN/PARTICLE.json.
    pipeline
        pipeline.json with the particles, their radii and weights; default the one beside the submission, else
        particles.yaml of the project that holds the truth, else the competition's particles.
    beta
        Recall counts beta times as much as precision; the competition's is 4.
    """
    from tomopoint.data.tables import read_pick_table
    from tomopoint.data.truth import is_simulated_truth, pipeline_beside, read_truth, scored_particles
    from tomopoint.evaluation.score import BETA, score_figures, score_picks, score_text
    from tomopoint.pipeline import COMPETITION_PARTICLES, Pipeline

    if not 0.01 <= beta <= 100:
        raise DataError(f"beta must lie in [0.01, 100], got {beta}; 1 weighs precision and recall alike")
    table = read_pick_table(submission)
    known = Pipeline.load(pipeline) if pipeline else pipeline_beside(submission)
    particles = scored_particles(known, truth)
    result = score_picks(read_truth(truth, [p.name for p in particles]), table, particles, beta=beta)
    ignored = int((~table["experiment"].isin(result.runs)).sum())
    simulated = is_simulated_truth(truth)
    text = score_text(result, simulated)
    if ignored:
        text += f"\n{ignored} of {len(table)} rows belong to runs that {truth} does not hold; they were left out."
    official = {(p.name, p.radius_A, p.weight) for p in COMPETITION_PARTICLES}
    if {(p.name, p.radius_A, p.weight) for p in particles} != official:
        whose = "pipeline" if known else "project"
        text += f"\nParticles, radii and weights are the {whose}'s, not the competition's: this is not its score."
    elif beta != BETA:
        text += f"\nBeta is {beta:g}, not the competition's {BETA:g}: this is not its score."
    figures = {
        **score_figures(result),
        "beta": beta,
        "simulated": simulated,
        "n_rows": len(table),
        "n_rows_left_out": ignored,
    }
    return CommandResult(text, figures)


def report(
    *,
    data: Path,
    submission: Path,
    truth: Path,
    out: Path = Path(REPORT_NAME),
    trained: Path | None = None,
    prediction: Path | None = None,
    model: Path | None = None,
    tomo_type: str | None = None,
    voxel_size: float | None = None,
    voxel_spacing: float | None = None,
) -> CommandResult:
    """Write one HTML page about a submission.

    It holds scores, counts, slices with picks, curves and timings, and opens offline.

    Parameters
    ----------
    data
        Project folder that holds the tomograms, or any other place of tomograms that tomopoint predict was given.
    submission
        CSV with experiment, particle_type, x, y, z (Angstrom).
    truth
        Folder of true picks: a project, its overlay, or any folder with RUN/PARTICLE.json.
    out
        The page.
    trained
        Validated training folder, e.g. trained/first: adds threshold curves and out-of-fold scores.
    prediction
        Folder that `tomopoint predict` wrote: adds timings; default the folder of the submission.
    model
        The exported graph, or a model's name (see tomopoint models): adds its parity with PyTorch.
    tomo_type
        Reconstruction to show of tomograms of your own, as tomopoint predict was told.
    voxel_size
        Edge of their voxels in Angstrom, as tomopoint predict was told.
    voxel_spacing
        VoxelSpacing folders, as tomopoint predict was told.
    """
    from tomopoint.data.sources.tree import Choice
    from tomopoint.evaluation.report import ReportSources, build_report
    from tomopoint.evaluation.score import score_figures
    from tomopoint.files import check_output, write_atomically
    from tomopoint.models.box import find_model
    from tomopoint.pipeline import PIPELINE_NAME

    model = None if model is None else find_model(model)
    check_output(out, [submission, submission.with_name(PIPELINE_NAME), *([model] if model else [])])
    sources = ReportSources(data, submission, truth, trained, prediction or submission.parent, model)
    sources = replace(sources, choice=Choice(voxel_spacing, tomo_type), voxel_A=voxel_size)
    built = build_report(sources)
    write_atomically(out, built.html)
    kind = "simulated score" if built.simulated else "score"
    text = f"{kind}: {built.score.score:.4f}\nwrote {out} ({len(built.html) / 1e6:.1f} MB); open it in a browser"
    figures = {"report": str(out), "simulated": built.simulated, **score_figures(built.score)}
    return CommandResult(text, figures)
