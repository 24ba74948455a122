"""Recipes: everything that decides what a training learns, as dataclasses.

A few lines of YAML fill them, see :mod:`tomopoint.training.recipe_files`; nothing here needs torch. A field that a
recipe does not name takes the default written here. What belongs to the machine and not to the result (device, loader
processes, curves) is an option of the command instead.

Finished members stay valid when options are added: a new field is marked with
:data:`~tomopoint.strict_json.ADDED`, its default is what
earlier versions did, and a recipe is stored, compared and hashed without it unless it is used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from math import log, sqrt
from pathlib import Path
from typing import Any, Literal

from tomopoint.errors import TomopointError
from tomopoint.files import PLAIN_NAME, is_plain_name, write_atomically
from tomopoint.networks.config import SEGMENTATION_NAMES, NetworkConfig, check_size
from tomopoint.pipeline import COMPETITION_PARTICLES, Normalisation, Particle
from tomopoint.strict_json import ADDED, plain

Precision = Literal["fp32", "bf16", "fp16", "auto"]
Averaging = Literal["none", "ema", "swa"]
MeanOfBest = Literal["if-better", "always"]
Freeze = Literal["none", "encoder", "backbone"]
PasteFrom = Literal["any", "other", "same"]
Optimiser = Literal["adamw", "radam", "sgd", "adamw-schedulefree"]
ScheduleName = Literal["cosine", "constant", "plateau", "step", "cyclic", "one-cycle"]
CellLoss = Literal["cross-entropy", "tversky", "dice"]

MAX_CROP_VOX = 4096
"""Beyond any tomogram."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise TomopointError(message)


def _require_share(name: str, value: float) -> None:
    _require(0 <= value <= 1, f"{name} must lie in [0, 1], got {value}")


@dataclass(frozen=True)
class CropOptions:
    """Where crops are taken.

    Attributes
    ----------
    size_zyx
        Crop, voxels.
    centred_fraction
        Share of the crops that show a chosen particle; the others lie anywhere in the volume.
    class_balance
        How a particle is chosen: 0, every particle alike; 1, every class alike; between, class counts to the
        power ``1 - class_balance``.
    jitter
        A chosen particle lies up to this share of the crop away from its centre, on each axis. 0 to 0.5.
    tomo_types
        Reconstructions to train on, one drawn per crop. Validation uses the first, and prediction unless told
        otherwise.
    """

    size_zyx: tuple[int, int, int] = (96, 128, 128)
    centred_fraction: float = 0.5
    class_balance: float = 1.0
    jitter: float = 0.35
    tomo_types: tuple[str, ...] = ("denoised",)

    def __post_init__(self) -> None:
        _require(
            all(0 < size <= MAX_CROP_VOX for size in self.size_zyx),
            f"size_zyx needs 3 sizes of 1 to {MAX_CROP_VOX} voxels, got {self.size_zyx}",
        )
        _require_share("centred_fraction", self.centred_fraction)
        _require_share("class_balance", self.class_balance)
        _require(0 <= self.jitter < 0.5, f"jitter must lie in [0, 0.5), got {self.jitter}")
        _require(len(self.tomo_types) > 0, "tomo_types needs at least one reconstruction, e.g. denoised")
        for name in self.tomo_types:
            _require(is_plain_name(name), f"a reconstruction in tomo_types must be {PLAIN_NAME}, got {name!r}")


