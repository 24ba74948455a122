"""Notes: what is to be known of a tomogram though it was read and predicted, and what can be done about it."""

from __future__ import annotations

INCOMPLETE = "incomplete"
STORED_AS_INTEGERS = "stored as"
ODD_HEADER = "its header is odd"
THIN_ALONG_Y = "thinnest along y"
CONTRAST_UNCLEAR = "contrast unclear"
LIGHT_PROTEIN = "protein looks light"
UNLIKE_TRAINING = "unlike the"
LESS_OVERLAP = "windows overlapped less"

_PART_AGAIN = "remove the part of each of these runs and run the same `tomopoint predict` command again"
_OTHER_OUT = "with another --out, because a folder holds picks of one way of reading"

_ADVICE = {
    INCOMPLETE: f"copy or download these stores again, {_PART_AGAIN}",
    STORED_AS_INTEGERS: "no fault, unless values were cut off when they were converted",
    ODD_HEADER: f"is the voxel size right that was read? Else predict them with --voxel-size, {_OTHER_OUT}",
    THIN_ALONG_Y: f"rotate these files if it is so, {_PART_AGAIN}",
    CONTRAST_UNCLEAR: f"look at them, and if protein came out light predict them with --invert, {_OTHER_OUT}",
    LIGHT_PROTEIN: f"predict them with another --invert, {_OTHER_OUT}",
    UNLIKE_TRAINING: "look at their picks before using them; fine-tuning on a few such tomograms helps",
    LESS_OVERLAP: f"where there is time for whole overlaps, {_PART_AGAIN}",
}
"""By what a note begins with."""


def advice_on(note: str) -> str:
    """Return what to do about a note; of one that is not known here (a log of another version), to look."""
    return next((advice for start, advice in _ADVICE.items() if note.startswith(start)), "look at these tomograms")
