"""The command line's own behaviour: fast help, one sentence per mistake, JSON on request."""

from __future__ import annotations

import errno
import json
import subprocess
import sys

import pytest

from tomopoint.__main__ import COMMANDS, main, run_script
from tomopoint.errors import machine_fault
from tomopoint.files import write_atomically

HEAVY = ("torch", "monai", "lightning", "onnxruntime", "matplotlib", "pandas", "zarr", "scipy")


@pytest.mark.parametrize("name", list(COMMANDS))
def test_help_describes_every_option_and_imports_nothing_heavy(name):
    code = (
        "import sys\n"
        "from tomopoint.__main__ import main\n"
        f"try:\n    main([{name!r}, '--help'])\n"
        "except SystemExit as end:\n    status = end.code\n"
        f"print('HEAVY', [m for m in {HEAVY!r} if m in sys.modules], status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY [] 0" in done.stdout, done.stdout
    assert "--json" in done.stdout
    for positional in COMMANDS[name].positional:
        assert positional in done.stdout


def test_overview_lists_every_command(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)


def test_unknown_command(capsys):
    with pytest.raises(SystemExit) as end:
        main(["trian"])
    assert end.value.code == 2
    assert "unknown command 'trian'" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--window", "96,96,96"], ["--views=flip_x"], ["--offset-average", "score"]])
def test_an_option_that_would_change_what_was_validated_is_refused_with_the_command_that_has_it(words, capsys):
    moved = dict.fromkeys(("window", "views", "offset-average"), "tomopoint validate RUN [RUN...]")
    with pytest.raises(SystemExit) as end:
        run_script("tomopoint.export.command:export_onnx", ["runs/a", *words], positional=("runs",), moved=moved)
    assert end.value.code == 2
    option = words[0].partition("=")[0]
    assert f"tomopoint validate RUN [RUN...] {option}" in capsys.readouterr().err


def test_a_users_mistake_is_one_sentence_and_status_1(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["score", str(tmp_path / "none.csv"), "--truth", str(tmp_path)])
    assert end.value.code == 1
    error = capsys.readouterr().err
    assert "none.csv" in error
    assert "Traceback" not in error


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SystemExit) as end:
        main(["simulate", str(tmp_path / "file" / "data"), "--train-runs", "1", "--shape", "16,16,16"])
    assert end.value.code == 1
    error = capsys.readouterr().err
    assert "choose another path" in error
    assert "Traceback" not in error


def test_a_write_that_fails_leaves_the_earlier_file_and_nothing_else(tmp_path):
    path = tmp_path / "deep" / "record.json"
    write_atomically(path, "earlier")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "half\ud800")  # no encoding has this
    assert [p.name for p in path.parent.iterdir()] == ["record.json"]
    assert path.read_text() == "earlier"


def test_faults_of_the_machine_are_told_from_bugs():
    assert "free disk space" in machine_fault(OSError(errno.ENOSPC, "No space left on device"))
    denied = PermissionError(errno.EACCES, "Permission denied", "/data")
    assert "Permission denied: /data; change" in machine_fault(denied)
    assert machine_fault(FileNotFoundError(errno.ENOENT, "No such file", "/data")) is None
    assert machine_fault(ValueError("a bug")) is None


def test_json_is_one_object(tmp_path, capsys):
    truth = tmp_path / "truth" / "TS_1_1"
    from tomopoint.data.picks import write_picks

    write_picks(truth / "ribosome.json", "TS_1_1", "ribosome", [[100, 100, 100]])
    submission = tmp_path / "submission.csv"
    submission.write_text("id,experiment,particle_type,x,y,z\n0,TS_1_1,ribosome,100,100,100\n")
    with pytest.raises(SystemExit) as end:
        main(["score", str(submission), "--truth", str(tmp_path / "truth"), "--json"])
    assert end.value.code == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["ok"] is True
    assert figures["score"] == pytest.approx(1 / 7)