@dataclass(frozen=True)
class AugmentationOptions:
    """How a crop is varied. Rotation, tilt and scale share one resampling; flips and turns without them copy voxels.

    Attributes
    ----------
    rotation_degrees
        Rotation about z, uniform within plus and minus this.
    tilt_degrees
        Rotations about y and x, uniform within plus and minus this.
    scale
        Isotropic scale, uniform within 1 plus and minus this; particle radii scale with it.
    resample_probability
        Share of the crops that are rotated, tilted and scaled; the rest cost no interpolation.
    flips
        Flip each axis with probability one half.
    quarter_turns
        In crops that are not resampled, rotate about z by a random multiple of 90 degrees.
    gain, shift
        Multiply the normalised crop by 1 plus and minus `gain`, add plus and minus `shift` standard deviations.
    noise
        Add white noise of up to this many standard deviations.
    mixup
        Probability of blending a second crop in, about evenly, with the particles of both.
    mixup_instances
        For each particle, the probability that another one is blended into it, about evenly; both are learnt.
    batch_mixup
        Segmentation: every crop is blended with another one of its batch, by a share drawn from Beta(a, a), a being
        this, and the targets of both by the same share; 0: none is.
    copy_paste
        Probability of pasting particles into free places, up to three, as the crop shows its own: of the same
        reconstruction, at its scale and in its orientation.
    copy_paste_from
        Runs that pasted particles are taken from: ``any``, all ``other`` ones, or the ``same`` as the crop.
    erase
        Probability of blanking one cuboid; particles centred in it are dropped.
    erase_instances
        For each particle, the probability of blanking it out; particles centred within its radius are dropped.
    """

    rotation_degrees: float = 180.0
    tilt_degrees: float = 10.0
    scale: float = 0.05
    resample_probability: float = 1.0
    flips: bool = True
    quarter_turns: bool = True
    gain: float = 0.0
    shift: float = 0.0
    noise: float = 0.0
    mixup: float = 0.0
    copy_paste: float = 0.0
    erase: float = 0.0
    mixup_instances: float = field(default=0.0, metadata=ADDED)
    copy_paste_from: PasteFrom = field(default="any", metadata=ADDED)
    erase_instances: float = field(default=0.0, metadata=ADDED)
    batch_mixup: float = field(default=0.0, metadata=ADDED)

    def __post_init__(self) -> None:
        for name in ("resample_probability", "mixup", "copy_paste", "erase", "mixup_instances", "erase_instances"):
            _require_share(name, getattr(self, name))
        for name in ("rotation_degrees", "tilt_degrees", "shift", "noise", "batch_mixup"):
            _require(getattr(self, name) >= 0, f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("scale", "gain"):
            _require(0 <= getattr(self, name) < 1, f"{name} must lie in [0, 1), got {getattr(self, name)}")
        _require(
            self.copy_paste > 0 or self.copy_paste_from == "any",
            f"copy_paste_from is {self.copy_paste_from}, but copy_paste is 0 and nothing is pasted; set copy_paste",
        )

    @property
    def changes_instances(self) -> bool:
        """Whether single particles are pasted, mixed or erased."""
        return max(self.copy_paste, self.mixup_instances, self.erase_instances) > 0


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
        _require(self.particle_weight > 0, f"particle_weight must be positive, got {self.particle_weight}")
        _require(0 <= self.sphere_radii <= 2, f"sphere_radii must lie in [0, 2], got {self.sphere_radii}")
        _require_share("tversky_beta", self.tversky_beta)
        _require(
            len(self.level_weights) > 0 and all(weight > 0 for weight in self.level_weights),
            f"level_weights needs one positive weight per level of the network, got {self.level_weights}",
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
        if self.heatmap_sigma <= 0:
            raise TomopointError(f"heatmap_sigma must be positive, got {self.heatmap_sigma}")
        _require(0 <= self.label_smoothing < 1, f"label_smoothing must lie in [0, 1), got {self.label_smoothing}")
        _require(
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


@dataclass(frozen=True)
class OptimiserOptions:
    """The optimiser, and its learning rate at every step: linear warm-up, then a schedule.

    Attributes
    ----------
    learning_rate
        Peak, for networks that do not set their own.
    weight_decay
        On weights of two or more axes; biases and norms have none. Apart from the gradient (decoupled), but for ``sgd``
        added to it.
    betas
        Of all but ``sgd``.
    warmup_steps
        Steps from about zero to the peak.
    final_share
        Of the peak: where ``cosine`` and ``one-cycle`` end, and what ``plateau`` and ``cyclic`` never go below.
    clip_norm
        Gradients are scaled down to this norm; 0 switches clipping off.
    accumulate
        Batches per optimiser step.
    backbone_rate, head_rate
        The learning rate of each part is this times the rate of the schedule. For weights that are there already
        (`pretrained`) and a head that starts fresh: 0.1 and 1.
    freeze
        Part of a network with `pretrained` weights that does not move, its norms included: the whole ``backbone``,
        its ``encoder`` (all that leads down to the coarsest map), or ``none``. Dropout in it goes on.
    freeze_steps
        It moves from this optimiser step on; 0: never.
    name
        ``adamw``, ``radam`` and ``sgd`` of torch, or ``adamw-schedulefree`` of the package schedulefree, which averages
        the weights itself: it wants schedule ``constant`` and averaging ``none``.
    momentum, nesterov
        Of ``sgd``.
    schedule
        ``cosine`` or ``constant`` after the warm-up, or one of torch's, which the warm-up multiplies: ``plateau``,
        times `factor` after more than `period` validations without a better one (by `fit.min_improvement`);
        ``step``, times `factor` after every `period` epochs; ``cyclic``, from the lowest rate to the peak and back in
        `period` epochs; ``one-cycle``, up in `warmup_steps` and down to the end, both as a cosine. The last two
        lower the momentum (first beta) by 0.1 where the rate is highest.
    period, factor
        See `schedule`.
    """

    learning_rate: float = 3e-4
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.95, 0.99)
    warmup_steps: int = 64
    final_share: float = 0.01
    clip_norm: float = 3.0
    accumulate: int = 1
    backbone_rate: float = field(default=1.0, metadata=ADDED)
    head_rate: float = field(default=1.0, metadata=ADDED)
    freeze: Freeze = field(default="none", metadata=ADDED)
    freeze_steps: int = field(default=0, metadata=ADDED)
    name: Optimiser = field(default="adamw", metadata=ADDED)
    momentum: float = field(default=0.9, metadata=ADDED)
    nesterov: bool = field(default=False, metadata=ADDED)
    schedule: ScheduleName = field(default="cosine", metadata=ADDED)
    period: int = field(default=10, metadata=ADDED)
    factor: float = field(default=0.1, metadata=ADDED)

    def __post_init__(self) -> None:
        _require(self.learning_rate > 0, f"learning_rate must be positive, got {self.learning_rate}")
        _require(self.weight_decay >= 0, f"weight_decay must not be negative, got {self.weight_decay}")
        _require(
            len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas), f"betas must lie in [0, 1), {self.betas}"
        )
        _require(self.warmup_steps >= 0, f"warmup_steps must not be negative, got {self.warmup_steps}")
        _require_share("final_share", self.final_share)
        _require(self.clip_norm >= 0, f"clip_norm must not be negative, got {self.clip_norm}")
        _require(self.accumulate >= 1, f"accumulate must be at least 1, got {self.accumulate}")
        for name in ("backbone_rate", "head_rate"):
            _require(getattr(self, name) > 0, f"{name} must be positive, got {getattr(self, name)}; see also freeze")
        _require(self.freeze_steps >= 0, f"freeze_steps must not be negative, got {self.freeze_steps}")
        _require(
            self.freeze != "none" or not self.freeze_steps,
            f"freeze_steps is {self.freeze_steps}, but freeze is none; set freeze to backbone or encoder",
        )
        _require(0 <= self.momentum < 1, f"momentum must lie in [0, 1), got {self.momentum}")
        _require(self.momentum > 0 or not self.nesterov, "nesterov needs momentum, which is 0; set momentum, e.g. 0.9")
        _require(self.period >= 1, f"period must be at least 1, got {self.period}")
        _require(0 < self.factor < 1, f"factor must lie in (0, 1), got {self.factor}")
        default = {f.name: f.default for f in fields(self)}
        of_name = {"betas"} if self.name != "sgd" else {"momentum", "nesterov"}
        for given, of_all, used in (
            (f"optimiser {self.name!r}", {"betas", "momentum", "nesterov"}, of_name),
            (f"schedule {self.schedule!r}", {"final_share", "period", "factor"}, _SCHEDULE_OPTIONS[self.schedule]),
        ):
            useless = [name for name in sorted(of_all - used) if getattr(self, name) != default[name]]
            _require(not useless, f"{', '.join(useless)} has no effect on {given}; remove it")
        if self.name == "adamw-schedulefree":
            _require(
                self.schedule == "constant",
                f"optimiser 'adamw-schedulefree' takes the place of schedule {self.schedule!r}; set schedule: constant",
            )
            _require(
                not self.freeze_steps,
                "optimiser 'adamw-schedulefree' averages all steps, so weights cannot join at freeze_steps "
                f"{self.freeze_steps}; freeze for the whole training (freeze_steps: 0), or take adamw",
            )


_SCHEDULE_OPTIONS: Mapping[ScheduleName, frozenset[str]] = {
    "cosine": frozenset({"final_share"}),
    "constant": frozenset(),
    "plateau": frozenset({"final_share", "period", "factor"}),
    "step": frozenset({"period", "factor"}),
    "cyclic": frozenset({"final_share", "period"}),
    "one-cycle": frozenset({"final_share"}),
}


@dataclass(frozen=True)
class FitOptions:
    """How long, how precisely, and which weights are kept.

    Attributes
    ----------
    epochs, steps_per_epoch
        An epoch is `steps_per_epoch` optimiser steps; metrics, checkpoints and resuming are per epoch.
    batch_size
        Crops per batch and process.
    precision
        ``fp32``, ``bf16`` or ``fp16`` autocast; ``auto``: bf16 where a GPU has it fast, else fp16; on a CPU the faster
        of bf16 and fp32, by timing.
    averaging
        ``ema``: an exponential moving average of the weights is evaluated and kept. ``swa``: the plain mean of the
        weights at the end of every epoch in the last quarter, at a constant learning rate. ``none``: the weights.
    ema_decay
        Approached from below as ``(1 + n) / (10 + n)`` after n steps.
    keep_best
        0: keep the last weights. k: the weights of the best k epochs are candidates, see `mean_of_best`.
    mean_of_best
        What becomes of the best epochs. ``if-better``: their mean where it validates better than the best of them, else
        the best. ``always``: their mean; that is the winner's rule, and trusts many validations more than one.
    patience
        Stop after this many validations without a better one (one per epoch; with `score_every`, one per so many
        epochs); 0: never.
    min_improvement
        What `patience` counts as better: a validation (score, or loss where none is measured) better by more than
        this than the one that last counted.
    score_every
        Every so many epochs, the held-out runs are predicted whole and scored officially, and this decides
        what is best; 0: never, the validation loss on fixed crops decides.
    validation_crops
        Fixed crops of the held-out runs for the validation loss, every epoch.
    max_minutes
        End a member after this time, with the learning rate following time where it runs ahead of the steps.
        0: off. With it the result depends on the machine's speed: not reproducible, not exactly resumable, and only for
        one process.
    """

    epochs: int = 100
    steps_per_epoch: int = 160
    batch_size: int = 4
    precision: Precision = "auto"
    averaging: Averaging = "ema"
    ema_decay: float = 0.995
    keep_best: int = 5
    patience: int = 0
    min_improvement: float = 0.0
    score_every: int = 0
    validation_crops: int = 16
    max_minutes: float = 0.0
    mean_of_best: MeanOfBest = field(default="if-better", metadata=ADDED)

    def __post_init__(self) -> None:
        for name in ("epochs", "steps_per_epoch", "batch_size"):
            _require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("keep_best", "patience", "min_improvement", "score_every", "validation_crops", "max_minutes"):
            _require(getattr(self, name) >= 0, f"{name} must not be negative, got {getattr(self, name)}")
        _require(0 < self.ema_decay < 1, f"ema_decay must lie in (0, 1), got {self.ema_decay}")
        _require(
            self.mean_of_best == "if-better" or self.keep_best > 0,
            "mean_of_best 'always' needs the best epochs, but keep_best is 0; set keep_best to how many, e.g. 5",
        )

    @property
    def steps(self) -> int:
        """Optimiser steps of one member, where no time limit ends it."""
        return self.epochs * self.steps_per_epoch


@dataclass(frozen=True)
class NetworkRecipe(NetworkConfig):
    """A network of a recipe, with its own options where they are not the recipe's.

    In a file a network names only what differs: ``{name: dynunet, fit: {batch_size: 6}}`` takes the rest of `fit` from
    the recipe (:mod:`tomopoint.training.recipe_files` fills it in). Here each is None or complete.

    Attributes
    ----------
    augmentation, loss, optimiser, fit
        Instead of the recipe's. `learning_rate` is short for that option of `optimiser`, and goes before it.
    """

    augmentation: AugmentationOptions | None = field(default=None, metadata=ADDED)
    loss: LossOptions | None = field(default=None, metadata=ADDED)
    optimiser: OptimiserOptions | None = field(default=None, metadata=ADDED)
    fit: FitOptions | None = field(default=None, metadata=ADDED)

    @property
    def architecture(self) -> NetworkConfig:
        """The network without the options of its training."""
        return NetworkConfig(**{f.name: getattr(self, f.name) for f in fields(NetworkConfig)})


OWN_OPTIONS = ("augmentation", "loss", "optimiser", "fit")
"""Parts of a recipe that a network may have of its own. The others decide which data are read, what is detected and how
runs are split: these are one for all networks, or their maps could not be averaged."""


@dataclass(frozen=True)
class Recipe:
    """What `tomopoint train` does: every network on every fold.

    Attributes
    ----------
    networks
        Architectures with their sizes, and options of their own.
    folds
        A scheme of :func:`tomopoint.data.folds.make_folds`, or the validation runs of each fold.
    particles
        What to detect, in channel order.
    normalisation
        From raw values to network input.
    seed
        Of initial weights, crops and dropout; each fold and network derives its own.
    stride
        Voxels per cell of the maps that the networks predict, along every axis; a power of two.
    """

    networks: tuple[NetworkRecipe, ...] = (NetworkRecipe("segresnet", learning_rate=1e-4), NetworkRecipe("dynunet"))
    folds: str | tuple[tuple[str, ...], ...] = "pairs-5"
    particles: tuple[Particle, ...] = COMPETITION_PARTICLES
    normalisation: Normalisation = field(default_factory=Normalisation)
    crops: CropOptions = field(default_factory=CropOptions)
    augmentation: AugmentationOptions = field(default_factory=AugmentationOptions)
    loss: LossOptions = field(default_factory=LossOptions)
    optimiser: OptimiserOptions = field(default_factory=OptimiserOptions)
    fit: FitOptions = field(default_factory=FitOptions)
    seed: int = 0
    stride: int = field(default=2, metadata=ADDED)

    def __post_init__(self) -> None:
        _require(len(self.networks) > 0, "a recipe needs at least one network")
        titles = [network.title for network in self.networks]
        _require(self.seed >= 0, f"seed must not be negative, got {self.seed}")
        _require(self.stride >= 1, f"stride must be at least 1, got {self.stride}")
        _require(len(set(titles)) == len(titles), f"networks must differ in name or label, got {', '.join(titles)}")
        names = [particle.name for particle in self.particles]
        _require(0 < len(names) == len(set(names)), f"particles must be there and differ in name, got {names}")
        for network in self.networks:
            try:
                check_size((1, 1, *self.crops.size_zyx), network.divisor, network.needs_context)
            except TomopointError as error:
                raise TomopointError(f"crops.size_zyx does not suit network {network.title!r}: {error}") from error
            _check_segmentation(network, self)
            optimiser = network.optimiser or self.optimiser
            _require(
                optimiser.freeze == "none" or network.pretrained is not None,
                f"optimiser.freeze is {optimiser.freeze}, but network {network.title!r} starts fresh and would keep "
                "random weights; give it `pretrained` weights, or its own optimiser: {freeze: none}",
            )
            _check_length(network.title, optimiser, network.fit or self.fit)
        self._check_losses()

    def _check_losses(self) -> None:
        """Refuse options of the loss that no network of the recipe can use, and those of a network that it cannot."""
        own = [(network.loss, self.loss, [network]) for network in self.networks if network.loss is not None]
        for loss, below, users in [(self.loss, LossOptions(), list(self.networks)), *own]:
            for name in loss.useless_for(users[0].name):
                of_all = all(name in loss.useless_for(network.name) for network in users)
                if of_all and getattr(loss, name) != getattr(below, name):
                    titles = ", ".join(repr(network.title) for network in users)
                    usable = ", ".join(sorted(LossOptions.used_by(users[0].name)))
                    raise TomopointError(
                        f"loss.{name} has no effect on network {titles}; remove it. Its options are {usable}"
                    )

    def to_dict(self) -> dict[str, Any]:
        """Return every option as plain JSON values; those that earlier versions did not have, where they are used."""
        content = plain(self)
        for shown, network in zip(content["networks"], self.networks, strict=True):
            own = {name: getattr(network, name) for name in OWN_OPTIONS if getattr(network, name) is not None}
            shown.update({name: plain(options, getattr(self, name)) for name, options in own.items()})
        as_json: dict[str, Any] = json.loads(json.dumps(content))
        return as_json

    @property
    def digest(self) -> str:
        """SHA-256 of all options, as :meth:`to_dict` gives them."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    def radii_vox(self, voxel_A: float) -> list[float]:
        """Return the radius of every particle, voxels."""
        return [particle.radius_A / voxel_A for particle in self.particles]

    def with_fit(self, **changes: Any) -> Recipe:
        """Return a copy with these options of `fit` changed for every network; None leaves an option as it is."""
        given = {k: v for k, v in changes.items() if v is not None}
        networks = [n if n.fit is None else replace(n, fit=replace(n.fit, **given)) for n in self.networks]
        return replace(self, fit=replace(self.fit, **given), networks=tuple(networks))

    def for_network(self, index: int) -> Recipe:
        """Return the recipe of network number `index` alone: its options are those that it is trained with."""
        network = self.networks[index]
        own = {name: getattr(network, name) for name in OWN_OPTIONS if getattr(network, name) is not None}
        if network.learning_rate is not None:
            own["optimiser"] = replace(own.get("optimiser", self.optimiser), learning_rate=network.learning_rate)
        loss = own.get("loss", self.loss)  # the recipe's may hold what is meant for other networks
        own["loss"] = replace(loss, **{name: getattr(LossOptions(), name) for name in loss.useless_for(network.name)})
        alone = replace(network, augmentation=None, loss=None, optimiser=None, fit=None)
        return replace(self, networks=(alone,), **own)

    def save(self, path: Path) -> None:
        """Write every option as YAML, atomically."""
        import yaml

        write_atomically(path, yaml.safe_dump(self.to_dict(), sort_keys=False))


def _check_length(network: str, optimiser: OptimiserOptions, fit: FitOptions) -> None:
    """Refuse what optimiser and fit cannot do together."""
    if optimiser.name == "adamw-schedulefree" and fit.averaging != "none":
        raise TomopointError(
            f"network {network!r}: optimiser 'adamw-schedulefree' averages weights itself; set fit.averaging to none "
            f"instead of {fit.averaging}"
        )
    if fit.averaging == "swa" and optimiser.schedule not in ("cosine", "constant"):
        raise TomopointError(
            f"network {network!r}: averaging swa holds the rate of its last quarter, which schedule "
            f"{optimiser.schedule!r} moves; set schedule to cosine or constant, or another averaging"
        )
    if optimiser.schedule == "one-cycle" and fit.max_minutes:
        raise TomopointError(
            f"network {network!r}: schedule 'one-cycle' must know its steps, but max_minutes ends it by the clock; set "
            "schedule to cosine, or limit epochs"
        )
    if optimiser.schedule == "plateau" and not (fit.score_every or fit.validation_crops):
        raise TomopointError(
            f"network {network!r}: schedule 'plateau' waits for validations, but nothing is validated; set "
            "fit.validation_crops or fit.score_every"
        )


def _check_segmentation(network: NetworkRecipe, recipe: Recipe) -> None:
    """Refuse options of the training that a network cannot follow."""
    augmentation, fit = network.augmentation or recipe.augmentation, network.fit or recipe.fit
    segmentation, optimiser = network.kind == "segmentation", network.optimiser or recipe.optimiser
    title = repr(network.title)
    _require(
        segmentation or not augmentation.batch_mixup,
        f"augmentation.batch_mixup blends maps, but network {title} is asked for points; for points there is mixup",
    )
    _require(
        not (segmentation and augmentation.mixup),
        f"augmentation.mixup gives network {title} two crops' particles in full; segmentation has batch_mixup",
    )
    _require(
        not augmentation.batch_mixup or fit.batch_size > 1,
        f"augmentation.batch_mixup of network {title} needs two crops in a batch; set fit.batch_size to 2 or more",
    )
    levels, weights = network.resolved().levels or 1, (network.loss or recipe.loss).segmentation.level_weights
    _require(
        not segmentation or levels == len(weights),
        f"network {title} has levels: {levels}, and loss.segmentation.level_weights names {len(weights)}: {weights}",
    )
    _require(
        not network.has_batch_norm or fit.averaging != "swa",
        f"fit.averaging is swa, but the batch norms of network {title} would not know the mean's statistics; use ema",
    )
    _require(
        not network.has_batch_norm or optimiser.freeze == "none",
        f"optimiser.freeze is {optimiser.freeze}, but the statistics of the batch norms of network {title} would move "
        "all the same; set freeze to none, and backbone_rate to less than head_rate",
    )
