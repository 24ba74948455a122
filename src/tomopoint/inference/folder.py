"""A prediction's folder: what is done, who works on what, and the log. Everything a resume needs.

::

    prediction.json     which graph made this
    parts/<run>.csv     picks of a run, all above the floor; its presence means the run is done
    claims/<run>.json   who works on a run
    suspects/<run>      a worker died while it held this run: it is taken up last, and alone
    failed/<run>.txt    why a run cannot be done; tried again once at the end, and when the command is run again
    log.jsonl           one event per line
    pipeline.json       the Pipeline of the graph, so that thresholds can change later without it
    picks.csv           all parts joined
    submission.csv      those above the thresholds
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tomopoint.errors import TomopointError
from tomopoint.files import write_atomically
from tomopoint.pipeline import PIPELINE_NAME
from tomopoint.strict_json import Malformed, build, parse, read, reading

SUBMISSION_NAME = "submission.csv"

PARTS, CLAIMS, SUSPECTS, FAILED = "parts", "claims", "suspects", "failed"
"""Folders, see above."""

HEARTBEAT_SECONDS = 30.0
"""A worker touches its claims this often."""

STALE_SECONDS = 20 * HEARTBEAT_SECONDS
"""A claim of another machine that was not touched for this long belongs to a dead process."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictionFolder:
    """Paths and protocol of a prediction's folder."""

    path: Path

    @property
    def submission_path(self) -> Path:
        """The competition's CSV."""
        return self.path / SUBMISSION_NAME

    @property
    def pipeline_path(self) -> Path:
        """The Pipeline of the graph."""
        return self.path / PIPELINE_NAME

    @property
    def picks_path(self) -> Path:
        """All picks with scores."""
        return self.path / "picks.csv"

    @property
    def log_path(self) -> Path:
        """One event per line."""
        return self.path / "log.jsonl"

    def part_path(self, run: str) -> Path:
        """Picks of one run; exists exactly when the run is done."""
        return self.path / PARTS / f"{run}.csv"

    def done_parts(self) -> list[Path]:
        """Return the picks of every run that is done, sorted by run: of earlier calls with other runs, too."""
        return sorted((self.path / PARTS).glob("[!.]*.csv"))

    def claim_path(self, run: str) -> Path:
        """Claim of one run."""
        return self.path / CLAIMS / f"{run}.json"

    def failure_path(self, run: str) -> Path:
        """Why one run failed."""
        return self.path / FAILED / f"{run}.txt"

    def suspect_path(self, run: str) -> Path:
        """Exists where a worker died while it held this run."""
        return self.path / SUSPECTS / run

    def suspect(self, run: str) -> None:
        """Note that a worker died while it held this run, and give back its claim."""
        self.suspect_path(run).touch()
        self.release(run)

    def open(self, identity: dict[str, Any]) -> None:
        """Make the folder, or enter it again; forget earlier failures and the claims of dead processes.

        Raises
        ------
        TomopointError
            It holds picks (not only the traces of a failed start) made with another graph or of other data.
        """
        for name in (PARTS, CLAIMS, SUSPECTS, FAILED):
            (self.path / name).mkdir(parents=True, exist_ok=True)
        record = self.path / "prediction.json"
        if record.exists() and next((self.path / PARTS).glob("*.csv"), None) is not None:
            with reading(record, TomopointError, "is damaged", "choose another --out"):
                earlier = read(record)
                if not isinstance(earlier, dict):
                    raise Malformed("it holds no object")
            differing = [key for key in identity if earlier.get(key) != identity[key]]
            if differing:
                raise TomopointError(
                    f"{self.path} holds picks made with another {' and another '.join(differing)}; "
                    "choose another --out, or delete that folder to start over"
                )
        else:
            write_atomically(record, json.dumps(identity, indent=2) + "\n")
        for trace in (*(self.path / FAILED).iterdir(), *(self.path / SUSPECTS).iterdir()):
            trace.unlink()
        for claim in (self.path / CLAIMS).glob("*.json"):
            if not _owner_lives(claim):
                claim.unlink(missing_ok=True)

    def claim(self, run: str, worker: int) -> bool:
        """Take a run; False where it is done, failed, or taken by someone else. Atomic across processes."""
        if self.part_path(run).exists() or self.failure_path(run).exists():
            return False
        pid = os.getpid()
        owner = _Owner(pid, _process_start(pid), socket.gethostname(), worker)
        try:
            handle = os.open(self.claim_path(run), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return False
        try:
            with os.fdopen(handle, "w") as stream:
                json.dump(asdict(owner), stream)
        except OSError:
            self.release(run)  # a claim without an owner (a full disk) would look alive until it is stale
            raise
        if self.part_path(run).exists():  # done and released between the two looks
            self.release(run)
            return False
        return True

    def is_free(self, run: str) -> bool:
        """Whether a run is neither done, nor failed, nor taken."""
        paths = (self.part_path(run), self.failure_path(run), self.claim_path(run))
        return not any(path.exists() for path in paths)

    def touch(self, run: str) -> None:
        """Show that the owner of a claim still lives."""
        with contextlib.suppress(FileNotFoundError):  # given back since
            os.utime(self.claim_path(run))

    def release(self, run: str) -> None:
        """Give a claim back."""
        self.claim_path(run).unlink(missing_ok=True)

    def claims_of(self, pid: int) -> list[str]:
        """Return the runs that a process of this machine has claimed."""
        owners = {path.stem: _read_owner(path) for path in sorted((self.path / CLAIMS).glob("*.json"))}
        here = socket.gethostname()
        return [run for run, owner in owners.items() if owner and (owner.pid, owner.host) == (pid, here)]

    def fail(self, run: str, message: str) -> None:
        """Record that a run cannot be done, then give back its claim."""
        write_atomically(self.failure_path(run), message + "\n")
        self.release(run)

    def log(self, event: str, **details: Any) -> None:
        """Append one event; a single write, so that lines of several processes do not mix.

        A log that cannot be written (a full disk) costs no run: it is said once more on standard error.
        """
        line = json.dumps({"time": round(time.time(), 3), "event": event, **details}) + "\n"
        try:
            handle = os.open(self.log_path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
            try:
                os.write(handle, line.encode())
            finally:
                os.close(handle)
        except OSError as error:
            logger.warning("%s cannot be written (%s): %s", self.log_path, error.strerror, line.rstrip())

    def events(self) -> list[dict[str, Any]]:
        """Return the events of the log, none where there is no log; a line that was cut off is left out."""
        events = []
        for line in self.log_path.read_text().splitlines() if self.log_path.is_file() else []:
            with contextlib.suppress(Malformed):
                events.append(parse(line))
        return events

    def notes(self) -> dict[str, tuple[str, ...]]:
        """Return what is to be known of runs that are done, such as missing chunks of their tomogram; from the log."""
        done = (event for event in self.events() if event.get("event") == "done")
        return {event["run"]: tuple(event.get("notes", ())) for event in done}


@dataclass(frozen=True)
class _Owner:
    """Who made a claim: a worker, by its process on a machine, which started some clock ticks after the machine did."""

    pid: int
    started: str | None
    host: str
    worker: int


def _read_owner(claim: Path) -> _Owner | None:
    """Return who made a claim; None where it was written by half or is gone."""
    try:
        return build(_Owner, read(claim))
    except (OSError, Malformed):
        return None


def _owner_lives(claim: Path) -> bool:
    owner = _read_owner(claim)
    if owner is not None and owner.host == socket.gethostname():
        return owner.started is not None and owner.started == _process_start(owner.pid)
    try:
        return time.time() - claim.stat().st_mtime < STALE_SECONDS
    except FileNotFoundError:
        return False


def _process_start(pid: int) -> str | None:
    """Return when a process of this machine started, in clock ticks since boot; None where it is dead or a zombie.

    Process numbers are used again; number and start together are not.
    """
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = status.rpartition(")")[2].split()  # the name before it may hold spaces
    state, start = fields[0], fields[19]
    return None if state in "ZX" else start
