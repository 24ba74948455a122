"""Starting one network from another: what carries over is its backbone, and its head where classes agree by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tomopoint.errors import TomopointError
from tomopoint.networks.config import NetworkConfig
from tomopoint.networks.point_network import PointNetwork

BACKBONE_SIZES = ("name", "init_filters", "blocks_down", "norm_groups", "filters", "features", "encoder", "width")
"""What two networks must share for the weights of one to mean the same in the other. The groups of a norm show in no
tensor's shape. Dropout has no weights; the widths of the heads decide only whether these carry over."""


@dataclass(frozen=True)
class TrainedNetwork:
    """A network's weights with what they mean.

    Attributes
    ----------
    config
        Architecture and sizes.
    particles
        Names in channel order.
    stride
        Voxels per output cell.
    weights
        State dict, under the names of :class:`~tomopoint.networks.point_network.PointNetwork`.
    """

    config: NetworkConfig
    particles: tuple[str, ...]
    stride: int
    weights: Mapping[str, Tensor]


@dataclass(frozen=True)
class TransferReport:
    """What was taken.

    Attributes
    ----------
    n_tensors
        Of the backbone: all of them, or :func:`transfer` would have refused.
    classes, new, left_out
        Particles whose row of the head was taken, that start fresh, and that only the other network knows.
    head, offsets
        Whether the class branch and the offset branch carried over; a heatmap has no offsets (None).
    """

    n_tensors: int
    classes: tuple[str, ...]
    new: tuple[str, ...]
    left_out: tuple[str, ...]
    head: bool
    offsets: bool | None

    @property
    def text(self) -> str:
        """One line for the log."""
        parts = [f"backbone {self.n_tensors} of {self.n_tensors} tensors"]
        if not self.head:
            parts[0] += ", a fresh class head (another class_width)"
        elif self.classes:
            parts[0] += f", head for {', '.join(self.classes)}"
        else:
            parts[0] += ", head for none of its classes"
        if self.offsets is False:
            parts[0] += ", fresh offsets (another offset_width)"
        if self.new and self.head:
            parts.append(f"new: {', '.join(self.new)}")
        if self.left_out and self.head:
            parts.append(f"left out: {', '.join(self.left_out)}")
        return "; ".join(parts)


def differences(theirs: NetworkConfig, ours: NetworkConfig) -> list[str]:
    """Return in words the sizes of the backbone in which two networks differ; nothing where weights carry over."""
    theirs, ours = theirs.resolved(), ours.resolved()
    pairs = [(name, getattr(theirs, name), getattr(ours, name)) for name in BACKBONE_SIZES]
    return [f"{name} is {_shown(a)} there and {_shown(b)} here" for name, a, b in pairs if a != b]


def transfer(
    network: PointNetwork, config: NetworkConfig, particles: Sequence[str], source: TrainedNetwork
) -> TransferReport:
    """Copy the backbone of `source` into `network`, and of its head what means the same.

    The layers before the last one carry over where their widths agree, and with them the row of every class that both
    know by name; a class that only `network` knows keeps its fresh start. Offsets are the same for all classes.

    Parameters
    ----------
    network
        Fresh; changed in place.
    config, particles
        Of `network`: its architecture, and its classes in channel order.
    source
        Where the weights come from, of any floating point type.

    Raises
    ------
    TomopointError
        Another architecture, other sizes or another stride; says in what they differ.
    """
    wrong = differences(source.config, config)
    if source.stride != network.stride:
        wrong.append(f"stride is {source.stride} there and {network.stride} here")
    if wrong:
        raise TomopointError(f"{'; '.join(wrong)}: set the network's sizes to those of its `pretrained` weights")
    own = network.state_dict()

    def fits(names: Sequence[str]) -> bool:
        return all(name in source.weights and source.weights[name].shape == own[name].shape for name in names)

    def below(prefix: str) -> list[str]:
        return [name for name in own if name.startswith(prefix)]

    backbone = below("backbone.")
    if not fits(backbone):
        lost = next(name for name in backbone if not fits([name]))
        raise TomopointError(f"{lost} is missing or has another shape than its architecture says: damaged weights")
    taken = {name: source.weights[name] for name in backbone}

    # The class branch: the layers with a row per class row by row, of segmentation with that of background. A level
    # that only this network has starts fresh.
    class_layers = tuple(f"head.{layer}." for layer in network.head.class_layers)
    trunk = [n for n in below("head.") if not n.startswith((*class_layers, "head.offset."))]
    classes: tuple[str, ...] = ()
    if head := fits(trunk):
        taken |= {name: source.weights[name] for name in trunk}
        classes = tuple(name for name in particles if name in source.particles)
        here = [particles.index(name) for name in classes] + [-1] * network.head.has_background
        there = [source.particles.index(name) for name in classes] + [-1] * network.head.has_background
        for name in [n for layer in class_layers for n in below(layer) if n in source.weights]:
            rows = own[name].clone()
            rows[here] = source.weights[name][there].to(rows)
            taken[name] = rows

    offset = below("head.offset.")
    if offsets := fits(offset):
        taken |= {name: source.weights[name] for name in offset}
    with torch.no_grad():
        for name, tensor in taken.items():
            own[name].copy_(tensor)  # a state dict shares memory with its network
    return TransferReport(
        n_tensors=len(backbone),
        classes=classes,
        new=tuple(name for name in particles if name not in classes),
        left_out=tuple(name for name in source.particles if name not in particles),
        head=head,
        offsets=offsets if offset else None,
    )


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else "not set" if value is None else str(value)
