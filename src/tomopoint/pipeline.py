"""The Pipeline: everything that validation and submission must agree on, in one frozen object.

Validation writes it as ``pipeline.json``, the export embeds the same JSON in the ONNX file's metadata, and the
kernels read it from there. No threshold, radius, class count, window or stride is typed anywhere else.

Conventions, stated once for the whole project
----------------------------------------------
* Arrays are ``z, y, x``. ``x, y, z`` exists only in pick tables and files.
* Continuous voxel coordinates have their origin at the volume's corner: voxel ``i`` spans ``[i, i + 1)`` and its
  centre lies at ``i + 0.5``. A position in Angstrom is ``voxel_coordinate * voxel_A``, so the flip of an axis of
  length ``n`` maps ``p`` to ``n - p``, and a network cell ``i`` at stride ``s`` has its anchor at ``(i + 0.5) * s``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Literal, get_args

from tomopoint.errors import PipelineError, reason_of
from tomopoint.files import PLAIN_NAME, is_plain_name, write_atomically
from tomopoint.strict_json import ADDED, build, parse, plain, read_bytes, reading

PIPELINE_NAME = "pipeline.json"
"""Its file, in a training folder, beside predictions and in the kit."""

OFFSET_AVERAGES = ("mean", "score")
"""How an average of networks takes its offsets, see :class:`Pipeline`."""

VIEW_MERGES = ("mean", "gmean", "max")
"""How the scores of one network in several views become one, see :class:`Pipeline`."""

MemberKind = Literal["detection", "heatmap", "segmentation"]
"""What a network is asked: score and offset of every cell, the height of a peak, or the class of every cell."""

KINDS: tuple[MemberKind, ...] = get_args(MemberKind)
"""The same certainty is another number with each: a detection network's scores are sigmoids that were trained to say
how well a cell points at a centre, a segmentation network's are shares of a softmax of which one voxel per particle was
the target. Of several kinds the first here keeps its scores, see :class:`ScoreMap`."""

MAX_KNOTS = 8
"""Of a score map: each one more is five operators in the graph, and a degree of freedom that noise can use."""

FORMAT_VERSION = 1
"""Raised when a field changes its meaning; a Pipeline of another version is refused."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise PipelineError(message)


@dataclass(frozen=True)
class Particle:
    """One kind of particle, in the channel order of the score map.

    Attributes
    ----------
    name
        As in the picks files, which carry it, and the submission, e.g. ``"apo-ferritin"``.
    radius_A
        Physical radius, Angstrom. A pick within half of it of a true centre counts as found.
    weight
        Weight of the class in the official score.
    threshold
        Picks below this score do not enter the submission. In (0, 1).
    suppression_A
        Of two picks of this particle closer than this, only the higher scored stays. Angstrom.
    """

    name: str
    radius_A: float
    weight: float
    threshold: float
    suppression_A: float

    def __post_init__(self) -> None:
        _require(is_plain_name(self.name), f"a particle's name must be {PLAIN_NAME}, got {self.name!r}")
        _require(0 < self.radius_A < inf, f"radius_A of {self.name} must be positive, got {self.radius_A}")
        _require(0 <= self.weight < inf, f"weight of {self.name} must not be negative, got {self.weight}")
        _require(0 < self.threshold < 1, f"threshold of {self.name} must lie in (0, 1), got {self.threshold}")
        _require(
            0 < self.suppression_A < inf, f"suppression_A of {self.name} must be positive, got {self.suppression_A}"
        )


COMPETITION_PARTICLES: tuple[Particle, ...] = (
    Particle("apo-ferritin", 60.0, 1.0, 0.25, 60.0),
    Particle("beta-galactosidase", 90.0, 2.0, 0.25, 150.0),
    Particle("ribosome", 150.0, 1.0, 0.25, 190.0),
    Particle("thyroglobulin", 130.0, 2.0, 0.25, 180.0),
    Particle("virus-like-particle", 135.0, 1.0, 0.25, 240.0),
    Particle("beta-amylase", 65.0, 0.0, 0.5, 150.0),
)
"""The six particles of CZII - CryoET Object Identification.

Radii and weights are the official metric's. Suppression radii lie below the 5 % quantile of the distances between
real neighbours of one kind, so that they cost no true pair. Thresholds are starting values, replaced by validation.
"""


