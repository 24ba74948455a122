import json
import platform
import re
import shutil
import sys
import zipfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest

from tomopoint.data.project import Project
from tomopoint.errors import DataError, TomopointError
from tomopoint.inference.engines.gpus import Gpu
from tomopoint.inference.engines.load import load_engine
from tomopoint.inference.verify import verify_submission
from tomopoint.kaggle import rehearsal
from tomopoint.kaggle.manifest import KitFile, Manifest
from tomopoint.kaggle.rehearsal import installable_here, rehearse

KERNELS = Path(__file__).parents[2] / "kernels"
RUNS = ("TS_1", "TS_2", "TS_3")


@pytest.mark.parametrize("layout", ["flat", "nested"])
def test_both_notebooks_run_unchanged_and_leave_a_valid_submission(staged, project, tmp_path, layout):
    result = rehearse(staged, project, tmp_path / "kaggle", layout, KERNELS)
    assert result.submission_path == tmp_path / "kaggle" / "working" / "submission.csv"
    _, pipeline = load_engine(staged / "ensemble.onnx", prefer="cpu")
    found = verify_submission(result.submission_path, Project(project))
    assert (found.errors, found.unchecked) == ((), ())
    assert found.counts["n_picks"] > 0
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
    assert re.search(r"by [12] workers?,", shown[1])  # where one is slow to start, the other does all three
    assert f"{found.counts['n_picks']} picks in 3 of 3 runs, 3 parts; 0 errors, 0 warnings" in shown[1]  # the last cell
    # The package came from the kit, not from this checkout.
    assert (tmp_path / "kaggle" / "temp" / "packages" / "tomopoint" / "kaggle" / "submit.py").is_file()


def test_a_submission_with_errors_is_told_by_the_notebook_and_fails_the_rehearsal(kit, project, tmp_path):
    """On Kaggle a notebook that fails has no score at all; here it is better to know."""
    kernels = tmp_path / "kernels"
    shutil.copytree(KERNELS, kernels)
    path = kernels / "submit" / "submit.ipynb"
    notebook = json.loads(path.read_text())
    notebook["cells"][-2]["source"] += ["\nresult.submission_path.write_text('id,x')"]
    path.write_text(json.dumps(notebook))
    with pytest.raises(TomopointError, match=r"(?s)no submission to be sent.*line 1: the columns are id, x; the comp"):
        rehearse(kit, project, tmp_path / "out", "flat", kernels)
    assert "line 1: the columns are id, x; the competition takes" in _text(tmp_path / "out/executed/submit.ipynb")


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


OTHER_PYTHON = "cp37"


def add_wheel(kit, name, tag):
    """Add a wheel to a kit as staging would: its file, its hash, its entry in what is installed."""
    path = kit / f"{name}-1.0-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", "VALUE = 1\n")
        info = f"{name}-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        archive.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    manifest = Manifest.load(kit)
    install = tuple(sorted({*manifest.install, f"{name}==1.0"}))
    replace(manifest, install=install, files={**manifest.files, path.name: KitFile.of(path)}).save(kit)


def test_a_kit_with_wheels_for_another_python_is_rehearsed_with_what_is_installed(kit, project, tmp_path, caplog):
    """The kit of the documented road: binary wheels for Kaggle's Python beside one that fits any."""
    add_wheel(kit, "numcodecs", f"{OTHER_PYTHON}-{OTHER_PYTHON}-manylinux_2_17_x86_64")
    add_wheel(kit, "tensorrt_cu12_bindings", f"{OTHER_PYTHON}-none-manylinux_2_17_x86_64")
    add_wheel(kit, "tensorrt_cu12_libs", "py3-none-any")
    add_wheel(kit, "donfig_stand_in", "py3-none-any")
    before = {path.name: path.read_bytes() for path in kit.iterdir()}
    with caplog.at_level("INFO", logger="tomopoint.kaggle.rehearsal"):
        result = rehearse(kit, project, tmp_path / "kaggle", "flat", KERNELS)
    assert set(pd.read_csv(result.submission_path)["experiment"]) == set(RUNS)
    packages = tmp_path / "kaggle" / "temp" / "packages"
    assert (packages / "tomopoint").is_dir()
    assert (packages / "donfig_stand_in.py").is_file()
    assert not (packages / "numcodecs.py").exists()
    assert not (packages / "tensorrt_cu12_libs.py").exists()  # of no use, or worse, without their bindings
    (line,) = [entry.getMessage() for entry in caplog.records if "not installed from the kit" in entry.getMessage()]
    assert f"numcodecs ({version('numcodecs')} is here)" in line
    assert "tensorrt-cu12-bindings (nothing here stands for it)" in line
    assert "donfig" not in line
    assert {path.name: path.read_bytes() for path in kit.iterdir()} == before
    rehearsal._clear(tmp_path / "kaggle")  # a second rehearsal knows the folders of the first
    assert not (tmp_path / "kaggle").exists()


def test_a_kit_whose_wheels_fit_is_taken_as_it_is(kit, tmp_path):
    here = f"cp{sys.version_info.major}{sys.version_info.minor}"
    add_wheel(kit, "numcodecs", f"{OTHER_PYTHON}-{OTHER_PYTHON}-manylinux_2_17_x86_64")
    add_wheel(kit, "numcodecs", f"{here}-{here}-manylinux_2_17_{platform.machine()}")
    assert installable_here(kit, tmp_path / "view") == kit
    assert not (tmp_path / "view").exists()


@pytest.mark.parametrize(("gpus", "own"), [(1, "1.31.1"), (1, None), (0, "1.31.1")])
def test_beside_a_gpu_the_onnx_runtime_that_fits_its_cuda_is_taken(kit, tmp_path, monkeypatch, gpus, own):
    """The kit's is for the CUDA of Kaggle's image; `make setup` chose the one for the CUDA that is here."""
    add_wheel(kit, "onnxruntime_gpu", "py3-none-any")
    monkeypatch.setattr(rehearsal, "find_gpus", lambda: [Gpu(0, "Tesla T4", "7.5", 15 << 30)] * gpus)
    monkeypatch.setattr(rehearsal, "_version_here", {"onnxruntime-gpu": own}.get)
    folder = installable_here(kit, tmp_path / "view")
    names = {entry.partition("==")[0] for entry in Manifest.load(folder).install}
    assert names == ({"tomopoint"} if gpus and own else {"tomopoint", "onnxruntime_gpu"})
    Manifest.load(folder).verify(folder)


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
