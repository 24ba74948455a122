"""Tables of picks: a bad line is refused by its number, a name is a name, and no row is lost or moved."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from damage import NAMES, try_each
from hypothesis import strategies as st
from kinds import HEADER, ROW

from tomopoint.data.picks import read_picks, write_picks
from tomopoint.data.tables import PICK_COLUMNS, read_pick_table, write_pick_table, write_submission
from tomopoint.errors import TomopointError

QUICK, MANY = 60, 300
"""Tables per property; the second in the slow run."""


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (HEADER + ROW + b"TS_1,ribosome,1,2,3,high\n", "line 3: score is not a finite number"),
        (HEADER + ROW + b"TS_1,ribosome,1,2,3,nan\n", "line 3: score is not a finite number"),
        (HEADER + ROW + b"TS_1,ribosome,1,2,3,\n", "line 3: score is not a finite number"),
        (HEADER + ROW + b"\n\nTS_1,ribosome,1,2,3\n", "line 5: score is not a finite number"),
        (HEADER + b"TS_1,ribosome,1,2,inf,0.5\n", "line 2: z is not a finite number"),
        (HEADER + b"TS_1,ribosome,True,2,3,0.5\n", "line 2: x is not a finite number"),
        (HEADER + b"TS_1,ribosome,%s,2,3,0.5\n" % (b"9" * 500), "line 2: x is not a finite number"),
        (HEADER + b",ribosome,1,2,3,0.5\n", "line 2: experiment is empty"),
        (HEADER + b"TS_1,,1,2,3,0.5\n", "line 2: particle_type is empty"),
        (HEADER + b"TS_1,extra,ribosome,1,2,3,0.5\n", "line 2: it has more fields than the header"),
        (HEADER + b"TS_1,extra,ribosome,1,2,3,0.5\n" * 3, "line 2: it has more fields than the header"),
        (HEADER + ROW + b"TS_1,extra,ribosome,1,2,3,0.5\n", "Expected 6 fields in line 3, saw 7"),
        (b"x,x\n", "Duplicate names"),
        (HEADER + b'TS_1,"ribosome\n', "not a CSV"),
        (b"\xff\xfe", "not a CSV"),
        (b"\0\0", "no column"),
    ],
)
def test_a_bad_table_is_refused_by_line(tmp_path, raw, sentence):
    path = tmp_path / "picks.csv"
    path.write_bytes(raw)
    with pytest.raises(TomopointError, match=sentence) as caught:
        read_pick_table(path)
    assert str(path) in str(caught.value)


def test_names_that_look_missing_and_blank_lines_are_taken(tmp_path):
    path = tmp_path / "picks.csv"
    path.write_bytes(b"\xef\xbb\xbf" + HEADER + b"NA,null,1,2,3,0.5\n\nnan,None,4,5,6,0.25\n1,2,7,8,9,1e-3\n\n")
    table = read_pick_table(path)
    assert table["experiment"].tolist() == ["NA", "nan", "1"]
    assert table["particle_type"].tolist() == ["null", "None", "2"]
    assert table[["x", "y", "z", "score"]].to_numpy().tolist() == [[1, 2, 3, 0.5], [4, 5, 6, 0.25], [7, 8, 9, 0.001]]


def test_no_row_is_lost_or_moved_by_a_damaged_neighbour(tmp_path):
    """A table that is taken has every line, and every cell under its own name."""
    path = tmp_path / "picks.csv"
    path.write_bytes(HEADER + ROW * 2 + b"TS_1,ribosome,1.5,2,3,0.5,\n")
    with pytest.raises(TomopointError, match="line 4"):
        read_pick_table(path)


def test_picks_that_were_written_are_read(tmp_path):
    points = np.array([[1.5, 2.0, 3.0]])
    write_picks(tmp_path / "a.json", "NA", "null", points)
    picks = read_picks(tmp_path / "a.json")
    assert (picks.run, picks.particle) == ("NA", "null")
    assert np.array_equal(picks.points_xyz_A, points)


LEGAL = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=8) | st.sampled_from(
    [name for name in NAMES if name and name.isprintable() and len(name) < 300]
)
ROWS = st.lists(
    st.tuples(LEGAL, LEGAL, *[st.integers(-(10**7), 10**7).map(lambda n: n / 1000)] * 3, st.floats(0, 1)),
    min_size=1,
    max_size=6,
)


def check_round_trips(folder, n):
    """Write rows and read them back; return how many tables were tried."""
    path = folder / "picks.csv"

    def check(rows):
        picks = pd.DataFrame(rows, columns=list(PICK_COLUMNS))
        write_pick_table(picks, path)
        found = read_pick_table(path)
        for name in ("experiment", "particle_type"):
            assert found[name].tolist() == picks[name].tolist()
        assert np.array_equal(found[["x", "y", "z"]], picks[["x", "y", "z"]])
        assert np.array_equal(found["score"], picks["score"].round(5))
        write_submission(picks, path)
        assert sorted(read_pick_table(path)["experiment"]) == sorted(picks["experiment"])

    return try_each(ROWS, n, check)


def test_any_name_and_number_comes_back_as_it_was_written(tmp_path, record_property):
    record_property("cases", check_round_trips(tmp_path, QUICK))


@pytest.mark.slow
def test_many_names_and_numbers_come_back_as_they_were_written(tmp_path, record_property):
    record_property("cases", check_round_trips(tmp_path, MANY))


CELLS = st.sampled_from(
    ["1", "", ",", '"', "\n", "\r", "\0", "nan", "NA", "1e999", "é", " ", "x", "'", "-", "1_0", "0x1", "1,5"]
)


def check_cells(folder, n):
    """Put odd cells into one line between two good ones; return how often. What is taken keeps all lines."""
    path = folder / "picks.csv"

    def check(cells):
        line = ",".join(cells).encode()
        path.write_bytes(HEADER + ROW + line + b"\n" + ROW)
        try:
            table = read_pick_table(path)
        except TomopointError:
            return
        assert table.iloc[[0, -1]]["experiment"].tolist() == ["TS_1", "TS_1"]
        assert table.iloc[[0, -1]][["x", "y", "z", "score"]].to_numpy().tolist() == [[1.5, 2.0, 3.0, 0.5]] * 2
        assert np.isfinite(table[["x", "y", "z", "score"]].to_numpy()).all()

    return try_each(st.lists(CELLS, min_size=1, max_size=8), n, check)


def test_a_line_of_odd_cells_harms_no_other_line(tmp_path, record_property):
    record_property("cases", check_cells(tmp_path, QUICK))


@pytest.mark.slow
def test_many_lines_of_odd_cells_harm_no_other_line(tmp_path, record_property):
    record_property("cases", check_cells(tmp_path, MANY))
