"""Training on a CPU: fused norms and rearranged convolutions compute what PyTorch's do, and the choice of how."""

import copy
import json
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from test_fit import DYNUNET, SEGRESNET, Killed, kill_after, recipe_file, run_train
from torch import nn
from training_data import write_project

from tomopoint.networks.build import build_network
from tomopoint.networks.config import NetworkConfig
from tomopoint.strict_json import build
from tomopoint.training import fit
from tomopoint.training.last_checkpoint import way_of
from tomopoint.training.on_cpu import choice
from tomopoint.training.on_cpu.choice import Way, choose, fastest_way, has_fused_norms, prepare
from tomopoint.training.on_cpu.convolutions import (
    ShallowConvolution,
    combine_channels,
    convolve_in_pairs,
    convolve_twice,
)
from tomopoint.training.on_cpu.fused_norms import _FusedNorm

ROUNDING = {torch.float32: 2e-5, torch.bfloat16: 2**-7}
"""Share of the largest value. float32: its epsilon times the few roundings of one value and of a sum over a block.
bfloat16: results are rounded to 8 bits; twice, since the gradient is that of a rounded map."""

FLOAT64 = 1e-11
"""The same sums of some hundred products in another order."""

NETWORK_ROUNDING = 2e-3
"""Loss and gradients of a whole network in float32, as share of the largest: each layer adds its 2e-5, and a value next
to the kink of a ReLU may fall on its other side."""

STEPS_ROUNDING = 1e-2
"""Loss after a few steps: AdamW passes on the sign of gradients that are almost zero."""

FUSED = "channels-last, fused"
RESIDUAL = {**DYNUNET, "name": "dynunet-residual"}
HEATMAP = {
    "name": "heatmap",
    "init_filters": 4,
    "blocks_down": [1, 1, 1],
    "norm_groups": 2,
    "class_width": 4,
    "dropout": 0.0,
}
AT_ONCE = {**SEGRESNET, "blocks_down": [0, 1, 1], "dropout": 0.0}
UNET = {"name": "unet", "filters": [4, 6, 8]}
FLEXIBLE = {"name": "flexible-unet", "width": 0.0625, "filters": [10, 8, 8, 6, 4], "levels": 2}
EVERY_NETWORK = [{**SEGRESNET, "dropout": 0.0}, AT_ONCE, DYNUNET, RESIDUAL, HEATMAP, UNET]
TITLES = ["segresnet", "no blocks at first", "dynunet", "residual", "heatmap", "unet"]


def reference(x, groups, weight, bias, silu, slope):
    normed = F.group_norm(F.silu(x) if silu else x, groups, weight, bias, 1e-5)
    return F.leaky_relu(normed, slope)


def close(found, expected, share):
    found, expected = found.detach().double(), expected.detach()
    return float((found - expected).abs().max()) <= share * max(float(expected.abs().max()), 1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(("silu", "slope"), [(False, 0.0), (False, 0.01), (False, 1.0), (True, 1.0)])
@pytest.mark.parametrize(
    ("channels", "groups", "affine", "size"),
    [(8, 8, True, (5, 6, 7)), (16, 4, True, (9, 9, 3)), (3, 3, False, (31, 1, 2)), (48, 48, False, (4, 4, 4)),
     (320, 8, True, (3, 2, 2)), (4, 2, True, (33, 31, 37))],
)  # fmt: skip
def test_norms_and_their_gradients_are_those_of_torch(channels, groups, affine, size, silu, slope, dtype):
    torch.manual_seed(channels)
    x = (2 * torch.randn(2, channels, *size) + 0.5).to(dtype).contiguous(memory_format=torch.channels_last_3d)
    dy = torch.randn_like(x)
    weight = (torch.rand(channels) + 0.5).requires_grad_() if affine else None
    bias = torch.randn(channels).requires_grad_() if affine else None
    parameters = [weight, bias] if affine else []
    ours = x.clone().requires_grad_()
    y = _FusedNorm.apply(ours, groups, weight, bias, 1e-5, silu, slope)
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=torch.channels_last_3d)
    found = torch.autograd.grad(y, [ours, *parameters], dy)

    exact = [t.detach().double().requires_grad_() for t in (x, *parameters)]
    expected_y = reference(exact[0], groups, *(exact[1:] or (None, None)), silu, slope)
    expected = torch.autograd.grad(expected_y, exact, dy.double())
    assert close(y, expected_y, ROUNDING[dtype])
    for one, other in zip(found, expected, strict=True):
        assert close(one, other, ROUNDING[dtype])


