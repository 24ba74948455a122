from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from view_data import write_mrcs, write_prediction, write_stores


@pytest.fixture
def mrcs(tmp_path):
    return write_mrcs(tmp_path / "mrcs")


@pytest.fixture
def stores(tmp_path):
    return write_stores(tmp_path / "stores")


@pytest.fixture
def prediction(tmp_path):
    return write_prediction(tmp_path / "prediction")
