"""Picks files and pick tables: every key, every unit, nothing unknown let through."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from tomopoint.data.picks import read_picks, read_run_picks, write_picks
from tomopoint.data.tables import read_pick_table, write_pick_table, write_submission
from tomopoint.errors import DataError

NAMES = ("ribosome", "apo-ferritin")
POINTS = np.array([[100.5, 200.25, 300.125], [1.0, 2.0, 3.0]])


def test_round_trip_and_every_key(tmp_path):
    path = tmp_path / "ribosome.json"
    write_picks(path, "TS_1_2", "ribosome", POINTS)
    picks = read_picks(path)
    assert (picks.run, picks.particle) == ("TS_1_2", "ribosome")
    np.testing.assert_array_equal(picks.points_xyz_A, POINTS)
    content = json.loads(path.read_text())
    point = content.pop("points")[0]
    assert content == {
        "pickable_object_name": "ribosome",
        "user_id": "curation",
        "session_id": "0",
        "run_name": "TS_1_2",
        "voxel_spacing": None,
        "unit": "angstrom",
        "trust_orientation": True,
    }
    assert point == {
        "location": {"x": 100.5, "y": 200.25, "z": 300.125},
        "transformation_": np.eye(4).tolist(),
        "instance_id": 0,
    }


def test_run_picks_cover_every_particle(tmp_path):
    write_picks(tmp_path / "ribosome.json", "TS_1_2", "ribosome", POINTS)
    write_picks(tmp_path / "more.json", "TS_1_2", "ribosome", POINTS[:1] + 5)
    found = read_run_picks(tmp_path, NAMES)
    assert found["ribosome"].shape == (3, 3)
    assert found["apo-ferritin"].shape == (0, 3)


def test_a_point_that_is_there_twice_counts_once_and_is_said(tmp_path, caplog):
    """Twice in one file, and in the files of two people."""
    write_picks(tmp_path / "ribosome.json", "TS_1_2", "ribosome", POINTS[[0, 1, 0]])
    write_picks(tmp_path / "second_ribosome.json", "TS_1_2", "ribosome", POINTS[[1]])
    np.testing.assert_array_equal(read_run_picks(tmp_path, NAMES)["ribosome"], POINTS)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert all("1 points are there twice" in message for message in said)


def test_unknown_particle_names_file_and_fix(tmp_path):
    write_picks(tmp_path / "virus.json", "TS_1_2", "virus", POINTS)
    with pytest.raises(DataError, match=r"virus\.json: unknown particle 'virus'.*ribosome"):
        read_run_picks(tmp_path, NAMES)


def test_no_picks_at_all(tmp_path):
    with pytest.raises(DataError, match="holds no picks"):
        read_run_picks(tmp_path / "none", NAMES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(unit="nanometer"), "nanometer"),
        (lambda c: c.pop("points"), "lacks points"),
        (lambda c: c["points"][0]["location"].update(x=float("nan")), r"location\.x must be a finite number, got nan"),
        (lambda c: c["points"][0]["location"].update(x="left"), "not a picks file"),
    ],
)
def test_bad_picks_files(tmp_path, change, message):
    path = tmp_path / "ribosome.json"
    write_picks(path, "TS_1_2", "ribosome", POINTS)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message) as caught:
        read_picks(path)
    assert str(path) in str(caught.value)


@pytest.fixture
def table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "experiment": ["TS_2_1", "TS_1_1", "TS_1_1"],
            "particle_type": ["ribosome", "ribosome", "apo-ferritin"],
            "x": [1.00049, 2.0, 3.0],
            "y": [4.0, 5.0, 6.0],
            "z": [7.0, 8.0, 9.0],
            "score": [0.5, 0.25, 0.125],
        }
    )


def test_submission_is_sorted_and_numbered(tmp_path, table):
    path = tmp_path / "submission.csv"
    write_submission(table, path)
    lines = path.read_text().splitlines()
    assert lines[0] == "id,experiment,particle_type,x,y,z"
    assert lines[1] == "0,TS_1_1,apo-ferritin,3.0,6.0,9.0"
    assert lines[3] == "2,TS_2_1,ribosome,1.0,4.0,7.0"


def test_an_empty_submission_keeps_its_header(tmp_path, table):
    path = tmp_path / "submission.csv"
    write_submission(table.iloc[:0], path)
    assert path.read_text() == "id,experiment,particle_type,x,y,z\n"
    assert len(read_pick_table(path)) == 0


def test_pick_table_round_trip(tmp_path, table):
    path = tmp_path / "picks.csv"
    write_pick_table(table, path)
    pd.testing.assert_frame_equal(read_pick_table(path), table.round(3))


def test_bad_tables_name_the_line(tmp_path, table):
    path = tmp_path / "a.csv"
    table.drop(columns="z").to_csv(path)
    with pytest.raises(DataError, match="no column z"):
        read_pick_table(path)
    table.assign(y=[1.0, np.nan, 2.0]).to_csv(path, index=False)
    with pytest.raises(DataError, match="line 3: y is not a finite number"):
        read_pick_table(path)
    path.write_text("")
    with pytest.raises(DataError, match="not a CSV"):
        read_pick_table(path)
    with pytest.raises(DataError, match="cannot read"):
        read_pick_table(tmp_path / "none.csv")
