"""The commands ``import`` and ``export-picks``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from tomopoint.command import CommandResult
from tomopoint.errors import DataError


def import_picks(
    files: list[str],
    /,
    *,
    format: Literal["relion5", "relion4", "relion3", "dynamo", "copick", "imod", "csv"],
    data: Path,
    out: Path,
    radius: str = "",
    pixel_size: float | None = None,
    first_voxel: float | None = None,
    rename: str = "",
    user: str | None = None,
    session: str | None = None,
    tomo_type: str | None = None,
    voxel_size: float | None = None,
    voxel_spacing: float | None = None,
    resample: Literal["auto", "never"] | None = None,
    invert: Literal["auto", "yes", "no"] | None = None,
) -> CommandResult:
    """Make a project to train on from picks of other programs.

    It gets picks, links to the tomograms, and, where there are none, a particles.yaml and a recipe.yaml that goes on
    from the model small. Tomograms that training could not take as they stand are written anew instead of linked. What
    a file does not say is asked for, never guessed.

    Parameters
    ----------
    files
        NAME=FILE for each file, NAME the particle; FILE alone where the format names its particles (csv, imod; copick:
        the folder of the project or overlay).
    format
        What wrote them: relion5 (centred, Angstrom), relion4 (pixels of the tilt series), relion3 (3.1 and Warp: voxels
        of the tomogram), dynamo (.tbl), imod (.mod, one per tomogram), copick, or csv as of tomopoint predict.
    data
        The tomograms that the picks are of: a project folder, or tomograms of your own as for tomopoint predict.
    out
        Project folder to write; may be that of --data.
    radius
        Radii in Angstrom of particles that are not the competition's, e.g. spike=75,fas=130.
    pixel_size
        What the coordinates are multiples of, Angstrom, where a file does not say it; goes before what it says.
    first_voxel
        Coordinate of the centre of the first voxel, where it is not the format's own: 0.5 (counted from the corner), 0
        (an index) or 1.
    rename
        Runs whose tomograms are called otherwise in the files, e.g. tomo_12.mrc=TS_12,3=TS_13 (dynamo: numbers).
    user
        copick: whose picks; needed where there are several.
    session
        copick: of which session; needed where there are several.
    tomo_type
        Reconstruction to take, where there are several; default denoised. A tomogram that is one file becomes the
        project's denoised one, whatever it is.
    voxel_size
        Edge of their voxels in Angstrom, whatever the files say.
    voxel_spacing
        Which VoxelSpacing folders are taken, where there are several.
    resample
        auto: other voxels are resampled to the 10.01 A of the models; never: trained on as they are. Default auto, and
        never for projects.
    invert
        Models know dark protein. auto: where protein is light, values change their sign; yes or no: whatever they tell.
        Default auto, and no for projects.
    """
    from tomopoint.data.particles import parse_radii
    from tomopoint.data.project import DEFAULT_TOMO_TYPE
    from tomopoint.data.sources.copick import find_overlay
    from tomopoint.data.sources.find import find_all
    from tomopoint.data.sources.tree import Choice
    from tomopoint.data.tables import points_by_run
    from tomopoint.data.training_project import RECIPE_NAME, read_for_training, write_training_project
    from tomopoint.formats.frames import Tomograms
    from tomopoint.formats.importing import ImportOptions, read_files
    from tomopoint.pipeline import COMPETITION_PARTICLES

    _check_number("--pixel-size", pixel_size)
    _check_first_voxel(first_voxel)
    renamed = _pairs(rename, "--rename takes name=RUN,name=RUN")
    stated = parse_radii(radius)
    found = find_all(data, Choice(voxel_spacing, tomo_type, DEFAULT_TOMO_TYPE), voxel_size)
    project = find_overlay(Path(files[0])) if format == "copick" else None
    tomograms = Tomograms(found, renamed)
    picks = read_files(files, format, tomograms, ImportOptions(pixel_size, first_voxel, user, session))

    # Training takes tomograms as they stand: what is not as models know them is changed now, in a copy.
    found = read_for_training(found, resample, invert)
    counts = {str(name): int(n) for name, n in picks["particle_type"].value_counts(sort=False).sort_index().items()}
    asked = set(counts) - {particle.name for particle in COMPETITION_PARTICLES}
    radii_A = {name: value for name, value in (project[1] if project else {}).items() if name in asked} | stated
    written = write_training_project(points_by_run(picks), found, radii_A, out)

    per_run = picks["experiment"].value_counts().to_dict()
    left_out = len({run.name for run in found.tomograms} - set(per_run))
    lines = [f"{out}: {len(picks)} picks in {len(per_run)} runs"]
    lines += [f"  {name:22} {count} picks" for name, count in counts.items()]
    if left_out:
        lines.append(f"{left_out} runs of {data} have no picks in the files and are left out")
    if written.written_anew:
        lines.append(
            f"{len(written.written_anew)} tomograms are written anew, as they are trained on; others are linked"
        )
    lines.append(f"next: tomopoint train --data {out} --recipe {out / RECIPE_NAME} --out trained/{out.name}")
    figures = {"project": str(out), "counts": counts, "per_run": per_run, "written_anew": list(written.written_anew)}
    return CommandResult("\n".join(lines), figures)


def export_picks(
    picks: Path,
    /,
    *,
    format: Literal["relion5", "relion4", "relion3", "dynamo", "copick", "imod", "chimerax", "csv"],
    out: Annotated[Path, Parameter(alias="-o")],
    data: Path | None = None,
    voxel_size: float | None = None,
    tomograms: Path | None = None,
    binning: float | None = None,
    first_voxel: float | None = None,
    thresholds: str = "",
    all: bool = False,
    exclusive: bool | None = None,
    pipeline: Path | None = None,
    user: str = "tomopoint",
    session: str = "1",
) -> CommandResult:
    """Write picks for RELION, Dynamo, copick, IMOD or ChimeraX.

    The picks above the thresholds go out, with their scores as the format's figure of merit. docs/formats.md states
    what every coordinate means.

    Parameters
    ----------
    picks
        picks.csv, the folder of the prediction that holds it, or a submission.csv (whose rows all go out, without
        scores).
    format
        relion5 (centred, Angstrom), relion4 (pixels of the tilt series), relion3 (3.1 and Warp: voxels of the
        tomogram), dynamo, copick (overlay), imod, chimerax or csv.
    out
        Folder for the files; with csv it may be the file.
    data
        The tomograms, as for tomopoint predict: their sizes and voxels, where the format counts in them (all but copick
        and csv).
    voxel_size
        Of all tomograms, Angstrom: as said to `tomopoint predict`, or instead of --data where no size is needed (all
        but relion5).
    tomograms
        relion5: RELION's tomograms.star, instead of --data: exact sizes, and its names.
    binning
        relion4: how many pixels of the tilt series make one voxel of the tomogram.
    first_voxel
        Coordinate of the centre of the first voxel, where it shall not be the format's own: 0.5 (counted from the
        corner), 0 (an index) or 1.
    thresholds
        Changed thresholds, e.g. ribosome=0.3, or thresholds.json of tomopoint tune; the others stay as in the pipeline.
    all
        All picks of the table, whatever the thresholds.
    exclusive
        One class per place, see tomopoint rethreshold; default where the metric is not the competition's.
    pipeline
        pipeline.json with the thresholds and radii; the one beside the picks unless given.
    user
        copick: whose picks they shall be.
    session
        copick: of which session.
    """
    from tomopoint.data.project import DEFAULT_TOMO_TYPE
    from tomopoint.data.selection import chosen_for_export
    from tomopoint.files import check_output
    from tomopoint.formats.exporting import (
        ANGSTROM_FROM_CORNER,
        ExportOptions,
        write_picks_as,
    )
    from tomopoint.formats.frames import Frame, frames_of, refuse_outside
    from tomopoint.formats.relion import frames_of_tomograms_star
    from tomopoint.pipeline import PIPELINE_NAME, Pipeline

    _check_number("--voxel-size", voxel_size)
    _check_number("--binning", binning)
    _check_first_voxel(first_voxel)
    source = picks / "picks.csv" if picks.is_dir() else picks
    beside = pipeline or source.with_name(PIPELINE_NAME)
    known = Pipeline.load(beside) if pipeline or beside.exists() else None
    chosen = chosen_for_export(source, known, thresholds, all, exclusive)
    runs = sorted(set(chosen["experiment"]))
    if tomograms and format != "relion5":
        raise DataError("--tomograms is for relion5; other formats take sizes and voxels from --data")
    frames: dict[str, Frame] = {}
    names: dict[str, str] = {}
    if tomograms:
        frames, names = frames_of_tomograms_star(tomograms, runs)
    elif format not in ANGSTROM_FROM_CORNER and data:
        frames = frames_of(data, runs, known.tomo_type if known else DEFAULT_TOMO_TYPE, voxel_size)
    elif format not in ANGSTROM_FROM_CORNER and voxel_size and format != "relion5":
        frames = {run: Frame(voxel_size) for run in runs}
    elif format not in ANGSTROM_FROM_CORNER:
        either = "--data, or RELION's --tomograms" if format == "relion5" else "--data, or their --voxel-size"
        raise DataError(f"{format} counts in the tomograms; name them with {either}")
    refuse_outside(chosen, frames, source)
    check_output(out if out.suffix == ".csv" else out / "picks.csv", [source, beside])
    options = ExportOptions(binning, first_voxel, user, session, names)
    files = write_picks_as(format, chosen, frames, known.particles if known else (), out, options)
    counts = {str(name): int(count) for name, count in chosen["particle_type"].value_counts(sort=False).items()}
    lines = [f"{out}: {len(chosen)} picks of {len(runs)} runs in {len(files)} files"]
    lines += [f"  {name:22} {count} picks" for name, count in counts.items()]
    figures = {"out": str(out), "n_picks": len(chosen), "counts": counts, "files": [str(file) for file in files]}
    return CommandResult("\n".join(lines), figures)


def _check_number(option: str, value: float | None) -> None:
    if value is not None and not 0 < value < 1e6:
        raise DataError(f"{option} must be a positive number, got {value}")


def _check_first_voxel(value: float | None) -> None:
    if value is not None and not 0 <= value <= 1:
        raise DataError(
            f"--first-voxel must lie in [0, 1], got {value}; 0 is an index, 1 counts from one, 0.5 a corner"
        )


def _pairs(text: str, form: str) -> dict[str, str]:
    """Read ``name=value,name=value``."""
    pairs = [part.rpartition("=") for part in text.split(",") if part.strip()]
    if not all(name.strip() and value.strip() for name, _, value in pairs):
        raise DataError(f"{form}; got {text!r}")
    return {name.strip(): value.strip() for name, _, value in pairs}
