"""What the log of a prediction says about time."""

from __future__ import annotations

from pathlib import Path

from tomopoint.evaluation.page import Markup, number, paragraph, section, table
from tomopoint.inference.folder import PredictionFolder

LISTED = 12


def timings_section(folder: Path | None) -> list[Markup]:
    """Return a section with the seconds of every run, where `folder` holds a log."""
    log = PredictionFolder(folder).events() if folder else []
    events = [event for event in log if event["event"] == "done"]
    if not events:
        return []
    done = {event["run"] for event in events}
    failed = sorted({event["run"] for event in log if event["event"] == "failed"} - done)  # some succeed when repeated
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
