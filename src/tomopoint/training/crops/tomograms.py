"""Training tomograms in memory: normalised volumes and true particles, read and checked before the first step."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tomopoint.data.normalisation import normalise
from tomopoint.data.particles import project_particles
from tomopoint.data.picks import Points, read_run_picks
from tomopoint.data.project import Project, Run
from tomopoint.data.tomograms import TRAINING_VOXEL_TOLERANCE, TomogramInfo, describe_tomogram, read_tomogram
from tomopoint.errors import DataError
from tomopoint.pipeline import Normalisation, Particle
from tomopoint.progress import track
from tomopoint.training.losses.points import FIRST_BORDER_LABEL
from tomopoint.training.options.crops import CropOptions


class DataOptions(Protocol):
    """What a recipe of any kind says about the data: which particles, which reconstructions, and their scale."""

    @property
    def particles(self) -> tuple[Particle, ...]:
        """What is labelled, in the order of the labels."""
        ...

    @property
    def normalisation(self) -> Normalisation:
        """From raw values to network input."""
        ...

    @property
    def crops(self) -> CropOptions:
        """Of these the reconstructions."""
        ...


@dataclass(frozen=True)
class TrainingTomogram:
    """The tomogram of one run, in one or more reconstructions, ready to take crops from.

    Attributes
    ----------
    name
        Name of the run.
    volumes_zyx
        Per reconstruction type ``(D, H, W)`` float16, normalised. Normalised values lie within some 10 and carry
        noise of about 1, so the 3 decimals of float16 lose nothing and seven full runs take 1 GB.
    centres_zyx
        ``(N, 3)`` float64, particle centres z, y, x in voxels from the volume's corner.
    labels
        ``(N,)`` int64, index of each particle's class in the recipe; -2 - index for an uncertain pick, near which
        nothing is learned (see :mod:`tomopoint.training.losses.ignore_regions`).
    voxel_A
        Edge of a voxel, Angstrom.
    """

    name: str
    volumes_zyx: Mapping[str, Tensor]
    centres_zyx: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    voxel_A: float

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """Voxels along z, y, x."""
        depth, height, width = next(iter(self.volumes_zyx.values())).shape
        return depth, height, width

    def picks_xyz_A(self, particle_names: Sequence[str]) -> dict[str, Points]:
        """Return the true particles by name, ``(N, 3)`` x, y, z in Angstrom; names in the recipe's order."""
        return {
            name: self.centres_zyx[self.labels == label][:, ::-1] * self.voxel_A
            for label, name in enumerate(particle_names)
        }


@dataclass(frozen=True)
class RunRecord:
    """What is known of a run without reading its volumes.

    Attributes
    ----------
    run
        Where it lies.
    infos
        Per reconstruction type: shape and voxel size.
    picks_xyz_A
        Per particle ``(N, 3)`` centres, Angstrom.
    uncertain_xyz_A
        Per particle, places that may or may not hold one; only with pseudo-labels.
    """

    run: Run
    infos: Mapping[str, TomogramInfo]
    picks_xyz_A: Mapping[str, Points]
    uncertain_xyz_A: Mapping[str, Points] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 of the picks and of the tomograms' shapes, voxel sizes and stored bytes (their number, not each)."""
        digest = hashlib.sha256()
        for tomo_type, info in sorted(self.infos.items()):
            digest.update(f"{tomo_type} {info.shape_zyx} {info.voxel_A:.6f} {info.n_bytes}\n".encode())
        for picks in (self.picks_xyz_A, self.uncertain_xyz_A):
            for name, points in sorted(picks.items()):
                digest.update(f"{name} {len(points)}\n".encode() + np.round(points, 3).tobytes())
        return digest.hexdigest()


def describe_runs(root: Path, names: Iterable[str], recipe: DataOptions) -> dict[str, RunRecord]:
    """Read metadata and picks of training runs, and check all that can be checked without the volumes.

    Raises
    ------
    DataError
        A reconstruction is missing, or a run has no picks or a pick outside its volume.
    """
    project = Project(root)
    particle_names = [particle.name for particle in recipe.particles]
    known = [particle.name for particle in project_particles(root)]
    records = {}
    for name in names:
        run = project.run(name, "train")
        infos = {kind: describe_tomogram(run.tomogram_path(kind)) for kind in recipe.crops.tomo_types}
        records[name] = RunRecord(run, infos, read_run_picks(run.picks_folder, particle_names, known))
        check_record(records[name])
    return records


def read_tomograms(records: Mapping[str, RunRecord], recipe: DataOptions) -> dict[str, TrainingTomogram]:
    """Read and normalise the volumes of all runs, once; folds share them.

    Raises
    ------
    DataError
        As :func:`tomopoint.data.tomograms.read_tomogram`.
    """
    runs = {}
    for name, record in track(records.items(), "read tomograms", total=len(records)):
        volumes = {}
        for kind in recipe.crops.tomo_types:
            tomogram = read_tomogram(record.run.tomogram_path(kind))
            volume = normalise(tomogram.volume_zyx, recipe.normalisation)
            volumes[kind] = torch.from_numpy(volume.astype(np.float16))
        centres_zyx, labels = _particles(record, recipe)
        runs[name] = TrainingTomogram(name, volumes, centres_zyx, labels, _voxel_A(record))
    return runs


def _particles(record: RunRecord, recipe: DataOptions) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    points, labels = [], []
    for label, particle in enumerate(recipe.particles):
        for picks, own in ((record.picks_xyz_A, label), (record.uncertain_xyz_A, FIRST_BORDER_LABEL - label)):
            centres = picks.get(particle.name, np.zeros((0, 3)))
            points.append(centres)
            labels.append(np.full(len(centres), own, dtype=np.int64))
    centres_zyx = np.concatenate(points)[:, ::-1] / _voxel_A(record)
    return np.ascontiguousarray(centres_zyx), np.concatenate(labels)


def _voxel_A(record: RunRecord) -> float:
    return next(iter(record.infos.values())).voxel_A


def check_record(record: RunRecord) -> None:
    """Refuse a run without picks, with picks outside its volume, or with reconstructions of different shapes.

    Raises
    ------
    DataError
        Naming the file and the fix.
    """
    run, points = record.run, record.picks_xyz_A
    if sum(map(len, points.values())) == 0:
        raise DataError(
            f"{run.picks_folder} holds not one pick; add the picks of {run.name} or move the run out of train/"
        )
    shapes = {info.shape_zyx for info in record.infos.values()}
    if len(shapes) > 1:
        raise DataError(f"the reconstructions of {run.name} differ in shape: {shapes}; train on one of them")
    info = next(iter(record.infos.values()))
    for particle, centres in points.items():
        outside = info.outside(centres)
        if len(outside):
            raise DataError(
                f"{run.picks_folder / particle}.json: point {outside[0]} at {centres[outside[0]].round(1).tolist()} "
                f"lies outside the tomogram of {info.size_xyz_A.round(1).tolist()} A (x, y, z); correct or remove it"
            )


def check_voxel_sizes(records: Iterable[RunRecord]) -> None:
    """Refuse runs of different voxel sizes: radii are meant in Angstrom; DataError names two of them."""
    sizes = {info.path: info.voxel_A for record in records for info in record.infos.values()}
    low, high = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
    if sizes[high] > sizes[low] * (1 + TRAINING_VOXEL_TOLERANCE):
        raise DataError(
            f"voxel sizes differ: {sizes[low]:.3f} A in {low}, {sizes[high]:.3f} A in {high}; resample to one size"
        )
