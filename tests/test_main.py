"""The command line's own behaviour: help, one sentence per mistake, statuses, JSON on request."""

from __future__ import annotations

import errno
import importlib
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from docstring_parser import parse

from tomopoint import __version__
from tomopoint.__main__ import COMMANDS, app, main
from tomopoint.errors import machine_fault
from tomopoint.files import write_atomically

CHECKOUT = Path(__file__).parents[1]
HEAVY = ("torch", "monai", "lightning", "onnxruntime", "matplotlib", "pandas", "zarr", "scipy")
TARGETS = {name: target for commands in COMMANDS.values() for name, target in commands.items()}


def run(capsys, *words):
    """Run a command line in this process; return its status, standard output and standard error."""
    with pytest.raises(SystemExit) as end:
        main(words)
    out, err = capsys.readouterr()
    return end.value.code or 0, out, err


def plain(help_text):
    """Return the words of a help page without its frames, in which no word is broken."""
    return " ".join(re.sub("[─│╭╮╰╯]", " ", help_text).split())


@pytest.mark.parametrize("name", TARGETS)
def test_help_says_all_that_the_docstring_says(name, capsys, monkeypatch):
    """Markdown swallows what looks like a tag, for one."""
    monkeypatch.setenv("COLUMNS", "400")
    module, _, function = TARGETS[name].partition(":")
    command = getattr(importlib.import_module(module), function)
    docs = parse(inspect.getdoc(command))
    status, out, err = run(capsys, name, "--help")
    assert (status, err) == (0, "")
    page = plain(out)
    texts = [docs.short_description, *(part.description for part in docs.params if part.arg_name != "content")]
    for text in texts:
        assert " ".join(text.replace("`", "").split()) in page
    described = {part.arg_name for part in docs.params}
    assert described == set(inspect.signature(command).parameters)
    for parameter in inspect.signature(command).parameters.values():
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            assert parameter.name.upper() in page
        elif parameter.name != "content":
            assert f"--{parameter.name.replace('_', '-')}" in page
    assert "--json" in page


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in TARGETS)], ids=" ".join)
def test_help_imports_nothing_heavy_and_only_the_command_that_was_asked_for(words):
    code = (
        "import sys\n"
        "from tomopoint.__main__ import main\n"
        f"try:\n    main({words!r})\n"
        "except SystemExit as end:\n    status = end.code or 0\n"
        "print('LOADED', status, *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    status, *modules = done.stdout.partition("LOADED ")[2].split()
    assert status == "0"
    assert [name for name in HEAVY if name in modules] == []
    commands = {target.partition(":")[0] for target in TARGETS.values()}
    loaded = commands & set(modules)
    assert loaded == (commands if words == ["--help"] else {TARGETS[words[0]].partition(":")[0]})


def test_the_overview_has_a_line_for_every_command_by_stretches_of_the_road(capsys):
    status, out, _ = run(capsys, "--help")
    assert status == 0
    places = [out.index(f" {stretch} ─") for stretch in COMMANDS]
    assert places == sorted(places)
    for name in TARGETS:
        assert re.search(rf"^│ {name} +[A-Z]\w+ .+│$", out, re.MULTILINE), name


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_no_command_shows_the_overview_and_ends_with_2(words, capsys):
    status, out, _ = run(capsys, *words)
    assert status == 2
    assert "Write simulated tomograms" in out


def test_version(capsys):
    assert run(capsys, "--version") == (0, f"tomopoint {__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["trian"], 'tomopoint: Unknown command "trian". Did you mean "train"?'),
        (
            ["validate", "x", "--wieghts", "equal"],
            "tomopoint validate: Unknown option: --wieghts. Did you mean --weights?",
        ),
        (["validate"], "FOLDERS requires an argument"),
        (["train", "--out", "x"], "--data requires an argument"),
        (["simulate", "x", "--seed", "one"], 'Invalid value for --seed: unable to convert "one" into int.'),
        (["simulate", "x", "12"], "tomopoint simulate: Unexpected: 12. See `tomopoint simulate --help`."),
        (["simulate", "x", "--tomo-types", "sharpened"], '"denoised", "wbp", "ctfdeconvolved"'),
    ],
)
def test_a_wrong_word_is_one_plain_line_and_status_2(words, sentence, capsys):
    status, out, err = run(capsys, *words)
    assert (status, out) == (2, "")
    assert sentence in err
    assert err.startswith("tomopoint")
    assert err.count("\n") == 1
    assert not re.search("[─│╭\x1b]", err)


@pytest.mark.parametrize(
    ("words", "choices"),
    [
        (["simulate", "x", "--device"], ["auto", "cpu", "cuda"]),
        (["train", "--data", "x", "--out", "x", "--precision"], ["fp32", "bf16", "fp16", "auto"]),
        (["train", "--data", "x", "--out", "x", "--device"], ["auto", "cpu", "cuda"]),
        (["train", "--data", "x", "--out", "x", "--curves"], ["tensorboard", "wandb", "none"]),
        (["validate", "x", "--score-maps"], ["out-of-fold", "none"]),
        (["validate", "x", "--view-merge"], ["mean", "gmean", "max"]),
        (["validate", "x", "--offset-average"], ["mean", "score"]),
        (["validate", "x", "--device"], ["auto", "cpu", "cuda"]),
        (["export", "x", "--precision"], ["fp16", "fp32"]),
        (["engine", "x", "--flavour"], ["auto", "tensorrt", "tensorrt_rtx", "openvino"]),
        (["predict", "--data", "x", "--model", "x", "--out", "x", "--split"], ["train", "test"]),
        (
            ["predict", "--data", "x", "--model", "x", "--out", "x", "--provider"],
            ["auto", "tensorrt", "cuda", "openvino", "cpu"],
        ),
        (["rehearse", "--dataset", "x", "--data", "x", "--out", "x", "--layout"], ["flat", "nested"]),
        (["push", "x", "--only"], ["submit"]),
    ],
    ids=lambda value: f"{value[0]} {value[-1]}",
)
def test_choices_are_shown_and_nothing_else_is_taken(words, choices, capsys, monkeypatch):
    status, _, err = run(capsys, *words, "whatever")
    assert status == 2
    listed = ", ".join(f'"{choice}"' for choice in choices)
    assert f'Invalid value "whatever" for {words[-1]}. Choose from: {listed}.' in err
    monkeypatch.setenv("COLUMNS", "400")
    assert f"[choices: {', '.join(choices)}]" in plain(run(capsys, words[0], "--help")[1])


