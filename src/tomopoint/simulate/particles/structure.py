"""Atomic structures: mmCIF or PDB files as points that scatter."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tomopoint.errors import DataError, reason_of
from tomopoint.files import require_file
from tomopoint.simulate.density import UNITS_PER_KDA, Array
from tomopoint.simulate.particles.coarse import VOLUME_PER_KDA_A3, Points

ELECTRONS_PER_KDA = 535.0
"""Of protein, hydrogens included (0.535 per Dalton; nucleic acids have 0.51).

How strongly an atom scatters is taken as its number of electrons. That is a few per cent off the electron scattering
factors, the same for all proteins, and it makes a molecule's integral that of the measured shapes: proportional to its
mass in protein, :data:`tomopoint.simulate.density.UNITS_PER_KDA`.
"""

HYDROGENS_PER_PROTEIN = 1.15
HYDROGENS_PER_NUCLEIC_ACID = 1.07
"""Electrons of a residue over those of its heavy atoms, for the hydrogens that few structures hold.

The mean residue of proteins is C4.95 H7.8 N1.35 O1.48 S0.04 (7.8 of 59.4 electrons are hydrogens'), that of RNA
C9.5 H10.75 N3.75 O7 P (10.75 of 165). A plain factor per kind of residue also suits residues that are modelled in part.
"""

_DEUTERIUM = 119
_CARBON = 6


def read_structure(path: Path, assembly: str | int = 1, mass_kda: float | None = None) -> Points:
    """Read what scatters of a structure.

    Of several models the first is taken; of alternate locations that of the highest occupancy, as if it were full;
    waters are left out, and what else is bound stays. Where a residue has no hydrogens they are added to the weights
    of its atoms.

    Parameters
    ----------
    path
        ``.cif``, ``.mmcif``, ``.pdb`` or ``.ent``, each also with ``.gz``.
    assembly
        Biological assembly to build, by its name in the file, e.g. 1; ``"none"``: the coordinates as they stand. In
        files that list no assembly, 1 is the coordinates as they stand.
    mass_kda
        Of the molecule; default by its electrons, which is right where every heavy atom is there.

    Raises
    ------
    DataError
        Not there, not a structure, no atoms but water, or no such assembly.
    """
    import gemmi

    require = "give an mmCIF or PDB file (.cif, .pdb, also .gz)"
    try:
        require_file(path)
        structure = gemmi.read_structure(str(path), merge_chain_parts=True)
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror or reason_of(error)}); {require}") from error
    except (RuntimeError, ValueError, IndexError) as error:  # IndexError: a file without any block
        raise DataError(f"{path} is not a structure ({reason_of(error)}); {require}") from error
    while len(structure) > 1:
        del structure[-1]
    structure.remove_waters()
    if len(structure) == 0 or structure[0].count_atom_sites() == 0:
        raise DataError(f"{path} holds no atoms of a molecule; {require} with coordinates")
    known = [one.name for one in structure.assemblies]
    if str(assembly) in known:
        structure.transform_to_assembly(str(assembly), gemmi.HowToNameCopiedChain.Short)
    elif str(assembly) != "none" and (known or str(assembly) != "1"):
        raise DataError(
            f"{path} has no assembly {assembly}; it has {', '.join(known) or 'none'}, or say assembly: none"
        )

    # One row per atom, sorted so that the alternate locations of an atom follow each other, the likeliest first.
    atoms = gemmi.FlatStructure(structure)
    names = np.concatenate([atoms.chain_ids, atoms.atom_names], axis=1).view("S16").reshape(-1)
    _, site_of = np.unique(names, return_inverse=True)
    places = np.stack([atoms.resnums, atoms.icodes, site_of.reshape(-1)])
    order = np.lexsort((-np.asarray(atoms.occ), *places))
    repeated = (np.diff(places[:, order]) == 0).all(axis=0) & (np.asarray(atoms.altlocs)[order][1:] != 0)
    kept = order[np.concatenate([[True], ~repeated])]
    positions = np.asarray(atoms.pos, dtype=np.float64)[kept, ::-1]
    if not np.isfinite(positions).all():
        raise DataError(f"{path} holds atoms whose coordinates are no numbers; correct or remove them")

    elements = np.asarray(atoms.elements, dtype=np.int64)[kept]
    hydrogens = (elements == 1) | (elements == _DEUTERIUM)
    electrons = np.where(hydrogens, 1.0, np.where(elements == 0, _CARBON, elements))
    weights = electrons * _hydrogen_factors(np.asarray(atoms.residue_names)[kept], hydrogens)
    mass = float(weights.sum()) / ELECTRONS_PER_KDA if mass_kda is None else mass_kda
    weights *= mass * UNITS_PER_KDA / weights.sum()
    return Points(np.ascontiguousarray(positions), weights, mass * VOLUME_PER_KDA_A3)


def _hydrogen_factors(residue_names: np.ndarray, hydrogens: np.ndarray) -> Array:
    """Return per atom what its weight is multiplied with, by the kind of its residue.

    A structure has its hydrogens or it has not: a fifth of all atoms, where half are to be expected, tells them apart
    from the few that a refinement leaves on ligands.
    """
    import gemmi

    if hydrogens.mean() > 0.2:
        return np.ones(len(hydrogens))
    kinds, kind_of = np.unique(np.ascontiguousarray(residue_names).view("S8").reshape(-1), return_inverse=True)
    factors = []
    for kind in kinds:
        residue = gemmi.find_tabulated_residue(kind.decode())
        factors.append(HYDROGENS_PER_NUCLEIC_ACID if residue.is_nucleic_acid() else HYDROGENS_PER_PROTEIN)
    return np.array(factors)[kind_of.reshape(-1)]
