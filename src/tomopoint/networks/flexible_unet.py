"""MONAI's FlexibleUNet in three dimensions, down to feature maps at the output stride and coarser ones.

A classifier's network as encoder (ResNet-34, He et al. 2016; EfficientNet-B3, Tan and Le 2019), and a decoder of
nearest-neighbour upsampling, concatenation and two convolutions with batch norm.
"""

from __future__ import annotations

from monai.networks.nets.efficientnet import EfficientNet, efficientnet_params
from monai.networks.nets.flexible_unet import UNetDecoder
from monai.networks.nets.resnet import ResNet, get_inplanes, resnet_params
from torch import Tensor, nn
from torch.nn import functional

from tomopoint.networks.backbone import Backbone, check_levels, n_decoder_stages
from tomopoint.networks.config import NetworkConfig

_EFFICIENTNET_STAGES = [
    "r1_k3_s11_e1_i32_o16_se0.25",
    "r2_k3_s22_e6_i16_o24_se0.25",
    "r2_k5_s22_e6_i24_o40_se0.25",
    "r3_k3_s22_e6_i40_o80_se0.25",
    "r3_k5_s11_e6_i80_o112_se0.25",
    "r4_k5_s22_e6_i112_o192_se0.25",
    "r1_k3_s11_e6_i192_o320_se0.25",
]
"""Table 1 of Tan and Le 2019 in MONAI's words: repeats, kernel, stride, expansion, channels in and out, and the share
of the channels inside squeeze and excitation."""


class FlexibleUNetBackbone(Backbone):
    """MONAI's FlexibleUNet without the decoder stages finer than `stride` and without its head.

    Returns the maps of the finest ``config.levels`` decoder stages that are kept. Upsampled maps are not padded to
    those they are put beside, which sizes that are multiples of 32 make needless: padding would put arithmetic of
    shapes into the graph, which TensorRT refuses. At a width of one, parameters keep MONAI's names and sizes
    (``encoder``, ``decoder``), so the weights of a MONAI FlexibleUNet load by name.
    """

    def __init__(self, config: NetworkConfig, stride: int) -> None:
        super().__init__()
        config = config.resolved()
        assert config.encoder is not None
        assert config.filters is not None
        assert config.levels is not None
        assert config.width is not None
        kept = n_decoder_stages(config.n_levels, stride)
        n_maps = config.levels
        check_levels(n_maps, kept, stride)
        encoder, channels = _ENCODERS[config.encoder](config.encoder, config.width)
        self.encoder = encoder
        self.decoder = UNetDecoder(
            spatial_dims=3,
            encoder_channels=(1, *channels),
            decoder_channels=config.filters,
            act=("relu", {"inplace": True}),
            norm=("batch", {"eps": 1e-3, "momentum": 0.1}),
            dropout=0.0,
            bias=False,
            upsample="nontrainable",
            pre_conv="default",
            interp_mode="nearest",
            align_corners=None,
            is_pad=False,
        )
        self.decoder.blocks = self.decoder.blocks[:kept]
        self.n_maps = n_maps
        self.features = config.filters[kept - n_maps : kept][::-1]
        self.divisor = config.divisor
        self.needs_context = config.needs_context

    def encoding_parts(self) -> tuple[nn.Module, ...]:
        """Return the encoder."""
        return (self.encoder,)

    def forward(self, volume: Tensor) -> tuple[Tensor, ...]:
        """Return feature maps of a volume (B,1,D,H,W), finest first."""
        skips = self.encoder(volume)
        x = skips.pop()
        maps: list[Tensor] = []
        for block in self.decoder.blocks:
            x = block(x, skips.pop())
            maps.append(x)
        return tuple(reversed(maps[-self.n_maps :]))


class ResNetEncoder(ResNet):
    """MONAI's 3-D ResNet without its classifier: the maps at strides 2 to 32, finest first."""

    def __init__(self, name: str, width: float) -> None:
        block, layers, shortcut_type, bias_downsample, _ = resnet_params[name]
        super().__init__(
            block=block,
            layers=layers,
            block_inplanes=get_inplanes(),
            spatial_dims=3,
            n_input_channels=1,
            conv1_t_stride=2,
            shortcut_type=shortcut_type,
            widen_factor=width,
            feed_forward=False,
            bias_downsample=bias_downsample,
        )

    def forward(self, volume: Tensor) -> list[Tensor]:  # type: ignore[override]
        """Return the maps of a volume (B,1,D,H,W)."""
        maps = [self.act(self.bn1(self.conv1(volume)))]
        maps.append(self.layer1(self.maxpool(maps[-1])))
        for layer in (self.layer2, self.layer3, self.layer4):
            maps.append(layer(maps[-1]))
        return maps

    def _downsample_basic_block(self, x: Tensor, planes: int, stride: int, spatial_dims: int = 3) -> Tensor:
        """Return the shortcut of a block that halves the resolution: every second voxel, and channels of zeros.

        MONAI's has the same values, but lets no gradient pass and cannot be exported.
        """
        return functional.pad(x[:, :, ::stride, ::stride, ::stride], (0, 0, 0, 0, 0, 0, 0, planes - x.shape[1]))


class EfficientNetEncoder(EfficientNet):
    """MONAI's 3-D EfficientNet without its classifier: the maps at strides 2 to 32, finest first."""

    def __init__(self, name: str, width: float) -> None:
        wider, deeper, image_size, dropout_rate, drop_connect_rate = efficientnet_params[name]
        super().__init__(
            blocks_args_str=_EFFICIENTNET_STAGES,
            spatial_dims=3,
            in_channels=1,
            width_coefficient=wider * width,
            depth_coefficient=deeper,
            dropout_rate=dropout_rate,
            image_size=image_size,
            drop_connect_rate=drop_connect_rate,
        )
        del self._conv_head, self._conv_head_padding, self._bn1, self._avg_pooling, self._dropout, self._fc

    @property
    def channels(self) -> list[int]:
        """Of the maps."""
        return [self._blocks_args[stack - 1].output_filters for stack in self.extract_stacks]

    def forward(self, volume: Tensor) -> list[Tensor]:
        """Return the maps of a volume (B,1,D,H,W): the last of every resolution but the volume's own."""
        x = self._swish(self._bn0(self._conv_stem(self._conv_stem_padding(volume))))
        maps = []
        for index, stack in enumerate(self._blocks, start=1):
            x = stack(x)
            if index in self.extract_stacks:
                maps.append(x)
        return maps


def _resnet(name: str, width: float) -> tuple[nn.Module, list[int]]:
    first, *deeper = (int(planes * width) for planes in get_inplanes())
    return ResNetEncoder(name, width), [first, first, *deeper]


def _efficientnet(name: str, width: float) -> tuple[nn.Module, list[int]]:
    encoder = EfficientNetEncoder(name, width)
    return encoder, encoder.channels


_ENCODERS = {"resnet34": _resnet, "efficientnet-b3": _efficientnet}
