"""The log of a prediction as those read it who did not write it: while it grows, cut, or with lines of anybody."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tomopoint.data.read_record import ReadRecord
from tomopoint.strict_json import Malformed, build, parse

LAST_MOMENT = 1e11
"""Seconds since 1970, in the year 5138: a later time is none."""


@dataclass(frozen=True)
class Event:
    """One line of ``log.jsonl``. What the event does not tell has its default; its other fields are left out.

    Attributes
    ----------
    time
        Seconds since 1970.
    event
        Its kind: ``"prediction"``, ``"begun"``, ``"done"`` ...
    run, runs
        What it is about; of ``"prediction"`` those that were to be done.
    worker
        Which one tells: its number, or in a cluster its address.
    host
        Of ``"begun"`` in a cluster: the name of the worker's machine.
    n_runs
        Of ``"prediction"``: how many were asked for, done before or not.
    limit_s
        Of ``"prediction"``: seconds it may take.
    graph_sha256
        Of ``"prediction"``: the graph's hash.
    message, notes
        What went wrong, or is to be known of a tomogram.
    n_done, n_windows
        Of ``"windows"``: how many of a run's windows are computed, and how many it has.
    read
        Of ``"done"``: how the tomogram was read, where that is not as a project's are.
    """

    time: float
    event: str
    run: str = ""
    runs: tuple[str, ...] = ()
    worker: int | str | None = None
    host: str = ""
    n_runs: int = 0
    limit_s: float | None = None
    graph_sha256: str = ""
    message: str = ""
    notes: tuple[str, ...] = ()
    n_done: int = 0
    n_windows: int = 0
    read: ReadRecord | None = None


def read_events(log: Path) -> list[Event]:
    """Return the events of a log, none where there is no log; a line that is cut, or no event, is left out."""
    events = []
    for line in log.read_bytes().splitlines() if log.is_file() else []:
        with suppress(Malformed):
            event = build(Event, parse(line), ignore_unknown=True)
            if 0 <= event.time <= LAST_MOMENT:
                events.append(event)
    return events


def last_call(events: Sequence[Event]) -> list[Event]:
    """Return what was logged since a prediction was last started in the folder; nothing where none ever was."""
    starts = [index for index, event in enumerate(events) if event.event == "prediction"]
    return list(events[starts[-1] :]) if starts else []
