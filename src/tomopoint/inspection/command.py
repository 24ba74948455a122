"""The command ``tomopoint inspect``."""

from __future__ import annotations

from pathlib import Path

from tomopoint.command import CommandResult
from tomopoint.errors import DataError


def inspect(
    data: Path,
    /,
    *,
    out: Path | None = None,
    recipe: str | None = None,
    trained: Path | None = None,
    suspects: Path | None = None,
    sure: float = 0.8,
    within: float = 0.7,
    tomo_type: str | None = None,
    voxel_size: float | None = None,
    voxel_spacing: float | None = None,
) -> CommandResult:
    """Look at tomograms and labels before a training, and for label errors after it.

    Says what would stop a training, which runs are unlike the others, what is odd about labels and how even the folds
    are, each with what to do. Ends with status 1 where a training would stop or labels are broken.

    Parameters
    ----------
    data
        A project, or any other place of tomograms that tomopoint predict takes.
    out
        Write an HTML page, e.g. report.html.
    recipe
        Whose folds and reconstructions are looked at; default that of --trained, else recipe.yaml of the project where
        there is one, else default.
    trained
        Validated training folder: ranks labels and picks that networks contradict which never saw the run.
    suspects
        Table of these; default suspects.csv beside the page, else here.
    sure
        Least doubt of what is listed there: the share of such labels that the networks find, or of such picks that
        have a label.
    within
        Two labels nearer than this share of their radius are one particle labelled twice.
    tomo_type
        Reconstruction to look at; default those of the recipe.
    voxel_size
        Edge of the voxels in Angstrom, as tomopoint predict was told.
    voxel_spacing
        VoxelSpacing folders, as tomopoint predict was told.
    """
    from tomopoint.data.sources.tree import Choice
    from tomopoint.files import check_output, write_atomically
    from tomopoint.inspection.after import read_trained
    from tomopoint.inspection.inspection import inspect_data
    from tomopoint.inspection.page import inspection_page, suspect_sections
    from tomopoint.inspection.suspect_pictures import suspect_pictures
    from tomopoint.inspection.suspects import SUSPECTS_NAME, find_suspects, write_suspects
    from tomopoint.inspection.text import inspection_figures, inspection_text, suspects_text

    for option, value, most in (("sure", sure, 1.0), ("within", within, 2.0)):
        if not 0 < value <= most:
            raise DataError(f"--{option} must lie above 0 and up to {most:g}, got {value:g}")
    if suspects is not None and trained is None:
        raise DataError("--suspects belongs to --trained, which is not given")
    table = suspects or (out.with_name(SUSPECTS_NAME) if out else Path(SUSPECTS_NAME))
    for path in [*([out] if out else []), *([table] if trained else [])]:
        check_output(path, [])
    judged = None if trained is None else read_trained(trained, data)
    recipe = recipe or (judged.recipe if judged else None)
    inspection = inspect_data(data, recipe, Choice(voxel_spacing, tomo_type), voxel_size, within)
    blocks, figures, sections = [inspection_text(inspection)], inspection_figures(inspection), []

    # What networks say of labels that they never saw.
    if judged is not None:
        if unknown := sorted({particle.name for particle in judged.particles} - set(inspection.names)):
            raise DataError(f"{trained} knows {', '.join(unknown)}, the recipe does not; name its own with --recipe")
        labels = {run.name: run.labels for run in inspection.labelled if run.labels and run.name in judged.picks}
        picks = {run: judged.picks[run] for run in labels}
        found = find_suspects(labels, picks, judged.particles, sure)
        write_suspects(found, table)
        blocks += [suspects_text(found), f"wrote {table}"]
        kinds = {str(kind): int(count) for kind, count in found["kind"].value_counts().items()}
        figures |= {"suspects": str(table), "n_suspects": len(found), "suspect_kinds": kinds}
        if out is not None:
            by_name = {particle.name: particle for particle in judged.particles}
            pictures = suspect_pictures(found, by_name, judged.read) if len(found) else None
            sections = suspect_sections(found, pictures)

    if out is not None:
        write_atomically(out, inspection_page(inspection, sections))
        blocks.append(f"wrote {out}; open it in a browser")
        figures["page"] = str(out)
    n_errors, n_warnings = figures["n_errors"], figures["n_warnings"]
    verdict = "a training would stop, or labels are broken" if n_errors else "a training would go through"
    if not inspection.labelled and not n_errors:
        verdict = "no labels, so nothing to train on; the tomograms can be read"
    blocks.append(f"{n_errors} errors, {n_warnings} warnings: {verdict}")
    return CommandResult("\n\n".join(blocks), figures, ok=inspection.ok)
