"""Recipes of the 2-D baselines, as dataclasses; nothing here needs torch.

Folds, particles, normalisation, crops and augmentation are those of :mod:`tomopoint.training.recipe`, so that a
baseline is shown the same data in the same way. The crop's depth is the number of slices that a network sees.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tomopoint.errors import TomopointError
from tomopoint.files import write_atomically
from tomopoint.pipeline import COMPETITION_PARTICLES, Normalisation, Particle
from tomopoint.strict_json import plain
from tomopoint.training.options.crops import AugmentationOptions, CropOptions

Method = Literal["detector", "segmenter"]
Box = Literal["sphere", "constant"]
BoxLoss = Literal["focal", "bce"]

CELL_VOX = 4
"""Stride of the detector's map: small enough for the thinnest particles, of which a cell each must be left."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise TomopointError(message)


@dataclass(frozen=True)
class LinkOptions:
    """How boxes of one class become points.

    Attributes
    ----------
    least_overlap
        Boxes of neighbouring slices belong together where their intersection over union is at least this.
    gap
        So many slices in between may lack a box.
    longest
        A point has boxes of at most so many slices, in diameters of the particle (times `radius_factor`): two particles
        above each other are cut apart there.
    saturation
        A point's score is the mean of its boxes' scores without the lowest and highest quarter, times
        ``1 - exp(-n / n0)`` for boxes of n slices; n0 is this share of the diameter in slices.
    """

    least_overlap: float = 0.3
    gap: int = 1
    longest: float = 1.5
    saturation: float = 0.25

    def __post_init__(self) -> None:
        _require(0 < self.least_overlap < 1, f"least_overlap must lie in (0, 1), got {self.least_overlap}")
        _require(self.gap >= 0, f"gap must not be negative, got {self.gap}")
        _require(self.longest > 0 and self.saturation > 0, "longest and saturation must be positive")


@dataclass(frozen=True)
class DetectorOptions:
    """The detector of slices.

    Attributes
    ----------
    box
        What a particle is in a slice: ``sphere``, the square around the disk in which the slice cuts it, so that boxes
        shrink towards its poles; ``constant``, the square around its equator in every slice that cuts it.
    radius_factor
        Times the particle's radius: the sphere that is cut.
    loss
        Of every class in every cell: ``focal`` (Lin et al. 2017), or ``bce``, binary cross entropy.
    focal_gamma, focal_alpha
        Of ``focal``: exponent with which easy cells lose weight, and weight of positives.
    box_weight
        Weight of the loss of boxes against that of classes.
    centre_cells
        A box is learnt by the cells whose middle lies within so many cells of its centre and inside it, at least by the
        nearest (the centre sampling of FCOS, Tian et al. 2019).
    smallest_box_vox
        Boxes with shorter edges, near the poles, are left out.
    channels
        Of the residual blocks at strides 2, 4, 8 and 16.
    features
        Channels of the pyramid and of the heads; a multiple of 8.
    suppression_overlap
        Of two boxes of one class and slice with a larger intersection over union only the higher scored stays.
    link
        How boxes become points.
    """

    box: Box = "sphere"
    radius_factor: float = 1.0
    loss: BoxLoss = "bce"
    focal_gamma: float = 2.0
    focal_alpha: float = 0.25
    box_weight: float = 1.0
    centre_cells: float = 1.5
    smallest_box_vox: float = 4.0
    channels: tuple[int, int, int, int] = (16, 32, 64, 64)
    features: int = 32
    suppression_overlap: float = 0.3
    link: LinkOptions = field(default_factory=LinkOptions)

    def __post_init__(self) -> None:
        _require(0 < self.radius_factor <= 4, f"radius_factor must lie in (0, 4], got {self.radius_factor}")
        _require(self.focal_gamma >= 0, f"focal_gamma must not be negative, got {self.focal_gamma}")
        _require(0 < self.focal_alpha < 1, f"focal_alpha must lie in (0, 1), got {self.focal_alpha}")
        for name in ("box_weight", "centre_cells"):
            _require(getattr(self, name) > 0, f"{name} must be positive, got {getattr(self, name)}")
        _require(self.smallest_box_vox >= 1, f"smallest_box_vox must be at least 1, got {self.smallest_box_vox}")
        _require(all(n >= 1 for n in self.channels), f"channels must be positive, got {self.channels}")
        _require(
            self.features >= 8 and self.features % 8 == 0, f"features must be a multiple of 8, got {self.features}"
        )
        _require(
            0 < self.suppression_overlap < 1, f"suppression_overlap must lie in (0, 1), got {self.suppression_overlap}"
        )


@dataclass(frozen=True)
class SegmenterOptions:
    """The segmenter of slices.

    Attributes
    ----------
    radius_factor
        Times the particle's radius: the sphere whose cut is a particle's mask. Below one, neighbours do not touch.
    particle_weight
        Cross entropy: weight of a particle's voxels against those of background, which is one.
    channels
        Of the U-Net, at strides 1, 2, 4 and so on.
    level
        Voxels of at least this probability are joined into components.
    smallest
        Components of fewer voxels than this share of the sphere are left out.
    saturation
        A point's score is the mean probability of its component, times ``1 - exp(-v / v0)`` for v voxels; v0 is this
        share of the sphere.
    """

    radius_factor: float = 0.7
    particle_weight: float = 10.0
    channels: tuple[int, ...] = (16, 32, 64, 128)
    level: float = 0.3
    smallest: float = 0.1
    saturation: float = 0.25

    def __post_init__(self) -> None:
        _require(0 < self.radius_factor <= 4, f"radius_factor must lie in (0, 4], got {self.radius_factor}")
        _require(
            len(self.channels) >= 2 and all(n >= 1 for n in self.channels),
            f"channels needs two positive numbers or more, got {self.channels}",
        )
        _require(self.particle_weight > 0, f"particle_weight must be positive, got {self.particle_weight}")
        _require(0 < self.level < 1, f"level must lie in (0, 1), got {self.level}")
        _require(0 <= self.smallest < 1, f"smallest must lie in [0, 1), got {self.smallest}")
        _require(self.saturation > 0, f"saturation must be positive, got {self.saturation}")


