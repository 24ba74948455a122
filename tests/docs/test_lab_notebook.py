"""docs/lab.ipynb: what its source gives, and run as it is, on a tomogram small enough for a test."""

import json
import os
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from tomopoint.kaggle.notebooks import notebook_text, write_notebooks

DOCS = Path(__file__).parents[2] / "docs"
TOLERANCE_A = 0.01
"""Both files hold coordinates of three decimals, and the header its voxel size in float32."""


def test_the_committed_notebook_is_what_its_source_gives():
    assert (DOCS / "lab.ipynb").read_text() == notebook_text((DOCS / "lab.py").read_text()), "run `make kernels`"


def test_only_a_changed_notebook_is_written(tmp_path):
    source = Path(shutil.copy(DOCS / "lab.py", tmp_path))
    assert write_notebooks([source]) == [tmp_path / "lab.ipynb"]
    assert write_notebooks([source]) == []


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Return the notebook with its outputs, and the folder that it worked in."""
    folder = tmp_path_factory.mktemp("lab")
    notebook = nbformat.read(DOCS / "lab.ipynb", as_version=4)
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
    )
    small = {"LAB_SHAPE": "64,128,128", "XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    client.execute(env={**os.environ, **small})
    return notebook, folder


def printed(notebook):
    """Return all that the cells wrote, cell by cell."""
    return ["".join(output.get("text", "") for output in cell.get("outputs", [])) for cell in notebook.cells]


def test_the_notebook_leads_from_mrc_to_star(executed):
    import mrcfile
    import pandas as pd
    import starfile

    notebook, folder = executed
    text = "\n".join(printed(notebook))
    assert "protein is light, inverted" in text
    assert "Traceback" not in text
    (tomogram,) = (folder / "tomograms").glob("*.mrc")
    submission = pd.read_csv(folder / "picks" / "submission.csv")
    assert len(submission) > 0
    with mrcfile.open(tomogram, header_only=True) as file:
        size_xyz, voxel_A = np.array([file.header.nx, file.header.ny, file.header.nz]), float(file.voxel_size.x)
    stars = sorted((folder / "star").glob("*.star"))
    assert {path.stem for path in stars} == set(submission.particle_type)
    for path in stars:
        found = starfile.read(path)[[f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ"]].to_numpy()
        expected = submission[submission.particle_type == path.stem][["x", "y", "z"]].to_numpy()
        from_corner = found + (size_xyz / 2 + 0.5) * voxel_A
        assert len(found) == len(expected)
        order, other = np.lexsort(from_corner.T), np.lexsort(expected.T)
        np.testing.assert_allclose(from_corner[order], expected[other], atol=TOLERANCE_A)
    assert (folder / "picks" / "slab.png").stat().st_size > 10_000


def test_the_notebook_has_no_outputs_and_says_that_scores_are_simulated():
    content = json.loads((DOCS / "lab.ipynb").read_text())
    assert all(cell.get("outputs", []) == [] for cell in content["cells"])
    assert "simulated scores" in "".join("".join(cell["source"]) for cell in content["cells"])
