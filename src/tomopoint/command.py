"""What every command of the command line hands back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


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
