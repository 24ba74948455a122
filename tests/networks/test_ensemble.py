"""The ensemble averages in float32 behind the contract; views come back as scores and vectors of the volume."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from tomopoint.errors import TomopointError
from tomopoint.networks.build import build_network
from tomopoint.networks.config import NetworkConfig
from tomopoint.networks.ensemble import Ensemble
from tomopoint.networks.heads import Head
from tomopoint.networks.point_network import PointNetwork
from tomopoint.networks.views import VIEWS, find_view

FLOAT32_TOLERANCE = 1e-6
"""One weighted mean of a few numbers below two, in float32."""

ORT_TOLERANCE = 1e-4
"""As in test_contract: float32 sums in another order, through ten layers."""


def network(seed: int, name: str = "segresnet", n_classes: int = 3) -> PointNetwork:
    torch.manual_seed(seed)
    size = (
        {"init_filters": 4, "norm_groups": 2, "blocks_down": (1, 1, 1)}
        if name == "segresnet"
        else {"filters": (4, 8, 8, 8)}
    )
    built = build_network(
        NetworkConfig(name, **size, features=6, class_width=4, offset_width=4), n_classes, stride=2
    ).eval()
    for head in (built.head.classify, built.head.offset):
        nn.init.normal_(head[-1].weight, std=0.5)
    return built


class Compass(PointNetwork):
    """A network without weights that knows where one bright voxel is: offsets point from every anchor to it.

    It is equivariant by construction, so every view must return the same vectors.
    """

    def __init__(self) -> None:
        backbone = nn.Identity()
        backbone.divisor, backbone.needs_context = 2, False
        super().__init__(backbone, Head(), n_classes=1, stride=2)

    def logits(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        place = torch.nonzero(volume[0, 0] == volume.max())[0] + 0.5
        axes = [(torch.arange(n // 2) + 0.5) * 2 for n in volume.shape[2:]]
        anchors = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        offsets = place[:, None, None, None] - anchors
        return -offsets.square().sum(0)[None, None] / 50, offsets[None]


def test_views_are_numpys_flips_and_turns():
    volume = torch.randn(1, 1, 2, 3, 4)
    array = volume.numpy()
    by_numpy = {
        "identity": array,
        "flip_z": np.flip(array, 2),
        "flip_y": np.flip(array, 3),
        "flip_x": np.flip(array, 4),
        "rot90": np.rot90(array, 1, (3, 4)),
        "rot180": np.rot90(array, 2, (3, 4)),
        "rot270": np.rot90(array, 3, (3, 4)),
    }
    assert set(by_numpy) == set(VIEWS)
    for name, expected in by_numpy.items():
        view = find_view(name)
        np.testing.assert_array_equal(view.apply(volume).numpy(), expected)
        assert torch.equal(view.undo(view.apply(volume)), volume)


@pytest.mark.parametrize("name", sorted(VIEWS))
def test_scores_and_vectors_of_every_view_come_back_to_the_volume(name):
    volume = torch.zeros(1, 1, 6, 8, 10)
    volume[0, 0, 1, 5, 8] = 1
    expected = Compass()(volume)
    scores, offsets_vox = Ensemble([Compass()], views=(name,))(volume)
    torch.testing.assert_close(scores, expected[0])
    torch.testing.assert_close(offsets_vox, expected[1])


def test_the_mean_is_weighted_and_exact():
    members = [network(0), network(1, "dynunet"), network(2)]
    volume = torch.randn(2, 1, 8, 8, 16)
    with torch.inference_mode():
        outputs = [member(volume) for member in members]
        scores, offsets_vox = Ensemble(members, weights=(1, 2, 5))(volume)
    for got, index in ((scores, 0), (offsets_vox, 1)):
        parts = [output[index].double() for output in outputs]
        expected = (parts[0] + 2 * parts[1] + 5 * parts[2]) / 8
        assert (got - expected).abs().max() < FLOAT32_TOLERANCE


def test_views_are_averaged_with_equal_shares():
    member = network(0)
    volume = torch.randn(1, 1, 8, 8, 8)
    views = ("identity", "flip_x", "rot90")
    with torch.inference_mode():
        each = [Ensemble([member], views=(view,))(volume) for view in views]
        scores, offsets_vox = Ensemble([member], views=views)(volume)
    for got, index in ((scores, 0), (offsets_vox, 1)):
        expected = sum(output[index].double() for output in each) / 3
        assert (got - expected).abs().max() < FLOAT32_TOLERANCE
    assert (each[0][0] - each[1][0]).abs().max() > 0.01  # the views differ, so the mean was of something


def test_offsets_can_be_averaged_by_score():
    members = [network(0), network(1)]
    volume = torch.randn(1, 1, 8, 8, 8)
    with torch.inference_mode():
        outputs = [member(volume) for member in members]
        _, offsets_vox = Ensemble(members, offset_average="score")(volume)
    trust = [scores.double().amax(1, keepdim=True) + 1e-6 for scores, _ in outputs]
    expected = sum(t * o for t, (_, o) in zip(trust, outputs, strict=True)) / sum(trust)
    assert (offsets_vox - expected).abs().max() < FLOAT32_TOLERANCE


def segmenter(seed: int) -> PointNetwork:
    torch.manual_seed(seed)
    built = build_network(NetworkConfig("unet", filters=(4, 8, 8)), 3, stride=2).eval()
    nn.init.normal_(built.head.outputs[0].weight, std=0.5)
    return built


@pytest.mark.parametrize("offset_average", ["mean", "score"])
@pytest.mark.parametrize("views", [("identity",), ("identity", "flip_y")])
def test_offsets_are_averaged_over_the_networks_that_predict_some(offset_average, views):
    """A segmentation network's scores count, and its zeros leave the other networks' offsets as they are."""
    detectors, both = [network(0), network(1)], [network(0), segmenter(2), network(1)]
    volume = torch.randn(1, 1, 8, 8, 16)
    with torch.inference_mode():
        alone = Ensemble(detectors, (1, 2), views, offset_average)(volume)
        scores, offsets_vox = Ensemble(both, (1, 5, 2), views, offset_average)(volume)
        own = Ensemble([both[1]], None, views)(volume)
    assert (offsets_vox - alone[1]).abs().max() < FLOAT32_TOLERANCE
    assert (scores - (3 * alone[0] + 5 * own[0]) / 8).abs().max() < FLOAT32_TOLERANCE
    assert alone[1].abs().max() > 0.1
    assert own[1].shape == alone[1].shape
    assert own[1].abs().max() == 0


def test_averaging_is_float32_under_autocast():
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        scores, offsets_vox = Ensemble([network(0), network(1)])(torch.randn(1, 1, 8, 8, 8))
    assert scores.dtype == offsets_vox.dtype == torch.float32


def test_legal_sizes_are_those_of_all_members():
    ensemble = Ensemble([network(0), network(1, "dynunet")])
    assert (ensemble.divisor, ensemble.stride, ensemble.n_classes) == (8, 2, 3)
    with pytest.raises(TomopointError, match="pad it to 8x8x16"):
        ensemble(torch.zeros(1, 1, 6, 8, 12))


@pytest.mark.filterwarnings("ignore::FutureWarning:torch", "ignore::FutureWarning:copyreg")
def test_one_exported_graph_holds_members_and_views(tmp_path):
    ensemble = Ensemble(
        [network(0), network(1, "dynunet")],
        weights=(1, 3),
        views=("identity", "rot90", "flip_z"),
        offset_average="score",
    ).eval()
    volume = torch.randn(1, 1, 8, 16, 24)
    path = tmp_path / "ensemble.onnx"
    torch.onnx.export(
        ensemble, (volume,), str(path), dynamo=True, opset_version=20, input_names=["volume"], verbose=False
    )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        expected = ensemble(volume)
    for have, want in zip(session.run(None, {"volume": volume.numpy()}), expected, strict=True):
        np.testing.assert_allclose(have, want.numpy(), atol=ORT_TOLERANCE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"networks": []}, "needs networks"),
        ({"weights": (1.0,)}, "2 networks need as many"),
        ({"weights": (1.0, 0.0)}, "positive weights"),
        ({"weights": (1.0, float("nan"))}, "positive weights"),
        ({"views": ("mirror",)}, "unknown view 'mirror'"),
        ({"views": ()}, "needs networks and views"),
        ({"offset_average": "max"}, "mean, score"),
    ],
)
def test_what_cannot_be_averaged_is_refused(options, message):
    members = [network(0), network(1)]
    with pytest.raises(TomopointError, match=message):
        Ensemble(**{"networks": members, **options})
    with pytest.raises(TomopointError, match="agree"):
        Ensemble([network(0), network(1, n_classes=2)])
