"""The command line's own behaviour: fast help, one sentence per mistake, JSON on request."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tomopoint.__main__ import COMMANDS, main

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


def test_a_users_mistake_is_one_sentence_and_status_1(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["score", str(tmp_path / "none.csv"), "--truth", str(tmp_path)])
    assert end.value.code == 1
    error = capsys.readouterr().err
    assert "none.csv" in error
    assert "Traceback" not in error


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
