"""Tests on an NVIDIA GPU (`pytest -m gpu`); none has ever run on one.

What can be said without a GPU is said in the other folders. Here each test's body runs twice where it can: with the
GPU, and, so that the test itself is tested, with the CPU in its place.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest
import torch

from tomopoint.inference.engines.gpus import find_gpus

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS / "training"))


def pytest_collection_modifyitems(items):
    """Skip what is marked `gpu` where there is none, so that `-m gpu` passes everywhere and says what it left out."""
    if torch.cuda.is_available() and find_gpus():
        return
    why = pytest.mark.skip(reason="no NVIDIA GPU that torch and the driver agree on")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(why)


@pytest.fixture
def needs_provider():
    """Skip where ONNX Runtime was built without a provider; one that is there and does not load is a failure."""

    def check(name):
        if name not in onnxruntime.get_available_providers():
            pytest.skip(f"the onnxruntime {onnxruntime.__version__} here is a build without {name}: make setup GPU=1")

    return check


@pytest.fixture(scope="session")
def blobs():
    """Return tests/inference/conftest.py: a graph that finds dark blobs, and volumes with blobs at known places."""
    spec = importlib.util.spec_from_file_location("blobs", TESTS / "inference" / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["blobs"] = module  # dataclasses look for their module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tomopoint():
    """Run a command of tomopoint in a process of its own; fail with what it said."""

    def run(*words, launcher=()):
        command = [sys.executable, *launcher, "-m", "tomopoint", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    return run
