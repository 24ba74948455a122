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
from tomopoint.training.optimisation import (
    Clock,
    Schedule,
    build_average,
    build_optimiser,
    parameter_groups,
    set_frozen,
    to_average,
    to_training_point,
)
from tomopoint.training.options.fitting import FitOptions, OptimiserOptions

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


def shares(schedule, steps):
    return [schedule(step) for step in steps]


def test_a_constant_rate_follows_the_warm_up():
    schedule = Schedule(FIT, OptimiserOptions(warmup_steps=20, schedule="constant"), Clock())
    assert shares(schedule, (0, 10, 20, 60, 100)) == pytest.approx([0.001, 0.5005, 1, 1, 1])


def test_steps_multiply_the_rate_after_every_period():
    """Two epochs of ten steps: times 0.5 at steps 20, 40 ...; the warm-up multiplies."""
    options = OptimiserOptions(warmup_steps=4, schedule="step", period=2, factor=0.5)
    schedule = Schedule(FIT, options, Clock())
    assert shares(schedule, (2, 19, 20, 39, 40, 99)) == pytest.approx([0.5005, 1, 0.5, 0.5, 0.25, 0.0625])


def test_a_cyclic_rate_is_a_triangle_and_momentum_its_reverse():
    """Four epochs of ten steps up and down, between a tenth and the peak."""
    options = OptimiserOptions(warmup_steps=0, schedule="cyclic", period=4, final_share=0.1, name="sgd", momentum=0.9)
    schedule = Schedule(FIT, options, Clock())
    found = [momentum_and_rate(schedule, step) for step in (0, 5, 20, 30, 40, 60)]
    assert [rate for _, rate in found] == pytest.approx([0.1, 0.325, 1.0, 0.55, 0.1, 1.0])
    assert [momentum for momentum, _ in found] == pytest.approx([0.9, 0.875, 0.8, 0.85, 0.9, 0.8])


def test_one_cycle_rises_and_falls_as_cosines_and_momentum_the_other_way():
    options = OptimiserOptions(warmup_steps=40, schedule="one-cycle", final_share=0.02, betas=(0.9, 0.99))
    schedule = Schedule(FIT, options, Clock())
    found = [momentum_and_rate(schedule, step) for step in (0, 39, 69, 99, 100)]
    # torch counts from step 0 to step 0.4 * 100 - 1, and from there to the last, number 99.
    rates = [0.001, 1.0, 0.02e-0 + 0.98 * 0.5, 0.02, 0.02]
    assert [rate for _, rate in found] == pytest.approx(rates, abs=1e-12)
    assert [momentum for momentum, _ in found] == pytest.approx([0.9, 0.8, 0.85, 0.9, 0.9])


@pytest.mark.parametrize("warmup", [0, 1, 2, 64])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_one_cycle_of_a_few_steps_only_has_rates_too(warmup, steps):
    fit = FitOptions(epochs=1, steps_per_epoch=steps)
    schedule = Schedule(fit, OptimiserOptions(warmup_steps=warmup, schedule="one-cycle", final_share=0.0), Clock())
    found = shares(schedule, range(steps + 1))
    assert all(0 <= share <= 1 for share in found)
    assert found[-1] == pytest.approx(0.0 if warmup < steps or steps == 1 else 1.0, abs=1e-12)


def momentum_and_rate(schedule, step):
    """Return what one weight's optimiser is given for a step, the rate as share of the peak."""
    weight = nn.Parameter(torch.zeros(1))
    optimiser = build_optimiser([{"params": [weight], "rate": 1.0, "weight_decay": 0.0}], schedule.options)
    schedule.set_rates(optimiser, step)
    (group,) = optimiser.param_groups
    momentum = group["betas"][0] if "betas" in group else group["momentum"]
    return momentum, group["lr"] / schedule.options.learning_rate


def test_a_plateau_lowers_the_rate_after_so_many_validations_without_a_better_one():
    """Better is by more than 0.1; after more than two that are not, the rate is halved, to no less than 0.3."""
    fit = FitOptions(epochs=10, steps_per_epoch=10, averaging="none", min_improvement=0.1)
    options = OptimiserOptions(warmup_steps=0, schedule="plateau", period=2, factor=0.5, final_share=0.3)
    schedule = Schedule(fit, options, Clock())
    found = []
    for value in (0.1, 0.5, 0.55, None, 0.59, 0.4, 0.2, 0.2, 0.2, 0.9):
        schedule.after_validation(value)
        found.append(schedule(10 * len(found)))
    #               0.1 0.5 0.55 None 0.59 0.4  0.2  0.2  0.2  0.9
    assert found == [1, 1, 1, 1, 1, 0.5, 0.5, 0.5, 0.3, 0.3]


