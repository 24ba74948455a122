"""Segmentation's targets, loss and mixup, against small loops in numpy."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_fit import Killed, kill_after, recipe_file, run_train
from training_data import make_run, write_project

from tomopoint.errors import TomopointError
from tomopoint.networks.build import build_network
from tomopoint.networks.config import NetworkConfig
from tomopoint.training.checkpoints import load_member
from tomopoint.training.crops.dataset import NO_AUGMENTATION, CropDataset, collate_crops
from tomopoint.training.crops.mixup import Mix
from tomopoint.training.losses.build import build_loss
from tomopoint.training.losses.cell_boxes import PointList
from tomopoint.training.losses.points import FIRST_BORDER_LABEL, PointBatch, collate
from tomopoint.training.losses.segmentation import target_map
from tomopoint.training.optimisation import build_average
from tomopoint.training.options.crops import CropOptions
from tomopoint.training.options.fitting import FitOptions
from tomopoint.training.options.losses import LossOptions, SegmentationOptions
from tomopoint.training.recipe_files import recipe_from_dict

SIZE = (12, 16, 8)
RADII_VOX = (3.0, 5.0)
FLOAT64 = 1e-10
"""The same sums of some thousand products in another order."""
UNET = {"name": "unet", "filters": [4, 8]}


def some_points(n=9, seed=0):
    rng = np.random.default_rng(seed)
    crops = [(rng.uniform(0, SIZE, (n, 3)), rng.integers(0, 2, n), 1.0), (rng.uniform(0, SIZE, (2, 3)), [0, 1], 1.1)]
    crops[0][0][1] = crops[0][0][0] + 1e-3  # two particles in one voxel,
    crops[0][1][:2] = (0, 1)  # of two classes
    return collate(crops)


def voxels(points, sphere_radii=0.0):
    """The target at full resolution (B,C,D,H,W), before background, one voxel per particle."""
    found = np.zeros((2, 2, *SIZE))
    for entry, (centres, labels) in enumerate(zip(points.centres_zyx.numpy(), points.labels.numpy(), strict=True)):
        for centre, label in zip(centres, labels, strict=True):
            if label >= 0:
                found[(entry, label, *centre.astype(int))] = 1
    return found


def pooled(found, stride):
    """What `found` is at a stride, with background, shared where several classes claim a cell."""
    cells = F.adaptive_max_pool3d(torch.from_numpy(found), [n // stride for n in SIZE]).numpy()
    whole = np.concatenate([cells, 1 - cells.max(axis=1, keepdims=True)], axis=1)
    return whole / whole.sum(axis=1, keepdims=True)


def cross_entropy(logits, target, weight):
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    total = 0.0
    for channel, w in enumerate((weight, weight, 1.0)):
        total += w * np.mean(-target[:, channel] * np.log(p[:, channel]))
    return total


def levels_of(strides, seed=1):
    torch.manual_seed(seed)
    return [torch.randn(2, 3, *(n // stride for n in SIZE), dtype=torch.float64) for stride in strides]


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_the_target_is_the_pooled_voxel_of_every_particle(stride):
    points = some_points()
    listed = PointList.of(points, torch.tensor(RADII_VOX, dtype=torch.float64))
    got = target_map(listed, (2, 2, *(n // stride for n in SIZE)), stride).numpy()
    np.testing.assert_array_equal(got, pooled(voxels(points), stride))
    assert (got[:, :2] == 0.5).sum() >= 2  # the shared cell
    np.testing.assert_array_equal(got.sum(axis=1), 1)


def test_spheres_claim_the_cells_whose_anchor_lies_in_them():
    points = some_points(3)
    listed = PointList.of(points, torch.tensor(RADII_VOX, dtype=torch.float64))
    got = target_map(listed, (2, 2, *(n // 2 for n in SIZE)), 2, sphere_radii=0.5).numpy()
    expected = F.adaptive_max_pool3d(torch.from_numpy(voxels(points)), [n // 2 for n in SIZE]).numpy()
    anchors = np.moveaxis(np.indices([n // 2 for n in SIZE]), 0, -1) * 2 + 1
    for entry, label, centre, radius in zip(
        listed.entry.numpy(), listed.label.numpy(), listed.centre_zyx.numpy(), listed.sigma_vox.numpy(), strict=True
    ):
        expected[entry, label][np.linalg.norm(anchors - centre, axis=-1) <= radius / 2] = 1
    assert expected.sum() > 3 * len(listed.label)
    np.testing.assert_array_equal(got[:, :2] > 0, expected > 0)


@pytest.mark.parametrize(("weight", "level_weights"), [(256.0, (1.0,)), (64.0, (1.0, 1.0)), (64.0, (1.0, 0.25))])
def test_cross_entropy_is_the_weighted_sum_over_classes_and_levels(weight, level_weights):
    points = some_points()
    strides = [2 * 2**level for level in range(len(level_weights))]
    levels = levels_of(strides)
    options = SegmentationOptions(particle_weight=weight, level_weights=level_weights)
    loss = build_loss(NetworkConfig("unet"), RADII_VOX, 2, LossOptions(segmentation=options))
    expected = sum(
        w * cross_entropy(logits.numpy(), pooled(voxels(points), stride), weight)
        for w, logits, stride in zip(level_weights, levels, strides, strict=True)
    )
    terms = loss(*levels, points)
    assert float(terms.total) == pytest.approx(expected, rel=FLOAT64)
    assert (float(terms.classification), float(terms.regression)) == (float(terms.total), 0.0)
    assert terms.n_positive == 11


def test_mixed_crops_are_asked_for_mixed_targets():
    points, (logits,) = some_points(), levels_of([2])
    mix = Mix(torch.tensor([0.3, 0.9]), torch.tensor([1, 0]))
    target = pooled(voxels(points), 2)
    share = np.array([0.3, 0.9], np.float32).astype(np.float64).reshape(2, 1, 1, 1, 1)
    mixed = share * target + (1 - share) * target[::-1]
    loss = build_loss(NetworkConfig("unet"), RADII_VOX, 2, LossOptions())
    terms = loss(logits, PointBatch(points.centres_zyx, points.labels, points.scale, mix))
    assert float(terms.total) == pytest.approx(cross_entropy(logits.numpy(), mixed, 256.0), rel=FLOAT64)


def test_tversky_and_dice_are_overlaps_without_background():
    points, (logits,) = some_points(), levels_of([2])
    target = pooled(voxels(points), 2)[:, :2]
    p = torch.softmax(logits, dim=1).numpy()[:, :2]
    over = (0, 2, 3, 4)
    both, missed, wrong = ((a * b).sum(axis=over) for a, b in ((p, target), (1 - p, target), (p, 1 - target)))
    for name, of_missed, of_wrong in (("tversky", 0.8, 0.2), ("dice", 0.5, 0.5)):
        options = SegmentationOptions(loss=name, **({"tversky_beta": 0.8} if name == "tversky" else {}))
        loss = build_loss(NetworkConfig("unet"), RADII_VOX, 2, LossOptions(segmentation=options))
        # Dice has sums of targets below the line, not of products: the same but where cells are shared.
        expected = 1 - np.mean(both / (both + of_missed * missed + of_wrong * wrong))
        assert float(loss(logits, points).total) == pytest.approx(expected, rel=1e-4)  # MONAI adds 1e-5 above and below


def test_nothing_is_asked_near_an_uncertain_pick():
    centre = torch.tensor([[[6.0, 8.0, 4.0]], [[2.0, 2.0, 2.0]]])
    sure = PointBatch(centre, torch.tensor([[-1], [0]]), torch.ones(2))
    unsure = PointBatch(centre, torch.tensor([[FIRST_BORDER_LABEL - 1], [0]]), torch.ones(2))
    (logits,) = levels_of([2])
    logits.requires_grad_()
    loss = build_loss(NetworkConfig("unet"), RADII_VOX, 2, LossOptions())
    gradients = [torch.autograd.grad(loss(logits, points).total, logits)[0] for points in (sure, unsure)]
    differ = (gradients[0] != gradients[1]).any(dim=1)
    anchors = torch.stack(torch.meshgrid(*(torch.arange(n // 2) * 2.0 + 1 for n in SIZE), indexing="ij"), dim=-1)
    near = (anchors - centre[0, 0]).norm(dim=-1) <= 0.5 * RADII_VOX[1]
    assert torch.equal(differ[0], near)
    assert not differ[1].any()
    assert gradients[1][0][:, near].abs().max() == 0


def test_gradients_reach_every_level_and_a_mixed_batch_is_a_sum_of_its_crops():
    torch.manual_seed(0)
    config = NetworkConfig("flexible-unet", width=1 / 16, filters=(8, 8, 8, 8, 8), levels=2)
    network = build_network(config, 2, 2).train()
    dataset = CropDataset([make_run()], CropOptions(size_zyx=(32, 32, 64)), NO_AUGMENTATION, seed=0)
    batch = collate_crops([dataset[0, position] for position in range(4)])
    blended = batch.blended(1.0)
    mix = blended.points.mix
    assert sorted(mix.partner.tolist()) == [0, 1, 2, 3]
    assert 0 < mix.share.min() < mix.share.max() < 1
    for index, (share, partner) in enumerate(zip(mix.share, mix.partner, strict=True)):
        expected = share * batch.volume[index] + (1 - share) * batch.volume[partner]
        torch.testing.assert_close(blended.volume[index], expected)
    options = LossOptions(segmentation=SegmentationOptions(level_weights=(1.0, 1.0)))
    terms = build_loss(config, RADII_VOX, 2, options)(*network.logits(blended.volume), blended.points)
    terms.total.backward()
    assert all(layer.weight.grad.abs().max() > 0 for layer in network.head.outputs)


def test_a_moving_average_takes_the_statistics_of_batch_norms_along():
    network = build_network(NetworkConfig("flexible-unet", width=1 / 16, filters=(8, 8, 8, 8, 8)), 2, 2)
    average = build_average(network, FitOptions(averaging="ema", ema_decay=0.5))
    norm, kept = network.backbone.encoder.bn1, average.module.backbone.encoder.bn1
    average.update_parameters(network)
    for value in (2.0, 4.0):
        norm.running_mean.fill_(value)
        norm.num_batches_tracked += 1
        average.update_parameters(network)
    # Decays are 2/11 and 3/12.
    assert kept.running_mean[0].item() == pytest.approx(0.25 * (1 - 2 / 11) * 2 + 0.75 * 4)
    assert kept.num_batches_tracked == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"networks": [{"name": "dynunet"}], "augmentation": {"batch_mixup": 1.0}}, "asked for points"),
        ({"augmentation": {"mixup": 0.5}}, "segmentation has batch_mixup"),
        ({"augmentation": {"batch_mixup": 1.0}, "fit": {"batch_size": 1}}, "two crops in a batch"),
        ({"loss": {"segmentation": {"level_weights": [1.0, 1.0]}}}, "levels: 1, and .* names 2"),
        ({"networks": [{"name": "flexible-unet"}], "fit": {"averaging": "swa"}}, "would not know the mean's"),
        (
            {"networks": [{"name": "flexible-unet", "pretrained": "a.onnx"}], "optimiser": {"freeze": "encoder"}},
            "would move all the same",
        ),
        ({"loss": {"segmentation": {"loss": "focal"}}}, "one of 'cross-entropy', 'tversky', 'dice'"),
        (
            {"loss": {"segmentation": {"loss": "dice", "tversky_beta": 0.8}}},
            "tversky_beta has no effect on loss 'dice'",
        ),
        ({"loss": {"segmentation": {"loss": "tversky", "particle_weight": 8}}}, "particle_weight has no effect"),
        ({"loss": {"classification": "focal", "focal_alpha": 0.5}}, "focal_alpha has no effect on classification"),
        ({"loss": {"segmentation": {"sphere_radii": -1}}}, "sphere_radii must lie"),
    ],
)
def test_options_a_network_cannot_follow_are_refused(changes, message):
    content = {"networks": [{"name": "unet"}], "crops": {"size_zyx": [32, 64, 64]}, **changes}
    with pytest.raises(TomopointError, match=message):
        recipe_from_dict(content, "mine.yaml")


@pytest.mark.parametrize("network", [UNET, {"name": "flexible-unet", "width": 0.0625, "filters": [8, 8, 8, 8, 8]}])
def test_segmentation_trains_without_held_out_runs_and_goes_on_after_a_stop(tmp_path, network, monkeypatch):
    """Shares of the mixup are drawn as dropout is: a resumed training ends with the very weights of one in one go."""
    data = write_project(tmp_path / "data", n_runs=2, shape=(40, 40, 72))
    changes = {
        "networks": [network],
        "folds": "all",
        "crops": {"size_zyx": [32, 32, 64]},
        "augmentation": {"batch_mixup": 1.0, "resample_probability": 0.0},
        "fit": {"epochs": 2, "steps_per_epoch": 2},
    }
    recipe = recipe_file(tmp_path, **changes)
    done = run_train(data, tmp_path / "whole", recipe)
    assert done.ok
    assert "they hold no run out, so they have no score" in done.text
    whole, record = load_member(tmp_path / "whole" / "fold0" / network["name"])
    assert (record.validation_runs, record.training_runs) == ((), ("TS_0", "TS_1"))
    assert record.kept.startswith("last epoch")
    with monkeypatch.context() as patch:
        kill_after(patch, 3)
        with pytest.raises(Killed):
            run_train(data, tmp_path / "parts", recipe)
    assert run_train(data, tmp_path / "parts", recipe).ok
    parts, _ = load_member(tmp_path / "parts" / "fold0" / network["name"])
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, parts.state_dict()[name]), name


def test_held_out_runs_score_segmentation_while_it_trains(tmp_path):
    data = write_project(tmp_path / "data", n_runs=2, shape=(40, 40, 40))
    own = {"loss": {"segmentation": {"loss": "tversky", "sphere_radii": 0.5}}}
    fit = {"epochs": 2, "steps_per_epoch": 2, "score_every": 1, "keep_best": 1}
    recipe = recipe_file(
        tmp_path, networks=[{**UNET, **own}], folds="kfold-2", crops={"size_zyx": [32, 32, 32]}, fit=fit
    )
    done = run_train(data, tmp_path / "run", recipe)
    assert done.ok
    assert "no score" not in done.text
    rows = (tmp_path / "run" / "fold0" / "unet" / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("score")
    assert [0 <= float(row.split(",")[column]) <= 1 for row in rows[1:]] == [True, True]
