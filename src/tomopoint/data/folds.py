"""Folds: which runs a network trains on and which it is validated on. Split by run, never by crop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tomopoint.errors import DataError

SCHEMES = (
    "'pairs-K' (the first K neighbouring pairs), 'pairs' (all of them, wrapped), 'kfold-K' (K disjoint folds), "
    "'stratified-K' (the same, of about as many labels of every class), 'leave-one-out' or 'all' (no validation)"
)

STRATIFIED = "stratified"

LabelCounts = Mapping[str, Mapping[str, int]]
"""Run -> particle -> number of labels."""


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


def make_folds(
    run_names: Sequence[str], scheme: str | Sequence[Sequence[str]], counts: LabelCounts | None = None
) -> list[Fold]:
    """Split runs into folds.

    Parameters
    ----------
    run_names
        All training runs; sorted here, so that their order does not matter.
    scheme
        ``pairs``: fold i validates on runs i and i + 1 (modulo n) of the sorted list, n folds. ``pairs-K``: the first
        K of them, or all where there are fewer; ``pairs-5`` on the competition's seven runs are the winner's five
        folds of 5:2. ``kfold-K``: K disjoint validation sets, run i in fold i modulo K. ``stratified-K``: K disjoint
        validation sets of about as many labels of every class, see :func:`deal_runs`. ``leave-one-out``: one run each.
        ``all``: one fold that trains on everything. ``winner`` is what stored recipes call ``pairs``. Or the
        validation runs of each fold, spelled out.
    counts
        Labels of every run; ``stratified-K`` alone needs them, see :func:`is_stratified`.

    Raises
    ------
    DataError
        Unknown scheme, too few runs for it, or a run that does not exist.
    """
    names = sorted(run_names)
    validation = _validation_sets(names, scheme, counts) if isinstance(scheme, str) else [tuple(s) for s in scheme]
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


def is_stratified(scheme: str | Sequence[Sequence[str]]) -> bool:
    """Whether a scheme needs to know the labels of every run."""
    return isinstance(scheme, str) and scheme.partition("-")[0] == STRATIFIED


def _validation_sets(names: Sequence[str], scheme: str, counts: LabelCounts | None) -> list[tuple[str, ...]]:
    n = len(names)
    if scheme == "all":
        return [()]
    if scheme == "leave-one-out":
        return [(name,) for name in names]
    pairs: list[tuple[str, ...]] = [(names[i], names[(i + 1) % n]) for i in range(n)]
    if scheme in ("pairs", "winner"):
        return pairs
    kind, _, count = scheme.partition("-")
    least = {"pairs": 1, "kfold": 2, STRATIFIED: 2}
    if kind not in least or not count.isdigit() or int(count) < least[kind]:
        raise DataError(f"unknown fold scheme {scheme!r}; use {SCHEMES}")
    k = int(count)
    if kind == "pairs":
        return pairs[:k]
    if k > n:
        raise DataError(f"{scheme!r} needs at least {k} training runs, there are {n}; use fewer folds")
    if kind == STRATIFIED:
        if counts is None:
            raise ValueError(f"{scheme!r} needs the labels of every run")
        return deal_runs(names, k, counts)
    return [tuple(names[fold::k]) for fold in range(k)]


def deal_runs(names: Sequence[str], k: int, counts: LabelCounts) -> list[tuple[str, ...]]:
    """Deal runs to K sets of equal size, give or take one run, so that each has about its share of every class.

    Every class weighs the same, however rare it is. Runs are dealt one after the other, first those that hold most of
    the rarest class, each to the set where it leaves the shares most even; then two runs of different sets change
    places as long as that evens them further. The same is done from the sets of ``kfold-K``, and the better result
    taken: it is never less even than those. Nothing is drawn by chance.

    Parameters
    ----------
    names
        Of the runs, sorted.
    k
        Number of sets; no more than runs.
    counts
        Labels of every run; a class that is not named has none there.

    Returns
    -------
    list of tuple of str
        Names of each set, sorted; the sets in the order of their first names.
    """
    classes = sorted({particle for name in names for particle in counts[name]})
    table = np.array([[counts[name].get(particle, 0) for particle in classes] for name in names], dtype=np.float64)
    table = table.reshape(len(names), len(classes))
    table = table[:, table.sum(axis=0) > 0]
    rarest_first = np.argsort(table.sum(axis=0), kind="stable")
    shares = (table / table.sum(axis=0))[:, rarest_first]  # (runs, classes)

    dealt = np.full(len(names), -1)
    room = [len(names[fold::k]) for fold in range(k)]
    order = np.lexsort(-shares[:, ::-1].T) if shares.shape[1] else np.arange(len(names))  # its last key comes first
    for run in order:
        options = [fold for fold in range(k) if room[fold]]
        sums = _sums(shares, dealt, k)
        cost = [((sums[fold] + shares[run]) ** 2 - sums[fold] ** 2).sum() for fold in options]
        dealt[run] = options[int(np.argmin(np.round(cost, 12)))]
        room[dealt[run]] -= 1

    plain = np.arange(len(names)) % k
    evened = [_evened(shares, start, k) for start in (dealt, plain)]
    best = min(evened, key=lambda one: round(_unevenness(shares, one, k), 12))
    sets = [tuple(name for name, fold in zip(names, best, strict=True) if fold == own) for own in range(k)]
    return sorted(sets)


def _sums(shares: npt.NDArray[np.float64], dealt: npt.NDArray[np.int_], k: int) -> npt.NDArray[np.float64]:
    """Return the share of every class that each set has, ``(k, classes)``; runs not dealt yet are at -1."""
    return np.stack([shares[dealt == fold].sum(axis=0) for fold in range(k)])


def _unevenness(shares: npt.NDArray[np.float64], dealt: npt.NDArray[np.int_], k: int) -> float:
    return float(((_sums(shares, dealt, k) - 1 / k) ** 2).sum())


def _evened(shares: npt.NDArray[np.float64], start: npt.NDArray[np.int_], k: int) -> npt.NDArray[np.int_]:
    """Let the two runs change places by which the shares become most even, until there are none."""
    dealt = start.copy()
    while True:
        sums = _sums(shares, dealt, k)
        # What a change of runs i and j does to the sum of squares: d = s_j - s_i joins the set of i, leaves that of j.
        d = shares[None, :, :] - shares[:, None, :]
        own = sums[dealt]
        gain = 2 * (d * (own[:, None, :] - own[None, :, :] + d)).sum(axis=2)
        gain[dealt[:, None] == dealt[None, :]] = 0.0
        i, j = np.unravel_index(int(np.argmin(np.round(gain, 12))), gain.shape)
        if gain[i, j] > -1e-12:
            return dealt
        dealt[i], dealt[j] = dealt[j], dealt[i]


def parse_fold_selection(text: str, folds: Mapping[str, Fold]) -> list[str]:
    """Turn ``"0,1"`` or ``"fold0,fold1"`` into fold names; DataError names the folds that exist."""
    names = [part if part.startswith("fold") else f"fold{part}" for part in text.replace(" ", "").split(",") if part]
    unknown = [name for name in names if name not in folds]
    if unknown or not names:
        raise DataError(f"--folds {text!r} does not fit: this recipe has {', '.join(folds)}")
    return list(dict.fromkeys(names))
