"""DynUNet (the nnU-Net architecture, Isensee et al. 2021) down to a feature map at the output stride, MONAI's parts."""

from __future__ import annotations

from monai.networks.nets.dynunet import DynUNet
from torch import Tensor, nn

from tomopoint.networks.backbone import Backbone, check_levels, n_decoder_stages, projected
from tomopoint.networks.config import NetworkConfig


class DynUNetBackbone(Backbone):
    """MONAI's DynUNet without the decoder stages finer than `stride`; a 1x1x1 convolution makes the feature map.

    The forward pass is a plain function of its input: unlike MONAI's deep supervision it stores no feature map in
    the module, so one instance can be traced, exported and run again. Parameters keep MONAI's names
    (``input_block``, ``downsamples``, ``bottleneck``, ``upsamples``), so that pretrained weights load by name.
    """

    def __init__(self, config: NetworkConfig, stride: int) -> None:
        super().__init__()
        config = config.resolved()
        assert config.filters is not None
        assert config.features is not None
        n_levels = config.n_levels
        kept = n_decoder_stages(n_levels, stride)
        strides = [1] + [2] * (n_levels - 1)
        whole = DynUNet(
            spatial_dims=3,
            in_channels=1,
            out_channels=1,
            kernel_size=[3] * n_levels,
            strides=strides,
            upsample_kernel_size=strides[1:],
            filters=config.filters,
            dropout=config.dropout or None,
            norm_name="instance",
            res_block=config.name == "dynunet-residual",
        )
        self.input_block = whole.input_block
        self.downsamples = whole.downsamples
        self.bottleneck = whole.bottleneck
        self.upsamples = whole.upsamples[:kept]
        check_levels(config.n_outputs, kept, stride)
        finest = n_levels - 1 - kept
        widths = config.filters[finest : finest + config.n_outputs]
        layers = [nn.Conv3d(width, config.features, kernel_size=1) for width in widths]
        self.project = layers[0]
        self.project_coarser = nn.ModuleList(layers[1:])
        self.features = (config.features,) * config.n_outputs
        self.divisor = config.divisor
        self.needs_context = config.needs_context

    def encoding_parts(self) -> tuple[nn.Module, ...]:
        """Return the levels, down to the bottleneck."""
        return self.input_block, self.downsamples, self.bottleneck

    def forward(self, volume: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the feature map (B,features,D/stride,H/stride,W/stride) of a volume (B,1,D,H,W), or one per level."""
        x = self.input_block(volume)
        skips = [x]
        for down in self.downsamples:
            x = down(x)
            skips.append(x)
        x, made = self.bottleneck(x), []
        for up, skip in zip(self.upsamples, reversed(skips), strict=False):
            x = up(x, skip)
            made.append(x)
        return projected(made, self.project, self.project_coarser)
