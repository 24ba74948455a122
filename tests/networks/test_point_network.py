"""Every network honours the one contract: shapes, legal sizes, gradients, half precision, export."""

import numpy as np
import onnxruntime
import pytest
import torch

from tomopoint.errors import TomopointError
from tomopoint.networks.build import build_network
from tomopoint.networks.config import ENCODERS, NETWORK_NAMES, NetworkConfig
from tomopoint.networks.heads import LevelsHead, PointHead, spread
from tomopoint.networks.point_network import PointNetwork

N_CLASSES = 6
STRIDE = 2

BF16_TOLERANCE = 0.1
"""bfloat16 keeps 8 bits, 0.4 % per operation, and some twenty layers follow each other; unit-size logits."""

ORT_TOLERANCE = 1e-4
"""Both compute in float32; sums over up to 432 products in another order, through ten layers."""

NARROW = {
    "segresnet": NetworkConfig("segresnet", init_filters=8, blocks_down=(1, 1, 1), class_width=6, offset_width=4),
    "dynunet": NetworkConfig("dynunet", filters=(4, 8, 16), features=8, class_width=6, offset_width=4),
    "dynunet-residual": NetworkConfig(
        "dynunet-residual", filters=(4, 8, 16), features=8, class_width=6, offset_width=4, dropout=0.1
    ),
    "segresnet, two levels": NetworkConfig(
        "segresnet", init_filters=8, blocks_down=(1, 1, 1, 1), class_width=6, offset_width=4, levels=2
    ),
    "dynunet, three levels": NetworkConfig(
        "dynunet", filters=(4, 8, 8, 8, 8), features=8, class_width=6, offset_width=4, levels=3
    ),
    "heatmap": NetworkConfig("heatmap", init_filters=8, blocks_down=(1, 1, 1), class_width=6, features=12),
    "flexible-unet": NetworkConfig("flexible-unet", width=1 / 16, filters=(12, 10, 8, 6, 4), levels=2),
    "flexible-unet, efficientnet-b3": NetworkConfig(
        "flexible-unet", encoder="efficientnet-b3", width=1 / 16, filters=(12, 10, 8, 6, 4)
    ),
    "unet": NetworkConfig("unet", filters=(4, 8, 8), dropout=0.1),
}


def narrow_network(name: str, seed: int = 0) -> PointNetwork:
    """Return a narrow network whose heads no longer start at zero, so that every output depends on everything."""
    torch.manual_seed(seed)
    network = build_network(NARROW[name], N_CLASSES, STRIDE)
    for layer in network.head.modules():
        if isinstance(layer, torch.nn.Conv3d) and not layer.weight.any():
            torch.nn.init.normal_(layer.weight, std=0.3)
    return with_statistics(network).eval()


def coarsest_stride(name: str) -> int:
    """Return the stride of the coarsest level that predicts offsets, or that of the output."""
    return STRIDE * 2 ** (NARROW[name].n_outputs - 1) if NARROW[name].kind == "detection" else STRIDE


def with_statistics(network: PointNetwork) -> PointNetwork:
    """Give batch norms the statistics of what they see, as training does: fresh ones would let maps fade to nothing."""
    norms = [layer for layer in network.modules() if isinstance(layer, torch.nn.BatchNorm3d)]
    for layer in norms:
        layer.momentum = 1.0
    if norms:
        with torch.no_grad():
            network.train()(small_volume(network, 2))
    return network


def small_volume(network: PointNetwork, n: int = 1) -> torch.Tensor:
    """Return a volume of 16 voxels along each axis, or two of the coarsest cells where they are larger."""
    return torch.randn(n, 1, *(3 * [max(16, 2 * network.divisor)]))


