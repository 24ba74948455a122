"""What was done to a tomogram of one's own on reading it: for the log, the summary and whoever uses the picks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Protein = Literal["dark", "light", "unclear", "not looked at"]


@dataclass(frozen=True)
class ReadRecord:
    """One tomogram as it was read.

    Attributes
    ----------
    format
        Of the file, e.g. ``"MRC, float32"``.
    voxel_A
        Edge of its voxels, Angstrom.
    is_stated
        Whether the user stated it, over what the file says.
    resampled_to_A
        Voxels that it was resampled to; None: read as it is.
    protein
        What its values tell of the contrast.
    is_inverted
        Whether all values changed their sign.
    """

    format: str
    voxel_A: float
    is_stated: bool = False
    resampled_to_A: float | None = None
    protein: Protein = "not looked at"
    is_inverted: bool = False

    def text(self) -> str:
        """Return the same for people, on one line."""
        parts = [f"{self.format}, voxels of {self.voxel_A:.3f} A{' as stated' if self.is_stated else ''}"]
        if self.resampled_to_A is not None:
            parts.append(f"resampled to {self.resampled_to_A:.3f} A")
        if self.protein != "not looked at":
            parts.append({"unclear": "contrast unclear"}.get(self.protein, f"protein is {self.protein}"))
        if self.is_inverted:
            parts.append("inverted")
        return ", ".join(parts)
