"""What a prediction is at, told from its folder: from another terminal, read only, while it runs or after it died."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tomopoint.errors import DataError
from tomopoint.inference.events import LAST_MOMENT, Event, last_call, read_events
from tomopoint.inference.folder import SUBMISSION_NAME, PredictionFolder
from tomopoint.locks import LOCK, is_held, look

RECENT_RUNS = 20
"""The rate at present is that of so many runs, the last that were done."""

MAX_WARNINGS = 5

MAX_LISTED = 10
"""So many runs that are in work, and that failed, are named in the text; the figures name all."""

WARNINGS = ("warning", "engine_failed", "engine_broke", "died", "broke_down")
"""Events that tell of trouble which is not a run's."""


@dataclass(frozen=True)
class Status:
    """Where a prediction stands; times in seconds since 1970, rates in runs per hour.

    Attributes
    ----------
    folder
        Where it is.
    now
        When this was told.
    is_held
        Whether a process works in the folder; None where its file system does not tell.
    holder
        Which one, since when; empty where none does.
    started, joined
        When it was last started, and when that call wrote its submission; None: not yet.
    n_runs, n_done
        Runs that were asked for, and those of them whose part is there, of earlier calls, too.
    in_work
        The ``begun`` event of each run that was begun and has no end so far.
    windows
        The last ``windows`` event of each of them that told of its windows: runs that take half a minute or longer.
    failed
        Run -> why it failed. A run is tried once more at the end; while it is, it is in work.
    left
        Runs that are not done, not in work, and have not failed.
    recent_rate, overall_rate
        Of the last `RECENT_RUNS` runs, and since the start; None before there are enough.
    last_done
        When the last run was done in this call.
    limit_s
        Seconds that were given from the start on.
    warnings
        The last `MAX_WARNINGS` of this call.
    has_submission
        Whether ``submission.csv`` is there, of this call or an earlier one.
    """

    folder: Path
    now: float
    is_held: bool | None
    holder: str
    started: float
    joined: float | None
    n_runs: int
    n_done: int
    in_work: tuple[Event, ...]
    windows: dict[str, Event]
    failed: dict[str, str]
    left: tuple[str, ...]
    recent_rate: float | None
    overall_rate: float | None
    last_done: float | None
    limit_s: float | None
    warnings: tuple[Event, ...]
    has_submission: bool

    @property
    def expected_end(self) -> float | None:
        """When the last run will be done at the present rate; None where nobody works or no rate is known."""
        rate = self.recent_rate or self.overall_rate
        n_open = len(self.in_work) + len(self.left)
        if self.is_held is False or self.joined or not n_open or not rate or self.last_done is None:
            return None
        return max(self.now, self.last_done + n_open / rate * 3600)

    @property
    def limit_end(self) -> float | None:
        """When the time is up."""
        return None if self.limit_s is None else self.started + self.limit_s

    @property
    def n_too_late(self) -> int:
        """How many runs would end after the limit at the present rate."""
        rate = self.recent_rate or self.overall_rate
        if self.expected_end is None or self.limit_end is None or rate is None:
            return 0
        late = (self.expected_end - self.limit_end) * rate / 3600
        return min(len(self.in_work) + len(self.left), max(0, round(late)))

    def figures(self) -> dict[str, Any]:
        """Return the figures as plain JSON values."""
        end = self.expected_end
        return {
            "folder": str(self.folder),
            "is_held": self.is_held,
            "holder": self.holder,
            "started": self.started,
            "joined": self.joined,
            "n_runs": self.n_runs,
            "n_done": self.n_done,
            "running": [
                {"run": e.run, "worker": e.worker, "since": e.time}
                | ({"host": e.host} if e.host else {})
                | self._windows_of(e.run)
                for e in self.in_work
            ],
            "failed": self.failed,
            "left": list(self.left),
            "runs_per_hour_recent": self.recent_rate,
            "runs_per_hour": self.overall_rate,
            "last_done": self.last_done,
            "expected_end": end,
            "hours_left": None if end is None else round((end - self.now) / 3600, 3),
            "limit_s": self.limit_s,
            "n_too_late": self.n_too_late,
            "warnings": [event.message for event in self.warnings],
            "has_submission": self.has_submission,
        }

    def text(self) -> str:
        """Return the same for people."""
        lines = [f"{self.folder}: {self._state()}"]
        done = f"{self.n_done} of {self.n_runs}"
        if self.overall_rate:
            late = f"{self.recent_rate:.1f} of late, " if self.recent_rate else ""
            done += f"; runs per hour: {late}{self.overall_rate:.1f} since the start"
        if self.last_done is not None:
            done += f"; the last at {_at(self.last_done)}, {_lasted(self.now - self.last_done)} ago"
        lines.append(f"  done     {done}")
        if self.in_work:
            label = "stopped" if self.is_held is False else "running"
            runs = [
                f"{e.run} (worker {e.worker}{f' on {e.host}' if e.host else ''}, since {_at(e.time)}"
                f"{self._window_text(e.run)})"
                for e in self.in_work[:MAX_LISTED]
            ]
            if more := len(self.in_work) - len(runs):
                runs.append(f"and {more} more")
            lines.append(f"  {label}  {', '.join(runs)}")
        if self.failed:
            lines.append(f"  failed   {len(self.failed)}")
            listed = list(self.failed.items())[:MAX_LISTED]
            lines += [f"             {run}: {message}" for run, message in listed]
            if more := len(self.failed) - len(listed):
                lines.append(f"             and {more} more")
        lines.append(f"  left     {len(self.left)}")
        if self.expected_end is not None:
            lines.append(
                f"  end      expected {_at(self.expected_end)}, in {(self.expected_end - self.now) / 3600:.2f} h"
            )
        if self.limit_s is not None and self.limit_end is not None and not self.joined:
            late = f": about {self.n_too_late} runs will not be in the submission" if self.n_too_late else ""
            lines.append(f"  limit    {self.limit_s / 3600:.2f} h, up {_at(self.limit_end)}{late}")
        lines.append(f"  {self.folder / SUBMISSION_NAME} is {'there' if self.has_submission else 'not there yet'}")
        if self.warnings:
            lines.append("Last warnings:")
            lines += [f"  {_at(event.time)} {_warning(event)}" for event in self.warnings]
        return "\n".join(lines)

    def _windows_of(self, run: str) -> dict[str, int]:
        event = self.windows.get(run)
        return {} if event is None else {"n_windows_done": event.n_done, "n_windows": event.n_windows}

    def _window_text(self, run: str) -> str:
        event = self.windows.get(run)
        return "" if event is None else f", {event.n_done} of {event.n_windows} windows at {_at(event.time)}"

    def _state(self) -> str:
        since = f"since {_at(self.started)} ({_lasted(self.now - self.started)})"
        if self.joined is not None:
            n_open = self.n_runs - self.n_done
            rest = (
                f"; {n_open} of {self.n_runs} runs are not done: the same command again goes on with them"
                if n_open
                else ""
            )
            return f"ended {_at(self.joined)}, after {_lasted(self.joined - self.started)}{rest}"
        if self.is_held is None:
            return f"started {since}; its file system does not tell whether anybody works on it"
        if self.is_held:
            return f"at work {since}; {self.holder}" if self.holder else f"at work {since}"
        return (
            f"nobody works on it; what was started {_at(self.started)} ended without writing its submission (was it "
            "killed?): the same `tomopoint predict` command again goes on from here"
        )