def test_a_mean_far_from_zero_costs_no_digits():
    torch.manual_seed(0)
    x = (1000 + torch.randn(2, 8, 20, 20, 20)).contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    y = _FusedNorm.apply(x, 8, None, None, 1e-5, False, 1.0)
    exact = x.detach().double()
    expected = reference(exact, 8, None, None, False, 1.0)
    assert close(y, expected, 1000 * 2**-23)  # the mean itself is rounded to float32 once
    assert y.var(dim=(2, 3, 4), correction=0).sub(1).abs().max() < 1e-3


def test_what_is_not_finite_stays_so():
    x = torch.ones(1, 2, 4, 4, 4).contiguous(memory_format=torch.channels_last_3d)
    x[0, 0, 1, 1, 1] = float("nan")
    for dtype in ROUNDING:
        for silu, slope in ((False, 0.0), (True, 1.0)):
            y = _FusedNorm.apply(x.to(dtype).requires_grad_(), 2, None, None, 1e-5, silu, slope)
            assert y[0, 0].isnan().all()
            assert y[0, 1].isfinite().all()


def test_any_number_of_threads_gives_the_same_bits():
    torch.manual_seed(0)
    x = torch.randn(2, 16, 32, 32, 33).contiguous(memory_format=torch.channels_last_3d)
    found = []
    for n_threads in (1, 2, 3):
        torch.set_num_threads(n_threads)  # the fixture of this folder puts it back
        one = x.clone().requires_grad_()
        y = _FusedNorm.apply(one, 8, None, None, 1e-5, False, 0.0)
        found.append((y, *torch.autograd.grad(y, one, x)))
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def gradients_of(function, *tensors):
    leaves = [t.clone().requires_grad_() for t in tensors]
    out = function(*leaves)
    torch.manual_seed(1)
    return out, *torch.autograd.grad(out, leaves, torch.randn(out.shape, dtype=out.dtype))


def padded(volume, weight):
    return F.conv3d(volume, weight, padding=1)


@pytest.mark.parametrize("size", [(4, 6, 8), (3, 5, 2), (12, 4, 6)])
def test_rearranged_convolutions_are_convolutions(size):
    torch.manual_seed(0)
    volume = torch.randn(2, 1, *size, dtype=torch.float64)
    first, second = torch.randn(4, 1, 3, 3, 3).double(), torch.randn(6, 4, 3, 3, 3).double()
    maps, mix, bias = torch.randn(2, 5, *size).double(), torch.randn(3, 5, 1, 1, 1).double(), torch.randn(3).double()
    pairs = [
        (gradients_of(convolve_in_pairs, volume, first), gradients_of(padded, volume, first)),
        (gradients_of(combine_channels, maps, mix, bias), gradients_of(F.conv3d, maps, mix, bias)),
    ]
    if all(n % 2 == 0 for n in size):

        def one_after_the_other(v, a, b):
            return F.conv3d(F.conv3d(v, a, padding=1), b, stride=2, padding=1)

        twice = gradients_of(convolve_twice, volume, first, second)
        pairs.append((twice, gradients_of(one_after_the_other, volume, first, second)))
    for found, expected in pairs:
        assert all(close(a, b, FLOAT64) for a, b in zip(found, expected, strict=True))


def both(network):
    """Return a network as it is, and a copy in channels-last layout with fused norms."""
    torch.manual_seed(0)
    plain = build_network(build(NetworkConfig, network), 2, 2).train()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))  # the last layers start at zero
    fused = copy.deepcopy(plain)
    prepare(fused, Way("fp32", FUSED))
    return plain, fused


def loss_of(network, volume):
    """Weigh outputs at random: norms leave almost no gradient of a sum, or of a sum of squares."""
    weights = torch.Generator().manual_seed(3)
    maps = [maps.float() for maps in network.logits(volume)]
    return sum((m * torch.randn(m.shape, generator=weights)).sum() for m in maps) / maps[0].numel() ** 0.5


