"""NetworkConfig: which network, how wide and deep, and which sizes of volumes it takes. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from math import ceil, prod
from typing import Any

from tomopoint.errors import TomopointError
from tomopoint.files import PLAIN_NAME, is_plain_name
from tomopoint.pipeline import MemberKind
from tomopoint.strict_json import ADDED

MAX_WIDTH, MAX_BLOCKS, MAX_LEVELS = 4096, 64, 8
"""Channels, blocks of a level, and levels: beyond any network of use, and building one never ends."""

NETWORK_NAMES: tuple[str, ...] = ("segresnet", "dynunet", "dynunet-residual", "heatmap", "flexible-unet", "unet")

ENCODERS: tuple[str, ...] = ("resnet34", "efficientnet-b3")
"""Of a flexible-unet. Each halves the resolution five times."""

N_ENCODER_MAPS = 5

_SEGRESNET: Mapping[str, Any] = {
    "init_filters": 32,
    "blocks_down": (1, 2, 2, 4),
    "norm_groups": 8,
    "class_width": 48,
    "offset_width": 16,
    "dropout": 0.2,
}
_DYNUNET: Mapping[str, Any] = {
    "filters": (32, 64, 128, 256, 320, 320),
    "features": 64,
    "class_width": 48,
    "offset_width": 16,
    "dropout": 0.0,
}
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "segresnet": _SEGRESNET,
    "dynunet": _DYNUNET,
    "dynunet-residual": {**_DYNUNET, "filters": (32, 64, 128, 256), "class_width": 64, "offset_width": 8},
    "heatmap": {name: value for name, value in _SEGRESNET.items() if name != "offset_width"},
    "flexible-unet": {"encoder": "resnet34", "width": 1.0, "filters": (256, 128, 64, 32, 16), "levels": 1},
    "unet": {"filters": (48, 64, 80, 80), "dropout": 0.0},
}
_EVERY_NETWORK = frozenset({"name", "label", "pretrained", "learning_rate"})
_MORE_OPTIONS: Mapping[MemberKind, set[str]] = {
    "detection": {"features", "levels"},
    "heatmap": {"features"},
    "segmentation": set(),
}
"""Those that an architecture has no value of its own for."""
SEGMENTATION_NAMES = ("flexible-unet", "unet")


@dataclass(frozen=True)
class NetworkConfig:
    """One network of a recipe. A field left at None takes the architecture's own value, the winner's size.

    Setting a field that the architecture has no use for is refused, so that no recipe carries an option without
    effect. :meth:`resolved` fills in every value; that is what belongs into a record.

    Attributes
    ----------
    name
        ``"segresnet"``, ``"dynunet"``, ``"dynunet-residual"`` (small, residual blocks) or ``"heatmap"``
        (the baseline: a SegResNet that paints a Gaussian peak on every particle, without offsets); for segmentation
        ``"flexible-unet"`` or ``"unet"`` (small and plain).
    init_filters
        SegResNet, heatmap: channels of the first level; they double with every level.
    blocks_down
        SegResNet, heatmap: residual blocks per level of the encoder; its length is the number of levels. A first
        level without blocks saves over half of a narrow network's training time (its maps are the largest).
    norm_groups
        SegResNet, heatmap: groups of every group norm; must divide `init_filters`.
    filters
        DynUNet: channels per level; its length is the number of levels. UNet: the same, from stride 2 on.
        FlexibleUNet: channels of the decoder's five stages, coarsest first; those finer than the output are not made.
    features
        Channels handed to the heads, by a 1x1x1 convolution. SegResNet at None: its own width, no convolution.
    class_width
        Channels inside the classification head.
    offset_width
        Channels inside the offset head. The heatmap has none.
    dropout
        SegResNet, heatmap: after the first convolution. DynUNet, UNet: after every convolution.
    pretrained
        Weights to start from: a model of the box by name (``small``), a graph of `tomopoint export`, a training folder,
        a member's folder or weights file, each of the same architecture; or foreign weights (safetensors or a torch
        state dict) for the backbone alone. Paths are taken from where the command runs. `build_network` does not read
        it (a trained network is rebuilt without it): see :mod:`tomopoint.training.pretrained`.
    learning_rate
        Peak learning rate of this network, instead of the recipe's.
    label
        Name of the network's folder in a training folder, where two networks of one recipe share `name`. None: `name`.
    encoder
        FlexibleUNet: ``"resnet34"`` or ``"efficientnet-b3"``.
    width
        FlexibleUNet: channels of the encoder, as share of those of its paper.
    levels
        How many of its finest maps get an output, and a term of the loss. Detectors (None: one): 2 predicts at the
        recipe's stride and at twice that; a cell's score is the better one. FlexibleUNet: the finest predicts.
    """

    name: str = "segresnet"
    init_filters: int | None = None
    blocks_down: tuple[int, ...] | None = None
    norm_groups: int | None = None
    filters: tuple[int, ...] | None = None
    features: int | None = None
    class_width: int | None = None
    offset_width: int | None = None
    dropout: float | None = None
    pretrained: str | None = None
    learning_rate: float | None = None
    label: str | None = None
    encoder: str | None = field(default=None, metadata=ADDED)
    width: float | None = field(default=None, metadata=ADDED)
    levels: int | None = field(default=None, metadata=ADDED)

    def __post_init__(self) -> None:
        if self.name not in NETWORK_NAMES:
            raise TomopointError(f"unknown network {self.name!r}; known are {', '.join(NETWORK_NAMES)}")
        usable = _EVERY_NETWORK | set(_DEFAULTS[self.name]) | _MORE_OPTIONS[self.kind]
        own = [f.name for f in fields(NetworkConfig)]  # a subclass may hold more than the network itself
        useless = [name for name in own if getattr(self, name) is not None and name not in usable]
        if useless:
            raise TomopointError(
                f"{', '.join(useless)} has no effect on network {self.name!r}; "
                f"remove it. Its options are {', '.join(sorted(usable - {'name'}))}"
            )
        _check_values(self)

    @property
    def title(self) -> str:
        """Name that tells this network from the others of its recipe."""
        return self.label or self.name

    @property
    def kind(self) -> MemberKind:
        """What it is asked."""
        if self.name in SEGMENTATION_NAMES:
            return "segmentation"
        return "heatmap" if self.name == "heatmap" else "detection"

    @property
    def has_batch_norm(self) -> bool:
        """Whether its norms keep statistics of the crops it was trained on."""
        return self.name == "flexible-unet"

    def resolved(self) -> NetworkConfig:
        """Return a copy with the architecture's own value in every field that was left at None."""
        missing = {k: v for k, v in _DEFAULTS[self.name].items() if getattr(self, k) is None}
        return replace(self, **missing)

    @property
    def n_outputs(self) -> int:
        """Of how many levels it has an output, the finest first."""
        return self.resolved().levels or 1

    @property
    def n_levels(self) -> int:
        """Resolutions inside the network; level i has stride ``2 ** i``."""
        full = self.resolved()
        if self.kind == "segmentation":  # the finest level is the volume itself
            return len(full.filters or ()) + 1
        return len(full.filters or full.blocks_down or ())

    @property
    def divisor(self) -> int:
        """Coarsest stride inside: sizes of volumes are multiples of it."""
        if self.name == "unet":  # the bottom, its last level, has the stride of the one above
            return int(2 ** (self.n_levels - 2))
        return int(2 ** (self.n_levels - 1))

    @property
    def needs_context(self) -> bool:
        """Whether its coarsest map must have more than one cell: the instance norm of a single cell is zero.

        So is the batch norm of a single crop of one cell.
        """
        return self.name.startswith("dynunet") or self.kind == "segmentation"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def _check_values(config: NetworkConfig) -> None:
    full = {**_DEFAULTS[config.name], **{k: v for k, v in asdict(config).items() if v is not None}}
    if config.label is not None and not is_plain_name(config.label):
        raise TomopointError(f"label of network {config.name!r} must be {PLAIN_NAME}, got {config.label!r}")
    for name in ("init_filters", "norm_groups", "features", "class_width", "offset_width", "levels"):
        if name in full and not 1 <= full[name] <= MAX_WIDTH:
            raise TomopointError(
                f"{name} of network {config.name!r} must be at least 1 and at most {MAX_WIDTH}, got {full[name]}"
            )
    for name, least, most in (("blocks_down", 0, MAX_BLOCKS), ("filters", 1, MAX_WIDTH)):
        if name in full and not (
            2 <= len(full[name]) <= MAX_LEVELS and least <= min(full[name]) and max(full[name]) <= most
        ):
            raise TomopointError(
                f"{name} of network {config.name!r} needs two or more numbers (at most {MAX_LEVELS}) of at least "
                f"{least} and at most {most}, one per level, got {full[name]}"
            )
    if full.get("learning_rate", 1.0) <= 0:
        raise TomopointError(f"learning_rate of network {config.name!r} must be positive, got {full['learning_rate']}")
    if not 0 <= full.get("dropout", 0.0) < 1:
        raise TomopointError(f"dropout of network {config.name!r} must lie in [0, 1), got {full['dropout']}")
    if full.get("encoder", ENCODERS[0]) not in ENCODERS:
        raise TomopointError(
            f"encoder of network {config.name!r} must be {' or '.join(ENCODERS)}, got {full['encoder']!r}"
        )
    if not 1 / 64 <= full.get("width", 1.0) <= 8:
        raise TomopointError(f"width of network {config.name!r} must lie in [1/64, 8], got {full['width']}")
    if config.name == "flexible-unet" and len(full["filters"]) != N_ENCODER_MAPS:
        raise TomopointError(
            f"filters of network {config.name!r} needs {N_ENCODER_MAPS} numbers, one per stage of the decoder, got "
            f"{full['filters']}"
        )
    if "norm_groups" in full and full["init_filters"] % full["norm_groups"]:
        groups = [n for n in range(1, full["init_filters"] + 1) if full["init_filters"] % n == 0]
        raise TomopointError(
            f"norm_groups {full['norm_groups']} does not divide init_filters {full['init_filters']}; "
            f"set norm_groups to one of {', '.join(map(str, groups))}"
        )


def check_size(shape: Sequence[int], divisor: int, needs_context: bool = False) -> None:
    """Refuse a volume that is not (B,1,D,H,W) with D, H, W multiples of `divisor`; say the size to pad to.

    Symbolic sizes, as in an export with dynamic axes, are let through: they have no value to check.
    """
    if len(shape) != 5:
        raise TomopointError(f"a network takes a volume of shape (B,1,D,H,W), got {len(shape)} axes: {tuple(shape)}")
    size_zyx = tuple(shape[2:])
    if not all(isinstance(n, int) for n in size_zyx):
        return
    if shape[1] != 1:
        raise TomopointError(f"a network takes one channel, (B,1,D,H,W), got {shape[1]} channels: {tuple(shape)}")
    target = [max(1, ceil(n / divisor)) * divisor for n in size_zyx]
    if needs_context and prod(target) == divisor**3:
        target[-1] = 2 * divisor
    if tuple(target) != size_zyx:
        raise TomopointError(
            f"volume of {_text(size_zyx)} voxels (z, y, x): this network takes multiples of {divisor}"
            f"{', more than one of them along some axis' if needs_context else ''}; pad it to {_text(target)}"
        )


def _text(size: Sequence[int]) -> str:
    return "x".join(str(n) for n in size)
