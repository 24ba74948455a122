import json
from pathlib import Path

import pytest

from tomopoint.kaggle.notebooks import kernel_files, notebook_text, write_kernels

KERNELS = Path(__file__).parents[2] / "kernels"
MAX_CELLS = 6
MAX_CODE_LINES = 25


@pytest.mark.parametrize("path", sorted(kernel_files(KERNELS)), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_committed_files_are_what_the_sources_give(path):
    assert path.read_bytes() == kernel_files(KERNELS)[path].encode(), "run `make kernels`"


@pytest.mark.parametrize("name", ["build_engine", "submit"])
def test_notebooks_hold_no_logic_of_their_own(name):
    cells = json.loads((KERNELS / name / f"{name}.ipynb").read_text())["cells"]
    code = [line for cell in cells if cell["cell_type"] == "code" for line in cell["source"] if line.strip()]
    assert len(cells) <= MAX_CELLS
    assert len(code) <= MAX_CODE_LINES
    assert not [line for line in code if line.startswith(("def ", "class ", "for ", "while ", "if ", "try"))]
    assert all(cell.get("outputs", []) == [] and cell.get("execution_count") is None for cell in cells)


@pytest.mark.parametrize("name", ["build_engine", "submit"])
@pytest.mark.parametrize(
    "install", [["--index-url=http://x==1"], ["../evil.whl"], ["zarr==3.1.5", "x @ http://y==1"], "zarr==1", ["zarr"]]
)
def test_nothing_but_packages_reaches_pip(name, install, tmp_path, monkeypatch):
    """The cell that installs is run as it is, before the package could check anything."""
    kit = tmp_path / "input" / "kit"
    kit.mkdir(parents=True)
    (kit / "manifest.json").write_text(json.dumps({"format": "tomopoint-kit", "install": install}))
    other = tmp_path / "input" / "other"
    other.mkdir()
    (other / "manifest.json").write_bytes(b"\xff\xfe")  # another dataset's, and no text at all
    monkeypatch.setenv("KAGGLE_ROOT", str(tmp_path))
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("pip was called"))
    cells = json.loads((KERNELS / name / f"{name}.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    scope: dict[str, object] = {}
    exec(code[0], scope)
    assert scope["kits"] == [kit]
    with pytest.raises(AssertionError, match="asks for more than packages"):
        exec(code[1], scope)


def test_cell_ids_follow_from_position_and_text_only():
    source = "# %%\na = 1\n\n# %%\na = 1\n\n# %% [markdown]\n# text\n"
    first, second = json.loads(notebook_text(source)), json.loads(notebook_text(source))
    ids = [cell["id"] for cell in first["cells"]]
    assert ids == [cell["id"] for cell in second["cells"]]
    assert len(set(ids)) == 3  # two cells of the same text at two places differ
    changed = json.loads(notebook_text(source.replace("text", "other")))
    assert [cell["id"] for cell in changed["cells"]][:2] == ids[:2]
    assert changed["cells"][2]["id"] != ids[2]


def test_a_notebook_names_python3_and_no_jupytext():
    metadata = json.loads(notebook_text("# %%\n1\n"))["metadata"]
    assert metadata["kernelspec"]["name"] == "python3"
    assert set(metadata) == {"kernelspec", "language_info"}


def test_only_changed_files_are_written(tmp_path):
    for name in ("kernels.toml", "submit/submit.py", "build_engine/build_engine.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((KERNELS / name).read_text())
    assert len(write_kernels(tmp_path)) == 4
    assert write_kernels(tmp_path) == []
    with (tmp_path / "submit" / "submit.py").open("a") as stream:
        stream.write("\n# %%\n1\n")
    assert write_kernels(tmp_path) == [tmp_path / "submit" / "submit.ipynb"]