@pytest.mark.parametrize("schedule", ["step", "cyclic", "one-cycle"])
def test_a_schedule_that_starts_late_is_where_one_from_the_start_is(schedule):
    """Bit for bit: nothing of a schedule is stored, a resumed one goes through the steps again."""
    options = OptimiserOptions(warmup_steps=3, schedule=schedule)
    through, late = Schedule(FIT, options, Clock()), Schedule(FIT, options, Clock())
    for step in range(70):
        through(step)
    assert [momentum_and_rate(through, step) for step in (70, 99)] == [
        momentum_and_rate(late, step) for step in (70, 99)
    ]


def one_weight(options, start, gradients, rate=1.0, decay=0.0):
    """Return a weight after each step with these gradients, as it would be evaluated."""
    weight = nn.Parameter(torch.tensor([start], dtype=torch.float64))
    optimiser = build_optimiser([{"params": [weight], "rate": rate, "weight_decay": decay}], options)
    schedule, values = Schedule(FIT, options, Clock()), []
    for step, gradient in enumerate(gradients):
        to_training_point(optimiser)
        schedule.set_rates(optimiser, step)
        weight.grad = torch.full_like(weight, gradient)
        optimiser.step()
        to_average(optimiser)
        values.append(weight.item())
    return values


DOUBLE = 1e-9
"""Of a few float64 steps; epsilons of 1e-8 in a denominator of about one are taken off the gradients below."""


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_momentum_with_decay_in_the_gradient(nesterov):
    options = OptimiserOptions(0.1, warmup_steps=0, schedule="constant", name="sgd", momentum=0.5, nesterov=nesterov)
    weight, momentum, expected = 2.0, 0.0, []
    for gradient in (1.0, -3.0, 0.5):
        total = gradient + 0.2 * weight
        momentum = total if not expected else 0.5 * momentum + total
        weight -= 0.1 * 0.25 * (total + 0.5 * momentum if nesterov else momentum)
        expected.append(weight)
    assert one_weight(options, 2.0, (1.0, -3.0, 0.5), 0.25, 0.2) == pytest.approx(expected, abs=DOUBLE)


def test_radam_starts_as_momentum_and_decays_beside_it():
    """Liu et al. 2020: while the second moment's variance is intractable (5 steps for 0.99), plain means."""
    options = OptimiserOptions(0.1, warmup_steps=0, schedule="constant", name="radam", betas=(0.8, 0.99))
    weight, mean, expected, gradients = 2.0, 0.0, [], (1.0, -3.0, 0.5)
    for t, gradient in enumerate(gradients, start=1):
        mean = 0.8 * mean + 0.2 * gradient
        weight = weight * (1 - 0.1 * 0.2) - 0.1 * mean / (1 - 0.8**t)
        expected.append(weight)
    assert one_weight(options, 2.0, gradients, decay=0.2) == pytest.approx(expected, abs=DOUBLE)


def test_radam_adapts_once_it_can():
    options = OptimiserOptions(0.1, warmup_steps=0, schedule="constant", name="radam", betas=(0.8, 0.99))
    values = one_weight(options, 2.0, [4.0] * 8)
    # Until then the step is the rate times the gradient; then the rectified share of the rate alone.
    steps = [a - b for a, b in zip([2.0, *values], values, strict=False)]
    n_inf = 2 / (1 - 0.99) - 1
    rho = n_inf - 2 * 7 * 0.99**7 / (1 - 0.99**7)
    rectified = math.sqrt((rho - 4) * (rho - 2) * n_inf / ((n_inf - 4) * (n_inf - 2) * rho))
    assert steps[:5] == pytest.approx([0.4] * 5)
    assert steps[6] == pytest.approx(0.1 * rectified)


def test_schedule_free_adamw_evaluates_the_mean_and_takes_gradients_beside_it():
    """Defazio et al. 2024: y = (1 - b1) z + b1 x; z falls by the rate times g / sqrt(v) + decay * y; x is z's mean."""
    pytest.importorskip("schedulefree", reason="pip install schedulefree")
    options = OptimiserOptions(0.1, warmup_steps=0, schedule="constant", name="adamw-schedulefree", betas=(0.9, 0.99))
    gradients = (1.0, -3.0, 0.5, 2.0)
    x = z = 2.0
    second, expected = 0.0, []
    for t, gradient in enumerate(gradients, start=1):
        y = 0.1 * z + 0.9 * x
        second = 0.99 * second + 0.01 * gradient**2
        z -= 0.1 * (gradient / (math.sqrt(second / (1 - 0.99**t)) + 1e-8) + 0.2 * y)
        x += (z - x) / t
        expected.append(x)
    assert one_weight(options, 2.0, gradients, decay=0.2) == pytest.approx(expected, abs=DOUBLE)


def test_a_missing_package_is_said(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "schedulefree", None)
    options = OptimiserOptions(name="adamw-schedulefree", schedule="constant")
    with pytest.raises(TomopointError, match="pip install schedulefree"):
        build_optimiser([{"params": [nn.Parameter(torch.zeros(1))]}], options)


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
