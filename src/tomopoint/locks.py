"""Locks on folders, for processes of one machine or of many: nothing is asked of the file system but whole renames.

A lock is a folder with one file in it. The file's name is a random token, its content says who holds the lock, and its
time of change is the holder's heartbeat::

    .lock/<token>       host, process, since

* *Taking* renames a folder with one's own file to ``.lock``. That fails where a ``.lock`` with a file in it stands, and
  of several who try at once one succeeds.
* *Giving back* removes one's own file, *taking over* that of a holder who is dead. What is removed is named by its
  token, so it is never the lock of somebody who came in between, and two who take over still have to take.
* A *holder* sets the time of its file, again and again and before it writes what is shared. Where the file is gone, it
  was taken for dead and has lost the lock.

A holder on this machine is dead when its process is. One on another machine, or one that is frozen here, is taken for
dead when it was silent for long by the clock that sets the times of files, and stays so while it is watched by one's
own. No clocks of two machines are compared to decide that: one that goes wrong delays a takeover and brings about
none. Each look opens the file, upon which NFS asks the server.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from tomopoint.errors import TomopointError
from tomopoint.strict_json import Malformed, build, parse, read_bytes

LOCK = ".lock"

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pace:
    """How often a holder gives a sign of life, and how long the others wait for one; seconds.

    Attributes
    ----------
    beat
        Between two signs of life.
    stale
        A silence that makes others doubt.
    watch
        How long they then look on before they take over.
    """

    beat: float = 10.0
    stale: float = 60.0
    watch: float = 30.0


PACE = Pace()


class LockLost(TomopointError):
    """Another process took this one for dead and holds its lock; nothing more may be written under it."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lock.

    Attributes
    ----------
    host, pid
        The machine's name, and the process.
    machine
        The boot of the machine and the process numbers' namespace: where `pid` means the same process. Empty: unknown.
    began
        When the process began, in the kernel's ticks: numbers are given again.
    since
        When the lock was taken, by the holder's clock; seconds since 1970.
    """

    host: str
    pid: int
    machine: str
    began: int
    since: float

    def __post_init__(self) -> None:
        try:
            time.localtime(self.since)
        except (OverflowError, ValueError, OSError) as error:
            raise Malformed(f"no time: {error}") from error
        if not self.host.isprintable():
            raise Malformed("no name of a machine")

    @property
    def is_here(self) -> bool:
        """Whether its process can be looked up on this machine."""
        return self.machine != "" and self.machine == _machine()

    @property
    def is_dead(self) -> bool:
        """Whether it is known to be dead; never of another machine's."""
        try:
            return self.is_here and _began(self.pid) != self.began
        except PermissionError:
            return False

    def text(self) -> str:
        """Return who it is and since when, in this machine's time."""
        then = time.localtime(self.since)
        shape = "%H:%M:%S" if then[:3] == time.localtime()[:3] else "%Y-%m-%d %H:%M:%S"
        return f"process {self.pid} on {self.host}, since {time.strftime(shape, then)}"


@dataclass(frozen=True)
class Sighting:
    """A lock that somebody holds, as it was when it was looked at.

    Attributes
    ----------
    file
        The holder's.
    beat
        When it last gave a sign of life, seconds since 1970 by the file system's clock.
    holder
        None: the file does not tell, cut by a power failure perhaps.
    """

    file: Path
    beat: float
    holder: Holder | None

    @property
    def is_dead(self) -> bool:
        """Whether the holder is known to be dead."""
        return self.holder is not None and self.holder.is_dead

    def text(self) -> str:
        """Return who holds it."""
        return "a process that it does not name" if self.holder is None else self.holder.text()


class Lock:
    """A lock that this process holds; a thread gives the signs of life until it is given back."""

    def __init__(self, file: Path, pace: Pace) -> None:
        self._file, self._pace = file, pace
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._live, name=f"lock of {file.parent}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Give a sign of life; to be called before anything shared is written.

        Raises
        ------
        LockLost
            Another process took over while this one was frozen or cut off from the disk.
        """
        if not self._beat():
            raise LockLost(
                f"{self._file.parent.parent} was taken over by another process while this one gave no sign of life "
                "(was it stopped, or its disk away?); nothing more is written here"
            )

    def give_back(self) -> None:
        """Let others take it."""
        self._is_over.set()
        self._thread.join()
        with suppress(OSError):
            self._file.unlink()
        with suppress(OSError):  # somebody was quick
            self._file.parent.rmdir()

    def _live(self) -> None:
        while not self._is_over.wait(self._pace.beat) and self._beat():
            pass

    def _beat(self) -> bool:
        """Set the time of the file, by the file system's clock; return whether the file is there."""
        try:
            os.utime(self._file)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            return error.errno != errno.ESTALE  # else the disk is away, and with it those who could take over
        return True


@contextmanager
def locked(path: Path, wait: bool = True, pace: Pace = PACE) -> Iterator[Lock | None]:
    """Hold a lock; yield it, or None where another process holds it, which cannot be with `wait`.

    Parameters
    ----------
    path
        Of the lock; its folder must be there.
    wait
        For whoever holds it, as long as it takes.
    pace
        The same for all who take the lock.
    """
    lock = _take(path, wait, pace)
    if lock is None:
        yield None
        return
    try:
        yield lock
    finally:
        lock.give_back()


