"""Learning rate, clock, averages and the choice of precision."""

import math

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tomopoint.errors import TomopointError
from tomopoint.networks.build import build_network
from tomopoint.networks.config import NetworkConfig
from tomopoint.training.checkpoints import mean_weights
from tomopoint.training.machine import Machine, Processes
from tomopoint.training.optimisation import Clock, Schedule, build_average, parameter_groups, set_frozen
from tomopoint.training.recipe import FitOptions, OptimiserOptions

FIT = FitOptions(epochs=10, steps_per_epoch=10, averaging="none")
OPTIMISER = OptimiserOptions(warmup_steps=20, final_share=0.01)


def test_warm_up_then_cosine():
    schedule = Schedule(FIT, OPTIMISER, Clock())
    assert [schedule(0), schedule(10), schedule(20)] == pytest.approx([0.001, 0.5005, 1.0])
    # half way from step 20 to 100 the cosine is at its middle
    assert schedule(60) == pytest.approx(0.01 + 0.99 * 0.5)
    assert schedule(40) == pytest.approx(0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert schedule(100) == schedule(200) == pytest.approx(0.01)


def test_time_limit_drives_the_cosine_where_it_runs_ahead():
    clock = Clock(earlier_s=30.0)
    schedule = Schedule(FitOptions(epochs=10, steps_per_epoch=10, max_minutes=1.0), OPTIMISER, clock)
    # the clock runs on by milliseconds
    assert schedule.progress(10) == pytest.approx(0.5, abs=0.01)
    assert schedule.progress(80) == pytest.approx(0.8)
    assert not schedule.out_of_time
    clock.earlier_s = 60.0
    assert schedule.out_of_time
    assert schedule(30) == pytest.approx(0.01)
    assert Schedule(FIT, OPTIMISER, clock).progress(10) == 0.1


def test_swa_holds_the_rate_of_its_start():
    schedule = Schedule(FitOptions(epochs=10, steps_per_epoch=10, averaging="swa"), OPTIMISER, Clock())
    assert schedule(100) == schedule(75) > schedule(74) * 0.9
    assert schedule(75) > 0.1


def test_moving_average_is_the_recursion():
    network = nn.Linear(1, 1, bias=False)
    average = build_average(network, FitOptions(averaging="ema", ema_decay=0.5))
    expected, values = None, [1.0, 3.0, -2.0, 5.0, 0.5, 7.0]
    for n, value in enumerate(values):
        nn.init.constant_(network.weight, value)
        average.update_parameters(network)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = value if n == 0 else decay * expected + (1 - decay) * value
    assert average.module.weight.item() == pytest.approx(expected)
    assert not average.module.weight.requires_grad
    assert build_average(network, FIT) is None


def test_plain_averages(tmp_path):
    network = nn.Linear(1, 1, bias=False)
    average = build_average(network, FitOptions(averaging="swa"))
    paths = []
    for value in (1.0, 2.0, 6.0):
        nn.init.constant_(network.weight, value)
        average.update_parameters(network)
        paths.append(tmp_path / f"{value}.safetensors")
        save_file(network.state_dict(), paths[-1])
    assert average.module.weight.item() == pytest.approx(3)
    assert mean_weights(paths)["weight"].item() == pytest.approx(3)


NARROW = {
    "segresnet": NetworkConfig(
        "segresnet", init_filters=4, blocks_down=(1, 1, 1), norm_groups=2, class_width=4, offset_width=4
    ),
    "dynunet": NetworkConfig("dynunet", filters=(4, 4, 8), features=4, class_width=4, offset_width=4),
}


def test_parts_have_their_own_rate_and_biases_and_norms_do_not_decay():
    network = build_network(NARROW["segresnet"], 2, stride=2)
    groups = parameter_groups(network, OptimiserOptions(weight_decay=0.02, backbone_rate=0.1, head_rate=2.0))
    assert [(group["rate"], group["weight_decay"]) for group in groups] == [
        (0.1, 0.02),
        (0.1, 0),
        (2.0, 0.02),
        (2.0, 0),
    ]
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    of_groups = [{names.pop(id(parameter)) for parameter in group["params"]} for group in groups]
    assert names == {}  # every parameter is in one group
    for (decaying, plain), part in zip((of_groups[:2], of_groups[2:]), ("backbone.", "head."), strict=True):
        assert all(name.startswith(part) for name in decaying | plain)
        assert all(name.endswith(".weight") and "norm" not in name for name in decaying)
        assert all(name.endswith(".bias") or "norm" in name for name in plain)


def test_a_rate_of_a_tenth_is_a_step_of_a_tenth():
    """AdamW's first step is the rate times the sign of the gradient, whatever the gradient's size."""
    network = build_network(NARROW["segresnet"], 2, stride=2)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    groups = parameter_groups(network, OptimiserOptions(weight_decay=0.0, backbone_rate=0.1))
    adam = torch.optim.AdamW(groups, lr=1e-2, eps=0.0)
    for group in adam.param_groups:
        group["lr"] = 1e-2 * group["rate"]
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    adam.step()
    for name, parameter in network.named_parameters():
        step = 1e-3 if name.startswith("backbone.") else 1e-2
        torch.testing.assert_close(before[name] - parameter.detach(), torch.full_like(parameter, step), **ROUNDING)


ROUNDING = {"rtol": 0.0, "atol": 1e-6}
"""Weights are at most about 4 (the head's first bias), where float32 has steps of 2.4e-7."""


@pytest.mark.parametrize(
    ("network", "freeze", "moving"),
    [
        ("segresnet", "none", {"convInit", "down_layers", "up_samples", "up_layers", "head"}),
        ("segresnet", "encoder", {"up_samples", "up_layers", "head"}),
        ("segresnet", "backbone", {"head"}),
        ("dynunet", "encoder", {"upsamples", "project", "head"}),
        ("dynunet", "backbone", {"head"}),
    ],
)
def test_what_is_frozen_gets_no_gradient_and_the_rest_does(network, freeze, moving):
    made = build_network(NARROW[network], 2, stride=2)
    set_frozen(made, OptimiserOptions(freeze=freeze), True)
    for parameter in made.head.parameters():
        nn.init.normal_(parameter)  # its last layers start at zero, which would hide the rest
    scores, offsets = made(torch.randn(1, 1, 16, 16, 16))
    (scores.sum() + offsets.square().sum()).backward()
    found = {name.removeprefix("backbone.").split(".")[0] for name, p in made.named_parameters() if p.grad is not None}
    assert found == moving
    set_frozen(made, OptimiserOptions(freeze=freeze), False)
    assert all(parameter.requires_grad for parameter in made.parameters())


def test_a_cpu_chooses_between_the_precisions_it_is_left():
    cpu = Machine("cpu")
    assert cpu.precisions("auto") == ("bf16", "fp32")
    assert cpu.precisions("bf16") == ("bf16",)  # what is asked for is done, fast or not
    with pytest.raises(TomopointError, match="fp16 needs a GPU"):
        cpu.precisions("fp16")


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU that must not be there")
def test_missing_gpu_and_missing_wandb_are_said(tmp_path, monkeypatch):
    with pytest.raises(TomopointError, match="finds no GPU"):
        Machine("cuda")
    with pytest.raises(TomopointError, match="--workers"):
        Machine("cpu", workers=-1)
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(TomopointError, match="pip install wandb"):
        Machine("cpu", curves="wandb").build_logger(tmp_path / "run" / "fold0" / "segresnet", "fold0/segresnet")


def test_processes_come_from_torchrun(monkeypatch):
    assert Processes.from_environment() == Processes(0, 1, 1)
    for name, value in (("WORLD_SIZE", "8"), ("LOCAL_WORLD_SIZE", "4"), ("RANK", "5")):
        monkeypatch.setenv(name, value)
    processes = Processes.from_environment()
    assert (processes.rank, processes.count, processes.per_node, processes.nodes) == (5, 8, 4, 2)
