"""The inspection of data before a training: every tomogram read once, every label looked at, folds dealt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from tomopoint.data.folds import LabelCounts, make_folds
from tomopoint.data.particles import project_particles
from tomopoint.data.picks import read_picks, read_run_picks
from tomopoint.data.project import DEFAULT_TOMO_TYPE, SPLITS, Project, Run
from tomopoint.data.sources.find import Found, find_all, is_project
from tomopoint.data.sources.run import FileRun
from tomopoint.data.sources.tree import Choice
from tomopoint.data.tables import COORDINATES, empty_pick_table
from tomopoint.data.tomograms import TRAINING_VOXEL_TOLERANCE, TomogramInfo, open_tomogram
from tomopoint.data.training_project import RECIPE_NAME
from tomopoint.errors import DataError
from tomopoint.evaluation.distribution import neighbours_of
from tomopoint.inspection import findings as kinds
from tomopoint.inspection.balance import FoldBalance, balance_of, better_folds
from tomopoint.inspection.findings import Finding
from tomopoint.inspection.labels import Pair, Points, pairs_on_one_place, places_text
from tomopoint.inspection.outliers import FEWEST_RUNS, Outlier, Quantity, find_outliers
from tomopoint.inspection.volumes import QUANTILES, VolumeLook, look_at
from tomopoint.pipeline import Particle
from tomopoint.progress import track
from tomopoint.training.recipe import Recipe
from tomopoint.training.recipe_files import load_recipe

TRAIN = SPLITS[0]

FEWEST_NEIGHBOURS, FEWEST_DEPTHS = 5, 10
"""Labels of a run whose distances, or depths, are compared with those of other runs."""


@dataclass(frozen=True)
class RunLook:
    """What was seen of one run.

    Attributes
    ----------
    name
        Of the run.
    volumes
        By reconstruction; those that could not be read are not in it.
    labels
        Particle -> ``(N, 3)`` x, y, z in Angstrom; None: it has none, or none that could be read.
    """

    name: str
    volumes: Mapping[str, VolumeLook]
    labels: Mapping[str, Points] | None


@dataclass(frozen=True)
class Inspection:
    """All that was seen.

    Attributes
    ----------
    data, found
        As typed, and what it is, on one line.
    is_simulated
        Whether the tomograms are.
    recipe
        Name or path of the recipe whose folds and reconstructions were looked at; None: there are no labels.
    particles
        Of the recipe, else of the project.
    runs
        Sorted by name.
    folds
        Of the recipe; empty where they cannot be made, or there are no labels.
    outliers
        Runs that stand out, and by what.
    findings
        What is wrong, or worth a look.
    notes
        What was not looked at, and why.
    """

    data: Path
    found: str
    is_simulated: bool
    recipe: str | None
    particles: tuple[Particle, ...]
    runs: tuple[RunLook, ...]
    folds: tuple[FoldBalance, ...]
    outliers: tuple[Outlier, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """Of the particles."""
        return [particle.name for particle in self.particles]

    @property
    def labelled(self) -> tuple[RunLook, ...]:
        """The runs with labels."""
        return tuple(run for run in self.runs if run.labels is not None)

    @property
    def counts(self) -> LabelCounts:
        """Labels of each run that has any, by particle."""
        return {run.name: {name: len(points) for name, points in (run.labels or {}).items()} for run in self.labelled}

    @property
    def label_table(self) -> pd.DataFrame:
        """All labels as a pick table, without scores."""
        return label_table(self.labelled)

    @property
    def ok(self) -> bool:
        """Whether nothing was found at which a training stops."""
        return all(finding.kind.severity != "error" for finding in self.findings)


def inspect_data(
    data: Path,
    recipe: str | None,
    choice: Choice,
    voxel_A: float | None,
    within: float,
) -> Inspection:
    """Look at tomograms, one at a time, and at the labels of a project.

    Parameters
    ----------
    data
        A project, or any other place of tomograms that `tomopoint predict` takes.
    recipe
        Name or path; None: the project's own where it has one, else ``default``.
    choice, voxel_A
        Of several reconstructions and voxel spacings, and the voxel size over what the files say.
    within
        Two labels nearer than this share of the mean of their radii are on one place.

    Raises
    ------
    DataError
        There is nothing at `data`, or it can be understood in several ways.
    TomopointError
        The recipe cannot be read.
    """
    found = find_all(data, choice, voxel_A)
    has_labels = is_project(data) and (data / TRAIN).is_dir()
    recipe_name = recipe or (str(data / RECIPE_NAME) if (data / RECIPE_NAME).is_file() else "default")
    known = project_particles(data)
    loaded = load_recipe(recipe_name, known) if has_labels else None
    particles = loaded.particles if loaded else known
    types = (choice.tomo_type,) if choice.tomo_type else loaded.crops.tomo_types if loaded else (DEFAULT_TOMO_TYPE,)
    train = {run.name for run in Project(data).runs(TRAIN)} if has_labels else set()

    # Every tomogram, once, and the labels beside it.
    results: list[Finding] = []
    runs = []
    for run in track(found.tomograms, "inspect"):
        # Training reads every reconstruction of the recipe, validation and prediction the first.
        volumes = _look_at_volumes(run.name, found, types if run.name in train else types[:1], results)
        labels = None
        if run.name in train:
            labels = _look_at_labels(Run(run.name, TRAIN, data), volumes, particles, within, results)
        runs.append(RunLook(run.name, volumes, labels))

    # What is seen of all runs together only.
    results += _voxel_sizes(runs, train)
    labelled = [run for run in runs if run.labels is not None]
    missing = [p.name for p in particles if labelled and not any(len((run.labels or {})[p.name]) for run in labelled)]
    results += [Finding(kinds.MISSING_CLASS, f"{name}: no label in any of {len(labelled)} runs") for name in missing]
    outliers = find_outliers([*_volume_quantities(runs), *_label_quantities(labelled, particles)])
    results += [Finding(kinds.OUTLIER, outlier.text(), outlier.run) for outlier in outliers]
    notes = []
    for what, n_runs in (("voxel statistics", len(runs)), ("labels", len(labelled))):
        if 0 < n_runs < FEWEST_RUNS:
            notes.append(f"{what} of {n_runs} runs: outliers are looked for among {FEWEST_RUNS} or more")
    if not has_labels:
        notes.append("no labels here: a project's training runs have them (tomopoint import makes one)")

    # The folds that a training would deal.
    folds: tuple[FoldBalance, ...] = ()
    if loaded is not None and train:
        folds = _look_at_folds(loaded, sorted(train), labelled, results)
    return Inspection(
        data,
        found.text,
        found.is_simulated,
        recipe_name if loaded else None,
        particles,
        tuple(runs),
        folds,
        tuple(outliers),
        tuple(results),
        tuple(notes),
    )


def label_table(runs: Sequence[RunLook]) -> pd.DataFrame:
    """Return the labels of runs as a pick table: experiment, particle_type, x, y, z."""
    parts = [
        pd.DataFrame(points, columns=list(COORDINATES)).assign(experiment=run.name, particle_type=name)
        for run in runs
        for name, points in (run.labels or {}).items()
        if len(points)
    ]
    return pd.concat(parts, ignore_index=True) if parts else empty_pick_table()


def _look_at_volumes(name: str, found: Found, types: Sequence[str], results: list[Finding]) -> dict[str, VolumeLook]:
    """Read the reconstructions of a run; what cannot be read becomes a finding."""
    volumes: dict[str, VolumeLook] = {}
    for tomo_type in types:
        try:
            file: FileRun = found.file(name, tomo_type)
            look = look_at(open_tomogram(file.path, file.voxel_A))
        except (DataError, OSError) as error:
            results.append(Finding(kinds.UNREADABLE, f"{name}: {error}", name))
            continue
        volumes[tomo_type] = look
        results += [Finding(kinds.STORED, f"{name}: {note}", name) for note in look.notes]
        if look.protein == "light":
            skewness = f"skewness {look.statistics.skewness:+.2f} in the proteins' band"
            results.append(Finding(kinds.LIGHT, f"{name}: protein looks light ({skewness})", name))
    shapes = {look.shape_zyx for look in volumes.values()}
    if len(shapes) > 1:
        told = ", ".join(f"{tomo_type} {look.shape_zyx}" for tomo_type, look in volumes.items())
        results.append(Finding(kinds.SHAPES, f"{name}: {told}", name))
    return volumes


def _look_at_labels(
    run: Run, volumes: Mapping[str, VolumeLook], particles: Sequence[Particle], within: float, results: list[Finding]
) -> dict[str, Points] | None:
    """Read the labels of a run and look for what is wrong with them; None where they cannot be read."""
    names = [particle.name for particle in particles]
    try:
        known = [particle.name for particle in project_particles(run.root)]
        labels = read_run_picks(run.picks_folder, names, known)
        n_read = Counter[str]()
        for path in run.picks_folder.glob("*.json"):
            picks = read_picks(path)
            n_read[picks.particle] += len(picks.points_xyz_A)
    except DataError as error:
        results.append(Finding(kinds.LABELS, f"{run.name}: {error}", run.name))
        return None
    if not any(map(len, labels.values())):
        results.append(Finding(kinds.LABELS, f"{run.name}: {run.picks_folder} holds not one label", run.name))
    for name, points in labels.items():
        if n_read[name] > len(points):
            text = f"{run.name}: {n_read[name] - len(points)} labels of {name} are there twice, at the very same place"
            results.append(Finding(kinds.DOUBLED, text, run.name))

    for look in list(volumes.values())[:1]:
        info = TomogramInfo(look.shape_zyx, look.voxel_A, run.picks_folder, 0)
        size = " x ".join(f"{edge:.0f}" for edge in info.size_xyz_A)
        for name, points in labels.items():
            outside = info.outside(points)
            if len(outside):
                where = places_text(list(points[outside]))
                text = f"{run.name}: {len(outside)} of {len(points)} {name} {where}, outside {size} A"
                results.append(Finding(kinds.OUTSIDE, text, run.name))

    pairs: dict[tuple[str, str], list[Pair]] = {}
    for pair in pairs_on_one_place(labels, particles, within):
        pairs.setdefault((pair.first, pair.second), []).append(pair)
    for (first, second), own in pairs.items():
        kind = kinds.DOUBLED if first == second else kinds.CONFLICTING
        what = first if first == second else f"{first} and {second}"
        nearest = min(pair.distance_A for pair in own)
        where = places_text([pair.place_xyz_A for pair in own])
        count = "one pair" if len(own) == 1 else f"{len(own)} pairs"
        text = f"{run.name}: {count} of {what}, {nearest:.0f} A apart at the nearest, {where}"
        results.append(Finding(kind, text, run.name))
    return labels


def _voxel_sizes(runs: Sequence[RunLook], train: set[str]) -> list[Finding]:
    """Return a finding where training runs differ in voxel size, and one where others do."""
    findings = []
    for kind, own in (
        (kinds.VOXEL_SIZES, [run for run in runs if run.name in train]),
        (kinds.OTHER_VOXELS, [run for run in runs if run.name not in train]),
    ):
        sizes = {run.name: look.voxel_A for run in own for look in run.volumes.values()}
        if sizes and max(sizes.values()) > min(sizes.values()) * (1 + TRAINING_VOXEL_TOLERANCE):
            usual = float(np.median(list(sizes.values())))
            odd = {name: A for name, A in sizes.items() if abs(A / usual - 1) > TRAINING_VOXEL_TOLERANCE}
            told = ", ".join(f"{voxel_A:.3f} A in {name}" for name, voxel_A in odd.items())
            findings.append(Finding(kind, f"{told}; most have {usual:.3f} A"))
    return findings


def _volume_quantities(runs: Sequence[RunLook]) -> list[Quantity]:
    """Return the voxel statistics by which runs are compared, within each reconstruction."""
    quantities = []
    for tomo_type in sorted({tomo_type for run in runs for tomo_type in run.volumes}):
        looks = {run.name: run.volumes[tomo_type] for run in runs if tomo_type in run.volumes}
        said = "" if len({t for run in runs for t in run.volumes}) == 1 else f"{tomo_type}: "
        sd = {name: look.sd for name, look in looks.items()}
        tails = {name: look.statistics.tails for name, look in looks.items()}
        quantities += [
            Quantity(
                f"{said}mean of the voxels over their standard deviation",
                {name: look.mean / (look.sd or 1.0) for name, look in looks.items()},
                0.1,
            ),
            Quantity(
                f"{said}standard deviation of the voxels",
                {name: float(np.log(max(value, np.finfo(float).tiny))) for name, value in sd.items()},
                0.1,
                sd,
            ),
            Quantity(
                f"{said}skewness in the proteins' band",
                {name: look.statistics.skewness for name, look in looks.items()},
                0.3,
            ),
            Quantity(
                f"{said}tails (excess kurtosis)",
                {name: float(np.arcsinh(value)) for name, value in tails.items()},
                0.3,
                tails,
            ),
        ]
        quantities += [
            Quantity(
                f"{said}quantile {share:g} in standard deviations from the median",
                {name: look.quantiles[place] for name, look in looks.items()},
                0.1,
            )
            for place, share in enumerate(QUANTILES)
        ]
        quantities += [
            Quantity(
                f"{said}correlation of neighbouring voxels along {axis}",
                {name: look.statistics.correlation_zyx[place] for name, look in looks.items()},
                0.02,
            )
            for place, axis in enumerate("zyx")
        ]
    return quantities


def _label_quantities(runs: Sequence[RunLook], particles: Sequence[Particle]) -> list[Quantity]:
    """Return counts, distances and depths by which labelled runs are compared."""
    quantities = []
    for particle in particles:
        counts = {run.name: float(len((run.labels or {})[particle.name])) for run in runs}
        # The root of a count spreads by 0.5 by chance alone, however large it is.
        roots = {name: float(np.sqrt(count)) for name, count in counts.items()}
        quantities.append(Quantity(f"labels of {particle.name}", roots, 0.5, counts))
        distances = {}
        for run in runs:
            same_A = neighbours_of(label_table([run]), particles)[particle.name].same_A
            if len(same_A) >= FEWEST_NEIGHBOURS:
                distances[run.name] = float(np.median(same_A))
        # Crowded runs and sparse ones differ by factors.
        logarithms = {name: float(np.log(max(distance, 1.0))) for name, distance in distances.items()}
        name = f"median distance (A) to the nearest label of {particle.name}"
        quantities.append(Quantity(name, logarithms, 0.4, distances))
    depths = {}
    for run in runs:
        z_A = np.concatenate([points[:, 2] for points in (run.labels or {}).values()])
        for look in list(run.volumes.values())[:1]:
            if len(z_A) >= FEWEST_DEPTHS:
                depths[run.name] = np.quantile(z_A / (look.shape_zyx[0] * look.voxel_A), (0.25, 0.5, 0.75))
    middle = {name: float(values[1]) for name, values in depths.items()}
    width = {name: float(values[2] - values[0]) for name, values in depths.items()}
    quantities.append(Quantity("median depth of the labels, 0 to 1,", middle, 0.04))
    quantities.append(Quantity("depth that the middle half of the labels takes, 0 to 1,", width, 0.04))
    return quantities


def _look_at_folds(
    recipe: Recipe, names: Sequence[str], labelled: Sequence[RunLook], results: list[Finding]
) -> tuple[FoldBalance, ...]:
    """Deal the folds of the recipe and say what they lack; empty where they cannot be dealt."""
    counts = {name: {particle.name: 0 for particle in recipe.particles} for name in names}
    counts |= {run.name: {name: len(points) for name, points in (run.labels or {}).items()} for run in labelled}
    particle_names = [particle.name for particle in recipe.particles]
    try:
        folds = make_folds(names, recipe.folds, counts)
    except DataError as error:
        results.append(Finding(kinds.FOLDS, str(error)))
        return ()
    balance = balance_of(folds, counts, particle_names)
    for one in balance:
        for name in particle_names:
            if not any(own[name] for own in counts.values()):
                continue  # said already
            if one.fold.validation_runs and not one.held_out[name]:
                text = f"{one.fold.name} holds out no {name} ({', '.join(one.fold.validation_runs)})"
                results.append(Finding(kinds.FOLD_CLASS, text))
            if not one.trained_on[name]:
                results.append(Finding(kinds.FOLD_CLASS, f"{one.fold.name} trains on no {name}"))
    if (better := better_folds(balance, counts, particle_names)) is not None:
        results.append(Finding(kinds.UNEVEN_FOLDS, better))
    return balance
