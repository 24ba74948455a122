"""Two processes that train together: the gradients, and on two GPUs the run, of one process with the joint batch."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from test_fit import RECIPE, SEGRESNET
from training_data import write_project

SCRIPT = Path(__file__).with_name("ddp_steps.py")
DEVICES = [pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)]

GRADIENTS_EQUAL = {"cpu": 1e-4, "cuda": 1e-2}
"""Difference over norm of all gradients together. Batches of one and of two are summed in another order in float32; on
a GPU float32 convolutions may be TF32 (11 bits), by algorithms that differ between the two batch sizes."""

WEIGHTS_EQUAL = 1e-3
"""After 4 steps at a learning rate of 0.01 weights moved by up to 0.04: a fortieth of their way, since TF32 differs by
1e-3 where float32 on a CPU differs by 1e-7 (tests/training/test_ddp.py)."""
SHARE_OF_EXCEPTIONS = 0.05


def gradients(device, backend, n_processes, out):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n_processes)]
    words = [sys.executable, *launcher, str(SCRIPT), device, backend, str(out)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return load_file(out)


@pytest.mark.parametrize("device", DEVICES)
def test_two_processes_have_the_gradients_of_one(device, tmp_path):
    """By NCCL, a GPU each, where there are two; NCCL refuses two processes on one, so there by gloo."""
    backend = "nccl" if device == "cuda" and torch.cuda.device_count() > 1 else "gloo"
    one = gradients(device, backend, 1, tmp_path / "one.safetensors")
    two = gradients(device, backend, 2, tmp_path / "two.safetensors")
    assert one.keys() == two.keys()
    whole = torch.cat([one[name].flatten() for name in one])
    difference = torch.cat([(one[name] - two[name]).flatten() for name in one])
    assert float(whole.norm()) > 0
    assert float(difference.norm() / whole.norm()) < GRADIENTS_EQUAL[device]


@pytest.mark.gpu
def test_a_run_on_two_gpus_is_that_of_one_with_the_joint_batch(tomopoint, tmp_path):
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU")
    write_project(tmp_path / "data")
    weights = {}
    for n_processes, batch_size in ((1, 2), (2, 1)):
        fit = {**RECIPE["fit"], "epochs": 2, "steps_per_epoch": 2, "batch_size": batch_size}
        path, out = tmp_path / f"recipe{n_processes}.yaml", tmp_path / f"run{n_processes}"
        path.write_text(yaml.safe_dump({**RECIPE, "networks": [{**SEGRESNET, "dropout": 0.0}], "fit": fit}))
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n_processes)]
        words = ["train", "--data", tmp_path / "data", "--recipe", path, "--out", out, "--folds", "0"]
        options = ["--device", "cuda", "--curves", "none"]
        tomopoint(*words, *options, launcher=launcher if n_processes > 1 else ())
        weights[n_processes] = load_file(out / "fold0" / "segresnet" / "weights.safetensors")
    differences = torch.cat([(weights[1][name] - weights[2][name]).abs().flatten() for name in weights[1]])
    assert float((differences > WEIGHTS_EQUAL).float().mean()) < SHARE_OF_EXCEPTIONS
