"""`make setup`: which runtime it installs where. Real make and shell; a Python that only notes what pip is asked."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tomopoint.inference.engines.gpus import find_gpus

CHECKOUT = Path(__file__).parents[1]

PYTHON = """#!/bin/sh
case "$1 $2 $3" in
"-m pip show") grep -qx "$5" "{folder}/installed" ;;
"-m pip "*) echo "$3 $*" | sed 's/ -m pip [a-z]*//; s/ --[a-z-]*//g' >> "{folder}/asked" ;;
*) PYTHONPATH="{folder}/modules" exec {python} "$@" ;;
esac
"""


@pytest.fixture
def setup(tmp_path):
    """Run `make setup` with some words; return what pip was asked since the last time."""
    for name in ("Makefile", "pyproject.toml", "requirements.txt"):
        shutil.copy(CHECKOUT / name, tmp_path / name)
    for folder in (".venv/bin", "modules", "bin"):
        (tmp_path / folder).mkdir(parents=True)
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text(PYTHON.format(folder=tmp_path, python=sys.executable))
    python.chmod(0o755)

    def run(*words, cuda=None, installed=(), tool=False):
        (tmp_path / "modules" / "torch.py").write_text(f"class version:\n    cuda = {cuda!r}\n")
        (tmp_path / "installed").write_text("".join(f"{name}\n" for name in installed))
        (tmp_path / "asked").write_text("")
        smi = tmp_path / "bin" / "nvidia-smi"
        smi.write_text(f"#!/bin/sh\nexit {0 if tool else 1}\n")
        smi.chmod(0o755)
        environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
        for name in ("MAKEFLAGS", "MAKELEVEL", "GPU", "TORCH"):
            environment.pop(name, None)
        words = ["make", "-C", str(tmp_path), *(words or ["setup"])]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return (tmp_path / "asked").read_text().splitlines()

    return run


CPU = ["install torch==2.13.0", "install -r requirements.txt"]
needs_no_gpu = pytest.mark.skipif(bool(find_gpus()), reason="there is a GPU")


@needs_no_gpu
def test_without_a_driver_the_cpu_build_and_nothing_the_second_time(setup):
    assert setup() == CPU
    assert setup() == []
    assert setup("help") == []


@pytest.mark.parametrize(("cuda", "extra"), [("12.6", "gpu-cu12"), ("13.0", "gpu"), (None, "gpu")])
def test_beside_a_driver_the_build_for_the_cuda_of_torch(setup, cuda, extra):
    assert setup(cuda=cuda, tool=True) == [
        "install torch==2.13.0",
        f"install -e .[{extra},train,lab,cluster,cloud,search,kit,dev]",
    ]


def test_what_is_said_goes_before_what_is_found(setup):
    assert setup("setup", "GPU=0", tool=True) == CPU
    assert setup("setup", "GPU=1", cuda="13.0")[-1] == "install -e .[gpu,train,lab,cluster,cloud,search,kit,dev]"


def test_a_change_is_noticed_and_the_other_build_goes_first(setup):
    """Both builds fill one folder: removing one takes files of the other, so both go."""
    assert setup("setup", "GPU=0") == CPU
    gone = "uninstall onnxruntime onnxruntime-gpu"
    changed = setup(cuda="13.0", installed=["onnxruntime"], tool=True)
    assert changed == ["install torch==2.13.0", gone, "install -e .[gpu,train,lab,cluster,cloud,search,kit,dev]"]
    assert setup("setup", "GPU=0", installed=["onnxruntime-gpu"], tool=True) == [CPU[0], gone, CPU[1]]
    assert setup("setup", "GPU=0", installed=["onnxruntime"]) == []
    assert setup("setup", "GPU=0", "TORCH=torch==2.12.1") == ["install torch==2.12.1", CPU[1]]
    assert setup("setup", "GPU=0") == []  # the torch that was chosen stays


def test_other_targets_keep_what_was_set_up(setup):
    """A folder shared by machines with and without a GPU is not set up anew by every `make test`."""
    setup("setup", "GPU=0")
    assert setup(".venv/.ready", tool=True) == []
    assert (
        setup(".venv/.ready", "GPU=1", cuda="13.0", tool=True)[-1]
        == "install -e .[gpu,train,lab,cluster,cloud,search,kit,dev]"
    )


def test_openvino_comes_with_the_cpu_on_x86_only():
    """Beside a GPU nothing uses it, and on other processors it was never tried."""
    extras = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    requirement = Requirement(*extras["openvino"])
    assert requirement.name == "openvino"
    assert requirement.marker.evaluate({"platform_machine": "x86_64"})
    assert not requirement.marker.evaluate({"platform_machine": "aarch64"})
    asked = [line for line in (CHECKOUT / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert asked == [
        "-e .[cpu,openvino,train,lab,cluster,cloud,search,kit,dev]"
    ]  # what `make setup` installs without a GPU


def test_a_setting_that_is_neither_is_refused(setup, tmp_path):
    done = subprocess.run(
        ["make", "-C", str(tmp_path), "setup", "GPU=yes"], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "GPU must be 1 or 0, got yes" in done.stderr
