"""Progress: what a log gets of it, how often, and what a terminal shows."""

from __future__ import annotations

import logging
import os
import pty
import subprocess
import sys
import termios
from itertools import pairwise

import pytest

from tomopoint import progress
from tomopoint.progress import PAUSE_SHARE, SHORTEST_PAUSE_SECONDS, Progress, spoken, track


@pytest.fixture
def clock(monkeypatch):
    """Time that goes only as the test says."""

    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO)
    return lambda: [record.getMessage() for record in caplog.records]


def test_the_time_left_is_what_the_rest_takes_at_the_rate_so_far(clock, said):
    with Progress("predict", 3) as shown:
        shown.show(0, "0 of 3 runs")
        clock.now += 60
        shown.show(0.5, "0 of 3 runs, TS_1 window 2 of 4")
        clock.now += 60
        shown.show(2, "2 of 3 runs")
        clock.now += 15
        shown.show(3, "3 of 3 runs")
    assert said() == [
        "predict: 0 of 3 runs, TS_1 window 2 of 4, 60 s, about 5 min left",
        "predict: 2 of 3 runs, 2 min, about 60 s left",
        "predict: 3 of 3 runs, 2 min",
    ]


def test_what_was_done_before_the_first_call_took_no_time(clock, said):
    with Progress("predict", 10) as shown:
        shown.show(8, "8 of 10")
        clock.now += 50
        shown.show(9, "9 of 10")
    assert said() == ["predict: 9 of 10, 50 s, about 50 s left"]


def test_a_log_gets_a_line_at_most_every_half_minute_and_fewer_the_longer_it_takes(clock, said):
    """A step every second for twelve hours."""
    n = 12 * 3600
    with Progress("predict", n) as shown:
        shown.show(0, "0")
        for step in range(1, n + 1):
            clock.now += 1
            shown.show(step, str(step))
    steps = [int(text.split()[1].rstrip(",")) for text in said()]
    assert steps[0] == 1
    assert steps[-1] == n
    pauses = [after - before for before, after in pairwise(steps[:-1])]
    assert min(pauses) == SHORTEST_PAUSE_SECONDS
    assert max(pauses) == pytest.approx(PAUSE_SHARE * n, rel=0.05)
    assert 150 < len(steps) < 250


def test_a_loop_of_unknown_length_is_counted(clock, said):
    for _ in track(iter("abc"), "read"):
        clock.now += 40
    assert said() == ["read: 1 of ?, 40 s", "read: 2 of ?, 80 s", "read: 3 of ?, 2 min"]


def test_a_loop_of_a_moment_gets_one_line(clock, said):
    for _ in track("abc", "read"):
        clock.now += 0.1
    assert said() == ["read: 3 of 3, 0 s"]


def test_nothing_to_do_is_nothing_to_say(said):
    assert list(track([], "read")) == []
    assert said() == []


TERMINAL = """
import logging, os, sys
logging.basicConfig(level=logging.INFO)
from tomopoint.progress import Progress
with Progress("predict", 4) as shown:
    shown.show(0, "0 of 4 runs")
    logging.getLogger("tomopoint").warning("TS_1 failed")
    shown.show(2.5, "2 of 4 runs, TS_3 window 5 of 9")
    shown._bar.refresh()
"""


def test_a_terminal_shows_a_bar_below_what_is_logged():
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 120))
    done = subprocess.Popen([sys.executable, "-c", TERMINAL], stderr=theirs)
    os.close(theirs)
    written = b""
    try:
        while piece := os.read(ours, 65536):
            written += piece
    except OSError:  # how Linux tells the end of a terminal
        pass
    os.close(ours)
    assert done.wait() == 0
    lines = written.decode().replace("\r", "\n").splitlines()
    assert "WARNING:tomopoint:TS_1 failed" in lines  # alone on its line
    assert any(line.startswith("predict:  62%|") and "2 of 4 runs, TS_3 window 5 of 9, about" in line for line in lines)


@pytest.mark.parametrize(
    ("seconds", "text"), [(7.4, "7 s"), (150, "2 min"), (5900, "98 min"), (11520, "3.2 h"), (111600, "31 h")]
)
def test_lengths_of_time_are_said_as_one_says_them(seconds, text):
    assert spoken(seconds) == text
