"""Tomograms of one's own, read as a graph knows them: its voxels, and dark protein."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from tomopoint.data.contrast import measure, protein_of, unlike
from tomopoint.data.notes import CONTRAST_UNCLEAR, LIGHT_PROTEIN
from tomopoint.data.read_record import Protein, ReadRecord
from tomopoint.data.resample import resample, resampled_shape
from tomopoint.data.stores import COPIES_IN_MEMORY, check_memory
from tomopoint.data.tomograms import StoredTomogram, Tomogram, TomogramInfo, open_tomogram
from tomopoint.errors import DataError

FACTORS = (0.2, 2.0)
"""Voxels over the graph's that are resampled. Finer ones lose nothing; below a fifth stands what was not meant so (a
header's default of 1 A, nanometres taken for Angstrom), and whoever has such files bins them in less time. Coarser ones
hold ever less of what the networks look at: at twice the competition's voxels, details below 40 A, a third of
apo-ferritin."""

VOXEL_TOLERANCE = 0.02
"""Voxel sizes may differ from the training's by this share: a 2 % scale is within the +-5 % of the augmentation."""

Resample = Literal["auto", "never"]
Invert = Literal["auto", "yes", "no"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """What is done to a tomogram on reading it.

    Attributes
    ----------
    voxel_A
        Voxels that the graph was trained on, Angstrom.
    tolerance
        Voxels may differ from them by this share, and are not resampled then.
    tomo_type
        Reconstruction that the graph was validated on: what is unlike it is said.
    resample
        ``"auto"``: other voxels are resampled; ``"never"``: refused.
    invert
        ``"auto"``: where protein is light; ``"yes"``, ``"no"``: whatever it is.
    """

    voxel_A: float
    tolerance: float
    tomo_type: str
    resample: Resample = "auto"
    invert: Invert = "auto"

    def text(self) -> str:
        """Return the same on one line."""
        return f"resample {self.resample} to {self.voxel_A:g} A, invert {self.invert}"

    def resamples(self, voxel_A: float, path: Path) -> bool:
        """Whether a tomogram of such voxels is resampled; DataError where it would have to be and cannot."""
        factor = voxel_A / self.voxel_A
        if abs(factor - 1) <= self.tolerance:
            return False
        if self.resample == "never":
            raise DataError(
                f"{path} has voxels of {voxel_A:.3f} A, the networks were trained at {self.voxel_A:.3f} A; leave out "
                "--resample never, or resample the tomogram to that voxel size"
            )
        low, high = (limit * self.voxel_A for limit in FACTORS)
        if not low <= voxel_A <= high:
            raise DataError(
                f"{path} has voxels of {voxel_A:.3f} A; those of {low:.3g} to {high:.3g} A are resampled to the "
                f"{self.voxel_A:.3f} A of the networks: reconstruct it with others, or where this is not its voxel "
                "size state it with --voxel-size, in Angstrom"
            )
        return True


def as_read(info: TomogramInfo, reading: Reading) -> TomogramInfo:
    """Return shape and voxel size of a tomogram once it is read; DataError as :meth:`Reading.resamples`."""
    if not reading.resamples(info.voxel_A, info.path):
        return info
    shape_zyx = resampled_shape(info.shape_zyx, info.voxel_A, reading.voxel_A)
    return replace(info, shape_zyx=shape_zyx, voxel_A=reading.voxel_A)


def read_as(path: Path, reading: Reading, voxel_A: float | None = None) -> Tomogram:
    """Read a tomogram as a graph knows them.

    Positions in Angstrom from its corner stay what they are.

    Parameters
    ----------
    path
        File or store.
    reading
        What to do.
    voxel_A
        Edge of its voxels as the user states it; None: as its metadata say.

    Raises
    ------
    DataError
        As :func:`tomopoint.data.tomograms.read_tomogram` and :meth:`Reading.resamples`; or it is smaller than one of
        the graph's voxels.
    """
    stored = open_tomogram(path, voxel_A)
    record = ReadRecord(stored.format, stored.voxel_A, voxel_A is not None)

    # The graph's voxels.
    if reading.resamples(stored.voxel_A, path):
        volume, own_A = _resampled(stored, reading.voxel_A), reading.voxel_A
        record = replace(record, resampled_to_A=reading.voxel_A)
    else:
        volume, own_A = stored.read(), stored.voxel_A

    # Dark protein.
    statistics = measure(volume, own_A)
    protein: Protein = protein_of(statistics)
    is_inverted = reading.invert == "yes" or (reading.invert == "auto" and protein == "light")
    if is_inverted:
        np.negative(volume, out=volume)
        statistics = statistics.inverted()
    record = replace(record, protein=protein, is_inverted=is_inverted)
    logger.info("%s: %s", path, record.text())

    # What whoever uses the picks should know.
    notes = list(stored.notes)
    if protein == "unclear":
        notes.append(f"{CONTRAST_UNCLEAR}, read as " + ("inverted" if is_inverted else "it is"))
    elif (protein == "dark") == is_inverted:
        notes.append(f"{LIGHT_PROTEIN}{'' if is_inverted else ' in the file'} to the networks: see --invert")
    notes += unlike(statistics, reading.tomo_type)
    for note in notes[len(stored.notes) :]:
        logger.warning("%s: %s", path, note)
    return Tomogram(volume, own_A, path, tuple(notes), record)


def _resampled(stored: StoredTomogram, target_A: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    new_zyx = resampled_shape(stored.shape_zyx, stored.voxel_A, target_A)
    if min(new_zyx) < 1:
        raise DataError(f"{stored.path}: {stored.shape_zyx} voxels are less than one of {target_A:.3f} A along an axis")
    slab = 4 * stored.slab * math.prod(stored.shape_zyx[1:])
    needed = COPIES_IN_MEMORY * (4 * math.prod(new_zyx) + slab)
    check_memory(needed, new_zyx, stored.path, f" after resampling to {target_A:.3f} A")
    return resample(stored.slabs(), stored.shape_zyx, stored.voxel_A, target_A)
