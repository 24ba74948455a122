"""A detector of slices: MONAI's RetinaNet, anchor-free, with one map.

What of it is ours is which cells answer for a box: those near its centre (FCOS, Tian et al. 2019, section 3.3), of
several boxes for the smallest. Every cell holds one square of constant size that boxes are measured against, so nothing
depends on a choice of anchors. All particles have a few tens of voxels, so one map at stride 4, into which the pyramid
has merged the coarser ones, serves all of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import torch
from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
from monai.apps.detection.networks.retinanet_network import RetinaNet
from monai.apps.detection.utils.anchor_utils import AnchorGeneratorWithAnchorShape
from monai.apps.detection.utils.ATSS_matcher import Matcher
from monai.losses.focal_loss import FocalLoss
from monai.networks.blocks.feature_pyramid_network import FeaturePyramidNetwork
from monai.networks.nets.resnet import ResNet
from torch import Tensor, nn

from tomopoint.baselines.disks import cut
from tomopoint.baselines.found import Found
from tomopoint.baselines.linking import SliceBoxes, link_boxes
from tomopoint.baselines.method import channels_of, stacks
from tomopoint.baselines.recipe import CELL_VOX, DetectorOptions
from tomopoint.training.crops.dataset import CropBatch

UNIT_VOX = 16
"""Edge of the square that the boxes of a cell are measured against."""

CANDIDATES, MOST_BOXES = 1000, 300
"""Best scored boxes of a slice before suppression and after it."""


class Pyramid(nn.Module):
    """Residual blocks at strides 2, 4, 8 and 16 (``stages``), the last three merged into one map at stride 4."""

    def __init__(self, n_slices: int, options: DetectorOptions) -> None:
        super().__init__()
        self.stages = ResNet(
            block="basic",
            layers=[1, 1, 1, 1],
            block_inplanes=list(options.channels),
            spatial_dims=2,
            n_input_channels=n_slices,
            conv1_t_size=5,
            conv1_t_stride=2,
            no_max_pool=True,
            feed_forward=False,
        )
        self.merge = FeaturePyramidNetwork(2, list(options.channels[1:]), options.features)
        for coarser in (1, 2):  # of the merged maps only the finest is used
            self.merge.layer_blocks[coarser] = nn.Identity()
        self.out_channels = options.features

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the map ``(B, features, H / 4, W / 4)``, as a list of one."""
        stages = self.stages
        x = stages.layer1(stages.act(stages.bn1(stages.conv1(images))))
        maps: OrderedDict[str, Tensor] = OrderedDict()
        for stage in (stages.layer2, stages.layer3, stages.layer4):
            x = maps[str(len(maps))] = stage(x)
        return [next(iter(self.merge(maps).values()))]


class SliceRetinaNet(RetinaNet):
    """MONAI's, whose outputs are float32 whatever the network computes in: losses and boxes need it."""

    def forward(self, images: Tensor) -> dict[str, list[Tensor]]:
        """Return maps of classes and of boxes."""
        outputs: dict[str, list[Tensor]] = super().forward(images)
        return {name: [values.float() for values in maps] for name, maps in outputs.items()}


class AveragedRetinaNet(nn.Module):
    """The mean of what some networks say, in their place."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        for name in ("spatial_dims", "num_classes", "num_anchors", "size_divisible", "cls_key", "box_reg_key"):
            setattr(self, name, getattr(networks[0], name))

    def forward(self, images: Tensor) -> dict[str, list[Tensor]]:
        """Return the mean maps."""
        outputs = [network(images) for network in self.networks]
        return {name: [torch.stack([own[name][0] for own in outputs]).mean(dim=0)] for name in outputs[0]}


class CentreMatcher(Matcher):
    """Which cell answers for which box: FCOS's centre sampling."""

    def __init__(self, reach_vox: float) -> None:
        super().__init__()
        self.reach_vox = reach_vox

    def compute_matches(
        self, boxes: Tensor, anchors: Tensor, num_anchors_per_level: Sequence[int], num_anchors_per_loc: int
    ) -> tuple[Tensor, Tensor]:
        """Return the distance of every box from every cell, and for every cell its box, or -1.

        Parameters
        ----------
        boxes
            ``(N, 4)`` lower y, lower x, upper y, upper x, voxels; at least one.
        anchors
            ``(M, 4)``, the square of every cell.
        num_anchors_per_level, num_anchors_per_loc
            There is one level, and one square in each cell.
        """
        centres, cells = ((corners[:, :2] + corners[:, 2:]) / 2 for corners in (boxes, anchors))
        distances = (centres[:, None] - cells[None]).abs().amax(dim=-1)  # (N, M)
        edges = boxes[:, 2:] - boxes[:, :2]
        reach = (edges.amin(dim=1) / 2).clamp(max=self.reach_vox)[:, None]
        near = distances <= torch.maximum(reach, distances.amin(dim=1, keepdim=True))
        areas = edges.prod(dim=1)[:, None].expand_as(distances)
        smallest, matches = torch.where(near, areas, torch.inf).min(dim=0)
        matches[smallest == torch.inf] = self.BELOW_LOW_THRESHOLD
        return distances, matches


