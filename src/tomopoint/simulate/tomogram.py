"""One simulated tomogram: scene, labels, imaging."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tomopoint.simulate.density import Array, Volume
from tomopoint.simulate.labels import imperfect_labels
from tomopoint.simulate.optics import ImagingParameters
from tomopoint.simulate.options import SimulationOptions, check_shape
from tomopoint.simulate.other_world.imaging import TiltSeries
from tomopoint.simulate.particles.catalogue import competition_particles
from tomopoint.simulate.particles.model import SimulatedParticle
from tomopoint.simulate.scene import Scene
from tomopoint.simulate.world import WORLDS

_STREAMS = 4
"""Independent random streams per run: imaging parameters, scene, labels, noise."""


@dataclass(frozen=True)
class SimulatedTomogram:
    """A tomogram and what is in it.

    Attributes
    ----------
    volume_zyx
        ``(D, H, W)`` float32, the denoised reconstruction; protein is dark, values about 1e-5.
    points_xyz_A
        The truth: per particle ``(N, 3)`` centres x, y, z in Angstrom from the volume's corner.
    labels_xyz_A
        The same as an annotator would give it, see :class:`~tomopoint.simulate.options.LabelImperfections`.
    reconstructions
        Every reconstruction asked for, by name; ``reconstructions["denoised"]`` is `volume_zyx`.
    scene
        All matter, unlabelled too.
    imaging
        How it was imaged.
    voxel_A
        Edge of a voxel, Angstrom.
    """

    volume_zyx: Volume
    points_xyz_A: dict[str, Array]
    labels_xyz_A: dict[str, Array]
    reconstructions: dict[str, Volume]
    scene: Scene
    imaging: ImagingParameters | TiltSeries
    voxel_A: float


def simulate_tomogram(
    options: SimulationOptions,
    shape_zyx: tuple[int, int, int],
    seed: int | Sequence[int],
    device: str = "auto",
    particles: Sequence[SimulatedParticle] | None = None,
) -> SimulatedTomogram:
    """Simulate one run.

    Parameters
    ----------
    options
        See :class:`~tomopoint.simulate.options.SimulationOptions`.
    shape_zyx
        Voxels along z, y, x.
    seed
        One number or several; the same seed gives the same scene and picks everywhere, and the same volume to the
        byte on one device.
    device
        Where the FFTs run: ``"auto"``, ``"cpu"`` or ``"cuda"``.
    particles
        The labelled kinds in the order they are placed; None: the competition's, in the shapes `options` names.

    Raises
    ------
    DataError
        The shape is not three axes of at least 16 voxels.
    """
    shape = check_shape(tuple(shape_zyx))
    streams = [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(_STREAMS)]
    imaging_rng, scene_rng, label_rng, noise_rng = streams
    world = WORLDS[options.world]
    imaging = world.draw_imaging(imaging_rng, options)
    kinds = competition_particles(options.shapes) if particles is None else particles
    scene = world.draw_scene(scene_rng, options, shape, kinds)
    truth = scene.points_xyz_A()
    labels = imperfect_labels(truth, options.labels, np.asarray(shape[::-1]) * options.voxel_A, label_rng)
    reconstructions = world.image_density(scene.density(), imaging, options.tomo_types, noise_rng, device)
    return SimulatedTomogram(
        reconstructions["denoised"], truth, labels, reconstructions, scene, imaging, options.voxel_A
    )
