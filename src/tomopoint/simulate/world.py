"""The two worlds a tomogram can be simulated in: the one that pickers are trained in, and another one to judge them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tomopoint.simulate.density import Volume
from tomopoint.simulate.imaging import image_density
from tomopoint.simulate.optics import draw_imaging
from tomopoint.simulate.options import SimulationOptions, WorldName
from tomopoint.simulate.other_world.imaging import draw_tilt_series, image_by_projections
from tomopoint.simulate.other_world.scene import draw_other_scene
from tomopoint.simulate.particles.model import SimulatedParticle
from tomopoint.simulate.scene import Scene, draw_scene


@dataclass(frozen=True)
class World:
    """What matter there is, and how it is imaged.

    Attributes
    ----------
    draw_imaging
        Draws how one run is imaged: a frozen dataclass.
    draw_scene
        Draws what one run holds, given its shape and the labelled particles in placement order.
    image_density
        Makes tomograms by name, of a scene's density and what `draw_imaging` drew.
    """

    draw_imaging: Callable[[np.random.Generator, SimulationOptions], Any]
    draw_scene: Callable[
        [np.random.Generator, SimulationOptions, tuple[int, int, int], Sequence[SimulatedParticle]], Scene
    ]
    image_density: Callable[[Volume, Any, tuple[str, ...], np.random.Generator, str], dict[str, Volume]]


WORLDS: dict[WorldName, World] = {
    "own": World(draw_imaging, draw_scene, image_density),
    "other": World(draw_tilt_series, draw_other_scene, image_by_projections),
}
"""By the name that :attr:`tomopoint.simulate.options.SimulationOptions.world` has."""
