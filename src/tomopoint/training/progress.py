"""What a person sees of a training: a bar on a terminal or a line per epoch, and how long the rest will take."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import tqdm

from tomopoint.progress import spoken
from tomopoint.training.forecast import Forecast

logger = logging.getLogger(__name__)

TIMED_STEPS = (5, 20)
"""The first forecast of a network is made from the time between these steps; the ones before start things up."""
FORECAST_AFTER = (1, 3)
"""Epochs after which a member's forecast is said again, and after its first that was scored."""


class TrainingProgress:
    """Progress of one member.

    Parameters
    ----------
    label
        Of the member, e.g. ``fold0/segresnet``.
    n_epochs
        Epochs that it is trained for, unless it stops early.
    shown
        Whether this process is the one that speaks.
    forecast
        Of all members; None: nothing is said about the time left.
    """

    def __init__(self, label: str, n_epochs: int, shown: bool, forecast: Forecast | None) -> None:
        self.label = label
        self.n_epochs = n_epochs
        self.shown = shown
        self.forecast = forecast
        self._steps = 0
        self._timed_from = 0.0
        self._bar: Any = None
        if shown and sys.stderr.isatty():
            layout = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
            self._bar = tqdm(total=1.0, desc=label, bar_format=layout, dynamic_ncols=True)

    def after_step(self, step: int, share: float, loss: float) -> None:
        """Move the bar to the `share` of the member that is done; time the first steps of a network."""
        if self._bar is not None:
            self._bar.n = share
            self._bar.set_postfix(step=step, loss=f"{loss:.3f}")
        self._steps += 1
        if self.forecast is None or self.forecast.knows(self.label):
            return
        start, end = TIMED_STEPS
        if self._steps == start:
            self._timed_from = time.monotonic()
        elif self._steps == end:  # an epoch may take an hour: the first forecast is made from bare steps
            seconds_per_step = (time.monotonic() - self._timed_from) / (end - start)
            self._say(self.forecast.after_steps(self.label, seconds_per_step).text)

    def after_epoch(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Say how the last epoch went; `rows` are those of ``metrics.csv`` so far."""
        row = rows[-1]
        n = int(row["epoch"]) + 1
        text = f"epoch {n} of {self.n_epochs}, step {int(row['step'])}: loss {row['train_loss']:.3f}"
        if "validation_loss" in row:
            text += f", validation {row['validation_loss']:.3f}"
        if "score" in row:
            text += f", score {row['score']:.3f}"
        left = None if self.forecast is None else self.forecast.after_epoch(self.label, rows)
        if n == self.n_epochs:
            left = None
        if self._bar is None:  # which says both itself
            text += f", {spoken(row['seconds'])}" + ("" if left is None else f", {left.member}")
        self._say(text)
        first_score = "score" in row and sum("score" in earlier for earlier in rows) == 1
        if left is not None and (n in FORECAST_AFTER or first_score):
            self._say(left.text)

    def _say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.write(f"{self.label} {text}", file=sys.stderr)
        elif self.shown:
            logger.info("%s %s", self.label, text)

    def close(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
