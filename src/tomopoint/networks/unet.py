"""A small plain U-Net (Ronneberger et al. 2015) down to a feature map at stride 2, from MONAI's parts."""

from __future__ import annotations

from monai.networks.nets.unet import UNet
from torch import Tensor, nn

from tomopoint.errors import TomopointError
from tomopoint.networks.backbone import Backbone
from tomopoint.networks.config import NetworkConfig


class UNetBackbone(Backbone):
    """MONAI's UNet, instance norm and PReLU, without its last upsampling.

    Its first convolution halves the resolution, so nothing is computed at full resolution. Parameters keep MONAI's
    names (``model``).
    """

    def __init__(self, config: NetworkConfig, stride: int) -> None:
        super().__init__()
        config = config.resolved()
        assert config.filters is not None
        if stride != 2:
            raise TomopointError(f"network 'unet' has its feature map at stride 2, not {stride}; set `stride` to 2")
        whole = UNet(
            spatial_dims=3,
            in_channels=1,
            out_channels=1,
            channels=config.filters,
            strides=(2,) * (len(config.filters) - 1),
            num_res_units=1,
            norm="instance",
            act="prelu",
            dropout=config.dropout or 0.0,
        )
        assert isinstance(whole.model, nn.Sequential)
        self.model = whole.model[:2]  # down to stride 2, and everything below beside it; the third leads up from there
        # Below stand as many channels as above, or, where there is nothing but the bottom, those of the bottom.
        below = config.filters[0] if len(config.filters) > 2 else config.filters[1]
        self.features = (config.filters[0] + below,)
        self.divisor = config.divisor
        self.needs_context = config.needs_context

    def encoding_parts(self) -> tuple[nn.Module, ...]:
        """Return all that leads down; a U-Net is nested, so the ways up stand between."""
        parts: list[nn.Module] = []
        block: nn.Module = self.model
        while isinstance(block, nn.Sequential) and len(block) > 1 and hasattr(block[1], "submodule"):
            parts.append(block[0])
            below = block[1].submodule
            assert isinstance(below, nn.Module)
            block = below
        return (*parts, block)

    def forward(self, volume: Tensor) -> tuple[Tensor]:
        """Return the feature map (B,features[0],D/2,H/2,W/2) of a volume (B,1,D,H,W)."""
        features: Tensor = self.model(volume)
        return (features,)
