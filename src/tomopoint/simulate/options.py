"""What a user can choose about simulated tomograms."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from tomopoint.errors import DataError

TomoType = Literal["denoised", "wbp", "ctfdeconvolved", "isonetcorrected"]
TOMO_TYPES: tuple[TomoType, ...] = get_args(TomoType)
"""The four reconstructions the competition ships of a training run."""

Shapes = Literal["measured", "analytic"]

WorldName = Literal["own", "other"]

VOXEL_A = 10.012444309
"""Edge of the competition's voxels, the mean of three values in the metadata. Everything was calibrated at it."""

VOXELS_A = (4.0, 25.0)
"""Smallest and largest voxel that can be simulated: finer ones hold nothing more, in coarser ones no particle shows."""

FULL_SHAPE_ZYX = (184, 630, 630)
"""Shape of the competition's tomograms, voxels."""

MIN_AXIS_VOX = 16
"""Smallest box: about one large particle."""


def _require(condition: Any, message: str) -> None:
    if not condition:
        raise DataError(message)


@dataclass(frozen=True)
class LabelImperfections:
    """How the labels of training runs differ from the truth. Test truth is always exact.

    The defaults are the level found in the real labels.

    Attributes
    ----------
    missing
        Share of beta-galactosidase and thyroglobulin that is there but not labelled.
    jitter_A
        Spread of a label about the true centre, per axis, Angstrom (6 is 10 A root mean square in 3-D).
    conflicting
        Share of beta-galactosidase that is labelled a second time as thyroglobulin or beta-amylase.
    double
        Share of apo-ferritin that is labelled twice.
    """

    missing: float = 0.04
    jitter_A: float = 6.0
    conflicting: float = 0.06
    double: float = 0.003

    def __post_init__(self) -> None:
        for name in ("missing", "conflicting", "double"):
            value = getattr(self, name)
            _require(0 <= value < 1, f"{name} is a share and must lie in [0, 1), got {value}")
        _require(0 <= self.jitter_A <= 50, f"jitter_A must lie in [0, 50] Angstrom, got {self.jitter_A}")


PERFECT_LABELS = LabelImperfections(missing=0.0, jitter_A=0.0, conflicting=0.0, double=0.0)
"""Labels that are the truth."""


@dataclass(frozen=True)
class Variety:
    """How much runs differ from one another: the width of the ranges in docs/simulator.md, aspect by aspect.

    1 is the stated range, 0 the nominal value in every run, and between both the ranges shrink.

    Attributes
    ----------
    contrast
        Signal.
    noise
        Level and colour of the noise.
    optics
        Defocus, amplitude contrast, how the transfer function was corrected, resolution.
    tilt
        Tilt range and step, direction of the tilt axis, softness of the missing wedge.
    magnification
        Size of everything.
    look
        Smoothing and adaptive denoising, uneven background, hot spots.
    ice
        Ice as thin, thick or steep as in no real run, and gold beads, in some runs.
    crowding
        From dilute to lysate: small proteins, complexes, aggregates, vesicles.
    decoys
        Unlabelled complexes of random build and of the labelled ones' sizes, and fragments of these.
    molecules
        Copies of a particle: deformed, damaged, incomplete.
    """

    contrast: float = 1.0
    noise: float = 1.0
    optics: float = 1.0
    tilt: float = 1.0
    magnification: float = 1.0
    look: float = 1.0
    ice: float = 1.0
    crowding: float = 1.0
    decoys: float = 1.0
    molecules: float = 1.0

    def __post_init__(self) -> None:
        for aspect, width in vars(self).items():
            _require(0 <= width <= 1, f"variety.{aspect} must lie in [0, 1], got {width}")


NO_VARIETY = Variety(**{aspect.name: 0.0 for aspect in fields(Variety)})
"""Every run is imaged alike; counts and places still differ."""


@dataclass(frozen=True)
class SimulationOptions:
    """What decides the content of a simulated run, apart from its shape and seed.

    Attributes
    ----------
    difficulty
        1 is the contrast of real denoised tomograms; 2 halves the signal at the same noise, 0.5 doubles it.
    crowding
        Multiplies the amount of unlabelled matter, except vesicles and film: 1 is a cell lysate's, 0 leaves none.
    variety
        How much runs differ from one another.
    labels
        Imperfections of training labels.
    tomo_types
        The reconstructions to make; ``denoised`` is always among them.
    shapes
        Of the competition's particles: ``measured``, bead models of their atomic structures; ``analytic``, built from
        symmetry and size.
    voxel_A
        Edge of a voxel, Angstrom. Molecules, ice and defocus keep their size; noise and smoothing are those of a
        denoised tomogram of such voxels.
    world
        ``own``: the world pickers are trained in. ``other``: another kind of imaging, matter and deformation, to judge
        pickers by; no recipe trains on it. Of these options it follows `difficulty`, `crowding`, `labels`, `shapes`
        and `voxel-A`.
    """

    difficulty: float = 1.0
    crowding: float = 1.0
    variety: Variety = field(default_factory=Variety)
    labels: LabelImperfections = field(default_factory=LabelImperfections)
    tomo_types: tuple[TomoType, ...] = ("denoised",)
    shapes: Shapes = "measured"
    voxel_A: float = VOXEL_A
    world: WorldName = "own"

    def __post_init__(self) -> None:
        _require(0.1 <= self.difficulty <= 10, f"difficulty must lie in [0.1, 10], got {self.difficulty}")
        _require(0 <= self.crowding <= 3, f"crowding must lie in [0, 3], got {self.crowding}")
        low, high = VOXELS_A
        _require(low <= self.voxel_A <= high, f"voxel_A must lie in [{low:g}, {high:g}] Angstrom, got {self.voxel_A}")
        unknown = sorted(set(self.tomo_types) - set(TOMO_TYPES))
        _require(not unknown, f"unknown tomogram type {', '.join(unknown)}; known are {', '.join(TOMO_TYPES)}")
        _require("denoised" in self.tomo_types, "tomogram types must contain 'denoised': it is what training reads")
        _require(self.world in get_args(WorldName), f"world must be own or other, got {self.world}")
        _require(
            self.world == "own" or self.tomo_types == ("denoised",),
            f"the other world makes denoised tomograms only, got {', '.join(self.tomo_types)}",
        )
        n_types = len(set(self.tomo_types))
        _require(n_types == len(self.tomo_types), f"a tomogram type is named twice: {self.tomo_types}")


def check_shape(shape_zyx: tuple[int, ...]) -> tuple[int, int, int]:
    """Return the shape, or raise DataError when it is not three sensible axis lengths in voxels."""
    _require(
        len(shape_zyx) == 3 and all(size >= MIN_AXIS_VOX for size in shape_zyx),
        f"the shape {shape_zyx} does not fit: give depth, height and width in voxels, each at least {MIN_AXIS_VOX}, "
        f"e.g. {','.join(map(str, FULL_SHAPE_ZYX))}",
    )
    depth, height, width = shape_zyx
    return depth, height, width
