"""Which loss trains which network."""

from __future__ import annotations

from collections.abc import Sequence

from tomopoint.networks.config import NetworkConfig
from tomopoint.training.losses.base import PointLoss
from tomopoint.training.losses.detection import DetectionLoss
from tomopoint.training.losses.heatmap import HeatmapLoss
from tomopoint.training.losses.segmentation import SegmentationLoss
from tomopoint.training.options.losses import LossOptions


def build_loss(network: NetworkConfig, radii_vox: Sequence[float], stride: int, options: LossOptions) -> PointLoss:
    """Return the loss that trains `network`: that of its kind.

    Parameters
    ----------
    network
        Its kind decides.
    radii_vox
        Radius of each class, voxels; C of them.
    stride
        Voxels per output cell.
    options
        Of each loss.
    """
    losses = {"detection": DetectionLoss, "heatmap": HeatmapLoss, "segmentation": SegmentationLoss}
    return losses[network.kind](radii_vox, stride, options)