class SliceDetector(RetinaNetDetector):
    """MONAI's, with the matcher above, and losses per learnt cell instead of per cell."""

    def __init__(self, network: nn.Module, options: DetectorOptions, floor: float) -> None:
        super().__init__(
            network, AnchorGeneratorWithAnchorShape(feature_map_scales=(1,), base_anchor_shapes=((UNIT_VOX, UNIT_VOX),))
        )
        self.box_weight = options.box_weight
        self.proposal_matcher = CentreMatcher(options.centre_cells * CELL_VOX)
        self.set_cls_loss(
            FocalLoss(gamma=options.focal_gamma, alpha=options.focal_alpha, reduction="none")
            if options.loss == "focal"
            else nn.BCEWithLogitsLoss(reduction="none")
        )
        self.set_box_selector_parameters(
            score_thresh=floor,
            topk_candidates_per_level=CANDIDATES,
            nms_thresh=options.suppression_overlap,
            detections_per_img=MOST_BOXES,
        )

    def compute_anchor_matched_idxs(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]], num_anchor_locs_per_level: Sequence[int]
    ) -> list[Tensor]:
        """Return for every cell of every slice its box, or -1. MONAI's own asks for torchvision's matcher."""
        matches = []
        for squares, target in zip(anchors, targets, strict=True):
            boxes = target[self.target_box_key]
            if len(boxes):
                own = self.proposal_matcher.compute_matches(boxes, squares, num_anchor_locs_per_level, 1)[1]
            else:
                own = torch.full((len(squares),), Matcher.BELOW_LOW_THRESHOLD, device=squares.device)
            matches.append(own)
        return matches

    def compute_cls_loss(
        self, cls_logits: Tensor, targets: list[dict[str, Tensor]], matched_idxs: list[Tensor]
    ) -> Tensor:
        """Return the sum over cells and classes, divided by the number of cells that have a box."""
        n_matched = sum(int((own >= 0).sum()) for own in matched_idxs)
        total: Tensor = super().compute_cls_loss(cls_logits, targets, matched_idxs).sum()
        return total / max(1, n_matched)

    def compute_box_loss(
        self,
        box_regression: Tensor,
        targets: list[dict[str, Tensor]],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> Tensor:
        """Return the smooth L1 distance of the boxes, weighted."""
        own: Tensor = super().compute_box_loss(box_regression, targets, anchors, matched_idxs)
        return own.to(box_regression.device) * self.box_weight


class SliceDetection:
    """Boxes in slices, linked over z; a :class:`~tomopoint.baselines.method.Method`.

    Parameters
    ----------
    options
        Of the recipe.
    n_slices
        Neighbouring slices, the channels.
    radii_vox
        Of the sphere of every class.
    floor
        Boxes scored up to this are left out.
    """

    def __init__(self, options: DetectorOptions, n_slices: int, radii_vox: Sequence[float], floor: float) -> None:
        self.options = options
        self.n_slices = n_slices
        self.radii_vox = radii_vox
        self.floor = floor

    def build(self) -> nn.Module:
        """Return a detector with fresh weights."""
        network = SliceRetinaNet(
            spatial_dims=2,
            num_classes=len(self.radii_vox),
            num_anchors=1,
            feature_extractor=Pyramid(self.n_slices, self.options),
            size_divisible=4 * CELL_VOX,
        )
        return SliceDetector(network, self.options, self.floor)

    def losses(self, network: nn.Module, batch: CropBatch) -> Mapping[str, Tensor]:
        """Return the loss of classes and of boxes."""
        images = channels_of(batch)
        targets = [self._target(batch, index) for index in range(len(images))]
        found: dict[str, Tensor] = network(images, targets)
        return {"classification": found["classification"], "regression": found["box_regression"]}

    def _target(self, batch: CropBatch, index: int) -> dict[str, Tensor]:
        """Boxes that the middle slice cuts and whose centre lies in the crop: it has a cell of its own there."""
        height, width = batch.volume.shape[-2:]
        disks = cut(batch.points, index, self.n_slices / 2, self.radii_vox, self.options.box)
        size = disks.centres_yx.new_tensor([height, width])
        inside = ((disks.centres_yx >= 0) & (disks.centres_yx < size)).all(dim=1)
        disks = disks.of(inside & (2 * disks.half_widths >= self.options.smallest_box_vox))
        half = disks.half_widths[:, None]
        boxes = torch.cat([disks.centres_yx - half, disks.centres_yx + half], dim=1)
        return {"boxes": boxes, "labels": disks.labels}

    def find(self, networks: Sequence[nn.Module], volume_zyx: Tensor) -> Found:
        """Return the points of linked boxes."""
        averaged = AveragedRetinaNet([cast(SliceDetector, network).network for network in networks])
        detector = SliceDetector(averaged, self.options, self.floor).to(volume_zyx.device).eval()
        slices, boxes, labels, scores = [], [], [], []
        with torch.inference_mode():
            for first, images in stacks(volume_zyx, self.n_slices):
                for place, own in enumerate(detector(images)):
                    slices.append(np.full(len(own["labels"]), first + place, dtype=np.int64))
                    boxes.append(own["boxes"].double().cpu().numpy())
                    labels.append(own["labels"].cpu().numpy())
                    scores.append(own["labels_scores"].double().cpu().numpy())
        found = SliceBoxes(*(np.concatenate(parts) for parts in (slices, boxes, labels, scores)))
        return link_boxes(found, self.options.link, [2 * radius for radius in self.radii_vox])
