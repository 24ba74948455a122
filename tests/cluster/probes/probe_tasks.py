"""Tasks that do next to nothing, for tests: they are imported by workers, from this folder."""

import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from tomopoint.errors import TomopointError


@dataclass(frozen=True)
class Probe:
    """Note the process, do as one is told, wait as long as a file is there, and return the label."""

    label: str
    folder: Path
    does: str = "nothing"

    @property
    def log(self):
        return self.folder / f"{self.label}.txt"

    @property
    def begun(self):
        return self.folder / f"{self.label}.begun"

    def carry_out(self):
        with self.begun.open("a") as stream:
            stream.write(f"{os.getpid()} {os.getppid()}\n")
        if self.does == "refuse":
            raise TomopointError("this cannot be done")
        if self.does == "break":
            raise ZeroDivisionError("a bug")
        if self.does == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        while (self.folder / "wait").exists():
            time.sleep(0.02)
        return self.label.upper()


@dataclass(frozen=True)
class Unreadable:
    """A worker of Dask dies when it reads this, which is before it begins."""

    label: str
    folder: Path
    log: Path | None = None

    @property
    def deaths(self):
        return self.folder / "deaths"

    def __reduce__(self):
        return _read, (self.label, self.folder)

    def carry_out(self):
        raise AssertionError("nobody can read it")


def _read(label, folder):
    task = Unreadable(label, folder)
    if "Dask Worker" in multiprocessing.current_process().name:
        with task.deaths.open("a") as stream:
            stream.write("x")
        os.kill(os.getpid(), signal.SIGKILL)
    return task
