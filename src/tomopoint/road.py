"""A road: steps in a row that fill one folder, each one or more commands that a user could type.

Nothing here knows how a step works: each is a command in a process of its own, shown before it runs, so that every line
can be copied. What is done is recorded in the folder, so that a road goes on where it was stopped.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tomopoint.errors import TomopointError
from tomopoint.files import whole_or_absent, write_atomically
from tomopoint.strict_json import build, read, reading, shown

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """One step of a road.

    Attributes
    ----------
    name
        For people.
    commands
        Words after ``tomopoint`` of each command; several run side by side.
    makes
        What is there once the step is done, which then is not done again. None: it is done every time.
    figures
        File for what a single command prints, where that is needed later: the figures of ``--json``.
    folder
        What the commands fill and go on with, and refuse where it was begun with something else: removed before the
        step is done once more because an earlier one was.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    makes: tuple[Path, ...] = ()
    figures: Path | None = None
    folder: Path | None = None


@dataclass(frozen=True)
class RoadRecord:
    """What the record of a road's folder holds.

    Attributes
    ----------
    options
        What the road was asked for.
    decided
        Numbers that were decided on the way, by name.
    seconds
        Of every step that is done, in order; of all attempts at it.
    begun
        Seconds of every step that was begun, in order, whether or not it is done.
    stale
        Steps that were begun with what has been made anew since.
    """

    options: Mapping[str, Any]
    decided: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    begun: Mapping[str, float] = field(default_factory=dict)
    stale: tuple[str, ...] = ()


class Road:
    """A folder and the steps that fill it.

    Parameters
    ----------
    name
        Of the road, e.g. demo; ``<name>.json`` in the folder is its record.
    out
        The folder; made where it is not there.
    options
        Plain JSON values. A folder belongs to one set of options, so that no step mixes files of two roads.

    Raises
    ------
    TomopointError
        The folder belongs to other options; says which differ.
    """

    def __init__(self, name: str, out: Path, options: Mapping[str, Any]) -> None:
        self.name = name
        self.changed = False
        """Whether a step ran, not only earlier calls."""
        self._path = out / f"{name}.json"
        wanted = json.loads(json.dumps(options))
        self._record = RoadRecord(wanted)
        if not self._path.exists():
            return self._save()
        with reading(self._path, TomopointError, f"is no record of a {name}", "choose another --out"):
            self._record = build(RoadRecord, read(self._path))
        earlier = self._record.options
        differing = [key for key in {**earlier, **wanted} if earlier.get(key) != wanted.get(key)]
        if differing:
            was = ", ".join(f"{key} {_told(earlier.get(key), wanted.get(key))}" for key in differing)
            raise TomopointError(f"{out} holds a {name} made with other options ({was}); choose another --out")
        return None

    @property
    def seconds(self) -> Mapping[str, float]:
        """Of every step that is done, in order."""
        return self._record.seconds

    def decide(self, name: str, choose: Callable[[], float]) -> float:
        """Return a number that is decided once, and is the same when the road is gone on."""
        if name not in self._record.decided:
            self._record = replace(self._record, decided={**self._record.decided, name: choose()})
            self._save()
        return self._record.decided[name]

    def walk(self, step: Step) -> None:
        """Do a step, unless it is done; what depends on it has to be done again after it.

        Raises
        ------
        TomopointError
            A command failed; names it. Its own message stands above.
        """
        if step.makes and step.name in self.seconds and all(path.exists() for path in step.makes):
            logger.info("%s, step %s: done before", self.name, step.name)
            return
        # What came after it was made from what it made before.
        record = self._record
        names = list(record.begun)
        later = names[names.index(step.name) + 1 :] if step.name in names else []
        stale = [*dict.fromkeys((*record.stale, *(later if step.makes else ())))]
        if step.name in stale:
            stale.remove(step.name)
            if step.folder is not None:
                shutil.rmtree(step.folder, ignore_errors=True)
        earlier = 0.0 if step.name in record.seconds or step.name in record.stale else record.begun.get(step.name, 0.0)
        self._record = replace(
            record,
            seconds={name: value for name, value in record.seconds.items() if name not in (step.name, *later)},
            begun={**record.begun, step.name: earlier},
            stale=tuple(stale),
        )
        self._save()

        # An attempt that fails or is interrupted counts, too: the next one goes on from where it came to.
        self.changed = True
        start = time.monotonic()
        try:
            self._run(step)
        finally:
            seconds = round(earlier + time.monotonic() - start, 1)
            self._record = replace(self._record, begun={**self._record.begun, step.name: seconds})
            self._save()
        self._record = replace(self._record, seconds={**self.seconds, step.name: seconds})
        self._save()

    def _run(self, step: Step) -> None:
        """Run a step's commands, their output passing through."""
        environment = dict(os.environ)
        if len(step.commands) > 1:  # threads that wait for each other's cores cost more than the cores give
            environment["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // len(step.commands)))
        processes = []
        with ExitStack() as open_files:
            output: Any = sys.stderr
            if step.figures is not None:
                output = open_files.enter_context(open_files.enter_context(whole_or_absent(step.figures)).open("w"))
            try:
                for words in step.commands:
                    logger.info("%s, step %s: %s", self.name, step.name, line_of(words, step.figures))
                    command = [sys.executable, "-m", "tomopoint", *words]
                    processes.append(subprocess.Popen(command, stdout=output, env=environment))
                statuses = [process.wait() for process in processes]
            finally:
                for process in processes:
                    process.terminate()
            for words, status in zip(step.commands, statuses, strict=True):
                if status != 0:
                    raise TomopointError(
                        f"the {self.name} stopped at step {step.name!r} (status {status}), see above: "
                        f"{line_of(words, step.figures)}"
                    )

    def _save(self) -> None:
        write_atomically(self._path, json.dumps(asdict(self._record), indent=2) + "\n")


def line_of(words: tuple[str, ...], figures: Path | None = None) -> str:
    """Return a command as one types it."""
    line = shlex.join(["python", "-m", "tomopoint", *words])
    return line if figures is None else f"{line} > {shlex.quote(str(figures))}"


def _told(earlier: Any, wanted: Any) -> str:
    """Say how an option differs; long ones only that they do."""
    texts = [json.dumps(value) for value in (earlier, wanted)]
    return "differ" if any(len(text) > 60 for text in texts) else f"{shown(earlier)}, not {shown(wanted)}"
