"""The benchmarks of the host, in miniature: they run, and what they compare is equal. Their seconds mean nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SMALL = ["--shape", "60,160,128", "--window", "64,64,64"]

pytestmark = pytest.mark.slow


def result_of(name, *words):
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_both_sides_of_overhead_find_the_same_picks():
    """Windows of one size: each costs two processes, one of which loads MONAI."""
    words = ["--shape", "60,128,128", "--windows", "64,64,64", "--picks", "5", "--tomograms", "1"]
    (figures,) = result_of("overhead", *words).values()
    assert figures["picks"] > 30
    assert figures["different"] == 0


def test_decoding_is_the_loops():
    figures = result_of("decode", "--shape", "60,160,128", "--candidates", "300", "--tries", "1")
    assert figures["equal"]
    assert figures["picks"] > 300


def test_overlap_and_memory_do_all_tomograms():
    assert result_of("overlap", *SMALL, "--tomograms", "3", "--sleep", "0.01")["windows"] == 3 * 12
    assert result_of("memory", *SMALL, "--tomograms", "3")["tomograms"] == 3


def test_growth_draws_its_plot(tmp_path):
    plot = tmp_path / "new" / "growth.png"
    assert len(result_of("growth", "--shape", "60,160,128", "--tries", "1", "--plot", plot)["volumes"]) == 5
    assert plot.stat().st_size > 0
