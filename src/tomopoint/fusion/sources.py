"""What may be fused: tables of picks, STAR files, class maps of a segmentation; each becomes a table with scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from tomopoint.data.channels import particle_channels
from tomopoint.data.class_maps import ClassMaps, find_class_maps, is_class_maps, place_of
from tomopoint.data.particles import read_particles
from tomopoint.data.selection import refuse_doubled
from tomopoint.data.tables import PICK_COLUMNS, empty_pick_table, passing, read_pick_table
from tomopoint.errors import DataError
from tomopoint.files import sha256_of
from tomopoint.formats.frames import Tomograms
from tomopoint.formats.importing import ImportOptions, read_files
from tomopoint.formats.libraries import check_library
from tomopoint.inference.decode import decode_maps
from tomopoint.inference.tiles import VolumeMaps
from tomopoint.pipeline import PIPELINE_NAME, Decoding, Pipeline

PICKS_NAME = "picks.csv"

KINDS = "picks.csv or the folder of a prediction, a table.csv, NAME=FILE.star or a folder of NAME.star, or maps.zarr"


@dataclass(frozen=True)
class SourcePlace:
    """A source as it was named.

    Attributes
    ----------
    name
        As given.
    kind
        ``"table"``, ``"star"`` or ``"maps"``.
    files
        What is read: the table; STAR files, by particle; the store or folder of the maps.
    """

    name: str
    kind: str
    files: Mapping[str, Path]

    @property
    def pipeline_path(self) -> Path | None:
        """The pipeline.json beside a table, where there is one."""
        beside = next(iter(self.files.values())).with_name(PIPELINE_NAME)
        return beside if self.kind == "table" and beside.is_file() else None

    def sha256(self) -> str | None:
        """Return the hash of what is read; of several files, theirs put together; None for maps."""
        if self.kind == "maps":
            return None
        return "+".join(sorted(sha256_of(path) for path in self.files.values()))


@dataclass(frozen=True)
class Source:
    """A source, read.

    Attributes
    ----------
    place
        Where it was found.
    picks
        ``experiment, particle_type, x, y, z, score``: Angstrom, the scores its own; 1 where it has none.
    thresholds
        Above which it hands its picks on; empty: all of them, for they are chosen; None: not known.
    notes
        What whoever uses them should know.
    """

    place: SourcePlace
    picks: pd.DataFrame
    thresholds: Mapping[str, float] | None
    notes: tuple[str, ...] = ()

    @property
    def runs(self) -> set[str]:
        """Runs that it has picks in."""
        return set(self.picks["experiment"])

    def handed_on(self) -> pd.DataFrame | None:
        """Return the picks above its thresholds; None where these are not known."""
        if self.thresholds is None:
            return None
        return passing(self.picks, self.thresholds) if self.thresholds else self.picks


def find_source(text: str) -> SourcePlace:
    """Tell what a source is from its name; DataError where it is none."""
    name, separator, rest = text.partition("=")
    if separator and not Path(text).exists():
        if Path(rest).suffix != ".star":
            raise DataError(f"{text}: NAME= is for STAR files, which do not say what their particles are; leave it out")
        return SourcePlace(text, "star", {name.strip(): Path(rest)})
    path = Path(text)
    if (path / PICKS_NAME).is_file():
        return SourcePlace(text, "table", {"": path / PICKS_NAME})
    if is_class_maps(path):
        return SourcePlace(text, "maps", {"": path})
    if path.is_dir() and (files := sorted(path.glob("*.star"))):
        return SourcePlace(text, "star", {file.stem: file for file in files})
    if path.suffix == ".star":
        return SourcePlace(text, "star", {path.stem: path})
    if not path.is_dir() and path.suffix == ".csv":
        return SourcePlace(text, "table", {"": path})
    raise DataError(f"{text} holds no picks that could be fused; a source is {KINDS}")


def check_places(places: Sequence[SourcePlace]) -> None:
    """DataError where there are fewer than two sources, or one is there twice, under whatever name."""
    if len(places) < 2:
        raise DataError(f"fusing takes two sources or more, got {len(places)}; a source is {KINDS}")
    for index, place in enumerate(places):
        for other in places[:index]:
            same = any(
                a.exists() and b.exists() and a.samefile(b) for a in place.files.values() for b in other.files.values()
            )
            if same or (place.kind == other.kind != "maps" and _is_copy(place, other)):
                raise DataError(
                    f"{place.name} is the same as {other.name}: it would vote twice. Leave one out; --weights says how "
                    "much a source counts"
                )


def _is_copy(place: SourcePlace, other: SourcePlace) -> bool:
    return all(path.is_file() for p in (place, other) for path in p.files.values()) and place.sha256() == other.sha256()


def fused_pipeline(places: Sequence[SourcePlace], particles: Path | None, tomograms: Tomograms | None) -> Pipeline:
    """Return the Pipeline of the fused picks: particles with their radii, and the voxel size.

    Its networks are none, and it corrects nothing: that was done before there were picks.

    Parameters
    ----------
    places
        Sources; of the first of them that has a pipeline.json beside it that one is taken.
    particles
        A ``pipeline.json`` or a ``particles.yaml`` that goes before it.
    tomograms
        Where the voxel size may be found.

    Raises
    ------
    DataError, PipelineError
        Nobody says the particles or the voxel size, or what is named is damaged.
    """
    beside = next((place.pipeline_path for place in places if place.pipeline_path), None)
    if particles is None and beside is None:
        raise DataError(
            "no source has a pipeline.json beside it, which says radii; name one with --particles, or a particles.yaml"
        )
    if particles is not None and particles.suffix == ".json":
        pipeline = Pipeline.load(particles)
    elif beside is not None:
        pipeline = Pipeline.load(beside)
        if particles is not None:
            pipeline = replace(pipeline, particles=read_particles(particles))
    else:
        assert particles is not None
        pipeline = Pipeline(read_particles(particles), _voxel_A(places, tomograms))
    decoding = replace(pipeline.decoding, residual_xyz_A=(0.0, 0.0, 0.0))
    return replace(pipeline, members=(), decoding=decoding)


def _voxel_A(places: Sequence[SourcePlace], tomograms: Tomograms | None) -> float:
    if tomograms is not None:
        return tomograms.frame(min(run.name for run in tomograms.found.tomograms)).voxel_A
    stores = [path for place in places if place.kind == "maps" for path in place.files.values()]
    sizes = [maps.voxel_A for store in stores for maps in find_class_maps(store) if maps.voxel_A]
    if not sizes:
        raise DataError("nobody says the voxel size; name the tomograms with --data, or a pipeline.json as --particles")
    return sizes[0]


def read_source(
    place: SourcePlace, pipeline: Pipeline, tomograms: Tomograms | None, channels: Sequence[str] = ()
) -> Source:
    """Read one source.

    Parameters
    ----------
    place
        Which.
    pipeline
        Particles, and the floor that class maps are decoded with.
    tomograms
        Names, sizes and voxels of the tomograms: STAR files need them, class maps are checked by them.
    channels
        Names of the channels of class maps, where they do not say them.

    Raises
    ------
    DataError
        It cannot be read, names particles that are not known, holds a pick twice, or none.
    """
    notes: list[str] = []
    thresholds: Mapping[str, float] | None = {}
    if place.kind == "table":
        picks = read_pick_table(place.files[""])
        thresholds = Pipeline.load(place.pipeline_path).thresholds if place.pipeline_path else None
    elif place.kind == "star":
        picks = _read_star(place, tomograms)
    else:
        thresholds = pipeline.thresholds
        picks = _read_maps(place.files[""], pipeline, tomograms, channels)
    if unknown := sorted(set(picks["particle_type"]) - set(pipeline.particle_names)):
        raise DataError(
            f"{place.name} names {', '.join(unknown)}; known are {', '.join(pipeline.particle_names)}. Rename them, or "
            "say all particles with --particles"
        )
    if "score" not in picks.columns:
        notes.append(f"{place.name} has no scores: each of its picks counts alike")
        thresholds, picks = {}, picks.assign(score=1.0)
    elif thresholds is None:
        notes.append(f"{place.name} has no pipeline.json beside it: its thresholds are not known")
    elif thresholds:
        thresholds = {name: thresholds.get(name, 0.0) for name in pipeline.particle_names}
    if not len(picks):
        raise DataError(f"{place.name} holds no picks; leave it out")
    refuse_doubled(picks, place.name)
    return Source(place, picks.loc[:, list(PICK_COLUMNS)].reset_index(drop=True), thresholds, tuple(notes))


def _read_star(place: SourcePlace, tomograms: Tomograms | None) -> pd.DataFrame:
    check_library("relion5")
    from tomopoint.formats.relion import version_of

    if tomograms is None:
        raise DataError(
            f"{place.name}: coordinates in a STAR file count in the tomograms; name their project with --data"
        )
    versions = {version_of(path) for path in place.files.values()}
    if len(versions) > 1:
        raise DataError(f"{place.name} holds files of {' and '.join(sorted(versions))}; give them as one kind")
    named = [f"{name}={path}" for name, path in place.files.items()]
    return read_files(named, versions.pop(), tomograms, ImportOptions())


def _read_maps(path: Path, pipeline: Pipeline, tomograms: Tomograms | None, channels: Sequence[str]) -> pd.DataFrame:
    tables = []
    for maps in find_class_maps(path):
        shape_zyx, voxel_A = None, None
        if tomograms is not None:
            frame = tomograms.frame(tomograms.run(maps.run, maps.path))
            assert frame.size_xyz_A is not None
            z, y, x = (round(size / frame.voxel_A) for size in frame.size_xyz_A[::-1])
            shape_zyx, voxel_A = (z, y, x), frame.voxel_A
        stride, voxel_A = place_of(maps, shape_zyx, voxel_A)
        names = channels or maps.channels
        own = particle_channels(maps.path, names, maps.n_channels, pipeline.particle_names)
        table = decode_class_maps(maps, own, pipeline, stride, voxel_A)
        tables.append(table.assign(experiment=tomograms.run(maps.run, maps.path) if tomograms else maps.run))
    tables = [table for table in tables if len(table)]
    return pd.concat(tables, ignore_index=True) if tables else empty_pick_table()


def decode_class_maps(
    maps: ClassMaps, channels: Mapping[str, int], pipeline: Pipeline, stride: int, voxel_A: float
) -> pd.DataFrame:
    """Decode the maps of one run as a network's without offsets are decoded, peaks refined between cells.

    Parameters
    ----------
    maps
        Read one channel at a time, so that one map is in memory.
    channels
        Particle -> channel.
    pipeline
        Particles' suppression radii, the floor.
    stride, voxel_A
        Voxels per cell; edge of a voxel, Angstrom.

    Returns
    -------
    DataFrame
        ``particle_type, x, y, z, score``; Angstrom.
    """
    z, y, x = (size * stride for size in maps.shape_zyx)
    no_offsets = np.broadcast_to(np.float32(0), (3, *maps.shape_zyx))
    tables = []
    for name, channel in channels.items():
        decoding = Decoding(pipeline.decoding.floor, pipeline.decoding.max_picks, refine_peaks=True)
        own = replace(pipeline, particles=(pipeline.particle(name),), decoding=decoding)
        tables.append(decode_maps(VolumeMaps(maps.read(channel)[None], no_offsets, stride, (z, y, x)), own, voxel_A))
    return pd.concat(tables, ignore_index=True)


def check_runs(sources: Iterable[Source]) -> None:
    """DataError where a source shares no run with any other: there would be nothing to fuse."""
    listed = list(sources)
    for source in listed:
        others = set().union(*(other.runs for other in listed if other is not source))
        if not source.runs & others:
            raise DataError(
                f"{source.place.name} shares no run with the other sources: it has {_some(source.runs)}, they have "
                f"{_some(others)}; are the runs called alike?"
            )


def _some(names: Iterable[str], most: int = 6) -> str:
    listed = sorted(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
