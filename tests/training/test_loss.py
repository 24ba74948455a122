"""Losses against an independent derivation by loops in float64, and what training asks of them."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from tomopoint.errors import TomopointError
from tomopoint.networks.build import build_network
from tomopoint.networks.config import NetworkConfig
from tomopoint.training.losses.build import build_loss
from tomopoint.training.losses.detection import DetectionLoss
from tomopoint.training.losses.heatmap import HeatmapLoss
from tomopoint.training.losses.points import FIRST_BORDER_LABEL, PointBatch, collate
from tomopoint.training.options.losses import LossOptions

STRIDE = 2
RADII_VOX = (2.5, 4.0, 6.0)

RELATIVE = 1e-5
"""Asked of the loss: float32 sums of some hundred cells against loops in float64."""

RELATIVE_FLOAT64 = 1e-12
"""The same formulas in the same precision, summed in another order."""


def random_case(seed: int, map_zyx=(5, 6, 4), n_points=(4, 0, 7)):
    """Return random logits and offsets, and points of which some lie in each other's reach; float64."""
    torch.manual_seed(seed)
    shape = (len(n_points), len(RADII_VOX))
    logits = torch.randn(*shape, *map_zyx, dtype=torch.float64) * 2
    offsets = torch.tanh(torch.randn(len(n_points), 3, *map_zyx, dtype=torch.float64)) * STRIDE
    extent = torch.tensor(map_zyx) * float(STRIDE)
    crops = [
        (torch.rand(n, 3) * extent, torch.randint(len(RADII_VOX), (n,)), float(0.95 + 0.1 * torch.rand(())))
        for n in n_points
    ]
    return logits, offsets, collate(crops)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def similarity(a, b, sigma: float) -> float:
    return math.exp(-sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) / (2 * sigma**2))


def loop_assignment(logits, offsets, points: PointBatch, topk=13, least=0.05, alpha=1.0, beta=6.0):
    """Return {(entry, cell): (label, target, predicted, true, sigma)}, one particle and one cell at a time."""
    assigned = {}
    for b in range(len(logits)):
        claims = []
        for g, label in enumerate(points.labels[b].tolist()):
            if label < 0:
                continue
            sigma = RADII_VOX[label] * float(points.scale[b])
            true = [float(v) for v in points.centres_zyx[b, g]]
            rated = []
            for cell in np.ndindex(*logits.shape[2:]):
                anchor = [(i + 0.5) * STRIDE for i in cell]
                if similarity(anchor, true, sigma) <= least:
                    continue
                predicted = [a + float(offsets[(b, axis, *cell)]) for axis, a in enumerate(anchor)]
                u = similarity(predicted, true, sigma)
                t = sigmoid(float(logits[(b, label, *cell)])) ** alpha * u**beta
                rated.append((t, u, cell, predicted))
            for t, u, cell, predicted in sorted(rated, key=lambda r: -r[0])[:topk]:
                claims.append({"g": g, "t": t, "u": u, "cell": cell, "rest": (label, predicted, true, sigma)})
        kept = [c for c in claims if c["u"] == max(o["u"] for o in claims if o["cell"] == c["cell"])]
        for claim in kept:
            own = [c for c in kept if c["g"] == claim["g"]]
            target = claim["t"] / (max(c["t"] for c in own) + 1e-9) * max(c["u"] for c in own)
            label, predicted, true, sigma = claim["rest"]
            assigned[(b, claim["cell"])] = (label, target, predicted, true, sigma)
    return assigned


