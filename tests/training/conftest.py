"""Fixtures of the training tests."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _one_thread():
    """Several threads on tiny tensors only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _no_clock(monkeypatch):
    """How a network is computed must not depend on how busy the machine is: every way takes as long."""
    from tomopoint.training.on_cpu import choice

    monkeypatch.setattr(choice, "time_steps", lambda *given: dict.fromkeys(given[-1], 1.0))
    choice.fastest_way.cache_clear()
