"""What the channels of somebody else's score maps are: names in their order, checked against the particles."""

from __future__ import annotations

from collections.abc import Sequence

from tomopoint.errors import DataError

NO_PARTICLE = ("background", "-")
"""Names of channels that are passed over."""


def parse_channels(text: str) -> tuple[str, ...]:
    """Read ``background,ribosome,apo-ferritin``; none where it is empty."""
    return tuple(name.strip() for name in text.split(",")) if text.strip() else ()


def particle_channels(
    source: object, names: Sequence[str], n_channels: int, particle_names: Sequence[str]
) -> dict[str, int]:
    """Return which channel is which particle.

    Parameters
    ----------
    source
        Whose channels they are, for messages.
    names
        Of all channels; empty: nobody says them.
    n_channels
        How many there are.
    particle_names
        The particles that are known.

    Raises
    ------
    DataError
        Nobody says the names; they are not as many as the channels; one is unknown or there twice; or all of them are
        no particle.
    """
    known = f"known are {', '.join(particle_names)}, and {' or '.join(NO_PARTICLE)} for a channel that is no particle"
    if not names:
        raise DataError(
            f"{source} does not say what its {n_channels} channels are; say it with --channels NAME,NAME,...: {known}"
        )
    if len(names) != n_channels:
        raise DataError(f"{source} has {n_channels} channels, named are {len(names)}: {', '.join(names)}; name each")
    found: dict[str, int] = {}
    for channel, name in enumerate(names):
        if name in NO_PARTICLE:
            continue
        if name not in particle_names:
            raise DataError(f"{source}: unknown particle {name!r}; {known}. Rename it with --channels")
        if name in found:
            raise DataError(f"{source}: two channels are called {name!r}; each particle has one")
        found[name] = channel
    if not found:
        raise DataError(f"{source}: none of its channels is a particle; {known}")
    return found
