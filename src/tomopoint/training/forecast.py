"""How long a training takes: how much there is to do at once, and in hours as soon as a step was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tomopoint.progress import spoken
from tomopoint.training.recipe import Recipe


@dataclass(frozen=True)
class Workload:
    """What one member has to do.

    Attributes
    ----------
    label, title
        Of the member (``fold0/segresnet``) and of its network: members of one title take equally long.
    epochs, steps_per_epoch, batch_size
        Of its fit.
    crops_per_step
        Crops per optimiser step and process: what a step costs is taken to be proportional to it.
    score_every
        Every so many epochs the held-out runs are scored; 0: never.
    patience
        Whether the member may stop early.
    limit_s
        Time limit, seconds; 0: none.
    """

    label: str
    title: str
    epochs: int
    steps_per_epoch: int
    batch_size: int
    crops_per_step: int
    score_every: int = 0
    patience: bool = False
    limit_s: float = 0.0

    @classmethod
    def of(cls, recipe: Recipe, label: str, title: str) -> Workload:
        """Read it off the recipe of one network (:meth:`Recipe.for_network`)."""
        fit = recipe.fit
        crops = fit.batch_size * recipe.optimiser.accumulate
        length = (fit.epochs, fit.steps_per_epoch, fit.batch_size, crops)
        return cls(label, title, *length, fit.score_every, fit.patience > 0, fit.max_minutes * 60)

    @property
    def steps(self) -> int:
        """Optimiser steps of the member."""
        return self.epochs * self.steps_per_epoch

    def limited(self, seconds: float) -> float:
        """Return `seconds`, or the time limit where that is less."""
        return min(seconds, self.limit_s) if self.limit_s else seconds


class TimeLeft(NamedTuple):
    """What is said of the time left: of one member in short, and all that is known."""

    member: str
    text: str


class Forecast:
    """What is still to do, in seconds, from what was measured so far.

    Parameters
    ----------
    members
        All members that are trained, finished ones too, in their order.
    finished
        Labels of those that need nothing more.
    """

    def __init__(self, members: Sequence[Workload], finished: Sequence[str] = ()) -> None:
        self.members = {member.label: member for member in members}
        self.open = [member.label for member in members if member.label not in finished]
        self._seconds_per_crop: dict[str, float] = {}

    def announcement(self) -> str:
        """Say how much there is to do, before anything was measured."""
        waiting = [self.members[label] for label in self.open]
        by_title = {member.title: member for member in waiting}
        kinds = [
            f"{sum(m.title == title for m in waiting)} x {title} ({member.epochs} epochs of {member.steps_per_epoch} "
            f"steps of {member.batch_size} crops)"
            for title, member in by_title.items()
        ]
        text = f"{len(waiting)} of {len(self.members)} networks to train: {', '.join(kinds)}; "
        if waiting and all(member.limit_s for member in waiting):
            return text + f"at most {spoken(sum(member.limit_s for member in waiting))} in all"
        steps = sum(member.steps for member in waiting)
        return text + f"{steps} steps in all. How many hours that takes is said once the first steps are measured"

    def knows(self, label: str) -> bool:
        """Whether a network of this member's title was measured already."""
        return self.members[label].title in self._seconds_per_crop

    def after_steps(self, label: str, seconds_per_step: float) -> TimeLeft:
        """Take in a first measurement of bare steps, and say what it comes to."""
        member = self.members[label]
        self._seconds_per_crop[member.title] = seconds_per_step / member.crops_per_step
        return self._text(label, seconds_per_step * member.steps, "per step")

    def after_epoch(self, label: str, rows: Sequence[Mapping[str, float]]) -> TimeLeft:
        """Take in all epochs of a member so far (rows of its metrics), and say what they come to."""
        member = self.members[label]
        ends = [row["seconds"] for row in rows]
        lengths = [end - start for start, end in zip([0.0, *ends], ends, strict=False)]
        scored = [s for s, row in zip(lengths, rows, strict=True) if "score" in row]
        # The first epoch holds the start of the loader and the choice of convolutions: left out where there are others.
        plain = [s for s, row in list(zip(lengths, rows, strict=True))[1:] if "score" not in row] or lengths[:1]
        per_epoch, n = sum(plain) / len(plain), member.epochs
        n_scored = n // member.score_every if member.score_every else 0
        per_scored = sum(scored) / len(scored) if scored else per_epoch
        total = (n - n_scored) * per_epoch + n_scored * per_scored
        self._seconds_per_crop[member.title] = total / (member.steps * member.crops_per_step)
        return self._text(label, member.limited(total) - ends[-1], "per step with validation")

    def done(self, label: str) -> None:
        """Take a member off the list, trained or failed."""
        self.open.remove(label)

    def _text(self, label: str, seconds: float, per: str) -> TimeLeft:
        member, place = self.members[label], list(self.members).index(label) + 1
        seconds = max(0.0, member.limited(seconds))
        rest = [self.members[other] for other in self.open if other != label]
        total = seconds + sum(self._expected(other) for other in rest)
        step_s = self._seconds_per_crop[member.title] * member.crops_per_step
        early = "at most " if member.patience else "about "
        return TimeLeft(
            f"{early}{spoken(seconds)} left",
            f"is member {place} of {len(self.members)}, {step_s:.3g} s {per}: {early}{spoken(seconds)} more for this "
            f"one, {spoken(total)} for all that is left",
        )

    def _expected(self, member: Workload) -> float:
        """Return the seconds of a member not begun; a title never measured costs per crop what the others do."""
        known = self._seconds_per_crop
        per_crop = known.get(member.title, sum(known.values()) / len(known))
        return member.limited(per_crop * member.steps * member.crops_per_step)
