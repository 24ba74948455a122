"""Score maps inside a graph: one rising, piecewise linear function per class, of operators that every runtime has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tomopoint.pipeline import Knots, Pipeline, ScoreMap

IDENTITY = ((0.0, 1.0), (0.0, 1.0))


class ScoreMaps(nn.Module):
    """Maps scores (B,C,d,h,w) in [0, 1], channel by channel.

    A piecewise linear function is the sum of its segments: each rises once the score has passed its first knot, until
    it has passed the last. A segment is a multiplication, an addition, a clip to [0, 1] and a multiplication by its
    height, on all channels at once: no comparison, no gathering, no division of two large terms. In float32.

    Parameters
    ----------
    score_maps
        One per class, in channel order; None leaves a class as it is.
    """

    def __init__(self, score_maps: Sequence[ScoreMap | None]) -> None:
        super().__init__()
        # They follow from the Pipeline and are no weights: a state dict does not hold them.
        segments = segments_of([None if m is None else (m.scores, m.values) for m in score_maps])
        self.n_segments = len(segments)
        for index, numbers in enumerate(segments):
            for name, own in zip(("slope", "shift", "height"), numbers, strict=True):
                values = torch.from_numpy(own).float().reshape(1, -1, 1, 1, 1)
                self.register_buffer(f"{name}_{index}", values, persistent=False)

    @classmethod
    def of_kind(cls, kind: str, pipeline: Pipeline) -> ScoreMaps | None:
        """Return the maps of one kind of networks; None where it keeps all its scores."""
        found = [pipeline.score_map(kind, name) for name in pipeline.particle_names]
        return cls(found) if any(found) else None

    def forward(self, scores: Tensor) -> Tensor:
        """Return the mapped scores, same shape, float32."""
        scores = scores.float()
        mapped: Tensor | None = None
        for segment in range(self.n_segments):
            slope, shift, height = (self.get_buffer(f"{name}_{segment}") for name in ("slope", "shift", "height"))
            risen = (scores * slope + shift).clamp(0.0, 1.0) * height
            mapped = risen if mapped is None else mapped + risen
        assert mapped is not None
        return mapped


def segments_of(maps: Sequence[Knots | None]) -> list[npt.NDArray[np.float64]]:
    """Return the segments of piecewise linear functions, one function per class.

    Parameters
    ----------
    maps
        Knots of every class, in channel order; None leaves its scores as they are.

    Returns
    -------
    list
        Of each segment slope, shift and height ``(3, C)``, zero in classes that have fewer: it is the score times the
        slope plus the shift, clipped to [0, 1], times the height. The function is the sum of its segments.
    """
    knots = [IDENTITY if own is None else own for own in maps]
    segments = []
    for segment in range(max(len(scores) for scores, _ in knots) - 1):
        numbers = np.zeros((3, len(knots)))
        for channel, (scores, values) in enumerate(knots):
            if segment + 1 < len(scores):
                (low, high), (bottom, top) = scores[segment : segment + 2], values[segment : segment + 2]
                numbers[:, channel] = 1 / (high - low), -low / (high - low), top - bottom
        segments.append(numbers)
    return segments
