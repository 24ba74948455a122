"""What the log of a prediction says about time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tomopoint.evaluation.page import Markup, number, paragraph, section, table

LOG = "log.jsonl"
LISTED = 12


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the events of a log; a last line that was cut off by a kill is left out."""
    events = []
    for line in path.read_text().splitlines():
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return events


def timings_section(folder: Path | None) -> list[Markup]:
    """Return a section with the seconds of every run, where `folder` holds a log."""
    path = folder / LOG if folder else None
    if path is None or not path.is_file():
        return []
    log = read_log(path)
    events = [event for event in log if event["event"] == "done"]
    if not events:
        return []
    failed = [event["run"] for event in log if event["event"] == "failed"]
    totals = [float(event["total_seconds"]) for event in log if event["event"] == "joined"]
    seconds = sorted(float(event["seconds"]) for event in events)
    slowest = sorted(events, key=lambda event: -float(event["seconds"]))[:LISTED]
    rows = [
        (e["run"], e["worker"], e["n_picks"], number(float(e["seconds"]), 1), number(float(e["read_seconds"]), 1))
        for e in slowest
    ]
    note = (
        f"{len(seconds)} runs, {sum(seconds) / len(seconds):.1f} s on average, median "
        f"{seconds[len(seconds) // 2]:.1f} s, {seconds[-1]:.1f} s at most"
        + (f"; all together {totals[-1]:.1f} s" if totals else "")
        + (f"; FAILED: {', '.join(failed)}" if failed else "")
        + ". The slowest:"
    )
    head = ("run", "worker", "picks above the floor", "seconds", "of these, waiting for data")
    return [section("Time of the prediction", paragraph(note), table(head, rows))]