@pytest.mark.parametrize("network", [*EVERY_NETWORK, FLEXIBLE], ids=[*TITLES, "flexible"])
def test_a_fused_network_has_the_loss_and_gradients_of_a_plain_one(network):
    plain, fused = both(network)
    volume = torch.randn(2, 1, *(32, 32, 64) if network is FLEXIBLE else (16, 32, 24))
    losses = [loss_of(made, volume) for made in (plain, fused)]
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=NETWORK_ROUNDING)
    for loss in losses:
        loss.backward()
    for (name, one), (other_name, other) in zip(plain.named_parameters(), fused.named_parameters(), strict=True):
        assert name == other_name
        assert close(other.grad, one.grad.double(), NETWORK_ROUNDING), name


@pytest.mark.parametrize("network", EVERY_NETWORK[:-1], ids=TITLES[:-1])  # the U-Net's norms are torch's own
def test_maps_and_gradients_stay_in_one_layout(network):
    """Each block gets and gives maps in channels-last layout: nothing is turned around on the way."""
    _, fused = both(network)
    seen = []

    def look(module, inputs, output):
        seen.extend([inputs[0], output])
        output.register_hook(lambda gradient: seen.append(gradient))

    for module in fused.backbone.modules():
        if isinstance(module, nn.Conv3d) and module.in_channels > 1:
            module.register_forward_hook(look)
    loss_of(fused, torch.randn(2, 1, 16, 32, 24)).backward()
    assert len(seen) > 6
    assert all(t.is_contiguous(memory_format=torch.channels_last_3d) for t in seen)


