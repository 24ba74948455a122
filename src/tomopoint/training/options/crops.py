"""Where crops are taken, and how they are varied."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tomopoint.files import PLAIN_NAME, is_plain_name
from tomopoint.strict_json import ADDED
from tomopoint.training.options.checks import require, require_share

PasteFrom = Literal["any", "other", "same"]

MAX_CROP_VOX = 4096
"""Beyond any tomogram."""


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
        require(
            all(0 < size <= MAX_CROP_VOX for size in self.size_zyx),
            f"size_zyx needs 3 sizes of 1 to {MAX_CROP_VOX} voxels, got {self.size_zyx}",
        )
        require_share("centred_fraction", self.centred_fraction)
        require_share("class_balance", self.class_balance)
        require(0 <= self.jitter < 0.5, f"jitter must lie in [0, 0.5), got {self.jitter}")
        require(len(self.tomo_types) > 0, "tomo_types needs at least one reconstruction, e.g. denoised")
        for name in self.tomo_types:
            require(is_plain_name(name), f"a reconstruction in tomo_types must be {PLAIN_NAME}, got {name!r}")


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
            require_share(name, getattr(self, name))
        for name in ("rotation_degrees", "tilt_degrees", "shift", "noise", "batch_mixup"):
            require(getattr(self, name) >= 0, f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("scale", "gain"):
            require(0 <= getattr(self, name) < 1, f"{name} must lie in [0, 1), got {getattr(self, name)}")
        require(
            self.copy_paste > 0 or self.copy_paste_from == "any",
            f"copy_paste_from is {self.copy_paste_from}, but copy_paste is 0 and nothing is pasted; set copy_paste",
        )

    @property
    def changes_instances(self) -> bool:
        """Whether single particles are pasted, mixed or erased."""
        return max(self.copy_paste, self.mixup_instances, self.erase_instances) > 0
