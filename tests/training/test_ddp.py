"""Several processes: the same gradient steps as one process with the joint batch."""

import os
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from test_fit import RECIPE, SEGRESNET
from training_data import write_project

from tomopoint.networks.build import build_network
from tomopoint.networks.config import NetworkConfig
from tomopoint.strict_json import build

EQUAL = 1e-5
"""After 4 steps at a learning rate of 0.01 weights moved by up to 0.04. Gradients summed in another order differ by
1e-7 relative, which AdamW passes on, except where a gradient is itself almost zero: there it takes a step of either
sign. So most weights must agree to a thousandth of their way, and a few may not."""

SHARE_OF_EXCEPTIONS = 0.01


def run_train(folder, n_processes, batch_size, start=None):
    """Train; `start`: from these weights, with a frozen encoder."""
    frozen = {} if start is None else {"pretrained": str(start), "optimiser": {"freeze": "encoder"}}
    recipe = {
        **RECIPE,
        "networks": [{**SEGRESNET, "dropout": 0.0, **frozen}],
        "fit": {**RECIPE["fit"], "epochs": 2, "steps_per_epoch": 2, "batch_size": batch_size, "keep_best": 2},
    }
    path = folder / f"recipe{n_processes}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    out = folder / f"run{n_processes}"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n_processes)]
    words = ["-m", "tomopoint", "train", "--data", str(folder / "data"), "--recipe", str(path), "--out", str(out)]
    command = [sys.executable, *(launcher if n_processes > 1 else []), *words, "--folds", "0", "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--curves", "none"], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return load_file(out / "fold0" / "segresnet" / "weights.safetensors")


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(tmp_path):
    write_project(tmp_path / "data")
    one, two = run_train(tmp_path, 1, 2), run_train(tmp_path, 2, 1)
    differences = torch.cat([(one[name] - two[name]).abs().flatten() for name in one])
    assert float((differences > EQUAL).float().mean()) < SHARE_OF_EXCEPTIONS


@pytest.mark.slow
def test_two_processes_leave_what_is_frozen(tmp_path):
    write_project(tmp_path / "data")
    torch.manual_seed(0)
    config = build(NetworkConfig, {**SEGRESNET, "dropout": 0.0})
    save_file(build_network(config, 2, 2).state_dict(), tmp_path / "start.safetensors")
    start = load_file(tmp_path / "start.safetensors")
    two = run_train(tmp_path, 2, 1, tmp_path / "start.safetensors")
    same = {name for name in start if torch.equal(start[name], two[name])}
    assert same == {name for name in start if name.startswith(("backbone.convInit.", "backbone.down_layers."))}
