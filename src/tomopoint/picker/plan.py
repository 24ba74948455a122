"""How a picker's minutes are spent: on tomograms, on training, on judging."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from tomopoint.errors import TomopointError

SHAPE = WINDOW = "184,256,256"
"""Voxels of every simulated tomogram, and of the windows that it, and whatever the picker is for, is predicted in.

Scores, and with them thresholds, hang on the window. This one covers tomograms of 184x630x630 with the fewest voxels
computed, of those that a T4 takes ("Which window on a CPU" in docs/benchmarks.md).
"""

QUICK_SHAPE = QUICK_WINDOW = "64,96,96"
QUICK_STEPS = ("--epochs", "1", "--steps-per-epoch", "10")

SIMULATE_S, SIMULATE_OTHER_S, PREDICT_S = 4.0, 4.5, 10.0
"""Seconds of one core of a 2-core AMD EPYC for one tomogram of about as many voxels as SHAPE: made in either world,
predicted by one network (docs/benchmarks.md, the demo). What the machine at hand needs shows once it has simulated."""

START_S = 90.0
"""Of validation, export and scores whatever the number of runs: processes start, the graph is held against PyTorch."""

RUNS_PER_MINUTE = 0.7
MIN_RUNS, MAX_RUNS = 8, 48
"""Runs to train on: about a tenth of the minutes goes into making and judging them. More than the largest number adds
nothing that training on two cores has the time for, and fills the memory."""

MIN_MINUTES = 3.0
LEAST_TRAINING = 0.4
"""Share of the minutes that training gets on however slow a machine."""


@dataclass(frozen=True)
class Plan:
    """What is made and for how long is trained.

    Attributes
    ----------
    minutes
        For everything; none: a few steps.
    runs, other_runs
        Tomograms to train on, and of the other world to be judged by.
    shape, window
        Voxels, ``z,y,x``.
    cores
        Of this machine.
    """

    minutes: float | None
    runs: int
    other_runs: int
    shape: str
    window: str
    cores: int

    @property
    def side_by_side(self) -> bool:
        """Whether both folds are trained at the same time."""
        return self.cores > 1

    @property
    def simulating_s(self) -> float:
        """Seconds that making the tomograms takes on the machine that was measured, had it as many cores."""
        return (self.runs * SIMULATE_S + self.other_runs * SIMULATE_OTHER_S) / self.cores

    @property
    def judging_s(self) -> float:
        """Seconds for validation, export, and picks in the other world (where both networks predict), likewise."""
        return START_S + (self.runs + 2 * self.other_runs) * PREDICT_S / self.cores

    def training_minutes(self, simulated_s: float) -> float:
        """Return the minutes of training per network, given how long making the tomograms took.

        A machine that made them more slowly than the one that was measured will judge more slowly, too.
        """
        assert self.minutes is not None
        slowness = min(max(simulated_s / self.simulating_s, 0.5), 3.0)
        left = self.minutes - (simulated_s + slowness * self.judging_s) / 60
        training = max(left, LEAST_TRAINING * self.minutes)
        return round(training if self.side_by_side else training / 2, 2)

    def text(self) -> str:
        """Say how the minutes will be spent."""
        what = f"{self.runs} runs of {self.shape} voxels to train on, {self.other_runs} of the other world to judge by"
        if self.minutes is None:
            return f"{what}, a few training steps: shows that everything runs, not how well"
        training = self.training_minutes(self.simulating_s)
        how = "two networks side by side" if self.side_by_side else "each of two networks, one after the other"
        return (
            f"{self.minutes:g} minutes: {what}, about {self.simulating_s / 60:.0f} to make them; about {training:.0f} "
            f"of training ({how}), more or less as fast as the machine is; about {self.judging_s / 60:.0f} to judge"
        )


def make_plan(minutes: float, runs: int | None, quick: bool) -> Plan:
    """Decide how many tomograms a picker is trained on and judged by.

    Parameters
    ----------
    minutes
        For everything.
    runs
        Training runs, where the user says how many.
    quick
        A few small runs and training steps, whatever the minutes.

    Raises
    ------
    TomopointError
        Too few minutes or runs.
    """
    cores = len(os.sched_getaffinity(0))
    if runs is not None and runs < 2:
        raise TomopointError(f"--runs must be at least 2, for one trains while the other is held out; got {runs}")
    if quick:
        return Plan(None, runs or 2, 1, QUICK_SHAPE, QUICK_WINDOW, cores)
    if not MIN_MINUTES <= minutes < math.inf:
        raise TomopointError(f"--minutes must be at least {MIN_MINUTES:g}, got {minutes:g}; --quick only shows it run")
    chosen = min(max(round(RUNS_PER_MINUTE * minutes), MIN_RUNS), MAX_RUNS) if runs is None else runs
    return Plan(minutes, chosen, min(max(chosen // 4, 4), 12), SHAPE, WINDOW, cores)
