"""Sizes of the full networks against the published counts, options, and partial loading of a pretrained backbone."""

import pytest
import torch
from monai.networks.nets import FlexibleUNet, SegResNet, UNet
from safetensors.torch import save_file

from tomopoint.errors import TomopointError
from tomopoint.networks.build import build_network, load_backbone
from tomopoint.networks.config import ENCODERS, NetworkConfig
from tomopoint.strict_json import build

N_CLASSES = 6


def n_parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def conv(n_in: int, n_out: int, kernel: int, bias: bool = False) -> int:
    return n_in * n_out * kernel**3 + (n_out if bias else 0)


HEAD = sum(
    conv(64, width, 3, bias=True) + conv(width, width, 3, bias=True) + conv(width, channels, 1, bias=True)
    for width, channels in ((48, N_CLASSES), (16, 3))
)
"""0.180 M, as the winner's."""


def test_segresnet_is_the_winners_less_its_full_resolution_stage():
    """18.98 M less 61 001: the last decoder stage and the final convolution, which only a stride-1 output needs."""
    with torch.device("meta"):
        network = build_network(NetworkConfig("segresnet"), N_CLASSES, stride=2)
    last_block = 2 * conv(32, 32, 3) + 2 * 2 * 32  # two convolutions, two group norms
    last_upsample = conv(64, 32, 1)
    final = 2 * 32 + conv(32, 105, 1, bias=True)  # 105 channels: only there so that the CT weights load strictly
    unused = last_block + last_upsample + final
    assert unused == 61_001
    assert n_parameters(network.head) == HEAD == 180_185
    assert n_parameters(network) + unused == 18_979_586
    assert network.divisor == 8


def test_dynunet_is_the_winners_less_its_full_resolution_stage():
    """31.38 M less 109 696: the last decoder stage, the output block and the stride-4 supervision head."""
    with torch.device("meta"):
        network = build_network(NetworkConfig("dynunet"), N_CLASSES, stride=2)
    last_stage = conv(64, 32, 2) + conv(64, 32, 3) + conv(32, 32, 3)
    output_block = conv(32, 64, 1, bias=True)
    coarse_head = conv(128, 64, 1, bias=True)
    unused = last_stage + output_block + coarse_head
    assert unused == 109_696
    assert n_parameters(network) + unused == 31_376_377
    assert network.divisor == 32


def test_the_small_residual_dynunet_has_about_a_fifth_of_the_parameters():
    with torch.device("meta"):
        network = build_network(NetworkConfig("dynunet-residual"), N_CLASSES, stride=2)
    assert 5.5e6 < n_parameters(network) < 6.0e6  # 5.89 M with the layers left out here
    assert network.divisor == 8


def test_full_size_networks_make_a_map_at_stride_two_of_the_winners_window():
    for name in ("segresnet", "dynunet"):
        with torch.device("meta"):
            scores, offsets = build_network(NetworkConfig(name), N_CLASSES, stride=2)(torch.empty(1, 1, 192, 128, 128))
        assert scores.shape == (1, N_CLASSES, 96, 64, 64)
        assert offsets.shape == (1, 3, 96, 64, 64)


def test_a_config_survives_its_record():
    config = NetworkConfig("dynunet", filters=(8, 16, 32), label="narrow").resolved()
    assert build(NetworkConfig, config.to_dict()) == config
    assert (config.features, config.title) == (64, "narrow")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet"}, "known are segresnet, dynunet"),
        ({"name": "segresnet", "filters": (8, 16)}, "filters has no effect on network 'segresnet'"),
        ({"name": "heatmap", "offset_width": 8}, "offset_width has no effect"),
        ({"name": "unet", "features": 8}, "features has no effect"),
        ({"name": "segresnet", "encoder": "resnet34"}, "encoder has no effect"),
        ({"name": "flexible-unet", "encoder": "resnet50"}, "must be resnet34 or efficientnet-b3, got 'resnet50'"),
        ({"name": "flexible-unet", "filters": (8, 8)}, "needs 5 numbers"),
        ({"name": "flexible-unet", "width": 0.0}, "width .* must lie in"),
        ({"name": "flexible-unet", "levels": 0}, "levels .* at least 1"),
        ({"name": "segresnet", "init_filters": 12}, "norm_groups to one of 1, 2, 3, 4, 6, 12"),
        ({"name": "dynunet", "filters": (8,)}, "two or more"),
        ({"name": "dynunet", "filters": (8, 0, 8)}, "at least 1"),
        ({"name": "segresnet", "blocks_down": (1, -1, 1)}, "at least 0"),
        ({"name": "dynunet", "dropout": 1.0}, "dropout"),
        ({"name": "dynunet", "features": 0}, "at least 1"),
    ],
)
def test_a_config_refuses_what_it_cannot_use(options, message):
    with pytest.raises(TomopointError, match=message):
        NetworkConfig(**options)


