"""The ensemble averages in float32 behind the contract; views come back as scores and vectors of the volume."""

from itertools import combinations, pairwise

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
from tomopoint.networks.score_maps import ScoreMaps
from tomopoint.networks.views import BEST_SPREAD, VIEWS, find_view, parse_views
from tomopoint.pipeline import COMPETITION_PARTICLES, Member, Pipeline, ScoreMap

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


def by_numpy(array):
    """All 16 symmetries that keep the axis before the last two, by other means than the views'."""
    plane = {
        "": array,
        "rot90": np.rot90(array, 1, (-2, -1)),
        "rot180": np.rot90(array, 2, (-2, -1)),
        "rot270": np.rot90(array, 3, (-2, -1)),
        "flip_x": array[..., ::-1],
        "flip_y": array[..., ::-1, :],
        "transpose": np.swapaxes(array, -2, -1),
        "antitranspose": np.swapaxes(np.rot90(array, 2, (-2, -1)), -2, -1),
    }
    deep = {f"{name}_flip_z".removeprefix("_"): turned[..., ::-1, :, :] for name, turned in plane.items()}
    return {name or "identity": turned for name, turned in plane.items()} | deep


def test_views_are_numpys_flips_and_turns():
    volume = torch.randn(1, 1, 2, 3, 4)
    expected = by_numpy(volume.numpy())
    assert set(expected) == set(VIEWS)
    assert len({turned.tobytes() + bytes(turned.shape) for turned in expected.values()}) == 16
    for name, turned in expected.items():
        view = find_view(name)
        np.testing.assert_array_equal(view.apply(volume).numpy(), turned)
        assert torch.equal(view.undo(view.apply(volume)), volume)


def steps(name):
    view = find_view(name)
    return np.array([view.transpose, *(axis in view.flips for axis in (-3, -2, -1))], dtype=int)


def test_a_number_of_views_means_the_best_spread_ones():
    """Independently of the table: turns have determinant +1, half turns about the axes exchange none."""
    for smaller, larger in pairwise(BEST_SPREAD):
        assert set(BEST_SPREAD[smaller]) < set(BEST_SPREAD[larger])
    for number, names in BEST_SPREAD.items():
        assert parse_views(str(number)) == names
        assert len(set(names)) == number
        assert names[0] == "identity"
        words = [steps(name) for name in names]
        assert number in (1, 16) or min(np.abs(a - b).sum() for a, b in combinations(words, 2)) == 2
        assert number == 16 or all(word.sum() % 2 == 0 for word in words)
        assert number > 4 or not any(word[0] for word in words)
    assert parse_views("flip_x, rot90_flip_z") == ("flip_x", "rot90_flip_z")
    for text, message in {"3": "1, 2, 4, 8, 16", "flip_x,flip_x": "twice", "mirror": "unknown view 'mirror'"}.items():
        with pytest.raises(TomopointError, match=message):
            parse_views(text)


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


def explicit_views(member):
    """Scores and offsets of every view in the frame of the volume, turned by numpy and matrices of the symmetries."""
    volume = torch.randn(1, 1, 8, 8, 16)
    place = np.stack(np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in (2, 2, 2)], indexing="ij"))
    found = []
    for name, turned in by_numpy(volume.numpy()).items():
        with torch.inference_mode():
            scores, offsets_vox = (
                out.double().numpy() for out in member(torch.from_numpy(np.ascontiguousarray(turned)))
            )
        back = {"rot90": "rot270", "rot270": "rot90"}.get(name.removesuffix("_flip_z"), name.removesuffix("_flip_z"))
        back = (f"{back}_flip_z".removeprefix("identity_")) if name.endswith("flip_z") else back
        back = "flip_z" if name == "flip_z" else back
        # What the way back does to the axes, read off a field of positions: rows are new axes, columns old ones.
        moved = np.stack([by_numpy(axis)[back] for axis in place])
        matrix = np.linalg.lstsq(place.reshape(3, -1).T, moved.reshape(3, -1).T, rcond=None)[0].T
        vectors = np.einsum("ij,bj...->bi...", np.linalg.inv(matrix), by_numpy(offsets_vox)[back])
        found.append((by_numpy(scores)[back], vectors))
    return volume, [np.stack(part) for part in zip(*found, strict=True)]


MERGES = {
    "mean": lambda scores: scores.mean(0),
    "gmean": lambda scores: np.exp(np.log(scores).mean(0)),
    "max": lambda scores: scores.max(0),
}


@pytest.mark.parametrize("merge", MERGES)
def test_all_views_of_a_network_are_merged_as_they_would_be_by_hand(merge):
    member = network(0)
    volume, (scores, offsets) = explicit_views(member)
    assert scores.std(axis=0).max() > 0.01  # no symmetric network: the views differ
    with torch.inference_mode():
        got = Ensemble([member], views=tuple(VIEWS), view_merge=merge)(volume)
    np.testing.assert_allclose(got[0].numpy(), MERGES[merge](scores), atol=10 * FLOAT32_TOLERANCE)
    np.testing.assert_allclose(got[1].numpy(), offsets.mean(0), atol=10 * FLOAT32_TOLERANCE)