def test_defaults_are_shown_as_one_types_them(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    page = plain(run(capsys, "simulate", "--help")[1])
    assert "Runs with labels. [default: 6]" in page
    assert "[default: denoised]" in page
    push = plain(run(capsys, "push", "--help")[1])
    assert "send nothing. --over-time" in push  # a flag has no default, nor what is left open
    assert "None" not in push


@pytest.mark.parametrize(
    "word",
    ["--window=96,96,96", "--overlap", "--views=4", "--view-merge", "--score-maps", "--weights", "--offset_average"],
)
def test_an_option_that_would_change_what_was_validated_is_refused_with_the_command_that_has_it(word, capsys):
    status, _, err = run(capsys, "export", "runs/a", "runs/b", "-o", "e.onnx", word, "score")
    assert status == 2
    option = word.partition("=")[0].replace("_", "-")
    assert f"tomopoint export: {option} would change what was validated" in err
    assert f"tomopoint validate runs/a runs/b {option} ..." in err


def test_a_renamed_option_says_its_new_name(capsys):
    status, _, err = run(capsys, "report", "--data", "x", "--run", "trained/first")
    assert (status, err) == (2, "tomopoint report: --run is called --trained now: --trained FOLDER\n")


def test_of_an_option_that_is_repeated_the_last_counts(capsys):
    status, _, err = run(capsys, "score", "a.csv", "--truth", "x", "--truth", "y", "--pipeline", "a", "--pipeline=b")
    assert status == 1
    assert "a.csv" in err
    folders = app.parse_args(["validate", "a", "b", "--out", "x", "--out", "y"])[1].arguments
    assert folders == {"folders": [Path("a"), Path("b")], "out": Path("y")}


def test_underscores_and_capitals_are_taken(tmp_path, capsys):
    words = ["simulate", str(tmp_path / "data"), "--train_runs", "1", "--labels.jitter_A", "99"]
    status, _, err = run(capsys, *words)
    assert (status, err) == (1, "tomopoint simulate: jitter_A must lie in [0, 50] Angstrom, got 99.0\n")
    assert run(capsys, "simulate", str(tmp_path / "data"), "--train_runs", "-1", "--shape", "32,32,32")[0] == 1


@pytest.mark.parametrize(
    ("script", "words", "sentence"),
    [
        ("export_onnx.py", ["RUN", "-o", "e.onnx"], "tomopoint export: no such training folder: RUN"),
        ("export_onnx.py", ["RUN", "--views", "flip_x"], "tomopoint validate RUN --views ..."),
        ("build_dataset.py", [], "tomopoint stage: give one of --model ensemble.onnx"),
    ],
)
def test_both_scripts_are_their_commands(script, words, sentence, tmp_path):
    words = [sys.executable, str(CHECKOUT / script), *words]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == (2 if "--views" in words else 1)
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_what_needs_kernels_says_where_they_come_from(tmp_path, capsys, monkeypatch):
    """As in a package installed from its wheel."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tomopoint.kaggle.home.__file__", str(tmp_path / "a" / "b" / "c" / "home.py"))
    status, _, err = run(capsys, "push", "kit")
    assert status == 1
    assert err == (
        f"tomopoint push: {tmp_path} has no kernels/kernels.toml: change into the folder with yours, or run "
        "`tomopoint kernels`, which writes kernels/ and wheels/ into this one\n"
    )
    assert "tomopoint kernels" in run(capsys, "wheels")[2]
    assert "manifest.json" in run(capsys, "stage", "--check", str(tmp_path))[2]  # which needs none


def test_shell_completion_is_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    script = tmp_path / "completion"
    status, _, _ = run(capsys, "--install-completion", "--shell", "bash", "--output", str(script))
    assert status == 0
    assert all(word in script.read_text() for word in [*TARGETS, "--offset-average", "out-of-fold"])


def test_a_stop_by_hand_is_one_sentence_and_status_130(capsys, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("tomopoint.data.tables.read_pick_table", stopped)
    status, out, err = run(capsys, "score", "s.csv", "--truth", "t")
    assert (status, out) == (130, "")
    assert err == "tomopoint score: stopped; run the same command again to go on from here\n"


def test_a_users_mistake_is_one_sentence_and_status_1(tmp_path, capsys):
    status, _, err = run(capsys, "score", str(tmp_path / "none.csv"), "--truth", str(tmp_path))
    assert status == 1
    assert "none.csv" in err
    assert "Traceback" not in err


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    words = ["simulate", str(tmp_path / "file" / "data"), "--train-runs", "1", "--shape", "16,16,16"]
    status, _, err = run(capsys, *words)
    assert status == 1
    assert "choose another path" in err
    assert "Traceback" not in err


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
    for words in (["score", "--json", str(submission)], ["--json", "score", str(submission)]):
        status, out, _ = run(capsys, *words, "--truth", str(tmp_path / "truth"))
        assert status == 0
        figures = json.loads(out)
        assert figures["ok"] is True
        assert figures["score"] == pytest.approx(1 / 7)