@dataclass(frozen=True)
class SliceFitOptions:
    """How long a network of slices is trained, and how.

    Attributes
    ----------
    steps
        Optimiser steps of every fold. There is no limit by the clock: the result depends on no machine's speed.
    batch_size
        Crops per step.
    learning_rate
        Peak of AdamW, after `warmup_steps`; then it falls as a cosine to `final_share` of it.
    weight_decay, warmup_steps, final_share
        See there.
    clip_norm
        Gradients are scaled down to this norm.
    ema_decay
        The weights that are kept are a moving average, with this decay.
    save_every
        Steps between checkpoints.
    precision
        ``fp32``, or ``bf16`` autocast.
    """

    steps: int = 3000
    batch_size: int = 8
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    warmup_steps: int = 100
    final_share: float = 0.01
    clip_norm: float = 3.0
    ema_decay: float = 0.99
    save_every: int = 100
    precision: Literal["fp32", "bf16"] = "fp32"

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "save_every"):
            _require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "clip_norm"):
            _require(getattr(self, name) > 0, f"{name} must be positive, got {getattr(self, name)}")
        for name in ("weight_decay", "warmup_steps"):
            _require(getattr(self, name) >= 0, f"{name} must not be negative, got {getattr(self, name)}")
        _require(0 <= self.final_share <= 1, f"final_share must lie in [0, 1], got {self.final_share}")
        _require(0 < self.ema_decay < 1, f"ema_decay must lie in (0, 1), got {self.ema_decay}")


@dataclass(frozen=True)
class BaselineRecipe:
    """What `tomopoint baseline` does.

    Attributes
    ----------
    method
        ``detector`` or ``segmenter``.
    crops
        As in a recipe of `tomopoint train`; ``size_zyx[0]`` slices, an odd number, are the channels of what the network
        sees, and the one in their middle is what it is asked about.
    detector, segmenter
        Options of the method.
    folds, particles, normalisation, augmentation
        As in a recipe of `tomopoint train`; of the augmentation not what changes single particles or blends a batch.
    pretrained
        Folder of an earlier baseline of the same network, which is gone on from; None: fresh weights.
    seed
        Of initial weights and crops; each fold derives its own.
    """

    method: Method
    crops: CropOptions
    detector: DetectorOptions = field(default_factory=DetectorOptions)
    segmenter: SegmenterOptions = field(default_factory=SegmenterOptions)
    folds: str | tuple[tuple[str, ...], ...] = "pairs-5"
    particles: tuple[Particle, ...] = COMPETITION_PARTICLES
    normalisation: Normalisation = field(default_factory=Normalisation)
    augmentation: AugmentationOptions = field(default_factory=AugmentationOptions)
    fit: SliceFitOptions = field(default_factory=SliceFitOptions)
    pretrained: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self.seed >= 0, f"seed must not be negative, got {self.seed}")
        names = [particle.name for particle in self.particles]
        _require(0 < len(names) == len(set(names)), f"particles must be there and differ in name, got {names}")
        depth, height, width = self.crops.size_zyx
        _require(depth % 2 == 1, f"crops.size_zyx[0] must be an odd number of slices, got {depth}")
        _require(
            height % self.divisor == width % self.divisor == 0,
            f"crops.size_zyx: height and width must be multiples of {self.divisor} for a {self.method}, got "
            f"{height} and {width}",
        )
        _require(
            not self.augmentation.changes_instances and not self.augmentation.batch_mixup,
            "copy_paste, mixup_instances, erase_instances and batch_mixup are made for volumes; a baseline has none of "
            "them",
        )
        other, default = (
            ("segmenter", SegmenterOptions()) if self.method == "detector" else ("detector", DetectorOptions())
        )
        _require(
            getattr(self, other) == default,
            f"options of `{other}` have no effect on method {self.method!r}; remove them",
        )

    @property
    def divisor(self) -> int:
        """Height and width of what the network sees are multiples of this."""
        return 4 * CELL_VOX if self.method == "detector" else 1 << (len(self.segmenter.channels) - 1)

    @property
    def radius_factor(self) -> float:
        """Radius of the sphere that is cut, in radii of the particle."""
        return self.detector.radius_factor if self.method == "detector" else self.segmenter.radius_factor

    @property
    def title(self) -> str:
        """Name of the network, for records."""
        return f"slice-{self.method}"

    def to_dict(self) -> dict[str, Any]:
        """Return every option as plain JSON values."""
        as_json: dict[str, Any] = json.loads(json.dumps(plain(self)))
        return as_json

    @property
    def digest(self) -> str:
        """SHA-256 of all options."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write every option as YAML, atomically."""
        import yaml

        write_atomically(path, yaml.safe_dump(self.to_dict(), sort_keys=False))