def test_views_are_merged_before_networks_are_averaged():
    members = [network(0), network(1)]
    views = ("identity", "flip_x", "rot90")
    volume = torch.randn(1, 1, 8, 8, 8)
    with torch.inference_mode():
        each = [[Ensemble([member], views=(view,))(volume)[0] for view in views] for member in members]
        scores, _ = Ensemble(members, weights=(1, 3), views=views, view_merge="max")(volume)
    highest = [torch.stack(own).amax(0).double() for own in each]
    assert (scores - (highest[0] + 3 * highest[1]) / 4).abs().max() < FLOAT32_TOLERANCE


KNOTS = ((0.0, 0.01, 0.2, 1.0), (0.0, 0.3, 0.9, 1.0))


def blended(members):
    """Two detection networks and a segmentation network of three classes, weights per class, maps of two classes."""
    particles = COMPETITION_PARTICLES[:3]
    return Pipeline(
        particles=particles,
        voxel_A=10.0,
        views=("identity", "transpose_flip_z"),
        view_merge="gmean",
        members=(
            Member("fold0", "a", (), None, "0", weight=2.0, class_weights=(1.0, 2.0, 3.0)),
            Member("fold1", "a", (), None, "1", weight=2.0),
            Member("fold0", "b", (), None, "2", weight=1.0, class_weights=(0.5, 2.0, 1.0), kind="segmentation"),
            Member("fold1", "b", (), None, "3", weight=1.0, class_weights=(1.5, 1.0, 1.0), kind="segmentation"),
        )[: len(members)],
        score_maps=(
            ScoreMap("segmentation", particles[0].name, *KNOTS),
            ScoreMap("segmentation", particles[2].name, (0.0, 0.5, 1.0), (0.0, 0.1, 1.0)),
        ),
    )


def test_kinds_are_averaged_apart_mapped_and_averaged_by_class():
    members = [network(seed) for seed in range(4)]
    volume = torch.randn(1, 1, 8, 8, 8)
    with torch.inference_mode():
        each = [[Ensemble([m], views=(view,))(volume) for view in ("identity", "transpose_flip_z")] for m in members]
        scores, offsets_vox = Ensemble.of_pipeline(members, blended(members))(volume)
    gmean = [np.sqrt((one[0].double() * other[0].double()).numpy()) for one, other in each]
    weights = np.array([(1, 2, 3), (2, 2, 2), (0.5, 2, 1), (1.5, 1, 1)])
    for channel, knots in ((0, KNOTS), (1, ((0, 1), (0, 1))), (2, ((0.0, 0.5, 1.0), (0.0, 0.1, 1.0)))):
        own, maps = weights[:, channel], [out[:, channel] for out in gmean]
        detection = (own[0] * maps[0] + own[1] * maps[1]) / own[:2].sum()
        segmentation = np.interp((own[2] * maps[2] + own[3] * maps[3]) / own[2:].sum(), *knots)
        expected = (own[:2].sum() * detection + own[2:].sum() * segmentation) / own.sum()
        np.testing.assert_allclose(scores[:, channel].numpy(), expected, atol=10 * FLOAT32_TOLERANCE)
    means = [(one[1] + other[1]).double().numpy() / 2 for one, other in each]
    expected = sum(w * mean for w, mean in zip((2, 2, 1, 1), means, strict=True)) / 6
    np.testing.assert_allclose(offsets_vox.numpy(), expected, atol=10 * FLOAT32_TOLERANCE)


def test_a_score_map_is_linear_between_its_knots_and_steep_ones_stay_exact():
    """Scores of a softmax over single voxels are small: slopes of thousands must not cost digits elsewhere."""
    steep = ((0.0, 1e-5, 2e-3, 0.1, 1.0), (0.0, 0.2, 0.6, 0.95, 1.0))
    maps = ScoreMaps([ScoreMap("segmentation", "a", *steep), None, ScoreMap("segmentation", "c", *KNOTS)])
    values = np.concatenate([np.linspace(0, 1, 2001), np.geomspace(1e-7, 1, 2000), steep[0]]).astype(np.float32)
    scores = torch.from_numpy(values).reshape(1, 1, 1, 1, -1).expand(1, 3, 1, 1, -1)
    got = maps(scores)[0, :, 0, 0].numpy()
    for channel, knots in enumerate((steep, ((0, 1), (0, 1)), KNOTS)):
        np.testing.assert_allclose(got[channel], np.interp(values, *knots), atol=FLOAT32_TOLERANCE)
    assert maps.state_dict() == {}


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
@pytest.mark.parametrize("what", ["mean", "gmean", "max", "blend"])
def test_one_exported_graph_holds_members_views_and_maps(what, tmp_path):
    members = [network(0), network(1, "dynunet"), network(2)]
    views = ("identity", "rot90", "flip_z", "antitranspose_flip_z")
    if what == "blend":
        ensemble = Ensemble.of_pipeline(members, blended(members)).eval()
    else:
        ensemble = Ensemble(members[:2], (1, 3), views, "score", view_merge=what).eval()
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
        ({"view_merge": "median"}, "mean, gmean, max"),
        ({"kinds": ("detection",)}, "2 networks need as many kinds"),
        ({"class_weights": ((1.0, 2.0), ())}, "3 positive numbers, or none"),
        ({"class_weights": ((1.0, 2.0, -1.0), ())}, "3 positive numbers, or none"),
    ],
)
def test_what_cannot_be_averaged_is_refused(options, message):
    members = [network(0), network(1)]
    with pytest.raises(TomopointError, match=message):
        Ensemble(**{"networks": members, **options})
    with pytest.raises(TomopointError, match="agree"):
        Ensemble([network(0), network(1, n_classes=2)])
