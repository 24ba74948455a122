"""What `tomopoint view` says where it cannot do what is asked for."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tomopoint.__main__ import main
from tomopoint.data.tables import read_pick_table
from tomopoint.errors import DataError, TomopointError
from tomopoint.formats.command import export_picks
from tomopoint.view import window
from tomopoint.view.command import view


def run(capsys, *words):
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    return end.value.code or 0, out, err


def test_without_napari_one_sentence_says_what_to_install(mrcs, capsys, monkeypatch):
    monkeypatch.setattr(window, "find_spec", lambda name: None)
    status, out, err = run(capsys, "view", mrcs)
    assert (status, out) == (1, "")
    assert err == "tomopoint view: this needs napari, which is not installed: pip install 'tomopoint[view]'\n"


def test_without_a_display_one_sentence_says_what_to_do(mrcs, monkeypatch):
    """Qt itself would end the process."""
    monkeypatch.setattr(window, "ON_LINUX", True)
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(TomopointError, match=r"no display to open a window on; .* xvfb-run .* --chimerax"):
        window.check_display()


def test_off_screen_without_opengl_is_one_sentence(mrcs):
    pytest.importorskip("napari", reason="napari is not installed: pip install 'tomopoint[view]'")
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    words = [sys.executable, "-m", "tomopoint", "view", str(mrcs), "TS_1", "--screenshot", str(mrcs / "shot.png")]
    done = subprocess.run(
        words, env=environment | {"QT_QPA_PLATFORM": "offscreen"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "Qt finds no OpenGL here (QT_QPA_PLATFORM=offscreen)" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_run_is_answered_with_those_there_are(mrcs, tmp_path, capsys):
    status, _, err = run(capsys, "view", mrcs, "TS_9", "--chimerax", tmp_path / "a.cxc")
    assert status == 1
    assert "has no run 'TS_9'; it has TS_1, TS_2" in err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--picks", "nowhere.csv"], "no such file or folder: nowhere.csv; --picks takes picks.csv"),
        (["--user", "ada"], "--user and --session choose among the picks files of a folder"),
        (["--radius", "spike"], "--radius takes spike=75,fas=130, Angstrom; got 'spike'"),
        (["--radius", "spike=-1"], "--radius spike must be a positive number"),
        (["--voxel-size", "0"], "--voxel-size must lie in"),
        (["--truth", "nowhere"], "no such folder: nowhere"),
    ],
)
def test_a_mistake_is_one_sentence(words, sentence, mrcs, tmp_path, capsys):
    status, out, err = run(capsys, "view", mrcs, "TS_1", "--chimerax", tmp_path / "a.cxc", *words)
    assert (status, out) == (1, "")
    assert sentence in err
    assert not (tmp_path / "a.cxc").exists()


def test_the_first_run_is_shown_unless_one_is_named(mrcs, prediction, tmp_path, capsys, caplog):
    caplog.set_level("INFO")
    status, out, _ = run(capsys, "view", mrcs, "--picks", prediction / "picks.csv", "--chimerax", tmp_path / "a.cxc")
    assert status == 0
    assert "2 picks of TS_1" in out
    assert "shown is TS_1, the first of TS_1, TS_2" in caplog.text


def test_picks_of_other_runs_alone_are_said(mrcs, prediction, tmp_path, capsys, caplog):
    table = read_pick_table(prediction / "picks.csv")
    table[table["experiment"] == "TS_2"].to_csv(tmp_path / "two.csv", index=False)
    done = run(capsys, "view", mrcs, "TS_1", "--picks", tmp_path / "two.csv", "--chimerax", tmp_path / "a.cxc")
    assert done[0] == 0
    assert "has no pick in TS_1; it has some in TS_2" in caplog.text


def test_picks_files_of_a_folder_are_shown_those_of_one_person(mrcs, prediction, tmp_path):
    for user in ("ada", "bob"):
        export_picks(prediction, format="copick", out=tmp_path / "overlay", user=user, all=user == "bob")
    options = {"picks": tmp_path / "overlay", "chimerax": tmp_path / "a.cxc"}
    with pytest.raises(DataError, match="say whose: --user ada --session 1; --user bob --session 1"):
        view(mrcs, "TS_1", **options)
    assert view(mrcs, "TS_1", user="ada", **options).figures["n_picks"] == 2
    assert view(mrcs, "TS_1", user="bob", **options).figures["n_picks"] == 3