def prediction_status(out: Path) -> Status:
    """Tell where a prediction stands, from its parts, its log and its lock; nothing is changed.

    Parameters
    ----------
    out
        The folder of `tomopoint predict`, or ``/kaggle/working``.

    Raises
    ------
    DataError
        No log of a prediction there.
    """
    folder = PredictionFolder(out)
    is_held = is_at_work(out)  # before the rest: what ends in between is then said to be at work, not dead
    seen = look(out / LOCK) if is_held else None
    call = last_call(read_events(folder.log_path))
    if not call:
        kind = "tells of no prediction" if folder.log_path.is_file() else "is not there"
        raise DataError(
            f"{folder.log_path} {kind}: give the folder that `tomopoint predict --out` was given, or start one there"
        )
    start = call[0]
    parts = {path.stem for path in folder.parts_path.glob("[!.]*.csv")}
    # The last that was said of each run; a worker that died gave its runs back.
    said: dict[str, Event] = {}
    windows: dict[str, Event] = {}
    for event in call:
        if event.event in ("begun", "done", "failed"):
            said[event.run] = event
            windows.pop(event.run, None)
        elif event.event == "windows":
            windows[event.run] = event
        elif event.event == "died":
            for run in event.runs:
                said.pop(run, None)
    open_runs = [run for run in start.runs if run not in parts]
    in_work = [said[run] for run in open_runs if run in said and said[run].event == "begun"]
    failed = {run: said[run].message for run in open_runs if run in said and said[run].event == "failed"}
    busy = {event.run for event in in_work} | set(failed)
    done_times = [event.time for event in call if event.event == "done"]
    joined = [event.time for event in call if event.event == "joined"]
    return Status(
        folder=out,
        now=time.time(),
        is_held=is_held,
        holder="" if seen is None else seen.text(),
        started=start.time,
        joined=joined[-1] if joined else None,
        n_runs=start.n_runs,
        n_done=start.n_runs - len(open_runs),
        in_work=tuple(sorted(in_work, key=lambda event: event.time)),
        windows={event.run: windows[event.run] for event in in_work if event.run in windows},
        failed=failed,
        left=tuple(run for run in open_runs if run not in busy),
        recent_rate=_rate(done_times[-RECENT_RUNS:]),
        overall_rate=_rate([start.time, *done_times]),
        last_done=done_times[-1] if done_times else None,
        limit_s=start.limit_s,
        warnings=tuple(event for event in call if event.event in WARNINGS)[-MAX_WARNINGS:],
        has_submission=folder.submission_path.is_file(),
    )


def is_at_work(out: Path) -> bool | None:
    """Whether a prediction holds the folder, here or on another machine; None where its file system does not tell.

    Nothing is changed. Where another machine's prediction gives no sign of life, it is looked on for a while.
    """
    try:
        return is_held(out / LOCK)
    except OSError:
        return None


def _rate(times: Sequence[float]) -> float | None:
    """Return how many per hour came after the first; None where nothing did."""
    seconds = times[-1] - times[0] if times else 0.0
    return (len(times) - 1) / seconds * 3600 if seconds > 0 else None


def _warning(event: Event) -> str:
    if event.event == "died":
        return f"worker {event.worker} died over {', '.join(event.runs) or 'no run'}: {event.message}"
    return event.message if event.worker is None else f"worker {event.worker}: {event.message}"


def _at(moment: float) -> str:
    """Return a local time, with its day where that is not today's."""
    if not 0 <= moment <= LAST_MOMENT:
        return "never"
    then, now = time.localtime(moment), time.localtime()
    return time.strftime("%H:%M:%S" if then[:3] == now[:3] else "%Y-%m-%d %H:%M:%S", then)


def _lasted(seconds: float) -> str:
    """Return a duration in the unit that suits it."""
    if seconds >= 3600:
        return f"{seconds / 3600:.2f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{max(0.0, seconds):.0f} s"
