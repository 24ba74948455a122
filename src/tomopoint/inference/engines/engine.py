"""The Engine protocol: what every runtime offers for a graph, so that each can stand in for another."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

INPUT, SCORES, OFFSETS = "volume", "scores", "offsets"
"""Names of a graph's input and outputs."""


class Engine(Protocol):
    """Something that turns windows into scores and offsets.

    Attributes
    ----------
    window_zyx
        Input size it takes, voxels.
    batch
        Most windows it takes at once; it takes fewer, too.
    """

    window_zyx: tuple[int, int, int]
    batch: int

    def infer(self, windows: Array) -> tuple[Array, Array]:
        """Run the networks.

        Parameters
        ----------
        windows
            ``(B, 1, D, H, W)`` float32, normalised, with ``B`` at most `batch`. A part of the tomogram as a rule: not
            contiguous, and not to be written to.

        Returns
        -------
        scores
            ``(B, C, D/s, H/s, W/s)`` float32 in (0, 1).
        offsets
            ``(B, 3, D/s, H/s, W/s)`` float32, voxels, channels z, y, x.

        Both may be float16, too. They are the caller's from now on: he merges them while the next calls are under
        way, which must not touch them.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Return what runs where, as plain JSON values."""
        ...

    def close(self) -> None:
        """Give back what the engine holds; it cannot be used afterwards."""
        ...
