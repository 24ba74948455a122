"""The kaggle command line as a subprocess: what was called, and what its answers mean.

It ends with status 0 after most errors and says them on standard output, so answers are read. They are those in the
source of kaggle 2.2.4; its parser took every command given here, none was run against Kaggle.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tomopoint.errors import TomopointError

DONE = {"ready", "complete"}
"""What a dataset and a notebook end with."""

FAILED = {"failed", "deleted", "error", "cancel_requested", "cancel_acknowledged"}

SILENT_QUESTIONS = 5
"""So many questions in a row may fail (a network that is away for a moment) before waiting is given up."""

_NOT_INSTALLED = "the kaggle command is not installed: `pip install 'tomopoint[kaggle]'`, then `kaggle auth login`"
_NOT_LOGGED_IN = "Authentication required"
_INVALID_SOURCES = "The following are not valid"
_KERNEL_STATUS = re.compile(r'has status "(?:KernelWorkerStatus\.)?(\w+)"')
_USERNAME = re.compile(r"^- username: (\S+)", re.MULTILINE)
_NOT_THERE = re.compile(r"\b(403|404)\b")
_LAST_LINES = 5

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Waiting:
    """How long to wait for Kaggle, and how often to ask; as it stands here enough for a dataset."""

    minutes: float = 90.0
    poll_seconds: float = 30.0


@dataclass
class KaggleCli:
    """The ``kaggle`` command, or in a dry run the list of what would be sent.

    Attributes
    ----------
    dry_run
        Send nothing; :meth:`check_login` asks all the same.
    waiting
        For :meth:`wait`.
    lines
        Every command so far, as one would type it.
    """

    dry_run: bool = False
    waiting: Waiting = field(default_factory=Waiting)
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._program = _find_program()

    def check_login(self, owner: str | None) -> None:
        """Check that there is a kaggle command and that `owner` is logged in, or somebody; in a dry run, too.

        Raises
        ------
        TomopointError
            No kaggle command, nobody logged in, somebody else, or no answer.
        """
        done = self._run(["config", "view"])
        if done.returncode != 0:
            raise TomopointError(f"the kaggle command cannot say who is logged in:\n{_tail(done)}")
        match = _USERNAME.search(done.stdout)
        if owner is not None and match is not None and match.group(1).lower() != owner.lower():
            raise TomopointError(
                f"the kaggle command is logged in as {match.group(1)!r}, kernels/kernels.toml says {owner!r}; "
                "log in as the owner, or put your name there, then `tomopoint kernels` and stage the kit again"
            )

    def exists(self, dataset: str) -> bool:
        """Ask whether there is such a dataset (``owner/slug``); True in a dry run.

        Raises
        ------
        TomopointError
            The answer is neither yes nor no: not logged in, no network.
        """
        done = self._call(["datasets", "status", dataset], "is there one already?")
        if done is None or done.returncode == 0:
            return True
        if _NOT_THERE.search(done.stdout + done.stderr):  # 403, too: Kaggle does not tell what is hidden from absent
            return False
        raise TomopointError(f"kaggle cannot say whether there is a dataset {dataset}:\n{_tail(done)}")

    def upload(self, words: Sequence[str], success: str, note: str = "") -> str:
        """Run a command that sends something; return what it said, which must hold the text `success`.

        Raises
        ------
        TomopointError
            It did not succeed, or Kaggle dropped an input of the notebook.
        """
        done = self._call(words, note, show_progress=True)
        if done is None:
            return ""
        if done.returncode != 0 or success not in done.stdout or _INVALID_SOURCES in done.stdout:
            raise TomopointError(f"`{self.lines[-1]}` did not succeed (status {done.returncode}):\n{_tail(done)}")
        return str(done.stdout)

    def wait(self, words: Sequence[str], name: str) -> None:
        """Ask for the state of `name` until it is ready or complete.

        Raises
        ------
        TomopointError
            It failed or was cancelled, the time is up, or Kaggle does not answer.
        """
        if self.dry_run:
            self._call(words, f"again and again until it is {' or '.join(sorted(DONE))}")
            return
        end, silent = time.monotonic() + 60 * self.waiting.minutes, 0
        for question in itertools.count():
            # The first question comes late, too: Kaggle may still be showing what was there before.
            time.sleep(self.waiting.poll_seconds)
            done = self._call(words, f"waiting for {name}", record=question == 0)
            assert done is not None
            answer, silent = _tail(done), silent + 1 if done.returncode else 0
            if silent == SILENT_QUESTIONS:
                raise TomopointError(f"kaggle does not answer about {name}; look at it on kaggle.com:\n{answer}")
            state = "" if done.returncode else state_in(done.stdout)
            if state in DONE:
                return
            if is_failure(state):
                raise TomopointError(f"{name} ended as {state!r}: {answer}")
            if time.monotonic() >= end:
                raise TomopointError(
                    f"{name} was not done after {self.waiting.minutes:g} minutes (last answer: {answer}); "
                    "it goes on at Kaggle; --wait-minutes waits longer"
                )

    def require_done(self, words: Sequence[str], name: str) -> None:
        """Ask once for the state of `name`.

        Raises
        ------
        TomopointError
            It is not ready or complete, or Kaggle does not answer.
        """
        done = self._call(words, "must be complete")
        if done is not None and (done.returncode or state_in(done.stdout) not in DONE):
            raise TomopointError(f"{name} is not complete: {_tail(done)}")

    def _call(
        self, words: Sequence[str], note: str, show_progress: bool = False, record: bool = True
    ) -> subprocess.CompletedProcess[str] | None:
        """Run ``kaggle words``, None in a dry run. With `show_progress` its standard error stays on the terminal."""
        line = shlex.join(["kaggle", *words])
        if record:
            self.lines.append(f"{line}  # {note}" if note and self.dry_run else line)
        if self.dry_run:
            return None
        logger.info("%s%s", line, f"  # {note}" if note else "")
        return self._run(words, show_progress)

    def _run(self, words: Sequence[str], show_progress: bool = False) -> subprocess.CompletedProcess[str]:
        """Run ``kaggle words``; TomopointError where there is no such command or it is not logged in."""
        if self._program is None:
            raise TomopointError(_NOT_INSTALLED)
        done = subprocess.run(
            [self._program, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=None if show_progress else subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode and _NOT_LOGGED_IN in done.stdout + (done.stderr or ""):
            raise TomopointError("the kaggle command is not logged in; run `kaggle auth login`, then push again")
        return done


def state_in(answer: str) -> str:
    """Return the state in an answer of ``kaggle datasets status`` or ``kaggle kernels status``, in lower case."""
    if match := _KERNEL_STATUS.search(answer):
        return match.group(1).lower()
    lines = answer.strip().splitlines()
    return lines[-1].strip().lower() if lines else ""


def is_failure(state: str) -> bool:
    """Tell a state from which nothing good can come; earlier versions wrote ``cancelAcknowledged``."""
    return state in FAILED or state.startswith("cancel")


def _find_program() -> str | None:
    """Return the path of ``kaggle``: on the PATH, or beside the Python that runs this; None where there is none."""
    places = [os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)]
    return shutil.which("kaggle", path=os.pathsep.join(places))


def _tail(done: subprocess.CompletedProcess[str]) -> str:
    text = (done.stdout or "") + (done.stderr or "")
    return "\n".join(text.strip().splitlines()[-_LAST_LINES:]) or "(it said nothing)"
