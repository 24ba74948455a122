"""The walk of docs/lab.md on simulated files: MRC of 7.84 and 13.48 A with light protein cost no score (slow)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "lab.py"
SOURCES = {"7.84, inverted": "7.840", "13.48, inverted": "13.480"}


@pytest.mark.slow
def test_other_voxels_and_light_protein_cost_less_than_a_fiftieth_of_the_score(tmp_path):
    """Twelve runs, so that a wrong pick more or less is little: about a hundred and fifty particles."""
    done = subprocess.run([sys.executable, BENCHMARK, "--out", tmp_path], check=True, capture_output=True, text=True)
    told = json.loads(done.stdout.splitlines()[-1])
    as_it_stands = told["by_voxels"]["10.01"]
    assert as_it_stands["score"] > 0.8
    assert as_it_stands["read"] == []
    for name, voxels in SOURCES.items():
        assert abs(told["differences"][name]) <= 0.02
        assert told["by_voxels"][name]["read"] == [
            f"MRC, float32, voxels of {voxels} A, resampled to 10.012 A, protein is light, inverted"
        ]
