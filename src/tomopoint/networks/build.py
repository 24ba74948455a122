"""From a NetworkConfig to a PointNetwork, and partial loading of a pretrained backbone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from tomopoint.errors import TomopointError, reason_of
from tomopoint.networks.backbone import Backbone
from tomopoint.networks.config import NetworkConfig
from tomopoint.networks.dynunet import DynUNetBackbone
from tomopoint.networks.flexible_unet import FlexibleUNetBackbone
from tomopoint.networks.heads import Head, HeatmapHead, LevelsHead, PointHead, SegmentationHead
from tomopoint.networks.point_network import PointNetwork
from tomopoint.networks.segresnet import SegResNetBackbone
from tomopoint.networks.unet import UNetBackbone

logger = logging.getLogger(__name__)


def build_network(config: NetworkConfig, n_classes: int, stride: int) -> PointNetwork:
    """Build the network that `config` describes, with fresh weights.

    Parameters
    ----------
    config
        Architecture and sizes. ``config.pretrained`` is not read: see :mod:`tomopoint.training.pretrained`.
    n_classes
        Channels of the score map.
    stride
        Voxels per output cell: a power of two that one of the decoder's stages reaches.

    Raises
    ------
    TomopointError
        `n_classes` below one, or no feature map at `stride`.
    """
    if n_classes < 1:
        raise TomopointError(f"a network needs at least one class, got {n_classes}")
    full = config.resolved()
    backbone = _BACKBONES[full.name](full, stride)
    return PointNetwork(backbone, _build_head(full, backbone.features, n_classes, stride), n_classes, stride)


def check_network(config: NetworkConfig, n_classes: int, stride: int) -> None:
    """Raise what :func:`build_network` raises, without memory for weights."""
    with torch.device("meta"):
        build_network(config, n_classes, stride)


_BACKBONES: Mapping[str, Callable[[NetworkConfig, int], Backbone]] = {
    "segresnet": SegResNetBackbone,
    "heatmap": SegResNetBackbone,
    "dynunet": DynUNetBackbone,
    "dynunet-residual": DynUNetBackbone,
    "flexible-unet": FlexibleUNetBackbone,
    "unet": UNetBackbone,
}


def _build_head(config: NetworkConfig, features: tuple[int, ...], n_classes: int, stride: int) -> Head:
    if config.kind == "segmentation":
        return SegmentationHead(features, n_classes)
    assert config.class_width is not None
    if config.kind == "heatmap":
        return HeatmapHead(features[0], n_classes, config.class_width)
    assert config.offset_width is not None
    heads = [
        PointHead(width, n_classes, config.class_width, config.offset_width, stride * 2**level)
        for level, width in enumerate(features)
    ]
    return heads[0] if len(heads) == 1 else LevelsHead(heads)


@dataclass(frozen=True)
class BackboneReport:
    """Names of the backbone's parameters that were loaded, and of those that kept their fresh values."""

    loaded: tuple[str, ...]
    fresh: tuple[str, ...]
    misshapen: tuple[str, ...]

    @property
    def text(self) -> str:
        """One line for the log."""
        line = f"loaded {len(self.loaded)} of {len(self.loaded) + len(self.fresh)} backbone tensors"
        if self.misshapen:
            line += f"; {len(self.misshapen)} differ in shape, e.g. {self.misshapen[0]}"
        return line


def load_backbone(network: PointNetwork, path: Path) -> BackboneReport:
    """Copy every tensor of a weights file whose name and shape fit the network's backbone into it.

    Names may carry a prefix (``backbone.``, ``model.``, ``module.``, ``network.``): a tomopoint checkpoint and
    MONAI's own SegResNet, DynUNet, FlexibleUNet and UNet weights all fit.

    Parameters
    ----------
    network
        Changed in place; its head stays as it is.
    path
        safetensors, or a file of ``torch.save`` that holds a state dict (plain, or under ``state_dict`` or
        ``model``). Read with ``weights_only``, so a file cannot run code.

    Raises
    ------
    TomopointError
        The file cannot be read, or not one tensor fits.
    """
    given = {_bare(name): tensor for name, tensor in _read_tensors(path).items()}
    target = network.backbone.state_dict()
    fitting = {name: given[name] for name in target if name in given and given[name].shape == target[name].shape}
    if not fitting:
        raise TomopointError(
            f"no tensor of {path} fits this network by name and shape; it holds {', '.join(sorted(given)[:3])} ..., "
            f"wanted are {', '.join(sorted(target)[:3])} ... Give weights of the same architecture and width"
        )
    network.backbone.load_state_dict(fitting, strict=False)
    report = BackboneReport(
        loaded=tuple(fitting),
        fresh=tuple(name for name in target if name not in fitting),
        misshapen=tuple(name for name in target if name in given and name not in fitting),
    )
    logger.info("%s: %s", path, report.text)
    return report


def _bare(name: str) -> str:
    for prefix in ("module.", "model.", "network.", "backbone."):
        name = name.removeprefix(prefix)
    return name


def _read_tensors(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise TomopointError(f"no weights file {path}; correct `pretrained` in the recipe")
    try:
        content: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # torch's reader of pickles lets those of Python through, of any kind
        raise TomopointError(
            f"{path} is neither safetensors nor a torch state dict ({reason_of(error)}); "
            "correct `pretrained` in the recipe"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise TomopointError(f"{path} holds no state dict; save `network.state_dict()` and give that file")
    return tensors
