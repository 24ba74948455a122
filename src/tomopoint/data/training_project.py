"""A project of one's own to train on: picks, and the tomograms that they are of, laid out for `tomopoint train`.

Tomograms are linked. One that has to be read otherwise than it stands (other voxels, light protein, a voxel size that
its file does not say) is written anew instead, for training takes what a project holds as it is.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

import numpy as np

from tomopoint.data.mrc import is_mrc
from tomopoint.data.particles import PARTICLES_NAME, read_particles
from tomopoint.data.picks import Points, read_picks, write_picks
from tomopoint.data.project import DEFAULT_TOMO_TYPE, RUNS_FOLDER, STATIC, VOXEL_PREFIX, Run
from tomopoint.data.reading import VOXEL_TOLERANCE, Invert, Reading, Resample
from tomopoint.data.sources.find import FROM_FILES, Found
from tomopoint.data.sources.run import FileRun
from tomopoint.data.stores import COMPETITION_SCALE_A, write_tomogram
from tomopoint.data.tomograms import Tomogram, read_tomogram, voxel_size_of
from tomopoint.errors import DataError
from tomopoint.files import write_atomically
from tomopoint.pipeline import COMPETITION_PARTICLES

TRAIN = "train"
RECIPE_NAME = "recipe.yaml"
MOST_FOLDS = 5

DECIMALS = 3
"""Of an Angstrom, in picks files."""

SAME_VOXEL_A = 0.0005
"""Voxel sizes that differ by less are one: folders and headers state three decimals."""

RunPicks = Mapping[str, Mapping[str, Points]]
"""Run -> particle -> ``(N, 3)`` x, y, z in Angstrom."""


@dataclass(frozen=True)
class TrainingProject:
    """What was written.

    Attributes
    ----------
    files
        Of picks.
    written_anew
        Runs whose tomogram is no link, see the module's text.
    """

    files: tuple[Path, ...]
    written_anew: tuple[str, ...]


def read_for_training(found: Found, resample: Resample | None = None, invert: Invert | None = None) -> Found:
    """Return tomograms as models know them: voxels of :data:`COMPETITION_SCALE_A`, dark protein.

    Parameters
    ----------
    resample, invert
        As of :class:`tomopoint.data.reading.Reading`, but ``"never"`` keeps other voxels instead of refusing them.
        None: ``"auto"``, and nothing is done to a project, which is read as it stands unless asked for.
    """
    if found.is_project and not resample and not invert:
        return found
    usual: Resample = "never" if found.is_project else "auto"
    tolerance = inf if (resample or usual) == "never" else VOXEL_TOLERANCE
    inverted: Invert = invert or ("no" if found.is_project else "auto")
    voxel_A = sum(COMPETITION_SCALE_A) / len(COMPETITION_SCALE_A)
    return found.read_as(Reading(voxel_A, tolerance, DEFAULT_TOMO_TYPE, "auto", inverted))


def picks_file(project: Path, run: str, particle: str) -> Path:
    """Return the picks file of a particle in a training run of a project."""
    return Run(run, TRAIN, project).picks_folder / f"{particle}.json"


def other_picks(project: Path, picks: RunPicks) -> list[Path]:
    """Return the picks files that a project has in the place of `picks`, and that hold others."""
    places = [(picks_file(project, run, name), points) for run, own in picks.items() for name, points in own.items()]
    return [path for path, points in places if path.exists() and not _holds(path, points)]


def write_training_project(
    picks: RunPicks,
    found: Found,
    radii_A: Mapping[str, float],
    out: Path,
    replaced: Collection[Path] = (),
    particles: Collection[str] = (),
) -> TrainingProject:
    """Write picks as training runs of a project, beside their tomograms.

    ``particles.yaml`` and ``recipe.yaml`` are written where there are none. `out` may be the project that `found` is.

    Parameters
    ----------
    picks
        Of one or more runs of `found`. Of a particle without any, no file is written, unless there is one.
    found
        The tomograms, read as they shall be trained on.
    radii_A
        Of particles that are not the competition's.
    out
        Root of the project.
    replaced
        Picks files that may be replaced although they hold others, see :func:`other_picks`.
    particles
        Further ones to list, which other runs have.

    Raises
    ------
    DataError
        A particle without a radius, a `particles.yaml` that lacks one, other picks or another tomogram in the place of
        these; or as for reading a tomogram.
    """
    names = sorted({name for own in picks.values() for name, points in own.items() if len(points)} | {*particles})
    known = {particle.name for particle in COMPETITION_PARTICLES}
    path = out / PARTICLES_NAME
    if path.is_file():
        listed = [particle.name for particle in read_particles(path)]
        if missing := sorted(set(names) - set(listed)):
            raise DataError(f"{path} does not list {', '.join(missing)}; add them, or choose another --out")
    elif missing := sorted(set(names) - set(radii_A) - known):
        asked = ",".join(f"{name}=..." for name in missing)
        raise DataError(f"the radius of {', '.join(missing)} is not known; give it in Angstrom: --radius {asked}")
    if unknown := sorted(set(radii_A) - set(names)):
        raise DataError(f"--radius names {', '.join(unknown)}; there are picks of {', '.join(names)}")
    if refused := sorted(set(other_picks(out, picks)) - set(replaced)):
        raise DataError(f"{refused[0]} holds other picks; remove it, or choose another --out")

    files, written_anew = [], []
    runs = {run.name: run for run in found.tomograms}
    kind = DEFAULT_TOMO_TYPE if found.tomo_type in (None, FROM_FILES) else found.tomo_type
    for name, own in sorted(picks.items()):
        run = runs[name]
        if isinstance(run, Run):
            _link_folder(run, out)
        elif _place_tomogram(run, kind, out):
            written_anew.append(name)
        for particle, points in sorted(own.items()):
            place = picks_file(out, name, particle)
            if len(points) or place.exists():
                write_picks(place, name, particle, points.round(DECIMALS))
                files.append(place)
    if not path.is_file():
        write_atomically(path, _particles_text(names, radii_A, known))
    if not (out / RECIPE_NAME).exists():
        write_atomically(out / RECIPE_NAME, _recipe_text(len(picks), kind))
    return TrainingProject(tuple(files), tuple(written_anew))


def _holds(path: Path, points: Points) -> bool:
    return np.array_equal(read_picks(path).points_xyz_A, points.round(DECIMALS))


def _link_folder(run: Run, out: Path) -> None:
    """Let the training run be a run of another project, with all its reconstructions: a link, unless it is there."""
    source = (run.root / run.split / STATIC / RUNS_FOLDER / run.name).resolve()
    place = _run_folder(run.name, out)
    if place.exists() and place.resolve() != source:
        raise DataError(f"{place} is there and is not {source}; choose another --out")
    if not place.exists():
        _link(place, source)


def _place_tomogram(run: FileRun, kind: str, out: Path) -> bool:
    """Let a training run have a file as its reconstruction `kind`; return whether it was written anew."""
    folder = _run_folder(run.name, out)
    if folder.is_symlink():  # what is written there would lie among the originals
        raise DataError(f"{folder} is a link to {os.readlink(folder)}; choose another --out")
    read = None if run.reading is None and run.voxel_A is None else run.read(kind)
    anew = read if read is not None and not _is_as_it_stands(read, run) else None
    there = Run(run.name, TRAIN, out).tomogram_path(kind)
    if there.exists():
        if _is_same(there, anew) if anew else there.resolve() == run.path.resolve():
            return anew is not None
        raise DataError(f"{there} is there and is not {run.path} as it is read now; choose another --out")
    voxel_A = anew.voxel_A if anew else voxel_size_of(run.path)
    suffix = run.path.suffix.lower() if is_mrc(run.path) and not anew else ".zarr"
    place = folder / f"{VOXEL_PREFIX}{voxel_A:.3f}" / f"{kind}{suffix}"
    if anew:
        write_tomogram(place, anew.volume_zyx, (voxel_A,) * 3)
    else:
        _link(place, run.path.resolve())
    return anew is not None


def _run_folder(name: str, out: Path) -> Path:
    return out / TRAIN / STATIC / RUNS_FOLDER / name


def _is_as_it_stands(read: Tomogram, run: FileRun) -> bool:
    """Whether a tomogram would be the same to who reads its file without being told anything."""
    changed = read.record is not None and (read.record.resampled_to_A is not None or read.record.is_inverted)
    if changed or run.voxel_A is None:
        return not changed
    try:
        return abs(voxel_size_of(run.path) - run.voxel_A) < SAME_VOXEL_A
    except DataError:  # the reason why it was stated
        return False


def _is_same(place: Path, tomogram: Tomogram) -> bool:
    there = read_tomogram(place)
    same_voxels = abs(there.voxel_A - tomogram.voxel_A) < SAME_VOXEL_A
    return same_voxels and np.array_equal(there.volume_zyx, tomogram.volume_zyx)


def _link(place: Path, source: Path) -> None:
    place.unlink(missing_ok=True)  # a link that leads nowhere
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(source, target_is_directory=source.is_dir())


def _particles_text(names: Sequence[str], radii_A: Mapping[str, float], known: set[str]) -> str:
    lines = ["# What is looked for; the order is that of the score map's channels. weight: in the score."]
    lines += ["# threshold and suppression_A may be stated, too; validation chooses the thresholds.", "particles:"]
    for name in names:
        lines.append(f"  - name: {name!r}".replace("'", '"'))
        if name in radii_A:
            lines.append(f"    radius_A: {radii_A[name]:g}")
        if name not in known:
            lines.append("    weight: 1")
    return "\n".join([*lines, ""])


def _recipe_text(n_runs: int, kind: str) -> str:
    folds = f"kfold-{min(MOST_FOLDS, n_runs)}" if n_runs > 1 else "all"
    single = (
        ""
        if n_runs > 1
        else "  # a single run: nothing is held out; a second one lets `tomopoint validate` choose thresholds"
    )
    crops = "" if kind == DEFAULT_TOMO_TYPE else f'crops: {{tomo_types: ["{kind}"]}}\n'
    return f"""\
# Goes on from the model `small`, which comes with the package and was trained on simulated tomograms only.
# Its rate is a third of what training from nothing takes. More steps: fit.epochs. All options: docs/finetuning.md.
base: demo-scratch
networks:
  - {{name: segresnet, pretrained: small}}
folds: {folds}{single}
{crops}optimiser: {{learning_rate: 0.0007, warmup_steps: 20}}
fit: {{epochs: 20, steps_per_epoch: 100, max_minutes: 0}}
"""
