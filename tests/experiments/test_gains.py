"""Gains over the base: paired over seeds, with the interval of Student's t."""

import math

import pytest

from tomopoint.experiments.gains import compare_seeds, compare_variants
from tomopoint.experiments.training import Result

BASE = {0: 0.5, 1: 0.6, 2: 0.7}
T_2 = 4.302653
"""Of 2 degrees of freedom, two-sided 95 %, from the tables; and 97.5 %, as two variants have it."""
T_2_OF_TWO = 6.205347


def test_the_interval_is_that_of_the_paired_gains():
    item = compare_seeds(BASE, {0: 0.6, 1: 0.8, 2: 1.0}, 1)
    assert item.gains == pytest.approx((0.1, 0.2, 0.3))
    assert (item.mean, item.gain, item.gain_spread) == pytest.approx((0.8, 0.2, 0.1))
    assert (item.low, item.high) == pytest.approx((0.2 - T_2 * 0.1 / math.sqrt(3), 0.2 + T_2 * 0.1 / math.sqrt(3)))
    assert item.verdict == "within chance"
    wider = compare_seeds(BASE, {0: 0.6, 1: 0.8, 2: 1.0}, 2)
    assert wider.high - wider.gain == pytest.approx(T_2_OF_TWO * 0.1 / math.sqrt(3))


@pytest.mark.parametrize(
    ("variant", "verdict"),
    [
        ({0: 0.60, 1: 0.71, 2: 0.80}, "better, beyond chance"),  # seeds differ by 0.1, their gains by 0.006
        ({0: 0.40, 1: 0.49, 2: 0.60}, "worse, beyond chance"),
        ({0: 0.50, 1: 0.60, 2: 0.70}, "within chance"),
        ({0: 0.60, 1: 0.71}, "too few seeds to say"),
        ({1: 0.71, 2: 0.80, 3: 0.99}, "too few seeds to say"),  # one of them the base lacks
        ({}, "too few seeds to say"),
    ],
)
def test_verdicts(variant, verdict):
    assert compare_seeds(BASE, variant, 1).verdict == verdict


def test_more_variants_take_more_evidence():
    variant = {0: 0.60, 1: 0.75, 2: 0.85}  # mean gain 0.133, interval 0.133 +- 0.072 of one
    assert compare_seeds(BASE, variant, 1).verdict == "better, beyond chance"
    assert compare_seeds(BASE, variant, 10).verdict == "within chance"


def test_seeds_are_paired_by_number_and_particles_kept_apart():
    def result(score, small):
        return Result(score, {"small": small}, True, True, 40, 1.0, ("fold0/segresnet",))

    results = {"base": {0: result(0.5, 0.1), 1: result(0.6, 0.2)}, "fast": {1: result(0.9, 0.25)}}
    found = compare_variants(results, "base", ["small"])
    assert found["fast"]["score"].gains == pytest.approx((0.3,))
    assert found["fast"]["small"].gains == pytest.approx((0.05,))
    assert found["base"]["score"].gains == ()
    assert found["base"]["score"].values == (0.5, 0.6)
