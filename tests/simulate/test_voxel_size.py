"""Simulated tomograms of other voxel sizes: the same things at the same size in Angstrom."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from tomopoint.data.tomograms import read_tomogram
from tomopoint.errors import DataError
from tomopoint.simulate.density import Blobs, add_blobs
from tomopoint.simulate.imaging import RIBOSOME_MINIMUM, image_density
from tomopoint.simulate.optics import ImagingParameters
from tomopoint.simulate.options import NO_VARIETY, VOXEL_A, SimulationOptions, Variety
from tomopoint.simulate.particles.catalogue import competition_particle, competition_particles
from tomopoint.simulate.placement import draw_slab
from tomopoint.simulate.project import ProjectPlan, write_project
from tomopoint.simulate.scene import draw_scene
from tomopoint.simulate.structures import Vesicle, add_vesicle
from tomopoint.simulate.tomogram import simulate_tomogram

WORLDS: tuple[Literal["own", "other"], ...] = ("own", "other")
SIZES_A = (7.0, 14.0)
BOX_A = 760.0
EMPTY = SimulationOptions(crowding=0.0, variety=NO_VARIETY)


def box_of(voxel_A: float, height_A: float = BOX_A, width_A: float = BOX_A) -> tuple[int, int, int]:
    return round(BOX_A / voxel_A), round(height_A / voxel_A), round(width_A / voxel_A)


@pytest.mark.parametrize("voxel_A", [4.0, *SIZES_A, 25.0])
def test_a_molecule_keeps_its_mass_its_place_and_its_size(voxel_A: float) -> None:
    molecule = competition_particle("ribosome").blobs
    volume = np.zeros(box_of(voxel_A), dtype=np.float32)
    centre = np.array([371.0, 383.0, 395.0])

    add_blobs(volume, molecule, centre, voxel_A)

    places = (np.indices(volume.shape) + 0.5) * voxel_A
    found = (places * volume).sum(axis=(1, 2, 3)) / volume.sum()
    gyration = math.sqrt(((places - found[:, None, None, None]) ** 2 * volume).sum() / volume.sum())
    # Coarse voxels blur by NARROWEST_VOX: 16 A at 25 A per voxel, against a radius of gyration of 88 A.
    assert volume.sum() == pytest.approx(molecule.integral, rel=0.01)
    assert np.abs(found - centre).max() < 0.1 * voxel_A
    assert gyration == pytest.approx(math.sqrt(np.trace(molecule.covariance_A2())), rel=0.06)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("voxel_A", SIZES_A)
def test_a_particle_lies_where_the_truth_says(voxel_A: float, world: Literal["own", "other"]) -> None:
    """The mean of many copies, each cut out about its true centre, is dark in its middle and as wide as one."""
    options = SimulationOptions(difficulty=0.2, crowding=0.0, variety=NO_VARIETY, voxel_A=voxel_A, world=world)
    known = competition_particle("beta-galactosidase")
    many = replace(known, statistics=replace(known.statistics, mean=40.0, spread=8.0, whatever_the_box=True))
    reach = math.ceil(120.0 / voxel_A)

    made = simulate_tomogram(options, box_of(voxel_A, 900.0, 900.0), 1, "cpu", [many])

    corners = np.floor(made.points_xyz_A[many.name][:, ::-1] / voxel_A).astype(int) - reach
    whole = [c for c in corners if (c >= 0).all() and (c + 2 * reach < made.volume_zyx.shape).all()]
    mean = np.mean([made.volume_zyx[tuple(slice(low, low + 2 * reach) for low in c)] for c in whole], axis=0)
    dark = np.argwhere(mean < mean.min() / 2)
    assert made.voxel_A == voxel_A
    assert len(whole) >= 8
    # The cut to whole voxels puts the mean's middle at reach + 0.5.
    assert np.abs((dark.mean(axis=0) - reach) * voxel_A).max() < 8.0
    # Half of the peak is 80-110 A apart across this particle (180 x 130 x 80 A) turned at random.
    assert np.ptp(dark[:, 1:], axis=0) * voxel_A == pytest.approx([95.0, 95.0], abs=20.0)


def test_counts_are_per_area_whatever_the_voxel() -> None:
    """The same stretch of ice in other voxels draws the same content: a seed's scene hardly depends on them."""
    counts = {}
    for voxel_A in (5.0, VOXEL_A, 20.0):
        shape = (round(1842 / voxel_A), round(4000 / voxel_A), round(4000 / voxel_A))
        scenes = [
            draw_scene(np.random.default_rng(seed), SimulationOptions(crowding=0.0, voxel_A=voxel_A), shape, particles)
            for seed in range(8)
            for particles in [competition_particles()]
        ]
        counts[voxel_A] = sum(len(points) for scene in scenes for points in scene.points_xyz_A().values())
        extent = np.array(shape) * voxel_A
        assert draw_slab(np.random.default_rng(0), extent).area_share() == pytest.approx(0.395, abs=0.01)

    # 179 particles in a full-size run, 0.395 of its area: 70 each, 565 in all, with a spread of about 45.
    assert counts[VOXEL_A] == pytest.approx(565, abs=150)
    assert counts[5.0] == pytest.approx(counts[VOXEL_A], rel=0.05)
    assert counts[20.0] == pytest.approx(counts[VOXEL_A], rel=0.05)


