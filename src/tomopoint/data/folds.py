"""Folds: which runs a network trains on and which it is validated on. Split by run, never by crop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tomopoint.errors import DataError

SCHEMES = (
    "'pairs-K' (the first K neighbouring pairs), 'pairs' (all of them, wrapped), 'kfold-K' (K disjoint folds), "
    "'leave-one-out' or 'all' (no validation)"
)


@dataclass(frozen=True)
class Fold:
    """One split of the training runs.

    Attributes
    ----------
    name
        ``"fold0"``, ``"fold1"`` ...
    training_runs, validation_runs
        Names of runs; disjoint. A fold that holds nothing out is legal (that of the scheme ``all``, or one spelled out
        as empty): its networks see every run, and no run can score them.
    """

    name: str
    training_runs: tuple[str, ...]
    validation_runs: tuple[str, ...]

    @property
    def runs(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.training_runs, *self.validation_runs)


def make_folds(run_names: Sequence[str], scheme: str | Sequence[Sequence[str]]) -> list[Fold]:
    """Split runs into folds.

    Parameters
    ----------
    run_names
        All training runs; sorted here, so that their order does not matter.
    scheme
        ``pairs``: fold i validates on runs i and i + 1 (modulo n) of the sorted list, n folds. ``pairs-K``: the first
        K of them, or all where there are fewer; ``pairs-5`` on the competition's seven runs are the winner's five
        folds of 5:2. ``kfold-K``: K disjoint validation sets, run i in fold i modulo K. ``leave-one-out``: one run
        each. ``all``: one fold that trains on everything. ``winner`` is what stored recipes call ``pairs``. Or the
        validation runs of each fold, spelled out.

    Raises
    ------
    DataError
        Unknown scheme, too few runs for it, or a run that does not exist.
    """
    names = sorted(run_names)
    validation = _validation_sets(names, scheme) if isinstance(scheme, str) else [tuple(s) for s in scheme]
    for runs in validation:
        unknown = sorted(set(runs) - set(names))
        if unknown:
            raise DataError(
                f"folds name the runs {', '.join(unknown)}, which do not exist; there are {', '.join(names)}"
            )
    folds = [
        Fold(f"fold{index}", tuple(n for n in names if n not in runs), tuple(runs))
        for index, runs in enumerate(validation)
    ]
    for fold in folds:
        if not fold.training_runs:
            raise DataError(
                f"{fold.name} has no training runs left: {len(names)} runs are too few for the folds {scheme!r}; "
                "add runs, or set `folds` of the recipe to fewer"
            )
    return folds


def _validation_sets(names: Sequence[str], scheme: str) -> list[tuple[str, ...]]:
    n = len(names)
    if scheme == "all":
        return [()]
    if scheme == "leave-one-out":
        return [(name,) for name in names]
    pairs: list[tuple[str, ...]] = [(names[i], names[(i + 1) % n]) for i in range(n)]
    if scheme in ("pairs", "winner"):
        return pairs
    kind, _, count = scheme.partition("-")
    least = {"pairs": 1, "kfold": 2}
    if kind not in least or not count.isdigit() or int(count) < least[kind]:
        raise DataError(f"unknown fold scheme {scheme!r}; use {SCHEMES}")
    k = int(count)
    if kind == "pairs":
        return pairs[:k]
    if k > n:
        raise DataError(f"{scheme!r} needs at least {k} training runs, there are {n}; use fewer folds")
    return [tuple(names[fold::k]) for fold in range(k)]


def parse_fold_selection(text: str, folds: Mapping[str, Fold]) -> list[str]:
    """Turn ``"0,1"`` or ``"fold0,fold1"`` into fold names; DataError names the folds that exist."""
    names = [part if part.startswith("fold") else f"fold{part}" for part in text.replace(" ", "").split(",") if part]
    unknown = [name for name in names if name not in folds]
    if unknown or not names:
        raise DataError(f"--folds {text!r} does not fit: this recipe has {', '.join(folds)}")
    return list(dict.fromkeys(names))
