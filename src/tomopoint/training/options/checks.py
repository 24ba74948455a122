"""What options refuse."""

from __future__ import annotations

from tomopoint.errors import TomopointError


def require(condition: bool, message: str) -> None:
    """Raise a TomopointError with this message unless the condition holds."""
    if not condition:
        raise TomopointError(message)


def require_share(name: str, value: float) -> None:
    """Raise a TomopointError unless the value of this option lies in [0, 1]."""
    require(0 <= value <= 1, f"{name} must lie in [0, 1], got {value}")