@contextmanager
def alone_in(folder: Path, other: str = "another process", pace: Pace = PACE) -> Iterator[Lock]:
    """Keep others out of a folder, made where it is not there, for as long as this process works in it.

    Parameters
    ----------
    folder
        Where to work.
    other
        What another one there is called.
    pace
        See :func:`locked`.

    Raises
    ------
    TomopointError
        Another process works there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / LOCK, wait=False, pace=pace) as lock:
        if lock is None:
            found = look(folder / LOCK)
            who, gone = "", ""
            if found is not None:
                who = f": {found.text()}"
            if found is not None and not (found.holder and found.holder.is_here):
                gone = f" (if that machine is gone, type the same again in {pace.stale + pace.watch:.0f} s)"
            raise TomopointError(f"{other} works in {folder}{who}; wait for its end{gone}, or choose another --out")
        yield lock


def look(path: Path) -> Sighting | None:
    """Return who holds a lock, dead or alive; None where nobody does.

    Raises
    ------
    OSError
        The file system does not tell.
    """
    try:
        files = [entry for entry in path.iterdir() if not entry.name.startswith(".")]  # NFS keeps open ones as .nfs*
    except (FileNotFoundError, NotADirectoryError):
        return None
    for file in files:
        try:
            content, beat = read_bytes(file), file.stat().st_mtime  # opened first, so that the time is the server's
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):  # removed since it was listed
                continue
            raise
        try:
            holder: Holder | None = build(Holder, parse(content), to_float=True)
        except Malformed:
            holder = None
        return Sighting(file, beat, holder)
    return None


def is_held(path: Path, pace: Pace = PACE) -> bool:
    """Whether a living process holds a lock; nothing is changed, and where it takes looking on it takes a while.

    Raises
    ------
    OSError
        The file system does not tell.
    """
    first = look(path)
    if first is None or first.is_dead:
        return False
    if 0 <= time.time() - first.beat < pace.stale:
        return True
    # Silent, unless the file system's clock and this machine's differ: does it move?
    end = time.monotonic() + 1.5 * pace.beat
    while time.monotonic() < end:
        time.sleep(pace.beat / 10)
        if (found := look(path)) is None or found != first:
            return found is not None
    return False


def _take(path: Path, wait: bool, pace: Pace) -> Lock | None:
    """Take a lock, from a dead holder if need be; None where a living one has it and is not waited for."""
    token = secrets.token_hex(8)
    own = path.with_name(f"{path.name}.{token}")
    own.mkdir()
    (own / token).write_text(json.dumps(asdict(_me())))
    watched: Sighting | None = None
    watched_from = last_held = time.monotonic()
    try:
        while True:
            if _put(own, path) or (path / token).exists():  # NFS may have lost the answer that it was done
                return Lock(path / token, pace)
            # The clocks are read before the look: whatever delays this process here makes the holder younger.
            os.utime(own / token)
            now, fs_now = time.monotonic(), (own / token).stat().st_mtime
            found = look(path)
            if found is None:  # given back between two lines, or NFS keeps a file that somebody still reads
                if now - last_held > pace.watch:
                    raise TomopointError(f"{path} cannot be taken though nobody holds it; remove what is in it")
                time.sleep(pace.beat / 1000)
                continue
            last_held = now
            if found.is_dead:
                found.file.unlink(missing_ok=True)
                continue
            if fs_now - found.beat < pace.stale or (watched is not None and found != watched):
                watched = None
                if not wait:
                    return None
            elif watched is None:
                logger.info("%s has a silent holder, %s: looking on for %.0f s", path, found.text(), pace.watch)
                watched, watched_from = found, time.monotonic()
            elif now - watched_from >= pace.watch:
                logger.warning("%s is taken over: its holder gives no sign of life (%s)", path, found.text())
                found.file.unlink(missing_ok=True)
                continue
            time.sleep(pace.beat / 20)
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _put(own: Path, path: Path) -> bool:
    """Rename one's folder to the lock; False where there is one with a file in it."""
    try:
        own.rename(path)
    except OSError as error:
        if error.errno == errno.ENOTDIR:  # the plain file that earlier versions locked
            with suppress(IsADirectoryError):  # somebody was quick
                path.unlink(missing_ok=True)
        elif error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            with suppress(OSError):  # left empty by who gave it back; not every file system renames over it
                path.rmdir()
        elif not isinstance(error, FileNotFoundError) or own.exists():
            raise
        return False
    return True


def _me() -> Holder:
    return Holder(socket.gethostname(), os.getpid(), _machine(), _began(os.getpid()) or 0, round(time.time(), 3))


def _machine() -> str:
    """Return what no two places share whose process numbers mean different processes: boots, containers.

    Empty where the kernel does not tell, as in some sandboxes: processes there are those of another machine.
    """
    try:
        return f"{BOOT_ID.read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _began(pid: int) -> int | None:
    """Return when a process began, in ticks since the boot; None where there is none, or only its status is left.

    Raises
    ------
    PermissionError
        It is somebody else's, and /proc hides those.
    """
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        with suppress(ProcessLookupError, OverflowError):
            os.kill(pid, 0)
        return None
    return None if words[0] in "ZX" else int(words[19])
