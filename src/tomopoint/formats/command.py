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
    tomo_type: str = "denoised",
) -> CommandResult:
    """Make a project to train on from picks of other programs.

    It gets picks, links to the tomograms, and, where there are none, a particles.yaml and a recipe.yaml that goes on
    from the model small. The tomograms have to be OME-Zarr in the layout of a project (docs/formats.md). What a file
    does not say is asked for, never guessed.

    Parameters
    ----------
    files
        NAME=FILE for each file, NAME the particle; FILE alone where the format names its particles (csv, imod; copick:
        the folder of the project or overlay).
    format
        What wrote them: relion5 (centred, Angstrom), relion4 (pixels of the tilt series), relion3 (3.1 and Warp: voxels
        of the tomogram), dynamo (.tbl), imod (.mod, one per tomogram), copick, or csv as of tomopoint predict.
    data
        Project folder with the tomograms that the picks are of.
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
        Reconstruction whose size and voxels are taken.
    """
    from tomopoint.formats.frames import Tomograms
    from tomopoint.formats.importing import RECIPE_NAME, ImportOptions, read_files, write_training_project

    _check_number("--pixel-size", pixel_size)
    _check_first_voxel(first_voxel)
    renamed = _pairs(rename, "--rename takes name=RUN,name=RUN")
    try:
        radii_A = {name: float(value) for name, value in _pairs(radius, "--radius takes spike=75,fas=130").items()}
    except ValueError as error:
        raise DataError(f"--radius takes spike=75,fas=130, Angstrom; got {radius!r}") from error
    for name, value in radii_A.items():
        _check_number(f"--radius {name}", value)
    tomograms = Tomograms(data, tomo_type, renamed)
    picks = read_files(files, format, tomograms, ImportOptions(pixel_size, first_voxel, user, session))
    counts = write_training_project(picks, tomograms, radii_A, out)
    per_run = picks["experiment"].value_counts().to_dict()
    left_out = sorted(set(tomograms.splits) - set(per_run))
    lines = [f"{out}: {len(picks)} picks in {len(per_run)} runs"]
    lines += [f"  {name:22} {count} picks" for name, count in counts.items()]
    if left_out:
        lines.append(f"{len(left_out)} runs of {data} have no picks in the files and are left out")
    lines.append(f"next: tomopoint train --data {out} --recipe {out / RECIPE_NAME} --out trained/{out.name}")
    return CommandResult("\n".join(lines), {"project": str(out), "counts": counts, "per_run": per_run})


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
        The tomograms, as `tomopoint predict` takes them: their sizes and voxels, where the format counts in them (all
        but copick and csv).
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
    from tomopoint.formats.frames import Frame, frames_of
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
