"""What the commands of the command line share: what they hand back, and how they read sizes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tomopoint.errors import TomopointError


@dataclass(frozen=True)
class CommandResult:
    """Outcome of a command.

    Attributes
    ----------
    text
        For people: what was made, the figures, what to do next.
    figures
        The same for programs (``--json``): plain JSON types only.
    ok
        False where the job was not done in full; the process then ends with status 1.
    """

    text: str
    figures: dict[str, Any] = field(default_factory=dict)
    ok: bool = True


def parse_zyx(option: str, text: str) -> tuple[int, int, int]:
    """Read three sizes in voxels, ``"192,128,128"``.

    Raises
    ------
    TomopointError
        Anything else; the message names `option`.
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 3 or not all(part.isdecimal() and len(part) < 10 for part in parts):
        raise TomopointError(f"--{option} {text!r}: give three whole numbers of voxels, z,y,x, e.g. 192,128,128")
    z, y, x = (int(part) for part in parts)
    return z, y, x
