"""Command lines with bad arguments and bad files: status 1 or 2, a sentence on standard error, never a traceback."""

from __future__ import annotations

import os
import re
import shlex

import pytest
from kinds import HEADER, PICKS, ROW, graph, write_store

from tomopoint.__main__ import main
from tomopoint.data.picks import write_picks
from tomopoint.data.project import Run
from tomopoint.pipeline import COMPETITION_PARTICLES, Pipeline

MOST_LINES = {"push": 12}
"""On standard error: two, but a push says everything that is in its way."""


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Return good files by name: what a command line needs besides the bad one."""
    folder = tmp_path_factory.mktemp("good")
    (folder / "picks.csv").write_bytes(HEADER + ROW)
    Pipeline(COMPETITION_PARTICLES, 10.0).save(folder / "pipeline.json")
    (folder / "ensemble.onnx").write_bytes(graph())
    for name, split in [("TS_1", "train"), ("TS_2", "train"), ("TS_3", "train"), ("TS_1", "test")]:
        run = Run(name, split, folder / "data")
        run.tomogram_path().parent.mkdir(parents=True)
        write_store(run.tomogram_path().parent, 2)
        (run.tomogram_path().parent / "a.zarr").rename(run.tomogram_path())
        write_picks(run.picks_folder / "ribosome.json", name, PICKS["pickable_object_name"], [[10, 10, 10]])
    return folder


def run_command(line, capsys, **paths):
    """Run a command line in this process; return its status and standard error, in which no traceback may be."""
    words = [word.format(**paths) for word in shlex.split(line)]
    with pytest.raises(SystemExit) as end:
        main(words)
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert error.startswith(f"tomopoint {words[0]}: ")
    assert len(error.splitlines()) <= MOST_LINES.get(words[0], 2)
    return end.value.code, error


BAD_FILES = {
    "missing": lambda path: None,
    "empty": lambda path: path.write_bytes(b""),
    "binary": lambda path: path.write_bytes(bytes(range(256)) * 4),
    "nested": lambda path: path.write_bytes(b"[" * 100_000),
    "text": lambda path: path.write_text("<html>not found</html>"),
    "a folder": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a dangling link": lambda path: path.symlink_to("nothing"),
}

LINES_WITH_A_FILE = [
    "score {bad}.csv --truth {good}/data",
    "score {good}/picks.csv --truth {bad}",
    "score {good}/picks.csv --truth {good}/data --pipeline {bad}.json",
    "rethreshold {bad}.csv --out {out} --pipeline {good}/pipeline.json",
    "rethreshold {good}/picks.csv --out {out} --pipeline {bad}.json",
    "rethreshold {good}/picks.csv --out {out} --thresholds {bad}.json",
    "score {good}/picks.csv {bad}.csv --truth {good}/data",
    "tune {bad}.csv --truth {good}/data --out {out}",
    "tune {good}/picks.csv --truth {bad} --out {out}",
    "export-picks {bad}.csv --format csv --out {out}",
    "export-picks {good}/picks.csv --format relion5 --tomograms {bad}.star --out {out}",
    "export-picks {good}/picks.csv --format dynamo --data {bad} --out {out}",
    "import ribosome={bad}.star --format relion5 --data {good}/data --out {out}",
    "import ribosome={bad}.tbl --format dynamo --data {good}/data --out {out}",
    "import {bad}.mod --format imod --data {good}/data --out {out}",
    "import {bad} --format copick --data {good}/data --out {out}",
    "import {bad}.csv --format csv --data {good}/data --out {out}",
    "import {good}/picks.csv --format csv --data {bad} --out {out}",
    "report --data {good}/data --submission {bad}.csv --truth {good}/data --out {out}",
    "report --data {good}/data --submission {bad}.csv --out {out}",
    "report --data {good}/data --submission {good}/picks.csv {bad}.csv --out {out}",
    "report --data {bad}/data --submission {good}/picks.csv --truth {good}/data --out {out}",
    "report --data {bad}/data --submission {good}/picks.csv --out {out}",
    "report --data {good}/data --submission {good}/picks.csv --truth {good}/data --trained {bad} --out {out}",
    "train --data {bad} --out {out}",
    "train --data {good}/data --out {out} --recipe {bad}.yaml",
    "train --data {good}/data --out {out} --recipe demo --pseudo-labels {bad}.csv",
    "validate {bad}",
    "export {bad} -o {out}",
    "engine {bad}.onnx --out {out}",
    "predict --data {bad} --model {good}/ensemble.onnx --out {out}",
    "predict --data {good}/data --model {bad}.onnx --out {out}",
    "verify {good}/picks.csv --data {bad}",
    "status {bad}",
    "stage --check {bad}",
    "stage --model {bad}.onnx --out {out}",
    "push {bad} --dry-run",
    "rehearse --dataset {bad} --data {good}/data --out {out}",
    "picker --structure spike={bad}.cif --out {out}",
    "picker --particles {bad}.yaml --out {out}",
]


@pytest.mark.parametrize("line", LINES_WITH_A_FILE)
def test_a_bad_file_is_one_sentence_and_no_success(line, good, tmp_path, capsys, record_property):
    for name, make in BAD_FILES.items():
        bad = tmp_path / name.replace(" ", "_")
        make(bad.with_name(bad.name + re.search(r"\{bad\}([.\w]*)", line).group(1)))
        status, error = run_command(line, capsys, bad=bad, good=good, out=tmp_path / "out")
        assert status == 1
        assert bad.name in error or str(tmp_path) in error
        assert not (tmp_path / "out").is_file()
    record_property("cases", len(BAD_FILES))


def test_a_bad_submission_is_what_verify_is_for(good, tmp_path, capsys, record_property):
    """It lists what is wrong as its result: on standard output, with status 1."""
    for name, make in BAD_FILES.items():
        path = tmp_path / f"{name.replace(' ', '_')}.csv"
        make(path)
        with pytest.raises(SystemExit) as end:
            main(["verify", str(path), "--data", str(good / "data")])
        out, error = capsys.readouterr()
        assert (end.value.code, error) == (1, "")
        assert path.name in out
    record_property("cases", len(BAD_FILES))


NUMBER = ["x", "nan", "-1", "", "1,5"]
LINES_WITH_A_VALUE = [
    ("simulate {out}", "--train-runs", NUMBER),
    ("simulate {out}", "--seed", NUMBER),
    ("simulate {out}", "--workers", NUMBER),
    ("simulate {out}", "--shape", [*NUMBER, "1,2", "0,0,0", "-1,2,3", "1e3,9,9", "²,²,²", "9" * 5000 + ",1,1"]),
    ("simulate {out}", "--shape", ["999999999,999999999,999999999"]),
    ("rethreshold {good}/picks.csv --out {out}", "--thresholds", ["ribosome", "ribosome=nan", "ribosome=2", "x=0.5"]),
    ("rethreshold {good}/picks.csv --out {out}", "--thresholds", ["=", "ribosome=0.3=4", "ribosome=1e400"]),
    ("tune {good}/picks.csv --truth {good}/data --out {out}", "--picks-per-particle", [*NUMBER, "0"]),
    ("export-picks {good}/picks.csv --format imod --out {out}", "--voxel-size", [*NUMBER, "0"]),
    ("export-picks {good}/picks.csv --format dynamo --voxel-size 9 --out {out}", "--first-voxel", ["x", "nan", "inf"]),
    ("export-picks {good}/picks.csv --format relion4 --voxel-size 9 --out {out}", "--binning", [*NUMBER, "0"]),
    ("import {good}/picks.csv --format csv --data {good}/data --out {out}", "--pixel-size", [*NUMBER, "0", "9"]),
    ("import {good}/picks.csv --format csv --data {good}/data --out {out}", "--rename", ["x", "=", "a=../up"]),
    ("import {good}/picks.csv --format csv --data {good}/data --out {out}", "--radius", ["x", "a=nan", "a=1e999"]),
    ("train --data {good}/data --out {out}", "--epochs", [*NUMBER, "0", "9" * 5000]),
    ("train --data {good}/data --out {out}", "--max-minutes", NUMBER),
    ("train --data {good}/data --out {out}", "--seed", NUMBER),
    ("train --data {good}/data --out {out} --recipe demo", "--folds", ["x", "-1", "9", "../up"]),
    ("train --data {good}/data --out {out}", "--workers", NUMBER),
    ("train --data {good}/data --out {out}", "--recipe", ["", "../up", "nothing", "/etc/passwd", "a" * 251]),
    ("validate {good}", "--thresholds", ["x", "counts:x", "counts:-1", "counts:nan", ""]),
    ("engine {good}/ensemble.onnx --out {out}", "--workspace-gib", NUMBER),
    ("engine {good}/ensemble.onnx --out {out}", "--optimization-level", [*NUMBER, "6"]),
    ("push {good} --dry-run", "--wait-minutes", ["x", "nan", "-1", "0"]),
    ("push {good} --dry-run", "--poll-seconds", ["x", "nan", "-1"]),
    ("predict --data {good}/data --model {good}/ensemble.onnx --out {out}", "--tomo-type", ["../up", "a/b", ".."]),
    ("predict --data {good}/data --model {good}/ensemble.onnx --out {out}", "--runs", ["x", "../up"]),
    ("predict --data {good}/data --model {good}/ensemble.onnx --out {out}", "--workers", NUMBER),
    ("predict --data {good}/data --model {good}/ensemble.onnx --out {out}", "--limit-hours", NUMBER),
]


@pytest.mark.parametrize(("line", "option", "values"), LINES_WITH_A_VALUE)
def test_a_bad_value_is_one_sentence_that_names_it(line, option, values, good, tmp_path, capsys, record_property):
    for value in values:
        words = f"{line} {option}={shlex.quote(value)}"
        status, error = run_command(words, capsys, good=good, out=tmp_path / "out")
        assert status in (1, 2), value
        name = option.strip("-").rstrip("s")
        assert any(part in error for part in (name, name.replace("-", "_"), name.replace("-", " "))) or value in error
    record_property("cases", len(values))


OUTPUTS = [
    "rethreshold {good}/picks.csv --out {bad}",
    "report --data {good}/data --submission {good}/picks.csv --truth {good}/data --out {bad}",
]


@pytest.mark.parametrize("line", OUTPUTS)
@pytest.mark.parametrize(
    "output", ["/dev/full", "{good}", "{good}/picks.csv", "{good}/picks.csv/x", "{good}/" + "a" * 300]
)
def test_an_output_that_cannot_be_is_refused(line, output, good, capsys, record_property):
    before = (good / "picks.csv").read_bytes()
    status, _ = run_command(line, capsys, good=good, bad=output.format(good=good))
    assert status == 1
    assert (good / "picks.csv").read_bytes() == before
    assert not os.path.isfile("/dev/full")
    record_property("cases", 1)
