"""What networks are asked for: assignment, and the losses of every kind."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from math import log, sqrt
from typing import Literal

from tomopoint.errors import TomopointError
from tomopoint.networks.config import SEGMENTATION_NAMES
from tomopoint.strict_json import ADDED
from tomopoint.training.options.checks import require, require_share

CellLoss = Literal["cross-entropy", "tversky", "dice"]


@dataclass(frozen=True)
class AssignmentOptions:
    """Options of the assignment; the defaults are the winner's.

    Attributes
    ----------
    alpha, beta
        Exponents of score and similarity in the alignment.
    topk
        Most cells a particle can claim.
    min_anchor_similarity
        Only cells whose anchor has a higher similarity to the particle can be claimed. In (0, 1).
    """

    alpha: float = 1.0
    beta: float = 6.0
    topk: int = 13
    min_anchor_similarity: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.min_anchor_similarity < 1:
            raise TomopointError(f"min_anchor_similarity must lie in (0, 1), got {self.min_anchor_similarity}")
        if self.topk < 1 or self.alpha < 0 or self.beta < 0:
            raise TomopointError(
                f"topk must be at least 1, alpha and beta not negative, got {self.topk}, {self.alpha}, {self.beta}"
            )

    @property
    def reach_sigmas(self) -> float:
        """Distance, in sigmas, beyond which no cell is a candidate: 2.448 for the default 0.05."""
        return sqrt(-2 * log(self.min_anchor_similarity))


@dataclass(frozen=True)
class SegmentationOptions:
    """Options of the loss of segmentation networks.

    Attributes
    ----------
    loss
        ``"cross-entropy"`` of every cell, or of the overlap with the particles: ``"tversky"``, ``"dice"``.
    particle_weight
        Cross entropy: weight of every class against that of background, which is one.
    sphere_radii
        Radius of the sphere that is a particle's target, in radii of the particle; 0: the single voxel of its centre.
    tversky_beta
        Tversky: weight of what was missed; that of what was wrongly found is one minus this.
    level_weights
        Weight of the loss on each of the network's `levels`, finest first.
    """

    loss: CellLoss = "cross-entropy"
    particle_weight: float = 256.0
    sphere_radii: float = 0.0
    tversky_beta: float = 0.7
    level_weights: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        require(self.particle_weight > 0, f"particle_weight must be positive, got {self.particle_weight}")
        require(0 <= self.sphere_radii <= 2, f"sphere_radii must lie in [0, 2], got {self.sphere_radii}")
        require_share("tversky_beta", self.tversky_beta)
        require(
            len(self.level_weights) > 0 and all(weight > 0 for weight in self.level_weights),
            f"level_weights needs one positive weight per level of the network, got {self.level_weights}",
        )
        for name, loss in (("particle_weight", "cross-entropy"), ("tversky_beta", "tversky")):
            require(
                self.loss == loss or getattr(self, name) == getattr(type(self), name),
                f"segmentation.{name} has no effect on loss {self.loss!r}; remove it, or set loss to {loss}",
            )


@dataclass(frozen=True)
class LossOptions:
    """Options of the losses; the defaults are the winner's.

    Attributes
    ----------
    classification
        ``"varifocal"``, or ``"focal"`` (Lin et al. 2017, without its class balance): assigned cells are positives
        of their class, whatever their target score. The heatmap baseline has its own and ignores this.
    focal_alpha
        Varifocal: weight of the cells that are not assigned.
    focal_gamma
        Exponent with which easy cells lose weight.
    cross_entropy_weight
        Adds this times the softmax cross entropy over classes on assigned cells, weighted by target score.
    l1_weight
        Adds this times the smooth L1 distance (voxels, summed over axes) of predicted and true centre on assigned
        cells, weighted by target score.
    assignment
        Which cells answer for which particle.
    heatmap_sigma
        Heatmap baseline: standard deviation of the painted peak, in radii of the particle.
    label_smoothing
        In the cross entropy this share of the target is spread evenly over all classes; ``focal`` asks of positives one
        minus this. Background stays zero: it is nearly all cells, which would lift every score. Target scores of
        ``varifocal`` are soft as they are.
    segmentation
        Of segmentation networks, which take nothing else from here.
    """

    classification: str = "varifocal"
    focal_alpha: float = 0.75
    focal_gamma: float = 2.0
    cross_entropy_weight: float = 0.0
    l1_weight: float = 0.0
    assignment: AssignmentOptions = field(default_factory=AssignmentOptions)
    heatmap_sigma: float = 0.35
    label_smoothing: float = field(default=0.0, metadata=ADDED)
    segmentation: SegmentationOptions = field(default=SegmentationOptions(), metadata=ADDED)

    def __post_init__(self) -> None:
        if self.classification not in ("varifocal", "focal"):
            raise TomopointError(f"classification must be 'varifocal' or 'focal', got {self.classification!r}")
        for name in ("focal_alpha", "focal_gamma", "cross_entropy_weight", "l1_weight"):
            if getattr(self, name) < 0:
                raise TomopointError(f"{name} must not be negative, got {getattr(self, name)}")
        require(
            self.classification == "varifocal" or self.focal_alpha == type(self).focal_alpha,
            f"loss.focal_alpha has no effect on classification {self.classification!r}; remove it",
        )
        if self.heatmap_sigma <= 0:
            raise TomopointError(f"heatmap_sigma must be positive, got {self.heatmap_sigma}")
        require(0 <= self.label_smoothing < 1, f"label_smoothing must lie in [0, 1), got {self.label_smoothing}")
        require(
            not self.label_smoothing or self.classification == "focal" or self.cross_entropy_weight > 0,
            f"label_smoothing is {self.label_smoothing}, but there is nothing to smooth; set cross_entropy_weight, or "
            "classification to focal",
        )

    @staticmethod
    def used_by(network: str) -> frozenset[str]:
        """Return the names of the options that have an effect on a network of this name."""
        if network == "heatmap":
            return frozenset({"focal_gamma", "heatmap_sigma"})
        if network in SEGMENTATION_NAMES:
            return frozenset({"segmentation"})
        return frozenset(f.name for f in fields(LossOptions)) - {"heatmap_sigma", "segmentation"}

    def useless_for(self, network: str) -> list[str]:
        """Return the options that are not at their default and have no effect on a network of this name."""
        changed = [f.name for f in fields(self) if getattr(self, f.name) != getattr(LossOptions(), f.name)]
        return [name for name in changed if name not in self.used_by(network)]
