"""SegResNet (Myronenko 2018, arXiv 1810.11654) down to a feature map at the output stride, from MONAI's parts."""

from __future__ import annotations

from monai.networks.nets.segresnet import SegResNet
from torch import Tensor, nn

from tomopoint.networks.backbone import Backbone, check_levels, n_decoder_stages, projected
from tomopoint.networks.config import NetworkConfig


class SegResNetBackbone(Backbone):
    """MONAI's SegResNet without the decoder stages finer than `stride` and without its final convolution.

    Parameters keep MONAI's names (``convInit``, ``down_layers``, ``up_layers``, ``up_samples``), so the weights of
    a MONAI SegResNet load by name.
    """

    def __init__(self, config: NetworkConfig, stride: int) -> None:
        super().__init__()
        config = config.resolved()
        assert config.init_filters is not None
        assert config.blocks_down is not None
        n_levels = config.n_levels
        kept = n_decoder_stages(n_levels, stride)
        whole = SegResNet(
            spatial_dims=3,
            in_channels=1,
            init_filters=config.init_filters,
            blocks_down=config.blocks_down,
            blocks_up=(1,) * (n_levels - 1),
            norm=("GROUP", {"num_groups": config.norm_groups}),
        )
        self.convInit = whole.convInit
        self.dropout = nn.Dropout3d(config.dropout) if config.dropout else nn.Identity()
        self.down_layers = whole.down_layers
        self.up_samples = whole.up_samples[:kept]
        self.up_layers = whole.up_layers[:kept]
        check_levels(config.n_outputs, kept, stride)
        widths = [config.init_filters * stride * 2**level for level in range(config.n_outputs)]
        layers = [nn.Conv3d(width, config.features, 1) if config.features else nn.Identity() for width in widths]
        self.project = layers[0]
        self.project_coarser = nn.ModuleList(layers[1:])
        self.features = tuple(config.features or width for width in widths)
        self.divisor = config.divisor
        self.needs_context = config.needs_context

    def encoding_parts(self) -> tuple[nn.Module, ...]:
        """Return the first convolution and the levels."""
        return self.convInit, self.down_layers

    def forward(self, volume: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the feature map (B,features,D/stride,H/stride,W/stride) of a volume (B,1,D,H,W), or one per level."""
        return self.decode(self.encode(volume))

    def encode(self, volume: Tensor) -> list[Tensor]:
        """Return the map of every level, finest first."""
        x = self.dropout(self.convInit(volume))
        maps: list[Tensor] = []
        for down in self.down_layers:
            x = down(x)
            maps.append(x)
        return maps

    def decode(self, maps: list[Tensor]) -> Tensor | tuple[Tensor, ...]:
        """Return the feature map, or one per level; levels finer than it are not looked at."""
        x, made = maps[-1], []
        for upsample, refine, skip in zip(self.up_samples, self.up_layers, reversed(maps[:-1]), strict=False):
            x = refine(upsample(x) + skip)
            made.append(x)
        return projected(made, self.project, self.project_coarser)
