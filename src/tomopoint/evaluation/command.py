"""The commands ``score``, ``report`` and ``tune``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from tomopoint.command import CommandResult
from tomopoint.errors import DataError

REPORT_NAME = "report.html"


def score(
    submission: Path,
    other: Path | None = None,
    /,
    *,
    truth: Path,
    pipeline: Path | None = None,
    beta: float = 4.0,
) -> CommandResult:
    """Compute the official score of a submission, or compare two.

    Runs of the submission that the truth does not hold are left out, as in the official metric; runs of the truth
    that the submission does not hold count as missed; both are said. A table that holds picks twice, or shares no run
    with the truth, is refused. Of two submissions the differences are shown per particle, with what chance among the
    runs could make of them.

    Parameters
    ----------
    submission
        CSV with experiment, particle_type, x, y, z (Angstrom).
    other
        A second one, B, to compare the first, A, with.
    truth
        Folder of true picks: a project, its overlay, or any folder with RUN/PARTICLE.json.
    pipeline
        pipeline.json with the particles, their radii and weights; default the one beside the submission, else
        particles.yaml of the project that holds the truth, else the competition's particles.
    beta
        Recall counts beta times as much as precision; the competition's is 4.
    """
    from tomopoint.data.selection import refuse_doubled
    from tomopoint.data.tables import read_pick_table
    from tomopoint.data.truth import is_simulated_truth, pipeline_beside, read_truth, scored_particles
    from tomopoint.evaluation.comparison import compare_scores, comparison_figures, comparison_text
    from tomopoint.evaluation.score import BETA, score_figures, score_picks, score_text
    from tomopoint.evaluation.scored_runs import check_shared_runs, differing_runs
    from tomopoint.pipeline import Pipeline, has_competition_metric, metric_of

    if not 0.01 <= beta <= 100:
        raise DataError(f"beta must lie in [0.01, 100], got {beta}; 1 weighs precision and recall alike")
    tables = {path: read_pick_table(path) for path in (submission, other) if path is not None}
    known = Pipeline.load(pipeline) if pipeline else pipeline_beside(submission)
    particles = scored_particles(known, truth)
    beside = pipeline_beside(other) if other and not pipeline else None
    if beside and metric_of(beside.particles) != metric_of(particles):
        raise DataError(f"{other} was predicted with other particles, radii or weights; say by which with --pipeline")
    points = read_truth(truth, [p.name for p in particles])
    scores, notes = [], []
    for path, table in tables.items():
        refuse_doubled(table, path)
        check_shared_runs(table, path, points, truth)
        scores.append(score_picks(points, table, particles, beta=beta))
        notes += differing_runs(table, scores[-1].runs, truth, f" of {path}" if other else "")
    simulated = is_simulated_truth(truth)
    if not has_competition_metric(particles):
        whose = "pipeline" if known else "project"
        notes.append(f"Particles, radii and weights are the {whose}'s, not the competition's: this is not its score.")
    elif beta != BETA:
        notes.append(f"Beta is {beta:g}, not the competition's {BETA:g}: this is not its score.")
    first = scores[0]
    if other:
        compared = compare_scores(first, scores[1])
        text = comparison_text(compared, len(first.runs), simulated, beta)
        figures = {
            "first": {"submission": str(submission), **score_figures(first)},
            "second": {"submission": str(other), **score_figures(scores[1])},
            "differences": comparison_figures(compared),
            "beta": beta,
            "simulated": simulated,
        }
        return CommandResult("\n".join([f"A: {submission}", f"B: {other}", text, *notes]), figures)
    table = tables[submission]
    figures = {
        **score_figures(first),
        "beta": beta,
        "simulated": simulated,
        "n_rows": len(table),
        "n_rows_left_out": int((~table["experiment"].isin(first.runs)).sum()),
        "n_runs_without_rows": len(set(first.runs) - set(table["experiment"])),
    }
    return CommandResult("\n".join([score_text(first, simulated), *notes]), figures)


def tune(
    picks: Path,
    /,
    *,
    truth: Path,
    out: Path = Path("tuned"),
    pipeline: Path | None = None,
    method: Literal["curve", "counts"] = "curve",
    picks_per_particle: float = 2.0,
    score_loss: float = 0.0,
) -> CommandResult:
    """Choose thresholds for a table of picks whose truth is known.

    Written are thresholds.json, which tomopoint rethreshold and tomopoint adapt take, the curves behind it as
    curves.csv, and their figure. Groups of runs are also scored at thresholds chosen on the other runs: that is what
    the choice is worth.

    Parameters
    ----------
    picks
        picks.csv with scores, or the folder of a prediction that holds it.
    truth
        Folder of true picks: a project, its overlay, or any folder with RUN/PARTICLE.json.
    out
        Folder to write.
    pipeline
        pipeline.json with the particles; default the one beside the picks, else particles.yaml of the project that
        holds the truth, else the competition's particles.
    method
        curve: the centre of the plateau of F4. counts: so many picks per true particle.
    picks_per_particle
        For counts.
    score_loss
        For the curve: chosen on average over tomograms in which scores are up to this share lower, e.g. 0.5, for
        tomograms of another kind than these.
    """
    from tomopoint.data.selection import check_scored_picks
    from tomopoint.data.tables import read_pick_table
    from tomopoint.data.truth import is_simulated_truth, pipeline_beside, read_truth, scored_particles
    from tomopoint.evaluation.calibration import CalibrationOptions
    from tomopoint.evaluation.score import score_figures
    from tomopoint.evaluation.scored_runs import check_shared_runs
    from tomopoint.evaluation.thresholds import GRID_STEP
    from tomopoint.evaluation.tuning import THRESHOLDS_NAME, tune_thresholds, write_tuning
    from tomopoint.files import check_output
    from tomopoint.pipeline import Pipeline

    if not 0 < picks_per_particle < 1000:
        raise DataError(f"--picks-per-particle must be positive, got {picks_per_particle}")
    if not 0 <= score_loss < 1 or (score_loss and method != "curve"):
        raise DataError(f"--score-loss must lie in [0, 1), and is for --method curve; got {score_loss} for {method}")
    source = picks / "picks.csv" if picks.is_dir() else picks
    check_output(out / THRESHOLDS_NAME, [source])
    table = read_pick_table(source)
    known = Pipeline.load(pipeline) if pipeline else pipeline_beside(source)
    particles = scored_particles(known, truth)
    check_scored_picks(table, [p.name for p in particles], source)
    points = read_truth(truth, [p.name for p in particles])
    check_shared_runs(table, source, points, truth)
    shared = set(points) & set(table["experiment"])
    if not shared:
        raise DataError(f"{source} holds no picks to choose thresholds by")
    floor = known.decoding.floor if known else GRID_STEP
    options = CalibrationOptions(method, picks_per_particle, floor, score_loss=score_loss)
    tuning = tune_thresholds(points, table, particles, options)
    files = write_tuning(tuning, out)
    simulated = is_simulated_truth(truth)
    lines = [tuning.text(simulated)]
    if len(shared) < len(points):
        lines.append(f"{len(points) - len(shared)} of {len(points)} runs of the truth have no pick and count as missed")
    lines += [f"wrote {', '.join(map(str, files))}", f"next: tomopoint rethreshold {source} --thresholds {files[0]}"]
    calibration = tuning.calibration
    figures = {
        "thresholds": calibration.thresholds,
        "option": tuning.option,
        "files": [str(file) for file in files],
        "score_before": tuning.before.score,
        "score_left_out": calibration.left_out.score if calibration.left_out else None,
        "simulated": simulated,
        **score_figures(calibration.score),
    }
    return CommandResult("\n".join(lines), figures)


def report(
    *,
    data: Path,
    submission: tuple[Path, ...],
    truth: Path | None = None,
    out: Path = Path(REPORT_NAME),
    trained: Path | None = None,
    prediction: Path | None = None,
    model: Path | None = None,
    tomo_type: str | None = None,
    voxel_size: float | None = None,
    voxel_spacing: float | None = None,
) -> CommandResult:
    """Write one HTML page about a submission, or about several.

    It holds counts, densities, scores, depths and distances of the picks, slabs to scroll through with the picks on
    them, and with truth the official score and what was found, missed, wrong or picked twice. It opens offline.

    Parameters
    ----------
    data
        Project folder that holds the tomograms, or any other place of tomograms that tomopoint predict was given.
    submission
        CSV with experiment, particle_type, x, y, z (Angstrom). Of several, A B C, the others are compared with the
        first.
    truth
        Folder of true picks: a project, its overlay, or any folder with RUN/PARTICLE.json. Leave it out where there
        are none.
    out
        The page.
    trained
        Validated training folder, e.g. trained/first: adds threshold curves, F4 per epoch and out-of-fold scores.
    prediction
        Folder that `tomopoint predict` wrote: adds timings; default the folder of the first submission.
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
    from tomopoint.evaluation.comparison import comparison_figures
    from tomopoint.evaluation.report import ReportSources, build_report
    from tomopoint.evaluation.score import score_figures
    from tomopoint.evaluation.submissions import labels_of
    from tomopoint.files import check_output, write_atomically
    from tomopoint.models.box import find_model
    from tomopoint.pipeline import PIPELINE_NAME

    labels_of(submission)
    model = None if model is None else find_model(model)
    inputs = [*submission, *(path.with_name(PIPELINE_NAME) for path in submission), *([model] if model else [])]
    check_output(out, inputs)
    sources = ReportSources(data, submission, truth, trained, prediction or submission[0].parent, model)
    sources = replace(sources, choice=Choice(voxel_spacing, tomo_type), voxel_A=voxel_size)
    built = build_report(sources)
    write_atomically(out, built.html)
    material = built.material
    kind = "simulated score" if material.simulated else "score"
    lines, figures_of_each = [], []
    for own in material.submissions:
        figures = {"submission": str(own.path), "n_picks": len(own.picks)}
        said = f"{len(own.picks)} picks, runs: {len(material.runs)}"
        if own.score is not None:
            figures |= score_figures(own.score)
            said = f"{kind}: {own.score.score:.4f}"
        lines.append(f"{own.label}: {own.path}: {said}" if own.label else said)
        figures_of_each.append(figures)
    for own, differences in zip(material.submissions[1:], built.compared, strict=False):
        item = differences["score"]
        lines.append(f"{own.label} less {material.submissions[0].label}: {item.difference:+.4f}, {item.verdict}")
    lines += [note for own in material.submissions for note in own.notes]
    lines.append(f"wrote {out} ({len(built.html) / 1e6:.1f} MB); open it in a browser")
    figures = {
        "report": str(out),
        "simulated": material.simulated,
        "n_runs": len(material.runs),
        **(figures_of_each[0] if len(figures_of_each) == 1 else {"submissions": figures_of_each}),
        "differences": [comparison_figures(differences) for differences in built.compared],
    }
    return CommandResult("\n".join(lines), figures)
