"""Training on the GPU: fp16 with its scaler, and an interrupted run that goes on."""

import csv
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from safetensors.torch import load_file
from test_fit import DYNUNET, RECIPE, SEGRESNET
from training_data import write_project

DEVICES = [pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)]
LEARNING_RATE = 0.002

EQUAL = {"cpu": 0.0, "cuda": 0.1 * LEARNING_RATE}
"""Weights of a resumed run against an uninterrupted one. On a CPU they are the same bytes. On a GPU sums are made in an
order that changes from run to run (atomic additions in the gradients of indexing and upsampling), which AdamW passes on
most where a gradient is almost zero; but a step moves a weight by up to the learning rate, and a lost optimiser state,
a wrong crop or a wrong rate would move most of them by a good part of a step."""
SHARE_OF_EXCEPTIONS = {"cpu": 0.0, "cuda": 0.05}
LOSSES_EQUAL = {"cpu": 0.0, "cuda": 0.02}
WAIT_SECONDS = 120


@pytest.fixture
def command(tmp_path):
    """Write data and a recipe with `changes` to its `fit`; return the words that train it."""
    write_project(tmp_path / "data")

    def words(out, device, networks=(SEGRESNET,), **fit):
        optimiser = {**RECIPE["optimiser"], "learning_rate": LEARNING_RATE}
        recipe = {**RECIPE, "networks": list(networks), "optimiser": optimiser, "fit": {**RECIPE["fit"], **fit}}
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe))
        given = ["train", "--data", tmp_path / "data", "--recipe", path, "--out", tmp_path / out, "--folds", "0"]
        return [*map(str, given), "--device", device, "--curves", "none", "--workers", "1"]

    return words


def rows(path):
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.mark.parametrize("device", DEVICES)
def test_half_precision_learns(tomopoint, command, tmp_path, device):
    """fp16 with a scaled loss on the GPU, bf16 on the CPU, which has no fp16: losses stay finite and fall."""
    precision = {"cpu": "bf16", "cuda": "fp16"}[device]
    networks = (SEGRESNET, DYNUNET)
    fit = {"epochs": 5, "steps_per_epoch": 20, "keep_best": 0, "averaging": "none"}
    tomopoint(*command("run", device, networks, **fit), "--precision", precision)
    for network in networks:
        folder = tmp_path / "run" / "fold0" / network["name"]
        losses = [float(row["train_loss"]) for row in rows(folder / "metrics.csv")]
        assert all(math.isfinite(loss) for loss in losses)
        assert losses[-1] < 0.9 * losses[0]
        assert all(bool(tensor.isfinite().all()) for tensor in load_file(folder / "weights.safetensors").values())


@pytest.mark.parametrize("device", DEVICES)
def test_a_killed_run_goes_on_as_if_it_had_not_been(tomopoint, command, tmp_path, device):
    fit = {"epochs": 6, "steps_per_epoch": 10, "keep_best": 0}
    straight, resumed = (tmp_path / name / "fold0" / "segresnet" for name in ("straight", "resumed"))
    tomopoint(*command("straight", device, **fit))
    words = command("resumed", device, **fit)
    process = subprocess.Popen([sys.executable, "-m", "tomopoint", *words], start_new_session=True)
    end = time.monotonic() + WAIT_SECONDS
    while not (resumed / "metrics.csv").exists() and time.monotonic() < end and process.poll() is None:
        time.sleep(0.01)
    if process.poll() is None:  # it may be through already; then there is nothing to resume, and all must be equal too
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert (resumed / "metrics.csv").exists()
    tomopoint(*words)
    first, second = rows(straight / "metrics.csv"), rows(resumed / "metrics.csv")
    for name in ("epoch", "step", "learning_rate"):
        assert [row[name] for row in first] == [row[name] for row in second]
    for name in ("train_loss", "validation_loss"):
        expected = [float(row[name]) for row in first]
        assert [float(row[name]) for row in second] == pytest.approx(expected, rel=LOSSES_EQUAL[device], abs=0)
    one, two = (load_file(folder / "weights.safetensors") for folder in (straight, resumed))
    differences = torch.cat([(one[name] - two[name]).abs().flatten() for name in one])
    assert float((differences > EQUAL[device]).float().mean()) <= SHARE_OF_EXCEPTIONS[device]
