"""Which loss trains which network."""

from __future__ import annotations

from collections.abc import Sequence

from tomopoint.networks.config import NetworkConfig
from tomopoint.training.losses.base import PointLoss
from tomopoint.training.losses.detection import DetectionLoss
from tomopoint.training.losses.heatmap import HeatmapLoss
from tomopoint.training.recipe import LossOptions


def build_loss(network: NetworkConfig, radii_vox: Sequence[float], stride: int, options: LossOptions) -> PointLoss:
    """Return the loss that trains `network`: that of the detector, or the heatmap baseline's own.

    Parameters
    ----------
    network
        Its name decides.
    radii_vox
        Radius of each class, voxels; C of them.
    stride
        Voxels per output cell.
    options
        Of either loss.
    """
    kind = HeatmapLoss if network.name == "heatmap" else DetectionLoss
    return kind(radii_vox, stride, options)
