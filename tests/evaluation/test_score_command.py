"""The command `score`: every way to name the truth, and its errors."""

import json

import pandas as pd
import pytest

from tomopoint.__main__ import main
from tomopoint.data.picks import write_picks
from tomopoint.data.truth import find_pick_folders, read_truth
from tomopoint.errors import DataError
from tomopoint.evaluation.command import score
from tomopoint.pipeline import COMPETITION_PARTICLES, Particle, Pipeline

NAMES = ("ribosome", "apo-ferritin")
RIBOSOMES = [[100.0, 200.0, 300.0], [900.0, 200.0, 300.0]]


@pytest.fixture
def submission(tmp_path):
    path = tmp_path / "submission.csv"
    rows = [
        ("TS_1", "ribosome", *RIBOSOMES[0]),
        ("TS_1", "ribosome", 100.0, 260.0, 300.0),
        ("TS_7", "ribosome", 0.0, 0.0, 0.0),
    ]
    table = pd.DataFrame(rows, columns=["experiment", "particle_type", "x", "y", "z"])
    table.insert(0, "id", range(len(table)))
    table.to_csv(path, index=False)
    return path


@pytest.fixture
def project(tmp_path):
    runs = tmp_path / "project" / "train" / "overlay" / "ExperimentRuns"
    write_picks(runs / "TS_1" / "Picks" / "ribosome.json", "TS_1", "ribosome", RIBOSOMES)
    (runs / "TS_2" / "Picks").mkdir(parents=True)
    return tmp_path / "project"


@pytest.mark.parametrize("level", ["", "train", "train/overlay", "train/overlay/ExperimentRuns"])
def test_truth_is_found_at_every_level_of_a_project(project, submission, level):
    figures = score(submission, truth=project / level).figures
    # TP 1, FP 1, FN 1: precision and recall one half, F4 one half, one seventh of the weights.
    assert figures["score"] == pytest.approx(0.5 / 7)
    assert figures["per_class"]["ribosome"]["fp"] == 1
    assert figures["per_class"]["ribosome"]["localisation_A"] == 0.0
    assert figures["n_rows_left_out"] == 1


def test_truth_is_found_in_plain_folders(tmp_path, submission):
    write_picks(tmp_path / "truth" / "TS_1" / "ribosome.json", "TS_1", "ribosome", RIBOSOMES)
    write_picks(tmp_path / "truth" / "TS_1" / "apo-ferritin.json", "TS_1", "apo-ferritin", [])
    assert score(submission, truth=tmp_path / "truth").figures["score"] == pytest.approx(0.5 / 7)
    truth = read_truth(tmp_path / "truth", NAMES)
    assert truth["TS_1"]["ribosome"].tolist() == RIBOSOMES
    assert truth["TS_1"]["apo-ferritin"].shape == (0, 3)


def test_particles_come_from_the_pipeline_beside_the_submission(tmp_path, project, submission):
    particles = (Particle("ribosome", 10.0, 1.0, 0.25, 10.0), Particle("apo-ferritin", 60.0, 3.0, 0.25, 60.0))
    Pipeline(particles, voxel_A=10.0).save(tmp_path / "pipeline.json")
    result = score(submission, truth=project)
    assert result.figures["score"] == pytest.approx(0.5 / 4)  # one of the two weighs 1 of 4
    assert "not its score" in result.text
    Pipeline(COMPETITION_PARTICLES, voxel_A=10.0).save(tmp_path / "other.json")
    official = score(submission, truth=project, pipeline=tmp_path / "other.json")
    assert official.figures["score"] == pytest.approx(0.5 / 7)
    assert "not its score" not in official.text


def test_errors_name_the_folder(tmp_path, project):
    with pytest.raises(DataError, match="no such folder"):
        find_pick_folders(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no picks; expected"):
        find_pick_folders(project / "train" / "overlay" / "ExperimentRuns" / "TS_2")
    with pytest.raises(DataError, match="no picks of TS_3"):
        read_truth(project, NAMES, runs=["TS_1", "TS_3"])


def test_command_line_prints_a_table_and_json(project, submission, capsys):
    with pytest.raises(SystemExit) as done:
        main(["score", str(submission), "--truth", str(project), "--json"])
    assert done.value.code == 0
    assert json.loads(capsys.readouterr().out)["per_run"] == {"TS_1": pytest.approx(0.5 / 7)}
    with pytest.raises(SystemExit):
        main(["score", str(submission), "--truth", str(project)])
    assert "\nscore: 0.0714" in capsys.readouterr().out


def test_a_score_against_simulated_truth_is_called_simulated(project, submission):
    (project / "simulation.json").write_text("{}")
    result = score(submission, truth=project / "train" / "overlay")
    assert result.figures["simulated"] is True
    assert "simulated score: 0.0714" in result.text


def test_command_line_ends_with_one_when_there_is_no_truth(tmp_path, submission, capsys):
    with pytest.raises(SystemExit) as done:
        main(["score", str(submission), "--truth", str(tmp_path / "nowhere")])
    assert done.value.code == 1
    assert "nowhere" in capsys.readouterr().err
