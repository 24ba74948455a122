"""A prediction's folder: what is done, and the log. Everything that a resume needs.

::

    .lock/              held by the one prediction that works here
    prediction.json     the data and the graph that the parts were made from
    parts/<run>.csv     picks of a run, all above the floor; its presence means the run is done
    log.jsonl           one event per line
    engine.json         how OpenVINO computes the graph, where it does
    pipeline.json       the Pipeline of the graph, so that thresholds can change later without it
    picks.csv           all parts joined
    submission.csv      those above the thresholds
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tomopoint.errors import DataError, TomopointError
from tomopoint.files import write_atomically
from tomopoint.inference.events import read_events
from tomopoint.locks import PACE, Lock, Pace, alone_in
from tomopoint.pipeline import PIPELINE_NAME
from tomopoint.strict_json import Malformed, parse, read, reading

if TYPE_CHECKING:
    from tomopoint.inference.parts import PartOrigin

SUBMISSION_NAME = "submission.csv"

RECORD_NAME = "prediction.json"

RESERVE_NAME = ".reserve"
RESERVE_BYTES = 32 << 20
"""Room kept for the submission on a disk that fills up: 500 tomograms of 600 picks are 20 MB."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictionFolder:
    """Paths and protocol of a prediction's folder.

    Attributes
    ----------
    path
        Of the folder.
    lock
        By which it is held, see :meth:`held`; None: it is only read.
    """

    path: Path
    lock: Lock | None = None

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

    @property
    def parts_path(self) -> Path:
        """The folder of the parts."""
        return self.path / "parts"

    @property
    def reserve_path(self) -> Path:
        """Room that is given up when the submission is written."""
        return self.path / RESERVE_NAME

    @contextmanager
    def held(self, pace: Pace = PACE) -> Iterator[PredictionFolder]:
        """Make the folder and hold it; yield it as what it is written through: no second prediction works in it.

        Raises
        ------
        TomopointError
            Another prediction works here.
        """
        self.parts_path.mkdir(parents=True, exist_ok=True)
        with alone_in(self.path, "another prediction", pace) as lock:
            yield replace(self, lock=lock)

    def check(self) -> None:
        """Make sure that the folder is still held, before anything in it is replaced.

        Raises
        ------
        LockLost
            Another prediction took over, while this one was frozen.
        """
        if self.lock is not None:
            self.lock.check()

    def enter(self, identity: dict[str, Any], origin: PartOrigin) -> dict[str, Path]:
        """Return the parts that are there, by run; those that are damaged are removed, to be made again.

        Raises
        ------
        TomopointError
            They were made with another graph or of other data.
        """
        from tomopoint.inference.parts import read_part  # tables, and with them pandas: commands name files before that

        record, done = self.path / RECORD_NAME, {}
        earlier: dict[str, Any] = {}
        if record.exists() and next(self.parts_path.glob("*.csv"), None) is not None:
            with reading(record, TomopointError, "is damaged", "choose another --out"):
                earlier = read(record)
                if not isinstance(earlier, dict):
                    raise Malformed("it holds no object")
        differing = [key for key in identity if earlier and earlier.get(key) != identity[key]]
        if differing:
            raise TomopointError(
                f"{self.path} holds picks made with another {' and another '.join(differing)}; "
                "choose another --out, or delete that folder to start over"
            )
        for path in sorted(self.parts_path.glob("[!.]*.csv")):
            try:
                read_part(path, origin)
            except DataError as error:
                logger.warning("%s", error)
                self.log("warning", message=str(error))
                path.unlink()
            else:
                done[path.stem] = path
        write_atomically(record, json.dumps(identity, indent=2) + "\n")
        with contextlib.suppress(OSError):  # no room to keep: what comes next will say so
            descriptor = os.open(self.reserve_path, os.O_CREAT | os.O_WRONLY, 0o644)
            try:
                os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
            finally:
                os.close(descriptor)
        return done

    def log(self, event: str, **details: Any) -> None:
        """Append one event in a single write.

        A log that cannot be written (a full disk) costs no run: it is said once more on standard error. LockLost is
        raised as by :meth:`check`.
        """
        self.check()
        line = json.dumps({"time": round(time.time(), 3), "event": event, **details}) + "\n"
        try:
            handle = os.open(self.log_path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)
            try:
                os.write(handle, line.encode())
            finally:
                os.close(handle)
        except OSError as error:
            logger.warning("%s cannot be written (%s): %s", self.log_path, error.strerror, line.rstrip())

    def events(self) -> list[dict[str, Any]]:
        """Return the events of the log, none where there is no log; a line that was cut off is left out."""
        events = []
        for line in self.log_path.read_bytes().splitlines() if self.log_path.is_file() else []:
            with contextlib.suppress(Malformed):
                event = parse(line)
                if isinstance(event, dict) and isinstance(event.get("event"), str):
                    events.append(event)
        return events

    def notes(self) -> dict[str, tuple[str, ...]]:
        """Return what is to be known of runs that are done, such as missing chunks of their tomogram; from the log."""
        return {event.run: event.notes for event in read_events(self.log_path) if event.event == "done"}

    def readings(self) -> dict[str, str]:
        """Return how the tomograms of runs that are done were read, where not as a project's are; from the log."""
        events = read_events(self.log_path)
        return {event.run: event.read.text() for event in events if event.event == "done" and event.read}