def test_every_network_is_tested():
    assert {config.name for config in NARROW.values()} == set(NETWORK_NAMES)
    assert {config.resolved().encoder for config in NARROW.values() if config.name == "flexible-unet"} == set(ENCODERS)


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize("cells_zyx", [(2, 2, 2), (1, 2, 3), (4, 1, 2)])
def test_shapes_at_legal_sizes(name, cells_zyx):
    network = narrow_network(name)
    size = tuple(n * network.divisor for n in cells_zyx)
    with torch.inference_mode():
        scores, offsets_vox = network(torch.randn(2, 1, *size))
    expected = tuple(n // STRIDE for n in size)
    assert scores.shape == (2, N_CLASSES, *expected)
    assert offsets_vox.shape == (2, 3, *expected)
    assert scores.dtype == offsets_vox.dtype == torch.float32
    assert 0 < scores.min() < scores.max() < 1
    coarsest = coarsest_stride(name)
    assert offsets_vox.abs().max() <= coarsest + (coarsest - STRIDE) / 2  # its reach, and the way to its anchor
    assert network.predicts_offsets == bool(offsets_vox.abs().max() > 0) == (NARROW[name].kind == "detection")


@pytest.mark.parametrize("name", NARROW)
def test_an_illegal_size_is_refused_with_the_size_to_pad_to(name):
    network = narrow_network(name)
    d = network.divisor
    with pytest.raises(TomopointError, match=f"multiples of {d}.*pad it to {2 * d}x{2 * d}x{3 * d}"):
        network(torch.zeros(1, 1, d + 1, 2 * d, 3 * d - 1))
    with pytest.raises(TomopointError, match="one channel"):
        network(torch.zeros(1, 2, d, d, 2 * d))
    with pytest.raises(TomopointError, match="B,1,D,H,W"):
        network(torch.zeros(1, d, d, 2 * d))


def test_instance_norm_needs_more_than_one_coarse_cell():
    network = narrow_network("dynunet")
    with pytest.raises(TomopointError, match="pad it to 4x4x8"):
        network(torch.zeros(1, 1, 4, 4, 4))


@pytest.mark.parametrize("name", NARROW)
def test_gradient_reaches_every_parameter(name):
    network = narrow_network(name).train()
    outputs = network.logits(small_volume(network, 4))  # of two crops, drop connect may drop both in one block
    sum((maps * torch.randn_like(maps)).sum() for maps in outputs).backward()
    without = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert without == []


@pytest.mark.parametrize("name", NARROW)
def test_a_fresh_network_scores_every_cell_low_and_points_at_its_anchor(name):
    network = build_network(NARROW[name], N_CLASSES, STRIDE).eval()
    with torch.inference_mode():
        scores, offsets_vox = network(small_volume(network))
    torch.testing.assert_close(scores, torch.full_like(scores, 1 / (1 + np.exp(4.0))))
    # With further levels, between the anchors of all of them.
    assert offsets_vox.abs().max() <= (coarsest_stride(name) - STRIDE) / 2


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_autocast_stays_close_and_scores_are_float32(name, dtype):
    network = narrow_network(name)
    volume = small_volume(network)
    with torch.inference_mode():
        exact_scores, exact_offsets = network(volume)
        with torch.autocast("cpu", dtype):
            scores, offsets_vox = network(volume)
    assert scores.dtype == offsets_vox.dtype == torch.float32
    assert (scores - exact_scores).abs().max() < BF16_TOLERANCE
    assert (offsets_vox - exact_offsets).abs().max() < BF16_TOLERANCE * coarsest_stride(name)


@pytest.mark.filterwarnings("ignore::FutureWarning:torch", "ignore::FutureWarning:copyreg")
@pytest.mark.parametrize("name", NARROW)
def test_export_agrees_with_onnxruntime_and_leaves_the_network_usable(name, tmp_path):
    network = narrow_network(name)
    volume = torch.randn(1, 1, *(max(n, network.divisor * n // 8) for n in (16, 8, 24)))
    path = tmp_path / "network.onnx"
    export(network, volume, path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    got = session.run(None, {"volume": volume.numpy()})
    with torch.inference_mode():
        expected = network(volume)
    assert expected[0].std() > 0.01  # else agreement would say nothing
    for have, want in zip(got, expected, strict=True):
        np.testing.assert_allclose(have, want.numpy(), atol=ORT_TOLERANCE)


def export(module: torch.nn.Module, volume: torch.Tensor, path) -> None:
    torch.onnx.export(
        module,
        (volume,),
        str(path),
        dynamo=True,
        opset_version=20,
        input_names=["volume"],
        output_names=["scores", "offsets"],
        verbose=False,
    )


def test_a_stride_no_decoder_stage_reaches_is_refused():
    with pytest.raises(TomopointError, match="strides 1, 2, not 4"):
        build_network(NARROW["segresnet"], N_CLASSES, stride=4)
    with pytest.raises(TomopointError, match="at least one class"):
        build_network(NARROW["segresnet"], 0, stride=2)


def test_a_first_level_without_blocks_keeps_the_contract():
    config = NetworkConfig("segresnet", init_filters=8, blocks_down=(0, 1, 1), class_width=6, offset_width=4)
    torch.manual_seed(0)
    network = build_network(config, N_CLASSES, stride=2)
    logits, offsets_vox = network.logits(torch.randn(1, 1, 8, 8, 16))
    assert logits.shape == (1, N_CLASSES, 4, 4, 8)
    (logits.sum() + offsets_vox.sum()).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", ["segresnet", "dynunet"])
def test_other_strides(name):
    network = build_network(NARROW[name], 2, stride=1).eval()
    with torch.inference_mode():
        scores, _ = network(torch.randn(1, 1, 8, 8, 8))
    assert scores.shape == (1, 2, 8, 8, 8)


def test_segmentation_scores_share_a_cell_with_background():
    network = narrow_network("flexible-unet")
    volume = small_volume(network)
    with torch.inference_mode():
        finest, coarser = network.logits(volume)
        scores, _ = network(volume)
    assert finest.shape == (1, N_CLASSES + 1, 32, 32, 32)
    assert coarser.shape == (1, N_CLASSES + 1, 16, 16, 16)
    background = torch.exp(finest[:, -1]) / torch.exp(finest).sum(dim=1)
    torch.testing.assert_close(scores.sum(dim=1), 1 - background)


def test_levels_and_strides_a_segmentation_network_does_not_have_are_refused():
    with pytest.raises(TomopointError, match="levels is 5, but the decoder has 4 maps at stride 2"):
        build_network(NetworkConfig("flexible-unet", width=1 / 16, levels=5), N_CLASSES, STRIDE)
    with pytest.raises(TomopointError, match="at stride 2, not 4"):
        build_network(NARROW["unet"], N_CLASSES, stride=4)
    coarse = build_network(NARROW["flexible-unet"], N_CLASSES, stride=4).eval()
    with torch.inference_mode():
        assert coarse(torch.randn(1, 1, 32, 32, 64))[0].shape == (1, N_CLASSES, 8, 8, 16)


def test_a_coarse_cell_speaks_for_the_fine_cells_in_it_where_it_knows_better():
    """One particle that only the coarse level sees, one that only the fine one sees: both are found, where they are."""
    head = LevelsHead([PointHead(4, 2, 4, 4, stride=2), PointHead(4, 2, 4, 4, stride=4)])
    fine_logits, coarse_logits = torch.full((1, 2, 8, 8, 8), -9.0), torch.full((1, 2, 4, 4, 4), -9.0)
    fine_offsets, coarse_offsets = torch.zeros(1, 3, 8, 8, 8), torch.zeros(1, 3, 4, 4, 4)
    fine_logits[0, 0, 6, 6, 5] = 2.0
    fine_offsets[0, :, 6, 6, 5] = torch.tensor([0.5, -0.25, 1.0])
    coarse_logits[0, 1, 1, 2, 0] = 1.0
    coarse_offsets[0, :, 1, 2, 0] = torch.tensor([-1.5, 3.0, 0.75])
    scores, offsets_vox = head.scores_and_offsets(fine_logits, fine_offsets, coarse_logits, coarse_offsets)
    # By hand: fine cell i has its anchor at 2 i + 1, coarse cell i at 4 i + 2.
    anchors = torch.stack(torch.meshgrid(*[2.0 * torch.arange(8) + 1] * 3, indexing="ij"))
    centres = anchors + offsets_vox[0]
    assert scores[0, 0].max() == torch.sigmoid(torch.tensor(2.0))
    assert centres[:, 6, 6, 5].tolist() == pytest.approx([13.5, 12.75, 12.0], abs=1e-5)
    sure = scores[0, 1] > 0.5
    assert sure.nonzero().tolist() == [[z, y, x] for z in (2, 3) for y in (4, 5) for x in (0, 1)]
    assert torch.allclose(centres[:, sure], torch.tensor([[4.5], [13.0], [2.75]]).expand(3, 8), atol=1e-5)
    # Where both are as sure the centre is between theirs.
    coarse_logits[0, 0, 3, 3, 2] = 2.0
    _, offsets_vox = head.scores_and_offsets(fine_logits, fine_offsets, coarse_logits, coarse_offsets)
    assert (anchors + offsets_vox[0])[:, 6, 6, 5].tolist() == pytest.approx([13.75, 13.375, 11.0], abs=1e-5)


@pytest.mark.parametrize("factor", [2, 4])
def test_spreading_offsets_leaves_the_centres_where_they_are(factor):
    stride, shape = 2, (2, 3, 1)
    offsets_vox = torch.randn(1, 3, *shape)
    fine = spread(offsets_vox, factor, stride)
    for place in np.ndindex(*(n * factor for n in shape)):
        coarse = tuple(n // factor for n in place)
        centre = (torch.tensor(place) + 0.5) * stride + fine[(0, slice(None), *place)]
        expected = (torch.tensor(coarse) + 0.5) * stride * factor + offsets_vox[(0, slice(None), *coarse)]
        assert torch.allclose(centre, expected, atol=1e-5)


def test_more_levels_than_the_decoder_has_are_refused():
    config = NetworkConfig("segresnet", init_filters=8, blocks_down=(1, 1, 1), levels=3)
    with pytest.raises(TomopointError, match="levels is 3, but the decoder has 1 maps at stride 2"):
        build_network(config, N_CLASSES, STRIDE)