NARROW = NetworkConfig("segresnet", init_filters=8, blocks_down=(1, 2, 1), class_width=4, offset_width=4)


def test_monai_weights_load_by_name_into_the_backbone(tmp_path):
    source = SegResNet(spatial_dims=3, init_filters=8, blocks_down=(1, 2, 1), blocks_up=(1, 1), out_channels=105)
    torch.save({"state_dict": source.state_dict()}, tmp_path / "model.pt")
    network = build_network(NARROW, N_CLASSES, stride=2)
    head = [p.clone() for p in network.head.parameters()]
    report = load_backbone(network, tmp_path / "model.pt")
    assert report.fresh == report.misshapen == ()
    for name, tensor in network.backbone.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name])
    assert all(torch.equal(a, b) for a, b in zip(head, network.head.parameters(), strict=True))


def test_a_backbone_of_other_depth_loads_in_part_and_says_so(tmp_path):
    source = build_network(NetworkConfig("segresnet", init_filters=8, blocks_down=(1, 1, 1)), N_CLASSES, stride=2)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    network = build_network(NARROW, N_CLASSES, stride=2)
    report = load_backbone(network, tmp_path / "weights.safetensors")
    assert report.fresh
    assert all(name.startswith("down_layers.1.2.") for name in report.fresh)
    for name in report.loaded:
        assert torch.equal(network.backbone.state_dict()[name], source.backbone.state_dict()[name])


def test_weights_that_do_not_fit_are_refused(tmp_path):
    network = build_network(NARROW, N_CLASSES, stride=2)
    with pytest.raises(TomopointError, match="no weights file"):
        load_backbone(network, tmp_path / "absent.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(TomopointError, match="neither safetensors nor"):
        load_backbone(network, tmp_path / "text.pt")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(TomopointError, match="neither safetensors nor"):
        load_backbone(network, tmp_path / "text.safetensors")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(TomopointError, match="no state dict"):
        load_backbone(network, tmp_path / "list.pt")
    torch.save({"other.weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(TomopointError, match=r"no tensor of .* fits"):
        load_backbone(network, tmp_path / "other.pt")
    wider = build_network(NetworkConfig("segresnet", init_filters=16, blocks_down=(1, 2, 1)), N_CLASSES, stride=2)
    torch.save(wider.state_dict(), tmp_path / "wider.pt")
    with pytest.raises(TomopointError, match="same architecture and width"):
        load_backbone(network, tmp_path / "wider.pt")


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_flexible_unet_is_monais_less_what_only_full_resolution_needs(encoder):
    torch.manual_seed(0)
    whole = FlexibleUNet(in_channels=1, out_channels=7, backbone=encoder, spatial_dims=3, is_pad=False).eval()
    network = build_network(NetworkConfig("flexible-unet", encoder=encoder, levels=2), N_CLASSES, stride=2).eval()
    theirs = {name: tensor for name, tensor in whole.state_dict().items() if name in network.backbone.state_dict()}
    network.backbone.load_state_dict(theirs)  # strict: every tensor has one of this name and shape there
    volume = torch.randn(1, 1, 32, 32, 64)
    finest = []
    whole.decoder.blocks[3].register_forward_hook(lambda *given: finest.append(given[-1]))
    with torch.inference_mode():
        whole(volume)
        maps = network.backbone(volume)
    assert [tuple(m.shape[1:]) for m in maps] == [(32, 16, 16, 32), (64, 8, 8, 16)]
    assert torch.equal(maps[0], finest[0])
    left_out = n_parameters(whole) - n_parameters(network.backbone)
    head = conv(1536, 384, 1) + 2 * 1536 + conv(1536, 1000, 1, bias=True)  # of EfficientNet-B3 as a classifier
    last_stage = conv(32, 16, 3) + conv(16, 16, 3) + 2 * 2 * 16
    assert left_out - last_stage - conv(16, 7, 3, bias=True) == (head if encoder == "efficientnet-b3" else 0)
    assert network.divisor == 32


def test_the_plain_unet_is_monais_without_its_last_upsampling():
    torch.manual_seed(0)
    filters = (48, 64, 80, 80)
    whole = UNet(3, 1, 7, filters, (2, 2, 2), num_res_units=1).eval()
    network = build_network(NetworkConfig("unet"), N_CLASSES, stride=2).eval()
    network.backbone.load_state_dict(whole.state_dict(), strict=False)
    before = []
    whole.model[2].register_forward_pre_hook(lambda _, given: before.append(given[0]))
    volume = torch.randn(1, 1, 16, 16, 24)
    with torch.inference_mode():
        whole(volume)
        assert torch.equal(network.backbone(volume)[0], before[0])
    assert 1.0e6 < n_parameters(network) < 1.3e6
    assert network.divisor == 8
    assert sum(map(n_parameters, network.backbone.encoding_parts())) == sum(
        p.numel() for name, p in network.backbone.named_parameters() if ".2." not in name.replace("1.submodule.", "")
    )
