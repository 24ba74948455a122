"""The suite of bad input: its modules side by side, and how many cases a run tried."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


def pytest_terminal_summary(terminalreporter):
    """Say how many damaged files and command lines were tried, as the tests recorded it."""
    reports = [
        item for found in terminalreporter.stats.values() for item in found if isinstance(item, pytest.TestReport)
    ]
    counts = [n for report in reports for name, n in report.user_properties if (report.when, name) == ("call", "cases")]
    if counts:
        terminalreporter.write_line(f"bad input: {sum(counts)} cases in {len(counts)} properties")
