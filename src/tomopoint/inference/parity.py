"""Parity: how far outputs are from PyTorch's, what is tolerated, the verdict. numpy only: the kernels use it too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

PRECISIONS = ("fp32", "fp16")

SMALL_WINDOW_VOX = 64**3
"""Up to here ONNX Runtime's normalisation, which sums in float32, stays within 2e-5 of PyTorch; the error grows with
the number of summed voxels and was 1.3e-3 at 192x128x128."""

CPU_PROVIDER = "CPUExecutionProvider"
"""ONNX Runtime's, in its own words."""

FULL_WINDOW_VOX = 192 * 128 * 128
"""Beyond it the sums of ONNX Runtime's CPU provider are what shows, in either precision: instance norm of 50 million
values, a group of a full-size SegResNet at 192x256x256, comes out with a mean of 0.02 and a deviation of 1.015."""


@dataclass(frozen=True)
class Tolerance:
    """Largest absolute error that is still called equal.

    Attributes
    ----------
    scores
        Of a score, which lies in (0, 1).
    offsets_vox
        Of an offset, voxels.
    """

    scores: float
    offsets_vox: float


FP32_SMALL = Tolerance(scores=1e-4, offsets_vox=1e-3)
"""Five times the largest differences seen on small windows (2e-5 of logits at 32x64x64; 1.9e-4 voxels of offset with
full-size networks at 64x64x64): a wrong operator is off by orders more."""
FP32_FULL = Tolerance(scores=5e-3, offsets_vox=2e-2)
"""Twice to three times the largest differences seen at 192x128x128 with full-size networks (SegResNet: 1.8e-3 of
scores, 9e-3 voxels; DynUNet a tenth of it), see SMALL_WINDOW_VOX. 0.02 voxels are 0.2 A."""
FP16 = Tolerance(scores=3e-2, offsets_vox=1e-1)
"""float16 keeps 11 bits, so each convolution rounds to 5e-4 of its values; seen at 192x128x128 with full-size networks:
6e-3 of scores, 0.045 voxels. No threshold is known to 0.03, and 0.1 voxels are 1 A against a hit radius of 30 A."""
LARGE_ON_CPU = Tolerance(scores=3e-2, offsets_vox=2e-1)
"""Of ONNX Runtime's CPU provider alone, for windows beyond FULL_WINDOW_VOX. Two and a half times the largest
differences seen at 192x256x256 with a full-size SegResNet (1.2e-2 and 0.073 voxels in fp16, 1.1e-2 and 0.071 in fp32;
DynUNet 6.3e-3 and 0.047, 7e-4 and 0.005). 0.2 voxels are 2 A against a hit radius of 30 A."""

SAME_PICK_VOX = 1.0
"""Two top picks this close are one: less than a cell of stride 2."""


@dataclass(frozen=True)
class Outputs:
    """What any engine returns for one batch of windows.

    Attributes
    ----------
    scores
        ``(B, C, d, h, w)`` in (0, 1).
    offsets
        ``(B, 3, d, h, w)`` voxels, channels z, y, x.
    """

    scores: Array
    offsets: Array


@dataclass(frozen=True)
class ParityRow:
    """One line of the parity table: how far some outputs are from PyTorch's in float32.

    Attributes
    ----------
    subject
        ``"whole graph"``, or an architecture.
    runtime
        What computed the outputs, e.g. ``"CPUExecutionProvider"``.
    scores_max, scores_mean
        Absolute error of the scores.
    offsets_max_vox, offsets_mean_vox
        Absolute error of the offsets, voxels.
    top1_agreement
        Share of the classes (of each window) whose best pick is the same, see :func:`top1_agreement`.
    tolerance
        Largest errors that were allowed.
    """

    subject: str
    runtime: str
    scores_max: float
    scores_mean: float
    offsets_max_vox: float
    offsets_mean_vox: float
    top1_agreement: float
    tolerance: Tolerance

    @property
    def ok(self) -> bool:
        """Whether both errors are within tolerance (not, where they are NaN) and every best pick agrees."""
        return (
            self.scores_max <= self.tolerance.scores
            and self.offsets_max_vox <= self.tolerance.offsets_vox
            and self.top1_agreement == 1.0
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "ok": self.ok}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ParityRow:
        """Read what :meth:`to_dict` wrote."""
        fields = {name: value for name, value in values.items() if name != "ok"}
        return cls(**{**fields, "tolerance": Tolerance(**fields["tolerance"])})