def loop_loss(logits, offsets, points: PointBatch, options: LossOptions) -> tuple[float, float]:
    """Return the classification and regression terms, cell by cell."""
    assigned = loop_assignment(logits, offsets, points)
    classification = regression = 0.0
    for b in range(len(logits)):
        for cell in np.ndindex(*logits.shape[2:]):
            label, target, *_ = assigned.get((b, cell), (-1, 0.0))
            for c in range(logits.shape[1]):
                x = float(logits[(b, c, *cell)])
                p, positive = sigmoid(x), c == label
                if options.classification == "varifocal":
                    q = target if positive else 0.0
                    weight = q if positive else options.focal_alpha * p**options.focal_gamma
                else:
                    q = positive * (1 - options.label_smoothing)
                    weight = abs(p - q) ** options.focal_gamma
                classification += weight * -(q * math.log(p) + (1 - q) * math.log(1 - p))
    for (b, cell), (label, target, predicted, true, sigma) in assigned.items():
        row = [float(logits[(b, c, *cell)]) for c in range(logits.shape[1])]
        spread = options.label_smoothing / len(row)
        wanted = [spread + (1 - options.label_smoothing) * (c == label) for c in range(len(row))]
        total = math.log(sum(math.exp(x) for x in row))
        cross_entropy = sum(share * (total - x) for share, x in zip(wanted, row, strict=True))
        classification += options.cross_entropy_weight * cross_entropy * target
        regression += (1 - similarity(predicted, true, sigma)) * target
        for p, q in zip(predicted, true, strict=True):
            d = abs(p - q)
            regression += options.l1_weight * (0.5 * d * d if d < 1 else d - 0.5) * target
    normaliser = max(1.0, sum(target for _, target, *_ in assigned.values()))
    return classification / normaliser, regression / normaliser


OPTIONS = {
    "winner": LossOptions(),
    "focal": LossOptions(classification="focal", focal_gamma=1.5),
    "all terms": LossOptions(cross_entropy_weight=0.7, l1_weight=0.3, focal_alpha=0.5),
    "smoothed": LossOptions(cross_entropy_weight=0.7, label_smoothing=0.1),
    "smoothed focal": LossOptions(classification="focal", label_smoothing=0.2),
}


@pytest.mark.parametrize("name", sorted(OPTIONS))
@pytest.mark.parametrize("seed", range(4))
def test_the_loss_agrees_with_loops_in_float64(seed, name):
    logits, offsets, points = random_case(seed)
    classification, regression = loop_loss(logits, offsets, points, OPTIONS[name])
    loss = DetectionLoss(RADII_VOX, STRIDE, OPTIONS[name])
    exact = loss(logits, offsets, points)
    assert exact.classification.item() == pytest.approx(classification, rel=RELATIVE_FLOAT64)
    assert exact.regression.item() == pytest.approx(regression, rel=RELATIVE_FLOAT64)
    single = loss(logits.float(), offsets.float(), points)
    assert single.total.item() == pytest.approx(classification + regression, rel=RELATIVE)
    assert single.total.dtype == torch.float32
    assert single.n_positive == len(loop_assignment(logits, offsets, points))


def test_crops_without_particles_train():
    loss = DetectionLoss(RADII_VOX, STRIDE)
    for n_points in ((0, 0), (0,)):
        logits, offsets, points = random_case(0, n_points=n_points)
        logits.requires_grad_()
        offsets.requires_grad_()
        terms = loss(logits, offsets, points)
        terms.total.backward()
        p = torch.sigmoid(logits.detach())
        assert terms.classification.item() == pytest.approx((0.75 * p**2 * -torch.log1p(-p)).sum().item(), rel=1e-9)
        assert terms.regression.item() == 0
        assert terms.n_positive == 0
        assert logits.grad.abs().min() > 0
        assert offsets.grad.abs().max() == 0


def test_the_loss_is_taken_in_float32_inside_autocast():
    logits, offsets, points = random_case(1)
    loss = DetectionLoss(RADII_VOX, STRIDE)
    rounded = (logits.bfloat16(), offsets.bfloat16())
    expected = loss(rounded[0].float(), rounded[1].float(), points)
    with torch.autocast("cpu", torch.bfloat16):
        got = loss(*rounded, points)
    assert got.total.dtype == torch.float32
    assert torch.equal(got.total, expected.total)


def test_gradient_of_offsets_points_to_the_particle():
    logits, offsets = torch.zeros(1, 1, 4, 4, 4), torch.zeros(1, 3, 4, 4, 4)
    offsets.requires_grad_()
    points = collate([(torch.tensor([[3.5, 2.9, 3.0]]), torch.tensor([0]), 1.0)])
    DetectionLoss((4.0,), STRIDE)(logits, offsets, points).total.backward()
    downhill = -offsets.grad[0, :, 1, 1, 1]  # anchor 3, 3, 3
    assert downhill[0] > 0 > downhill[1]
    assert downhill[2] == 0
    assert downhill[0] / -downhill[1] == pytest.approx(5.0, rel=1e-4)


