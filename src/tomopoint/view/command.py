"""The command ``view``."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from tomopoint.command import CommandResult
from tomopoint.errors import DataError, TomopointError

if TYPE_CHECKING:
    import pandas as pd

    from tomopoint.data.sources.find import Found

logger = logging.getLogger(__name__)


def view(
    data: Path,
    run: str | None = None,
    /,
    *,
    picks: Path | None = None,
    truth: Path | None = None,
    save: Path | None = None,
    radius: str = "",
    pipeline: Path | None = None,
    tomo_type: str | None = None,
    voxel_size: float | None = None,
    voxel_spacing: float | None = None,
    user: str | None = None,
    session: str | None = None,
    screenshot: Path | None = None,
    chimerax: Path | None = None,
    mrc_copy: bool = False,
) -> CommandResult:
    """Look at a tomogram and its picks in napari.

    A slider for each particle sets its threshold. Picks can be moved, added and removed, and what is shown is saved as
    training picks of a project by a button or by Shift-S. Or write a script for ChimeraX, which takes no napari.

    Parameters
    ----------
    data
        The tomograms, as for tomopoint predict: a project, MRC files, OME-Zarr, a copick project.
    run
        Which of them; the first unless given.
    picks
        picks.csv or the folder that holds it, a submission.csv, or a folder of picks files (a project, a copick
        overlay).
    truth
        Folder of true picks: a project, its overlay, or any folder with RUN/PARTICLE.json. What is found, wrong and
        missed is coloured as in the report.
    save
        Project to save picks in; default a folder NAME-picked here, named after the data. It may be the project that
        the tomograms lie in. Files that hold other picks are replaced only after a question.
    radius
        Radii in Angstrom of particles that are not the competition's, e.g. spike=75,fas=130.
    pipeline
        pipeline.json with thresholds and radii; the one beside the picks unless given.
    tomo_type
        Reconstruction to show, where there are several; default denoised.
    voxel_size
        Edge of the voxels in Angstrom, whatever the file says.
    voxel_spacing
        Which VoxelSpacing folders are read, where there are several.
    user
        Of a folder of picks files: whose, where there are several.
    session
        Of a folder of picks files: of which session, where there are several.
    screenshot
        Write a picture of the window (.png) instead of opening it.
    chimerax
        Write a script for ChimeraX (.cxc), and markers beside it, instead of opening a window.
    mrc_copy
        With --chimerax, which reads no OME-Zarr: write the tomogram as an MRC file beside the script.
    """
    from tomopoint.data.particles import parse_radii, particles_around
    from tomopoint.data.project import DEFAULT_TOMO_TYPE
    from tomopoint.data.sources.find import find_all
    from tomopoint.data.sources.tree import Choice
    from tomopoint.data.tomograms import voxel_size_of
    from tomopoint.data.truth import pipeline_beside, read_truth
    from tomopoint.files import check_output
    from tomopoint.pipeline import COMPETITION_PARTICLES, Pipeline
    from tomopoint.view.saving import TrainingPicks, default_target
    from tomopoint.view.scene import particle_views

    if chimerax is not None and screenshot is not None:
        raise TomopointError("--chimerax writes a script, --screenshot a picture of a napari window; give one of them")
    if mrc_copy and chimerax is None:
        raise TomopointError("--mrc-copy belongs to --chimerax, which is not given")
    if (user or session) and (picks is None or not _is_folder_of_picks(picks)):
        raise TomopointError("--user and --session choose among the picks files of a folder; --picks names none")
    if chimerax is None:
        from tomopoint.view.window import check_napari

        check_napari()
    output = chimerax or screenshot
    if output is not None:
        check_output(output, [source for source in (picks, pipeline) if source is not None and source.is_file()])

    # Which tomogram.
    usual = Choice(voxel_spacing, tomo_type, DEFAULT_TOMO_TYPE)
    found = find_all(data, usual, voxel_size)
    chosen = found.file(run or found.tomograms[0].name, DEFAULT_TOMO_TYPE)
    if run is None and len(found.tomograms) > 1:
        logger.info("shown is %s, the first of %s", chosen.name, _some([one.name for one in found.tomograms]))

    # Which picks, and what is known of their particles.
    table = _read_picks(picks, found, user, session)
    source = None if picks is None else picks / "picks.csv" if picks.is_dir() else picks
    known = Pipeline.load(pipeline) if pipeline else pipeline_beside(source) if source else None
    particles = known.particles if known else particles_around(truth or data)
    radii_A = parse_radii(radius)
    if picks is not None and chosen.name not in set(table["experiment"]):
        logger.warning("%s has no pick in %s; it has some in %s", picks, chosen.name, _some(set(table["experiment"])))
    names = {*(particle.name for particle in particles), *radii_A, *map(str, table["particle_type"])}
    if unknown := sorted({*map(str, table["particle_type"])} - {p.name for p in particles} - set(radii_A)):
        logger.warning(
            "the radius of %s is not known, so they are drawn small; say it with --radius %s=...",
            *(", ".join(unknown), unknown[0]),
        )
    voxel_A = voxel_size_of(chosen.path, chosen.voxel_A)
    centres = None if truth is None else read_truth(truth, names, [chosen.name])[chosen.name]
    views = particle_views(chosen.name, table, particles, radii_A, voxel_A, centres, has_thresholds=known is not None)

    # Where to.
    if chimerax is not None:
        from tomopoint.view.chimerax import write_chimerax_view

        return write_chimerax_view(chimerax, chosen, views, mrc_copy)
    from tomopoint.view.pyramid import open_pyramid
    from tomopoint.view.window import open_window

    usual_A = {particle.name: particle.radius_A for particle in COMPETITION_PARTICLES}
    own_A = {p.name: p.radius_A for p in particles if usual_A.get(p.name) != p.radius_A} | radii_A
    saver = TrainingPicks(save or default_target(data), found, chosen.name, own_A, {*map(str, table["particle_type"])})
    logger.info("picks are saved into %s", saver.project)
    open_window(chosen.name, open_pyramid(chosen.path, chosen.voxel_A), views, saver, screenshot)
    figures = {"run": chosen.name, "project": str(saver.project)}
    if screenshot is not None:
        return CommandResult(f"wrote {screenshot}", figures | {"screenshot": str(screenshot)})
    return CommandResult(
        f"closed {chosen.name}; picks are saved into {saver.project}, where that was asked for", figures
    )


def _is_folder_of_picks(picks: Path) -> bool:
    return picks.suffix == ".json" or (picks.is_dir() and not (picks / "picks.csv").exists())


def _read_picks(picks: Path | None, found: Found, user: str | None, session: str | None) -> pd.DataFrame:
    """Return the picks of all runs; an empty table where none are given."""
    from tomopoint.data.tables import empty_pick_table, read_pick_table
    from tomopoint.formats.copick import read_copick
    from tomopoint.formats.frames import Tomograms

    if picks is None:
        return empty_pick_table()
    if not picks.exists():
        raise DataError(
            f"no such file or folder: {picks}; --picks takes picks.csv, submission.csv or a folder of picks"
        )
    if _is_folder_of_picks(picks):
        return read_copick(picks, Tomograms(found), user, session)
    return read_pick_table(picks / "picks.csv" if picks.is_dir() else picks)


def _some(names: Collection[str], most: int = 8) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