def tolerance_for(precision: str, window_zyx: Sequence[int], provider: str) -> Tolerance:
    """Return what is allowed between PyTorch in float32 and a graph of this precision and window in `provider`.

    A GPU adds up in trees: its sums are as exact in large windows as in small ones, and so is what it is held to.
    """
    if provider == CPU_PROVIDER and prod(window_zyx) > FULL_WINDOW_VOX:
        return LARGE_ON_CPU
    if precision == "fp16":
        return FP16
    return FP32_SMALL if prod(window_zyx) <= SMALL_WINDOW_VOX else FP32_FULL


def compare(
    subject: str, runtime: str, expected: Outputs, got: Outputs, tolerance: Tolerance, stride: int
) -> ParityRow:
    """Measure `got` against `expected`; both of the same batch of windows, with cells of `stride` voxels.

    Raises
    ------
    ValueError
        The shapes differ: the graph has other classes, another stride or another window.
    """
    for name in ("scores", "offsets"):
        shapes = getattr(expected, name).shape, getattr(got, name).shape
        if shapes[0] != shapes[1]:
            raise ValueError(f"{name} of {subject} have shape {shapes[1]}, expected {shapes[0]}")
    scores_error = np.abs(expected.scores.astype(np.float64) - got.scores)
    offsets_error = np.abs(expected.offsets.astype(np.float64) - got.offsets)
    return ParityRow(
        subject=subject,
        runtime=runtime,
        scores_max=float(scores_error.max()),
        scores_mean=float(scores_error.mean()),
        offsets_max_vox=float(offsets_error.max()),
        offsets_mean_vox=float(offsets_error.mean()),
        top1_agreement=top1_agreement(expected, got, tolerance, stride),
        tolerance=tolerance,
    )


def top1_agreement(expected: Outputs, got: Outputs, tolerance: Tolerance, stride: int) -> float:
    """Return the share of windows x classes whose highest-scoring cell yields the same pick in both outputs.

    The same: the offsets of the two cells lead to points within ``SAME_PICK_VOX`` of each other, or the cells are
    tied, i.e. `expected` itself scores them within twice the tolerance (each of the two may err by one).
    """
    windows, classes = int(expected.scores.shape[0]), int(expected.scores.shape[1])
    grid = expected.scores.shape[2:]
    same = 0
    for window in range(windows):
        for channel in range(classes):
            truth, answer = expected.scores[window, channel], got.scores[window, channel]
            best, found = np.unravel_index(truth.argmax(), grid), np.unravel_index(answer.argmax(), grid)
            tied = best != found and truth[best] - truth[found] <= 2 * tolerance.scores
            apart_vox = (np.subtract(best, found) * stride) + (
                expected.offsets[(window, slice(None), *best)] - got.offsets[(window, slice(None), *found)]
            )
            same += bool(tied or np.linalg.norm(apart_vox) <= SAME_PICK_VOX)
    return same / (windows * classes)


def format_table(rows: Sequence[ParityRow]) -> str:
    """Return the parity table for people."""
    head = f"{'':24} {'scores max':>11} {'mean':>9} {'offsets max':>12} {'mean':>9} {'top-1':>6}  verdict"
    lines = [
        f"{row.subject[:24]:24} {row.scores_max:11.1e} {row.scores_mean:9.1e} {row.offsets_max_vox:8.1e} vox "
        f"{row.offsets_mean_vox:9.1e} {row.top1_agreement:6.0%}  {_verdict(row)}"
        for row in rows
    ]
    return "\n".join([head, *lines])


def _verdict(row: ParityRow) -> str:
    allowed = f"{row.tolerance.scores:g} / {row.tolerance.offsets_vox:g} vox"
    return f"{'ok' if row.ok else 'FAILED'}, allowed {allowed}"