def metric_of(particles: Iterable[Particle]) -> set[tuple[str, float, float]]:
    """Return all that a score hangs on: name, radius and weight of each particle."""
    return {(particle.name, particle.radius_A, particle.weight) for particle in particles}


def has_competition_metric(particles: Iterable[Particle]) -> bool:
    """Whether these particles, with their radii and weights, are scored as the competition scores."""
    return metric_of(particles) == metric_of(COMPETITION_PARTICLES)


@dataclass(frozen=True)
class Normalisation:
    """How raw voxel values become network input, per tomogram, in float32.

    ``standardise``: subtract the mean, divide by the standard deviation, both over the whole tomogram after
    clipping to the given quantiles, then clip to ``+-clip_sd``. Raw values are about 1e-5, so nothing is added to
    the standard deviation.

    Attributes
    ----------
    method
        As above; there is no other.
    quantiles
        Lower and upper quantile between which mean and standard deviation are measured: extreme voxels (a film
        edge, a bead) then cannot change the scale of all others.
    clip_sd
        Values beyond this many standard deviations are set to it.
    """

    method: Literal["standardise"] = "standardise"
    quantiles: tuple[float, float] = (0.001, 0.999)
    clip_sd: float = 12.0

    def __post_init__(self) -> None:
        low, high = self.quantiles
        _require(0 <= low < high <= 1, f"quantiles must satisfy 0 <= low < high <= 1, got {self.quantiles}")
        _require(0 < self.clip_sd < inf, f"clip_sd must be positive, got {self.clip_sd}")


@dataclass(frozen=True)
class Tiling:
    """How a tomogram is cut into windows and the outputs are merged.

    Attributes
    ----------
    window_zyx
        Network input size, voxels. As few and large as fit: with 192x256x256 a tomogram of the competition is read in
        9 windows of 1.55 times its volume, with 192x128x128 in 81 of 3.5 times.
    overlap_zyx
        Smallest overlap of neighbouring windows, voxels.
    edge_weight
        Weight of a window's outermost cells relative to its centre in the weighted mean, in (0, 1].
    """

    window_zyx: tuple[int, int, int] = (192, 256, 256)
    overlap_zyx: tuple[int, int, int] = (64, 64, 64)
    edge_weight: float = 0.1

    def __post_init__(self) -> None:
        for window, overlap in zip(self.window_zyx, self.overlap_zyx, strict=True):
            _require(window > 0, f"window_zyx must be positive, got {self.window_zyx}")
            _require(0 <= overlap < window, f"overlap_zyx {self.overlap_zyx} must be smaller than {self.window_zyx}")
        _require(0 < self.edge_weight <= 1, f"edge_weight must lie in (0, 1], got {self.edge_weight}")


@dataclass(frozen=True)
class Decoding:
    """How merged maps become picks.

    Attributes
    ----------
    floor
        Picks above this score are kept in ``picks.csv``, whatever the thresholds.
    max_picks
        At most this many local maxima per class and tomogram enter suppression, the highest first.
    residual_xyz_A
        Mean of (predicted - true) over matched out-of-fold picks; subtracted from every pick. Angstrom.
    refine_peaks
        Where no network predicts offsets: the centre of a peak is found between cells, from its neighbours' scores.
    """

    floor: float = 0.05
    max_picks: int = 16384
    residual_xyz_A: tuple[float, float, float] = (0.0, 0.0, 0.0)
    refine_peaks: bool = field(default=False, metadata=ADDED)

    def __post_init__(self) -> None:
        _require(0 < self.floor < 1, f"floor must lie in (0, 1), got {self.floor}")
        _require(self.max_picks > 0, f"max_picks must be positive, got {self.max_picks}")


@dataclass(frozen=True)
class Member:
    """One trained network that went into the ensemble.

    Attributes
    ----------
    fold
        Name of the fold, e.g. ``"fold0"``.
    network
        Name of the architecture, e.g. ``"segresnet"``.
    validation_runs
        Names of the runs it never saw.
    score
        Official score on these runs; None where it was not validated.
    weights_sha256
        Hash of its weights file.
    weight
        Its share in the average; shares are normalised to one.
    kind
        What it was asked; only ``"detection"`` predicts offsets, and enters their average.
    class_weights
        Its share in the average of each particle's scores, in channel order; empty: `weight` for all of them. Offsets,
        which belong to no particle, are averaged by `weight` either way.
    """

    fold: str
    network: str
    validation_runs: tuple[str, ...]
    score: float | None
    weights_sha256: str
    weight: float = 1.0
    kind: MemberKind = field(default="detection", metadata=ADDED)
    class_weights: tuple[float, ...] = field(default=(), metadata=ADDED)

    def __post_init__(self) -> None:
        _require(0 < self.weight < inf, f"weight of {self.fold}/{self.network} must be positive, got {self.weight}")
        _require(
            all(0 < weight < inf for weight in self.class_weights),
            f"class_weights of {self.fold}/{self.network} must be positive, got {self.class_weights}",
        )