@pytest.mark.parametrize("voxel_A", [7.0, 20.0])
def test_the_grey_of_a_ribosome_and_the_noise_do_not_depend_on_the_voxel(voxel_A: float) -> None:
    parameters = ImagingParameters(voxel_A=voxel_A)
    rng = np.random.default_rng(5)
    size = round(560.0 / voxel_A)
    darkest, noise = [], []
    for _ in range(4):
        density = np.zeros((size,) * 3, dtype=np.float32)
        noise.append(image_density(density, parameters, ("denoised",), rng, "cpu")["denoised"].std())
        add_blobs(density, competition_particle("ribosome").instance(rng), np.full(3, size * voxel_A / 2), voxel_A)
        darkest.append(image_density(density, parameters, ("denoised",), rng, "cpu")["denoised"].min())

    assert np.mean(darkest) == pytest.approx(RIBOSOME_MINIMUM, rel=0.1)
    assert np.mean(noise) == pytest.approx(parameters.noise_sd, rel=0.1)


def test_a_membrane_weighs_the_same_in_any_voxels() -> None:
    vesicle = Vesicle(np.full(3, BOX_A / 2), np.full(3, 250.0), np.zeros((1, 4)), 10.0, grain_seed=1)
    masses = []
    for voxel_A in (5.0, VOXEL_A, 20.0):
        volume = np.zeros(box_of(voxel_A), dtype=np.float32)
        add_vesicle(volume, vesicle, voxel_A)
        masses.append(float(volume.sum()))

    # Blurred to 14 A, the layers' tails would reach past each other's, and end at the bilayer's middle: 7 % less.
    assert masses == pytest.approx([masses[1]] * 3, rel=0.08)


def test_a_narrow_blob_keeps_its_integral_in_coarse_voxels() -> None:
    narrow = Blobs(np.zeros((1, 3)), np.array([6.5]), np.array([100.0]))
    totals = []
    for shift in np.linspace(0.0, 20.0, 9):
        volume = np.zeros((16, 16, 16), dtype=np.float32)
        add_blobs(volume, narrow, np.full(3, 160.0 + shift), 20.0)
        totals.append(float(volume.sum()))

    assert totals == pytest.approx([100.0] * 9, rel=0.02)


def test_a_project_carries_its_voxel_size(tmp_path: Path) -> None:
    plan = ProjectPlan(tmp_path, 1, 1, (32, 48, 48), 3, SimulationOptions(voxel_A=7.5), "cpu")

    train, _ = write_project(plan)

    store = tmp_path / "train" / "static" / "ExperimentRuns" / train.run / "VoxelSpacing10.000" / "denoised.zarr"
    assert read_tomogram(store).voxel_A == 7.5
    rows = (tmp_path / "sample_submission.csv").read_text().splitlines()
    assert rows[1].endswith("180.0,180.0,120.0")  # the middle of the box
    with pytest.raises(DataError, match=r"voxel_A was 7\.5, now 8"):
        write_project(ProjectPlan(tmp_path, 1, 1, (32, 48, 48), 3, SimulationOptions(voxel_A=8.0), "cpu"))


@pytest.mark.parametrize("voxel_A", [0.0, 3.9, 25.1, math.nan])
def test_voxels_without_sense_are_refused(voxel_A: float) -> None:
    with pytest.raises(DataError, match=r"voxel_A must lie in \[4, 25\] Angstrom"):
        SimulationOptions(voxel_A=voxel_A)


def test_switching_variety_off_leaves_the_voxel_alone() -> None:
    options = SimulationOptions(voxel_A=12.0, variety=Variety(look=0.0))
    assert simulate_tomogram(options, (16, 32, 32), 0, "cpu").imaging.voxel_A == 12.0
