import json
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

from tomopoint.data.project import Project
from tomopoint.errors import DataError, TomopointError
from tomopoint.inference.engines.load import load_engine
from tomopoint.kaggle.rehearsal import check_python, rehearse
from tomopoint.kaggle.submit import check_submission

KERNELS = Path(__file__).parents[2] / "kernels"
RUNS = ("TS_1", "TS_2", "TS_3")


@pytest.mark.parametrize("layout", ["flat", "nested"])
def test_both_notebooks_run_unchanged_and_leave_a_valid_submission(staged, project, tmp_path, layout):
    result = rehearse(staged, project, tmp_path / "kaggle", layout, KERNELS)
    assert result.submission_path == tmp_path / "kaggle" / "working" / "submission.csv"
    _, pipeline = load_engine(staged / "ensemble.onnx", prefer="cpu")
    assert check_submission(result.submission_path, RUNS, pipeline.particle_names) > 0
    assert set(pd.read_csv(result.submission_path)["experiment"]) == set(RUNS)

    record = json.loads(result.engine_path.read_text())
    manifest = json.loads((staged / "manifest.json").read_text())
    assert (record["runtime"], record["options"]["provider"]) == ("onnxruntime-cpu", "CPUExecutionProvider")
    assert record["compute_capability"] is None
    assert record["onnx_sha256"] == manifest["onnx_sha256"]
    assert record["pipeline_digest"] == pipeline.digest
    assert record["parity"]["ok"]
    assert record["seconds_per_tile"] > 0
    assert "no GPU" in record["passed_over"][0]

    shown = [_text(path) for path in result.notebooks]
    assert "no GPU" in shown[0]
    assert "taken" in shown[0]
    assert "engine.json fits: onnxruntime-cpu" in shown[1]
    assert "3 of 3 runs" in shown[1]
    assert "by 2 workers" in shown[1]
    # The package came from the kit, not from this checkout.
    assert (tmp_path / "kaggle" / "temp" / "packages" / "tomopoint" / "kaggle" / "submit.py").is_file()


def test_the_failing_cell_is_shown_and_the_notebook_kept(kit, project, tmp_path, monkeypatch):
    kernels = tmp_path / "kernels"
    shutil.copytree(KERNELS, kernels)
    path = kernels / "build_engine" / "build_engine.ipynb"
    notebook = json.loads(path.read_text())
    notebook["cells"][1]["source"] = ["wheels = 1\n", "raise RuntimeError('the disk is full')"]
    path.write_text(json.dumps(notebook))
    with pytest.raises(TomopointError, match=r"(?s)wheels = 1.*the disk is full"):
        rehearse(kit, project, tmp_path / "out", "flat", kernels)
    assert "the disk is full" in (tmp_path / "out" / "executed" / "build_engine.ipynb").read_text()


def test_a_kit_for_another_python_is_refused_and_one_for_both_is_not(tmp_path):
    here = f"cp{sys.version_info.major}{sys.version_info.minor}"
    for tag in ("cp37", "py3"):
        (tmp_path / f"thing-1-{tag}-none-any.whl").touch()
    with pytest.raises(TomopointError, match=f"are for cp37, this Python is {here}; rehearse with that Python"):
        check_python(tmp_path)
    (tmp_path / f"thing-1-{here}-none-any.whl").touch()
    check_python(tmp_path)


def test_what_cannot_be_rehearsed_is_refused_before_a_notebook_starts(kit, project, tmp_path):
    with pytest.raises(TomopointError, match="flat, nested"):
        rehearse(kit, project, tmp_path / "out", "deep", KERNELS)
    with pytest.raises(DataError, match="train/ and test/"):
        rehearse(kit, tmp_path, tmp_path / "out", "flat", KERNELS)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("mine")
    with pytest.raises(DataError, match=r"diary\.txt"):
        rehearse(kit, project, tmp_path / "notes", "flat", KERNELS)
    (tmp_path / "mine" / "input").mkdir(parents=True)
    (tmp_path / "mine" / "input" / "photo.jpg").write_text("mine")
    with pytest.raises(DataError, match=r"something else \(input\)"):
        rehearse(kit, project, tmp_path / "mine", "flat", KERNELS)
    assert (tmp_path / "mine" / "input" / "photo.jpg").exists()
    (kit / "pipeline.json").write_text("{}")
    with pytest.raises(DataError, match=r"pipeline\.json"):
        rehearse(kit, project, tmp_path / "out", "flat", KERNELS)
    assert not (tmp_path / "out").exists()
    assert [run.name for run in Project(project).runs("test")] == list(RUNS)


def _text(path):
    cells = json.loads(path.read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return "".join("".join(output.get("text", "")) for output in outputs)