@pytest.mark.parametrize(
    ("kernel", "stride", "depth", "in_float32"),
    [(3, 1, 2, True), (3, 1, 3, False), (3, 2, 4, True), (3, 2, 5, False), (5, 1, 4, True), (1, 1, 1, False)],
)
def test_what_has_fewer_planes_than_taps_is_computed_in_float32(kernel, stride, depth, in_float32):
    """Its gradient is then that of float32 to the last bit, but for the slopes, which come in bfloat16."""
    torch.manual_seed(0)
    layer = ShallowConvolution(4, 6, kernel, stride=stride, padding=kernel // 2)
    x = torch.randn(2, 4, depth, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    slopes = torch.randn_like(y)
    (found,) = torch.autograd.grad(y, layer.weight, slopes)
    exact = F.conv3d(x, layer.weight, layer.bias, stride, kernel // 2)
    (expected,) = torch.autograd.grad(exact, layer.weight, slopes.float())
    assert y.dtype == torch.bfloat16
    assert torch.equal(found, expected) == in_float32
    assert close(found, expected.double(), ROUNDING[torch.bfloat16])


@pytest.mark.parametrize("layout", choice.LAYOUTS)
def test_gradients_of_coarse_maps_in_bfloat16_are_those_of_float32(layout):
    """Two planes are left of 64 at stride 32. Without the float32 there, oneDNN's gradients are 1e36 or not finite."""
    torch.manual_seed(0)
    network = build_network(build(NetworkConfig, FLEXIBLE), 2, 2).train()
    volume, norms = torch.randn(2, 1, 64, 64, 64), []
    for layer in network.head.outputs:
        nn.init.normal_(layer.weight, std=0.1)
    for precision in ("fp32", "bf16"):
        made = copy.deepcopy(network)
        prepare(made, Way(precision, layout))
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss_of(made, volume).backward()
        norms.append(torch.stack([p.grad.norm() for p in made.backbone.encoder.layer4.parameters()]))
    assert norms[1].isfinite().all()
    assert float(norms[1].norm()) == pytest.approx(
        float(norms[0].norm()), rel=0.3
    )  # 8 bits, through forty norms of few cells


@pytest.mark.parametrize("network", EVERY_NETWORK, ids=TITLES)
def test_a_few_steps_of_both_reach_the_same_loss(network):
    volume = torch.randn(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    reached = []
    for made in both(network):
        optimiser = torch.optim.AdamW(made.parameters(), lr=1e-3)
        for _ in range(5):
            optimiser.zero_grad()
            loss = loss_of(made, volume)
            loss.backward()
            optimiser.step()
        reached.append(loss.item())
    assert reached[1] == pytest.approx(reached[0], rel=STEPS_ROUNDING)


@pytest.mark.parametrize("network", EVERY_NETWORK, ids=TITLES)
def test_what_is_evaluated_and_stored_is_the_plain_network(network):
    plain, fused = both(network)
    prepare(plain, Way("fp32", "channels-last"))
    assert list(plain.state_dict()) == list(fused.state_dict())
    volume = torch.randn(1, 1, 16, 16, 16)
    for made in (fused, copy.deepcopy(fused)):
        with torch.no_grad():
            results = [one.eval()(volume) for one in (plain, made)]
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def times(**seconds):
    """Seconds by way: ``bf16_fused=1.0``."""
    layouts = {"fused": FUSED, "plain": "contiguous", "last": "channels-last"}
    return {Way(name.split("_")[0], layouts[name.split("_")[1]]): value for name, value in seconds.items()}


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        (times(bf16_fused=1.0, fp32_fused=2.0, bf16_plain=1.5), "bf16 channels-last, fused"),
        (times(bf16_fused=1.0, fp32_fused=1.05), "fp32 channels-last, fused"),  # too little for less precision
        (times(bf16_fused=3.0, fp32_fused=1.0, fp32_plain=0.9), "fp32 contiguous"),
        (times(fp32_fused=1.0, fp32_plain=0.97), "fp32 channels-last, fused"),  # noise decides nothing
        (times(bf16_fused=1.0, bf16_last=0.9, fp32_last=2.0), "bf16 channels-last"),
        (times(bf16_plain=1.0), "bf16 contiguous"),
    ],
)
def test_the_choice_follows_the_times(seconds, chosen):
    assert str(choose(seconds)) == chosen


@pytest.fixture
def measuring(monkeypatch):
    """The real measurement; its results are not looked at."""
    monkeypatch.setattr(choice, "time_steps", TIME_STEPS)
    fastest_way.cache_clear()
    yield
    fastest_way.cache_clear()


TIME_STEPS = choice.time_steps


def test_timing_leaves_random_state_alone_and_ends(measuring, monkeypatch):
    config = build(NetworkConfig, SEGRESNET)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    ways = [Way("fp32", layout) for layout in choice.LAYOUTS]
    assert set(choice.time_steps(config, 2, 2, (2, 16, 16, 16), ways)) == set(ways)
    assert torch.equal(torch.get_rng_state(), before)
    monkeypatch.setattr(choice, "BUDGET_S", 0.0)
    assert list(choice.time_steps(config, 2, 2, (2, 16, 16, 16), ways)) == ways[:1]


def test_without_numba_torch_s_norms_are_taken(monkeypatch):
    code = "import sys; sys.modules['numba'] = None\n"
    code += "from tomopoint.training.on_cpu.choice import has_fused_norms; print(has_fused_norms())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
    assert has_fused_norms()
    monkeypatch.setattr(choice, "has_fused_norms", lambda: False)
    fastest_way.cache_clear()
    assert fastest_way(build(NetworkConfig, SEGRESNET), 2, 2, (2, 16, 16, 16), ("fp32",), 1).layout != FUSED
    fastest_way.cache_clear()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_project(tmp_path_factory.mktemp("project"))


@pytest.mark.parametrize("way", [Way("fp32", "contiguous"), Way("bf16", "channels-last, fused")], ids=str)
def test_an_interrupted_training_goes_on_as_it_was_computed(data, tmp_path, monkeypatch, way):
    from safetensors.torch import load_file

    recipe = recipe_file(tmp_path, networks=[DYNUNET], fit={"precision": "auto", "keep_best": 0, "epochs": 2})
    monkeypatch.setattr(fit, "fastest_way", lambda *given: way)
    run_train(data, tmp_path / "whole", recipe)
    with monkeypatch.context() as patch:
        kill_after(patch, 4)
        with pytest.raises(Killed):
            run_train(data, tmp_path / "parts", recipe)
    assert way_of(tmp_path / "parts" / "fold0" / "dynunet" / "last.safetensors") == way
    monkeypatch.setattr(fit, "fastest_way", None)  # would be a bug if called
    assert run_train(data, tmp_path / "parts", recipe).ok
    folders = [tmp_path / run / "fold0" / "dynunet" for run in ("whole", "parts")]
    whole, parts = (load_file(folder / "weights.safetensors") for folder in folders)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    for folder in folders:
        record = json.loads((folder / "member.json").read_text())
        precision = {"fp32": "32-true", "bf16": "bf16-mixed"}[way.precision]
        assert (record["layout"], record["precision"]) == (way.layout, precision)
