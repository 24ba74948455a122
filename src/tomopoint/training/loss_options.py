"""Options of the losses, and what every loss returns."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from tomopoint.errors import TomopointError
from tomopoint.training.assignment import AssignmentOptions


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
    """

    classification: str = "varifocal"
    focal_alpha: float = 0.75
    focal_gamma: float = 2.0
    cross_entropy_weight: float = 0.0
    l1_weight: float = 0.0
    assignment: AssignmentOptions = field(default_factory=AssignmentOptions)
    heatmap_sigma: float = 0.35

    def __post_init__(self) -> None:
        if self.classification not in ("varifocal", "focal"):
            raise TomopointError(f"classification must be 'varifocal' or 'focal', got {self.classification!r}")
        for name in ("focal_alpha", "focal_gamma", "cross_entropy_weight", "l1_weight"):
            if getattr(self, name) < 0:
                raise TomopointError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.heatmap_sigma <= 0:
            raise TomopointError(f"heatmap_sigma must be positive, got {self.heatmap_sigma}")


@dataclass(frozen=True)
class LossTerms:
    """What a loss returns.

    Attributes
    ----------
    total
        Scalar to differentiate: the sum of the two terms. Where several processes train together it is multiplied
        by their number, because their gradients are averaged.
    classification, regression
        Its two terms, without gradient, for the log.
    n_positive
        Cells assigned to a particle in this process (heatmap: particles).
    """

    total: Tensor
    classification: Tensor
    regression: Tensor
    n_positive: int
