"""Picks saved as training picks: where, what is never replaced unasked, and that they come back. Takes no napari."""

from __future__ import annotations

import numpy as np
import pytest
from view_data import VOLUME

from tomopoint.data.particles import project_particles
from tomopoint.data.picks import read_picks, write_picks
from tomopoint.data.project import Project
from tomopoint.data.sources.find import find_all
from tomopoint.data.tomograms import read_tomogram
from tomopoint.data.truth import read_truth
from tomopoint.errors import DataError
from tomopoint.view.saving import TrainingPicks, default_target

TOLERANCE_A = 0.01
POINTS = {"ribosome": np.array([[45.6789, 234.5678, 123.4567], [100.0, 50.0, 60.0]]), "spike": np.zeros((0, 3))}


def saver(data, out, radii_A=None, run="TS_1", particles=()):
    return TrainingPicks(out, find_all(data), run, radii_A or {}, particles)


def test_what_is_saved_is_read_back_in_its_place(mrcs, tmp_path):
    said = saver(mrcs, tmp_path / "p").save(POINTS)
    assert f"2 picks of TS_1 are in {tmp_path / 'p'}; train on it: tomopoint train --data {tmp_path / 'p'}" in said
    truth = read_truth(tmp_path / "p", ["ribosome"])["TS_1"]["ribosome"]
    np.testing.assert_allclose(truth, POINTS["ribosome"][:, ::-1], atol=TOLERANCE_A)
    run = Project(tmp_path / "p").run("TS_1", "train")
    assert run.tomogram_path().resolve() == mrcs / "TS_1.mrc"
    assert np.array_equal(read_tomogram(run.tomogram_path()).volume_zyx, VOLUME)
    assert [path.name for path in run.picks_folder.iterdir()] == ["ribosome.json"]
    assert [particle.name for particle in project_particles(tmp_path / "p")] == ["ribosome"]


def test_what_others_wrote_is_asked_about_and_ones_own_is_not(mrcs, tmp_path):
    one = saver(mrcs, tmp_path / "p")
    assert one.replaces(POINTS) == []
    one.save(POINTS)
    moved = {"ribosome": POINTS["ribosome"] + 5.0}
    assert one.replaces(moved) == []  # its own
    one.save(moved)
    (path,) = (tmp_path / "p").rglob("ribosome.json")
    another = saver(mrcs, tmp_path / "p")
    assert another.replaces(moved) == []  # the same picks
    assert another.replaces(POINTS) == [path]
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"ribosome.json holds other picks"):
        another.save(POINTS)
    assert path.read_bytes() == before
    another.save(POINTS, [path])
    np.testing.assert_allclose(read_picks(path).points_xyz_A, POINTS["ribosome"][:, ::-1], atol=TOLERANCE_A)


def test_of_a_particle_whose_picks_are_all_removed_the_earlier_ones_go(mrcs, tmp_path):
    one = saver(mrcs, tmp_path / "p", {"spike": 75.0})
    one.save({**POINTS, "spike": np.array([[10.0, 20.0, 30.0]])})
    one.save(POINTS)
    (path,) = (tmp_path / "p").rglob("spike.json")
    assert len(read_picks(path).points_xyz_A) == 0
    with pytest.raises(DataError, match="no pick of TS_1 is shown"):
        one.save({"ribosome": np.zeros((0, 3))})


def test_a_second_run_joins_the_project(mrcs, tmp_path):
    """Particles of other runs are listed from the beginning, so that what only the second has is no surprise."""
    saver(mrcs, tmp_path / "p", {"spike": 75.0}, particles=["ribosome", "spike"]).save(POINTS)
    two = saver(mrcs, tmp_path / "p", {"spike": 75.0}, run="TS_2", particles=["ribosome", "spike"])
    two.save({"spike": np.array([[10.0, 20.0, 30.0]])})
    assert [run.name for run in Project(tmp_path / "p").runs("train")] == ["TS_1", "TS_2"]
    assert {p.name: p.radius_A for p in project_particles(tmp_path / "p")} == {"ribosome": 150.0, "spike": 75.0}


def test_picks_of_a_test_run_can_be_saved_beside_it(stores):
    """Into the data's own project: as a training run, which is a link to the test run."""
    one = saver(stores, stores)
    one.save(POINTS)
    assert (stores / "train/static/ExperimentRuns/TS_1").resolve() == stores / "test/static/ExperimentRuns/TS_1"
    assert not (stores / "test/overlay").exists()


def test_training_picks_of_the_data_are_asked_about(stores):
    path = stores / "train/overlay/ExperimentRuns/TS_1/Picks/ribosome.json"
    write_picks(path, "TS_1", "ribosome", [[1.0, 2.0, 3.0]])
    assert saver(stores, stores).replaces(POINTS) == [path]


def test_the_default_project_is_never_the_data(mrcs, stores, tmp_path):
    assert str(default_target(mrcs)) == "mrcs-picked"
    assert str(default_target(mrcs / "TS_1.mrc")) == "TS_1-picked"
    assert str(default_target(stores)) == "stores-picked"
    assert str(default_target(mrcs / "*.mrc")) == "mrcs-picked"
