"""A project's own particles: one file that every command reads."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from tomopoint.data.particles import project_particles, read_particles
from tomopoint.data.picks import read_picks, write_picks
from tomopoint.data.project import Project
from tomopoint.data.tables import write_pick_table, write_submission
from tomopoint.data.truth import read_truth
from tomopoint.errors import DataError, TomopointError
from tomopoint.evaluation.command import score
from tomopoint.evaluation.report import ReportSources
from tomopoint.inference.verify import verify_submission
from tomopoint.pipeline import COMPETITION_PARTICLES, Particle, Pipeline
from tomopoint.simulate.command import simulate
from tomopoint.training.crops.pseudo_labels import PseudoLabels, describe_pseudo_runs
from tomopoint.training.plan import make_plan
from tomopoint.training.recipe import Recipe
from tomopoint.training.recipe_files import load_recipe

SPIKE = {"name": "spike", "radius_A": 75.0, "weight": 3.0, "simulate": {"beads": [[0, 0, 0, 400.0]], "per_run": 6}}
BALL = {"name": "ball", "radius_A": 50.0, "threshold": 0.4, "simulate": {"beads": [[0, 0, 0, 900.0]], "per_run": 6}}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    (folder / "mine.yaml").write_text(yaml.safe_dump({"particles": [SPIKE, BALL]}))
    simulate(folder / "data", train_runs=2, test_runs=1, shape="64,96,96", particles=folder / "mine.yaml", device="cpu")
    return folder / "data"


def test_defaults_of_a_particle_that_states_its_radius_only(tmp_path: Path) -> None:
    path = tmp_path / "particles.yaml"
    path.write_text("particles: [{name: spike, radius_A: 75}, {name: ribosome, threshold: 0.5}]")
    spike, ribosome = read_particles(path)
    assert spike == Particle("spike", 75.0, 1.0, 0.25, 90.0)
    assert ribosome == Particle("ribosome", 150.0, 1.0, 0.5, 190.0)
    path.write_text("particles: [{name: spike}]")
    with pytest.raises(DataError, match=r"radius of spike is missing; state its radius_A"):
        read_particles(path)
    assert project_particles(tmp_path / "nowhere") == COMPETITION_PARTICLES


def test_recipes_take_the_projects_particles(project: Path, tmp_path: Path) -> None:
    known = project_particles(project)
    assert [particle.name for particle in known] == ["spike", "ball"]
    assert load_recipe("demo", known).particles == known
    # Some of them, by name; or others in full, whose suppression and threshold need not be said.
    mine = tmp_path / "mine.yaml"
    mine.write_text("base: demo\nparticles: [ball]\n")
    assert load_recipe(str(mine), known).particles == known[1:]
    mine.write_text("base: demo\nparticles: [{name: spike, weight: 5}, {name: rod, radius_A: 100}]\n")
    spike, rod = load_recipe(str(mine), known).particles
    assert (spike.radius_A, spike.weight) == (75.0, 5.0)
    assert rod == Particle("rod", 100.0, 1.0, 0.25, 120.0)
    mine.write_text("base: demo\nparticles: [ribosome]\n")
    with pytest.raises(TomopointError, match="unknown particle 'ribosome'; known are spike, ball"):
        load_recipe(str(mine), known)
    # A stored recipe says all in full: it is what it was, whatever the project says by now.
    load_recipe("demo", known).save(tmp_path / "stored.yaml")
    assert load_recipe(str(tmp_path / "stored.yaml")).particles == known
    # Without a file of its own nothing is different from the competition.
    assert load_recipe("default").particles == COMPETITION_PARTICLES
    assert load_recipe("default", COMPETITION_PARTICLES[::-1]).digest != load_recipe("default").digest
    mine.write_text("seed: 0\n")
    assert load_recipe(str(mine)).digest == Recipe().digest


def test_training_reads_the_particles_it_is_to_learn_and_passes_over_the_others(project: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "folds: kfold-2\nparticles: [ball]\nnetworks: [{name: segresnet}]\ncrops: {size_zyx: [64, 64, 64]}\n"
    )
    recipe = load_recipe(str(mine), project_particles(project))
    plan = make_plan(recipe, "mine", project, tmp_path / "trained")
    for name, record in plan.records.items():
        run = Project(project).run(name, "train")
        expected = read_picks(run.picks_folder / "ball.json").points_xyz_A
        assert set(record.picks_xyz_A) == {"ball"}
        np.testing.assert_array_equal(record.picks_xyz_A["ball"], expected)
    # Pseudo-labels, too, may hold what the recipe leaves out.
    (hidden,) = Project(project).runs("test")
    rows = [(hidden.name, name, 300.0, 300.0, 300.0, 0.9) for name in ("spike", "ball")]
    table = pd.DataFrame(rows, columns=["experiment", "particle_type", "x", "y", "z", "score"])
    write_pick_table(table, tmp_path / "picks.csv")
    (pseudo,) = describe_pseudo_runs(PseudoLabels(tmp_path / "picks.csv", project), recipe, ()).values()
    assert {name: len(points) for name, points in pseudo.picks_xyz_A.items()} == {"ball": 1}


@pytest.fixture
def submission(project: Path, tmp_path: Path) -> Path:
    """Every true spike, as many wrong ones, and no ball."""
    rows = []
    for run, points in read_truth(project / "truth", ["spike", "ball"]).items():
        for x, y, z in points["spike"]:
            rows += [(run, "spike", x, y, z), (run, "spike", x, y, min(z + 200.0, 630.0) if z < 400 else z - 200.0)]
    path = tmp_path / "submission.csv"
    write_submission(pd.DataFrame(rows, columns=["experiment", "particle_type", "x", "y", "z"]), path)
    return path


def test_score_report_and_verify_find_the_projects_particles(project: Path, submission: Path) -> None:
    official = score(submission, truth=project / "truth")
    counts = official.figures["per_class"]["spike"]
    precision, recall = counts["tp"] / (counts["tp"] + counts["fp"]), 1.0
    assert counts["fn"] == 0
    assert 0.4 < precision < 0.7
    assert set(official.figures["per_class"]) == {"spike", "ball"}
    f4 = 17 * precision * recall / (16 * precision + recall)
    assert official.figures["score"] == pytest.approx(3 * f4 / 4)  # the ball weighs 1 of 4 and is not found
    assert "are the project's" in official.text
    even = score(submission, truth=project / "truth", beta=1.0)
    assert even.figures["score"] == pytest.approx(3 / 4 * 2 * precision * recall / (precision + recall))
    assert "F1" in even.text
    with pytest.raises(DataError, match="beta must lie in"):
        score(submission, truth=project / "truth", beta=0.0)
    assert ReportSources(project, (submission,), project / "truth").particles == project_particles(project)
    assert verify_submission(submission, Project(project)).errors == ()


def test_a_pipeline_that_leaves_particles_out_is_scored_on_its_own(project: Path, submission: Path) -> None:
    spike = project_particles(project)[0]
    Pipeline((spike,), voxel_A=10.0).save(submission.with_name("pipeline.json"))
    assert set(score(submission, truth=project / "truth").figures["per_class"]) == {"spike"}


def test_a_name_that_the_project_does_not_know_is_still_refused(project: Path, tmp_path: Path) -> None:
    write_picks(tmp_path / "truth" / "TS_1" / "spikes.json", "TS_1", "spikes", [[1.0, 2.0, 3.0]])
    with pytest.raises(DataError, match="unknown particle 'spikes'"):
        read_truth(tmp_path / "truth", ["spike"])
