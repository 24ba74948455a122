"""Tasks that do next to nothing, for tests: they are imported by workers, from this folder."""

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
