"""The staged dataset in an empty environment of each of Kaggle's Pythons, without an index, and both notebooks' code.

Needs a python3.12 or 3.13 and, to make the environment beforehand, the package index that pip is set to.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tomopoint.kaggle.dataset import stage_dataset
from tomopoint.kaggle.manifest import Manifest
from tomopoint.kaggle.wheels import PYTHON_VERSIONS, fetch, read_image

CHECKOUT = Path(__file__).parents[2]

NEEDED_OF_THE_IMAGE = {"numpy", "scipy", "pandas", "tqdm", "packaging", "typing-extensions", "pyyaml", "protobuf"}
"""What the kernel path and the attached wheels import; torch is not among them."""


USE_RTX = """
import tensorrt_rtx_bindings as trt
builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
print(trt.__version__, trt.__file__)
"""


def python_of_kaggle(version: str) -> str | None:
    """Return an interpreter of that version."""
    name = f"python{version}"
    places = [shutil.which(name), *sorted(map(str, Path.home().glob(f".pyenv/versions/{version}*/bin/{name}")))]
    for place in filter(None, places):
        if subprocess.run([place, "--version"], capture_output=True, check=False).returncode == 0:
            return place
    return None


def empty_environment(folder: Path, version: str) -> Path:
    """Make an environment with the needed part of the image; return its Python.

    The image's versions are those of the first Python; what a later image has is not known, so the newest stand for it.
    """
    subprocess.run([python_of_kaggle(version), "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    listed = (CHECKOUT / "wheels" / "image.txt").read_text().splitlines()
    lines = [line for line in listed if line and line[0] != "#"]
    wanted = [line for line in lines if line.split("==")[0].lower().replace("_", "-") in NEEDED_OF_THE_IMAGE]
    assert len(wanted) == len(NEEDED_OF_THE_IMAGE)
    if version != PYTHON_VERSIONS[0]:
        wanted = [line.split("==")[0] for line in wanted]
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--only-binary=:all:", *wanted], check=True)
    return python


@pytest.fixture
def full_kit(exported, checkout, tmp_path):
    """Return a kit staged with every locked wheel."""
    copy = Path(shutil.copytree(checkout, tmp_path / "checkout"))
    fetch(folder=copy / "wheels")
    stage_dataset(exported.path, tmp_path / "kit", copy)
    return tmp_path / "kit"


@pytest.mark.slow
@pytest.mark.parametrize("version", PYTHON_VERSIONS)
def test_both_notebooks_code_runs_in_an_empty_environment_without_an_index(full_kit, project, tmp_path, version):
    if python_of_kaggle(version) is None:
        pytest.skip(f"no python{version} here")
    python = empty_environment(tmp_path / "image", version)
    root = tmp_path / "kaggle"
    shutil.copytree(full_kit, root / "input" / "datasets" / "somebody" / "tomopoint-kit")
    shutil.copytree(project, root / "input" / "competitions" / "czii")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "KAGGLE_ROOT": str(root),
        "PIP_NO_INDEX": "1",
        "PIP_CONFIG_FILE": os.devnull,
    }
    for name in ("build_engine", "submit"):
        # As text, as in a notebook: worker processes do not run the code again then.
        code = (CHECKOUT / "kernels" / name / f"{name}.py").read_text()
        (root / "working").mkdir(exist_ok=True)
        words = [str(python), "-c", code]
        done = subprocess.run(words, env=environment, cwd=root / "working", capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        if name == "build_engine":
            record = json.loads((root / "working" / "engine.json").read_text())
            assert record["runtime"] == "onnxruntime-cpu"
            assert record["parity"]["ok"]
            shutil.copytree(root / "working", root / "input" / "notebooks" / "somebody" / "build-engine")
    # TensorRT-RTX works where nothing but the kit was installed: its builder needs no GPU.
    packages = {**environment, "PYTHONPATH": str(root / "temp" / "packages")}
    done = subprocess.run([str(python), "-c", USE_RTX], env=packages, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"1.7.1.116 {root / 'temp' / 'packages'}")
    installed = {path.name.split("-")[0] for path in (root / "temp" / "packages").glob("*.dist-info")}
    assert {name.split("==")[0] for name in Manifest.load(full_kit).install} == installed
    assert not {name.lower().replace("_", "-") for name in installed} & read_image(CHECKOUT / "wheels" / "image.txt")
    lines = (root / "working" / "submission.csv").read_text().splitlines()
    assert lines[0] == "id,experiment,particle_type,x,y,z"
    assert {line.split(",")[1] for line in lines[1:]} <= {
        path.name for path in (project / "test" / "static" / "ExperimentRuns").iterdir()
    }
