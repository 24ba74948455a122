"""The real shapes of five of the six particles, as bead models of their public atomic structures.

``beads.json`` gives, per particle, the entry of the Protein Data Bank it comes from (apo-ferritin 6PXM,
beta-galactosidase 1F4A, 80S ribosome 6QZP, thyroglobulin 7N4Y, PP7 virus-like particle 8TUX; PDB data are in the public
domain), the correlation of the beads with a 10 A map of that structure (0.95 to 0.98), and the beads themselves.
"""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Any

import numpy as np

from tomopoint.simulate.density import Blobs


@functools.cache
def _models() -> dict[str, dict[str, Any]]:
    text = resources.files("tomopoint.simulate.particles").joinpath("beads.json").read_text(encoding="utf-8")
    models: dict[str, dict[str, Any]] = json.loads(text)["particles"]
    return models


def protein_data_bank_entries() -> dict[str, str]:
    """Return the entry of the Protein Data Bank that each bead model comes from, by the particle's name."""
    return {name: model["pdb"] for name, model in _models().items()}


@functools.cache
def measured_shapes() -> dict[str, Blobs]:
    """Return the density of every particle there is a bead model of, by name, in the orientation of its structure."""
    shapes = {}
    for name, model in _models().items():
        beads_xyzw = np.array(model["beads_xyzw"], dtype=np.float64)
        sigmas = np.full(len(beads_xyzw), float(model["sigma_A"]))
        blobs = Blobs(beads_xyzw[:, 2::-1], sigmas, beads_xyzw[:, 3])
        shapes[name] = blobs.with_integral(model["integral"]).centred()
    return shapes
