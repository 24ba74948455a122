"""The one kind of exception a user is meant to see."""

from __future__ import annotations

import errno

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_MISPLACED = {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG}


class TomopointError(Exception):
    """A mistake or a fault that a user can act on.

    The message names what was given, what is allowed and the fix, in one or two sentences. The command line
    prints it without a traceback and exits with status 1; any other exception is a bug and keeps its traceback.
    """


class DataError(TomopointError):
    """A tomogram store, a picks file or a project folder cannot be used as it is."""


class PipelineError(TomopointError):
    """A Pipeline (pipeline.json, or the metadata of a graph) is missing, malformed or contradicts its graph."""


class EngineError(TomopointError):
    """An inference engine cannot be built, loaded or trusted."""


def reason_of(error: BaseException, most: int = 200) -> str:
    """Return what an exception says as part of a message: on one line, at most so many characters, of valid text."""
    return " ".join(str(error).split())[:most].encode(errors="replace").decode()


def machine_fault(error: BaseException) -> str | None:
    """Say what to do about a full disk, a missing permission or a file in a folder's place; None for anything else.

    These are no bugs, wherever they surface; a file that is not found where one must be still is.
    """
    if not isinstance(error, OSError):
        return None
    name = error.filename2 or error.filename  # of a rename, the file it was to become
    what = f"{error.strerror}{f': {name}' if name else ''}"
    if error.errno in _FULL:
        return f"{what}; free disk space (or raise the quota) and run the same command again"
    if error.errno in _FORBIDDEN:
        return f"{what}; change its permissions, or choose a place where you may write"
    if error.errno in _MISPLACED:
        return f"{what}; a file stands where a folder is needed, or the reverse: choose another path"
    return None