def test_scores_pull_their_own_targets_but_targets_do_not_follow():
    """Targets are constants to the gradient: the numerical one with the assignment held fixed must agree."""
    logits, offsets, points = random_case(2)
    loss = DetectionLoss(RADII_VOX, STRIDE)
    logits.requires_grad_()
    loss(logits, offsets, points).total.backward()
    assigned = loop_assignment(logits.detach(), offsets, points)
    normaliser = max(1.0, sum(target for _, target, *_ in assigned.values()))
    for (b, cell), (label, target, *_) in assigned.items():
        p = sigmoid(float(logits.detach()[(b, label, *cell)]))
        expected = target * (p - target) / normaliser  # d/dx of target * BCE(x, target)
        assert float(logits.grad[(b, label, *cell)]) == pytest.approx(expected, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize(
    "config",
    [
        NetworkConfig("segresnet", init_filters=8, blocks_down=(1, 1, 1), class_width=6, offset_width=4),
        NetworkConfig("dynunet", filters=(4, 8, 16), features=8, class_width=6, offset_width=4),
        NetworkConfig("heatmap", init_filters=8, blocks_down=(1, 1, 1), class_width=6),
        NetworkConfig("unet", filters=(8, 12)),
    ],
    ids=lambda config: config.name,
)
def test_a_few_steps_on_one_crop_lower_the_loss_and_train_every_parameter(config):
    torch.manual_seed(0)
    network = build_network(config, len(RADII_VOX), STRIDE).train()
    loss = build_loss(config, RADII_VOX, STRIDE, LossOptions())
    volume = torch.randn(1, 1, 16, 16, 16)
    points = collate([(torch.tensor([[5.0, 6.0, 7.0], [11.0, 3.0, 12.0]]), torch.tensor([0, 2]), 1.0)])
    optimiser = torch.optim.AdamW(network.parameters(), lr=5e-3)
    start = {name: p.detach().clone() for name, p in network.named_parameters()}
    totals = []
    for _ in range(12):
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            outputs = network.logits(volume)
        terms = loss(*outputs, points)
        terms.total.backward()
        optimiser.step()
        totals.append(terms.total.item())
    assert totals[-1] < 0.8 * totals[0]
    assert [name for name, p in network.named_parameters() if torch.equal(p, start[name])] == []


def painted(cell, label, points, b, sigma_radii):
    """Return the value of one cell of one class: the highest Gaussian around the cells that particles lie in."""
    value = 0.0
    for centre, other in zip(points.centres_zyx[b].tolist(), points.labels[b].tolist(), strict=True):
        sigma = RADII_VOX[label] * float(points.scale[b]) * sigma_radii
        squared = sum((STRIDE * (i - int(v // STRIDE))) ** 2 for i, v in zip(cell, centre, strict=True))
        if other == label and squared < (4 * sigma) ** 2:
            value = max(value, math.exp(-squared / (2 * sigma**2)))
    return value


def test_the_heatmap_loss_is_centernets():
    """Equation 1 of Objects as Points, cell by cell: (1 - p)^2 log p at a peak, else (1 - y)^4 p^2 log(1 - p)."""
    logits, offsets, points = random_case(3)
    options = LossOptions(heatmap_sigma=0.5)
    loss, n_peaks = 0.0, 0
    for b in range(len(logits)):
        for c, *cell in np.ndindex(*logits.shape[1:]):
            y = painted(cell, c, points, b, options.heatmap_sigma)
            p = sigmoid(float(logits[(b, c, *cell)]))
            n_peaks += y == 1
            loss -= (1 - p) ** 2 * math.log(p) if y == 1 else (1 - y) ** 4 * p**2 * math.log(1 - p)
    got = HeatmapLoss(RADII_VOX, STRIDE, options)(logits, offsets, points)
    assert n_peaks == got.n_positive == 11  # each particle of the case has a cell of its own
    # Boxes may hold corners beyond four standard deviations, where a peak is below exp(-8).
    assert got.total.item() == pytest.approx(loss / 11, rel=math.exp(-8))


def test_a_peak_reaches_one_in_the_cell_of_its_particle_and_nowhere_else():
    from tomopoint.training.losses.cell_boxes import PointList
    from tomopoint.training.losses.heatmap import paint

    # At the face of a cell, just below one, and in the last cell of the map.
    centres = torch.tensor([[2.0, 3.999, 15.9], [9.3, 8.7, 8.0]])
    points = collate([(centres, torch.tensor([0, 2]), 1.0)])
    target = paint(PointList.of(points, torch.tensor(RADII_VOX)), (1, 3, 8, 8, 8), STRIDE, 0.35)
    assert torch.nonzero(target == 1).tolist() == [[0, 0, 1, 1, 7], [0, 2, 4, 4, 4]]
    assert float(target[0, 1].max()) == 0
    # One cell beside it, two voxels away, with a standard deviation of 0.35 * 2.5 voxels.
    assert float(target[0, 0, 2, 1, 7]) == pytest.approx(math.exp(-4 / (2 * (0.35 * 2.5) ** 2)), rel=1e-6)


def test_the_gradient_of_the_heatmap_loss_lifts_peaks_only():
    logits, offsets, points = random_case(4)
    logits.requires_grad_()
    HeatmapLoss(RADII_VOX, STRIDE)(logits, offsets, points).total.backward()
    peaks = [
        (b, label, *(int(v // STRIDE) for v in centre))
        for b in range(len(logits))
        for centre, label in zip(points.centres_zyx[b].tolist(), points.labels[b].tolist(), strict=True)
        if label >= 0
    ]
    lifted = {tuple(index) for index in torch.nonzero(logits.grad < 0).tolist()}
    assert lifted == set(peaks)


@pytest.mark.parametrize("kind", [DetectionLoss, HeatmapLoss])
def test_an_uncertain_pick_is_neither_learned_nor_punished(kind):
    """A label of -2 - c inside a crop marks a pick of class c that may or may not be a particle."""
    loss = kind(RADII_VOX, STRIDE)
    logits = torch.full((1, len(RADII_VOX), 16, 16, 16), -1.0, requires_grad=True)
    offsets = torch.zeros(1, 3, 16, 16, 16)
    certain = (torch.tensor([[25.0, 25.0, 25.0]]), torch.tensor([0]), 1.0)
    centres = torch.cat([certain[0], torch.tensor([[9.0, 9.0, 9.0]])])
    points = collate([(centres, torch.tensor([0, FIRST_BORDER_LABEL - 1]), 1.0)])
    loss(logits, offsets, points).total.backward()
    assert float(logits.grad[0, 1, 4, 4, 4]) == 0.0  # its own class at its cell
    assert float(logits.grad[0, 0, 4, 4, 4]) > 0.0  # another class there is background
    assert float(logits.grad[0, 1, 12, 12, 12]) > 0.0
    assert float(logits.grad[0, 0, 12, 12, 12]) < 0.0  # the certain one is learned


def test_options_out_of_range_are_refused():
    for options in ({"classification": "dice"}, {"l1_weight": -1.0}, {"heatmap_sigma": 0.0}):
        with pytest.raises(TomopointError):
            LossOptions(**options)


RANKS = """
import sys, torch
import torch.distributed as dist
import torch.nn.functional as F
from tomopoint.training.losses.detection import DetectionLoss
from tomopoint.training.losses.points import PointBatch
rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
logits, offsets, centres, labels, scale = torch.load(store + ".pt")
mine = slice(0, 2) if rank == 0 else slice(2, 3)
points = PointBatch(centres[mine], labels[mine], scale[mine])
total = DetectionLoss((2.5, 4.0, 6.0), 2)(logits[mine], offsets[mine], points).total
dist.all_reduce(total)
if rank == 0:
    torch.save(total / 2, store + ".mean.pt")
dist.destroy_process_group()
"""


def test_the_mean_over_ranks_is_the_loss_of_the_whole_batch(tmp_path):
    logits, offsets, points = random_case(5)
    store = str(tmp_path / "store")
    torch.save((logits, offsets, points.centres_zyx, points.labels, points.scale), store + ".pt")
    script = tmp_path / "rank.py"
    script.write_text(RANKS)
    ranks = [subprocess.Popen([sys.executable, str(script), str(rank), store]) for rank in range(2)]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    whole = DetectionLoss(RADII_VOX, STRIDE)(logits, offsets, points).total
    assert torch.load(store + ".mean.pt").item() == pytest.approx(whole.item(), rel=RELATIVE_FLOAT64)
