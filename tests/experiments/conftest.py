"""Fixtures of the tests of experiments: a project on which forty steps learn something, and its recipe."""

import os
import signal
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from training_data import PARTICLES, write_project

NETWORK = {
    **{"name": "segresnet", "init_filters": 4, "blocks_down": [1, 1, 1], "norm_groups": 2},
    **{"class_width": 4, "offset_width": 4, "dropout": 0.0},
}
RECIPE = {
    "networks": [NETWORK],
    "folds": "kfold-3",
    "particles": [vars(particle) for particle in PARTICLES],
    "crops": {"size_zyx": [16, 16, 16]},
    "augmentation": {"resample_probability": 0.0},
    "optimiser": {"learning_rate": 0.03, "warmup_steps": 5},
    "fit": {
        **{"epochs": 8, "steps_per_epoch": 10, "batch_size": 2, "precision": "fp32", "ema_decay": 0.9},
        **{"keep_best": 2, "validation_crops": 2, "score_every": 1},
    },
}


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return write_project(tmp_path_factory.mktemp("experiments") / "data")


@pytest.fixture
def write(tmp_path):
    """Write an experiment on top of RECIPE, and return its path."""
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(RECIPE))

    def write_experiment(**content):
        path = tmp_path / "experiment.yaml"
        path.write_text(yaml.safe_dump({"base": "tiny.yaml", **content}))
        return path

    return write_experiment


@contextmanager
def interrupted_once(member):
    """Send Ctrl-C to this process as soon as a network can be gone on with, or is finished; it must come.

    What a network goes on from is there for a moment only, on a fast machine: where it was missed, the record that is
    written after it is not.
    """
    gone = threading.Event()

    def watch():
        while not gone.is_set():
            if any((member / name).exists() for name in ("last.safetensors", "member.json")):
                os.kill(os.getpid(), signal.SIGINT)
                return
            time.sleep(0.02)

    thread = threading.Thread(target=watch)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # other tests of this process may have ignored it
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        gone.set()
        thread.join()
        signal.signal(signal.SIGINT, before)


@pytest.fixture
def interrupted():
    return interrupted_once
