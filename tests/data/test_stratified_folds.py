"""Stratified folds: every run held out once, and every class about as often in each fold."""

import numpy as np
import pytest

from tomopoint.data.folds import make_folds
from tomopoint.errors import DataError


def _skewed(seed, n_runs=13, n_classes=4, spread=1.2):
    """Runs of very different richness, and classes of which each is frequent in some runs."""
    rng = np.random.default_rng(seed)
    means = rng.lognormal(0, spread, (n_runs, 1)) * rng.lognormal(1.5, 1.0, (1, n_classes))
    table = rng.poisson(means)
    return {f"R{run:02d}": {f"p{c}": int(table[run, c]) for c in range(n_classes)} for run in range(n_runs)}


def _share_spread(folds, counts):
    """Sum over classes and folds of the squared distance of a fold's share of the labels from an even share."""
    classes = sorted({name for own in counts.values() for name in own})
    total = 0.0
    for name in classes:
        sums = np.array([sum(counts[run].get(name, 0) for run in fold.validation_runs) for fold in folds], float)
        if sums.sum():
            total += float(((sums / sums.sum() - 1 / len(folds)) ** 2).sum())
    return total


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("k", [2, 3, 5])
def test_every_run_is_held_out_once_and_no_class_arrangement_is_worse_than_kfold(seed, k):
    counts = _skewed(seed)
    folds = make_folds(list(counts), f"stratified-{k}", counts)
    held_out = sorted(run for fold in folds for run in fold.validation_runs)
    assert held_out == sorted(counts)
    assert [fold.name for fold in folds] == [f"fold{i}" for i in range(k)]
    assert all(sorted(fold.runs) == sorted(counts) for fold in folds)
    sizes = [len(fold.validation_runs) for fold in folds]
    assert max(sizes) - min(sizes) <= 1
    assert _share_spread(folds, counts) <= _share_spread(make_folds(list(counts), f"kfold-{k}"), counts)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_skewed_classes_are_many_times_more_even_than_in_kfold(k):
    """Mean over twelve projects in which no single run outweighs a fold."""
    spreads = []
    for seed in range(12):
        counts = _skewed(seed, n_runs=20, spread=0.6)
        schemes = (f"stratified-{k}", f"kfold-{k}")
        spreads.append([_share_spread(make_folds(list(counts), scheme, counts), counts) for scheme in schemes])
    stratified, kfold = np.mean(spreads, axis=0)
    assert kfold > 0.05
    assert stratified < 0.2 * kfold


def test_a_rare_class_is_in_every_fold():
    counts = {f"R{i}": {"common": 50, "rare": 2 if i in (0, 3, 6) else 0} for i in range(9)}
    kfold = [sum(counts[r]["rare"] for r in fold.validation_runs) for fold in make_folds(list(counts), "kfold-3")]
    assert kfold == [6, 0, 0]
    dealt = make_folds(list(counts), "stratified-3", counts)
    assert [sum(counts[r]["rare"] for r in fold.validation_runs) for fold in dealt] == [2, 2, 2]


def test_the_best_of_all_dealings_is_found_where_it_can_be_looked_up():
    counts = {"A": {"p": 8}, "B": {"p": 7}, "C": {"p": 5}, "D": {"p": 4}}
    folds = make_folds(list(counts), "stratified-2", counts)
    assert [fold.validation_runs for fold in folds] == [("A", "D"), ("B", "C")]


def test_neither_the_order_of_the_runs_nor_chance_matters():
    counts = _skewed(5)
    first = make_folds(list(counts), "stratified-4", counts)
    assert make_folds(list(counts)[::-1], "stratified-4", dict(reversed(counts.items()))) == first


def test_runs_without_any_label_are_dealt_evenly():
    counts = {name: {} for name in "ABCDE"}
    assert sorted(len(fold.validation_runs) for fold in make_folds("ABCDE", "stratified-2", counts)) == [2, 3]


@pytest.mark.parametrize("scheme", ["stratified", "stratified-1", "stratified-x", "stratified-9"])
def test_a_number_of_sets_that_does_not_fit_is_refused(scheme):
    counts = {name: {"p": 1} for name in "ABC"}
    with pytest.raises(DataError, match="stratified"):
        make_folds("ABC", scheme, counts)
