"""How even the folds of a recipe are, and whether others would be more so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tomopoint.data.folds import STRATIFIED, Fold, LabelCounts, make_folds

WORTH_SAYING = 0.5
"""Unevenness of a class from which on other folds are proposed, where theirs is less than half of it."""


@dataclass(frozen=True)
class FoldBalance:
    """Labels of one fold.

    Attributes
    ----------
    fold
        The fold.
    held_out, trained_on
        Labels by particle.
    """

    fold: Fold
    held_out: Mapping[str, int]
    trained_on: Mapping[str, int]


def balance_of(folds: Sequence[Fold], counts: LabelCounts, names: Sequence[str]) -> tuple[FoldBalance, ...]:
    """Return how many labels of each particle every fold holds out and trains on."""

    def total(runs: Sequence[str]) -> dict[str, int]:
        return {name: sum(counts[run].get(name, 0) for run in runs) for name in names}

    return tuple(FoldBalance(fold, total(fold.validation_runs), total(fold.training_runs)) for fold in folds)


def unevenness(balance: Sequence[FoldBalance]) -> dict[str, float]:
    """Return, by particle, how far from even its held-out labels are.

    0: every fold holds out as many; 1: some fold holds out twice the mean, or none. Particles without labels are not
    in it.
    """
    uneven = {}
    for name in balance[0].held_out:
        held_out = [one.held_out[name] for one in balance]
        mean = sum(held_out) / len(held_out)
        if mean:
            uneven[name] = max(abs(count / mean - 1) for count in held_out)
    return uneven


def better_folds(balance: Sequence[FoldBalance], counts: LabelCounts, names: Sequence[str]) -> str | None:
    """Say which folds would be much more even; None where these will do."""
    n_folds = len(balance)
    uneven = unevenness(balance)
    if n_folds < 2 or not uneven or max(uneven.values()) < WORTH_SAYING or n_folds > len(counts):
        return None
    scheme = f"{STRATIFIED}-{n_folds}"
    other = unevenness(balance_of(make_folds(list(counts), scheme, counts), counts, names))
    worst = max(uneven, key=lambda name: uneven[name])
    if max(other.values()) > uneven[worst] / 2:
        return None
    return (
        f"held-out labels of {worst} are up to {uneven[worst]:.0%} from even; with `folds: {scheme}` no particle's are "
        f"more than {max(other.values()):.0%}"
    )