Knots = tuple[tuple[float, ...], tuple[float, ...]]
"""Of a piecewise linear map of scores: scores, and those that they become; both rise strictly from 0 to 1."""


@dataclass(frozen=True)
class ScoreMap:
    """What brings one kind's scores of one particle to the scale of the first kind: piecewise linear, always rising.

    Attributes
    ----------
    kind, particle
        Whose scores.
    scores, values
        The knots: where they lie, and what becomes of a score there. Both rise from 0 to 1, so that the order of
        scores stays as it is.
    """

    kind: MemberKind
    particle: str
    scores: tuple[float, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        name = f"the score map of {self.kind} and {self.particle}"
        _require(
            2 <= len(self.scores) == len(self.values) <= MAX_KNOTS,
            f"{name} needs 2 to {MAX_KNOTS} knots, got {len(self.scores)} scores and {len(self.values)} values",
        )
        for what, knots in (("scores", self.scores), ("values", self.values)):
            rises = all(a < b for a, b in pairwise(knots)) and (knots[0], knots[-1]) == (0, 1)
            _require(rises, f"{what} of {name} must rise from 0 to 1, got {knots}")


@dataclass(frozen=True)
class Pipeline:
    """What turns a tomogram into picks, as validated. See the module's text for the coordinate conventions.

    Attributes
    ----------
    particles
        In the channel order of the score map.
    voxel_A
        Voxel size the networks were trained at, Angstrom.
    stride
        Voxels per cell of the output maps.
    tomo_type
        Reconstruction it was validated on, and reads unless told otherwise.
    views
        Views merged at prediction: ``"identity"``, ``"flip_x"``, ``"flip_y"``, ``"flip_z"``, ``"rot90"`` ...
    view_merge
        What becomes of one network's scores in several views: their ``"mean"``, their geometric mean (``"gmean"``) or
        the highest (``"max"``). Offsets are averaged.
    offset_average
        ``"mean"``: offsets are averaged as scores are. ``"score"``: where networks disagree, the offset of each
        counts in proportion to its highest score in that cell.
    members
        The networks averaged in the graph: those of one kind first, their average is mapped, and the kinds' averages
        are averaged, each with the sum of its members' weights.
    score_maps
        Of kinds and particles; a pair that has none keeps its scores.
    """

    particles: tuple[Particle, ...]
    voxel_A: float
    stride: int = 2
    normalisation: Normalisation = field(default_factory=Normalisation)
    tiling: Tiling = field(default_factory=Tiling)
    decoding: Decoding = field(default_factory=Decoding)
    tomo_type: str = "denoised"
    views: tuple[str, ...] = ("identity",)
    view_merge: str = field(default="mean", metadata=ADDED)
    offset_average: str = "mean"
    members: tuple[Member, ...] = ()
    score_maps: tuple[ScoreMap, ...] = field(default=(), metadata=ADDED)
    version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        _require(len(self.particles) > 0, "a pipeline needs at least one particle")
        names = self.particle_names
        _require(len(set(names)) == len(names), f"particle names must differ, got {names}")
        _require(0 < self.voxel_A < inf, f"voxel_A must be positive, got {self.voxel_A}")
        _require(self.stride > 0, f"stride must be positive, got {self.stride}")
        _require(is_plain_name(self.tomo_type), f"tomo_type must be {PLAIN_NAME}, got {self.tomo_type!r}")
        _require(len(self.views) > 0, "a pipeline needs at least one view, 'identity'")
        _require(
            self.offset_average in OFFSET_AVERAGES,
            f"offset_average must be one of {', '.join(OFFSET_AVERAGES)}, got {self.offset_average!r}",
        )
        _require(
            self.view_merge in VIEW_MERGES,
            f"view_merge must be one of {', '.join(VIEW_MERGES)}, got {self.view_merge!r}",
        )
        for member in self.members:
            _require(
                len(member.class_weights) in (0, len(self.particles)),
                f"class_weights of {member.fold}/{member.network} must be one per particle, {len(self.particles)}, "
                f"got {len(member.class_weights)}",
            )
        mapped = [(score_map.kind, score_map.particle) for score_map in self.score_maps]
        for kind, name in mapped:
            _require(name in names, f"a score map is of particle {name!r}; this pipeline knows {', '.join(names)}")
            _require(mapped.count((kind, name)) == 1, f"the score map of {kind} and {name} is there twice")
        for size in (*self.tiling.window_zyx, *self.tiling.overlap_zyx):
            _require(size % self.stride == 0, f"window and overlap must be multiples of the stride {self.stride}")
        _require(
            self.version == FORMAT_VERSION,
            f"this pipeline has format version {self.version}, this tomopoint reads {FORMAT_VERSION}; "
            "validate and export again with one version of tomopoint",
        )

    @property
    def particle_names(self) -> tuple[str, ...]:
        """Names in channel order."""
        return tuple(particle.name for particle in self.particles)

    def class_weights(self, member: Member) -> tuple[float, ...]:
        """Return the share of a member in the average of each particle's scores, in channel order."""
        return member.class_weights or (member.weight,) * len(self.particles)

    def score_map(self, kind: str, particle: str) -> ScoreMap | None:
        """Return the map of a kind's scores of a particle; None where they are left as they are."""
        found = (m for m in self.score_maps if (m.kind, m.particle) == (kind, particle))
        return next(found, None)

    @property
    def predicts_offsets(self) -> bool:
        """Whether any of its networks does; one that names none is taken to."""
        return not self.members or any(member.kind == "detection" for member in self.members)

    def of_members(self, members: Sequence[Member]) -> Pipeline:
        """Return a copy for the average of these networks: peaks are refined where none of them predicts offsets."""
        named = replace(self, members=tuple(members))
        return replace(named, decoding=replace(self.decoding, refine_peaks=not named.predicts_offsets))

    def with_views(self, views: Sequence[str], merge: str) -> Pipeline:
        """Return a copy that merges these views; of one there is nothing to merge, so its ``view_merge`` stays."""
        return replace(self, views=tuple(views), view_merge=merge if len(views) > 1 else "mean")

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON: two pipelines are equal exactly if their digests are."""
        return hashlib.sha256(self.to_json(indent=None).encode()).hexdigest()

    def particle(self, name: str) -> Particle:
        """Return the particle called `name`; PipelineError if there is none."""
        for candidate in self.particles:
            if candidate.name == name:
                return candidate
        raise PipelineError(f"unknown particle {name!r}; this pipeline knows {', '.join(self.particle_names)}")

    @property
    def thresholds(self) -> dict[str, float]:
        """Threshold of every particle."""
        return {particle.name: particle.threshold for particle in self.particles}

    def with_thresholds(self, thresholds: Mapping[str, float]) -> Pipeline:
        """Return a copy whose particles named in `thresholds` have these thresholds."""
        for name in thresholds:
            self.particle(name)
        particles = tuple(
            replace(p, threshold=float(thresholds[p.name])) if p.name in thresholds else p for p in self.particles
        )
        return replace(self, particles=particles)

    def to_json(self, indent: int | None = 2) -> str:
        """Return the JSON text, keys sorted."""
        return json.dumps(plain(self), indent=indent, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes, source: str = "the pipeline") -> Pipeline:
        """Read the text written by :meth:`to_json`; `source` names it in errors.

        Raises
        ------
        PipelineError
            Not JSON, a field missing, unknown, of another type or out of range, or another format version.
        """
        with reading(source, PipelineError, "is not a valid pipeline", "run `tomopoint validate` again"):
            try:
                return build(cls, parse(text))
            except PipelineError as error:
                raise PipelineError(f"{source}: {reason_of(error)}") from error

    @classmethod
    def load(cls, path: Path) -> Pipeline:
        """Read a ``pipeline.json``."""
        with reading(path, PipelineError, "is not a valid pipeline", "run `tomopoint validate` first"):
            text = read_bytes(path)
        return cls.from_json(text, source=str(path))

    def save(self, path: Path) -> None:
        """Write a ``pipeline.json``, atomically."""
        write_atomically(path, self.to_json() + "\n")
