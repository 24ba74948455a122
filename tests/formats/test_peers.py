"""The readers of copick and pytom-match-pick on files that were written here, each in an environment of its own.

copick pins zarr < 3, and pytom-match-pick wants CUDA for what is not reading files, so neither can be installed beside
tomopoint. Slow: two environments are made, copick's of some 90 packages.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv

import numpy as np
import pytest
from laid_out import SHAPES_ZYX, VOXEL_A

from tomopoint.formats.command import export_picks

pytestmark = pytest.mark.slow

TOLERANCE_A = 0.01
XYZ = ["x", "y", "z"]


def environment(folder, *packages, dependencies=True):
    """Make a virtual environment with these packages; return its Python. Skip where the index cannot be reached."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    words = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    done = subprocess.run(words + ([] if dependencies else ["--no-deps"]), capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{', '.join(packages)} cannot be installed: {done.stderr[-300:]}")
    return python


def run(python, code, *words):
    """Run a program in an environment; return what it prints as JSON."""
    done = subprocess.run([python, "-c", code, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def copick(tmp_path_factory):
    return environment(tmp_path_factory.mktemp("copick") / "venv", "copick>=1.31,<1.32")


@pytest.fixture(scope="module")
def pytom(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pytom") / "venv"
    python = environment(folder, "starfile", "pandas")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "pytom-match-pick>=0.14,<0.15"], check=True)
    return python


def expected(picks, run_name, particle):
    rows = picks[(picks["experiment"] == run_name) & (picks["particle_type"] == particle) & (picks["score"] >= 0.25)]
    return rows.sort_values("score", ascending=False)


READ_OVERLAY = """
import json, sys
import copick
root = copick.from_file(sys.argv[1])
found = {}
for run in root.runs:
    for picks in run.get_picks(user_id="me", session_id="3"):
        points = [[p.location.x, p.location.y, p.location.z, p.score] for p in picks.points]
        found[f"{run.name}/{picks.pickable_object_name}"] = points
print(json.dumps(found))
"""


def test_copick_reads_its_overlay(prediction, picks, copick, tmp_path):
    export_picks(prediction, format="copick", out=tmp_path / "overlay", user="me", session="3")
    config = {
        "config_type": "filesystem",
        "name": "t",
        "description": "t",
        "version": "1.0.0",
        "pickable_objects": [
            {"name": name, "is_particle": True, "label": label, "color": [255, 0, 0, 255], "radius": 60.0}
            for label, name in enumerate(("ribosome", "apo-ferritin"), start=1)
        ],
        "overlay_root": f"local://{tmp_path / 'overlay'}",
        "overlay_fs_args": {"auto_mkdir": True},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = run(copick, READ_OVERLAY, tmp_path / "config.json")
    assert sorted(found) == ["TS_1/apo-ferritin", "TS_1/ribosome", "TS_2/ribosome"]
    for key, points in found.items():
        rows = expected(picks, *key.split("/"))
        np.testing.assert_allclose(points, rows[[*XYZ, "score"]], atol=TOLERANCE_A)


READ_TABLES = """
import json, sys
from copick.util import formats
star, table, centre, voxel = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), float(sys.argv[4])
particles = formats.read_star_particles(star)
relion = formats.relion_coordinates_to_angstrom(particles, tomogram_centers=centre)
pixels, _, shifts, scores = formats.read_dynamo_table(table)
print(json.dumps({
    "names": particles["rlnTomoName"].tolist(), "relion": relion.tolist(),
    "dynamo": ((pixels + shifts) * voxel).tolist(), "scores": scores.tolist(),
}))
"""


def test_copick_reads_relion_and_dynamo(prediction, picks, tomograms, copick, tmp_path):
    """Its RELION coordinates are those of voxel indices: it leaves out the half voxel, as docs/formats.md says."""
    export_picks(prediction, format="relion5", out=tmp_path, data=tomograms)
    export_picks(prediction, format="dynamo", out=tmp_path, data=tomograms)
    centres = {name: [n / 2 * VOXEL_A for n in shape[::-1]] for name, shape in SHAPES_ZYX.items()}
    words = (tmp_path / "ribosome.star", tmp_path / "ribosome.tbl", json.dumps(centres), VOXEL_A)
    found = run(copick, READ_TABLES, *words)
    rows = np.concatenate([expected(picks, name, "ribosome")[XYZ] for name in SHAPES_ZYX])
    assert found["names"] == ["TS_1", "TS_1", "TS_2"]
    np.testing.assert_allclose(np.array(found["relion"]) + VOXEL_A / 2, rows, atol=TOLERANCE_A)
    np.testing.assert_allclose(found["dynamo"], rows, atol=TOLERANCE_A)
    np.testing.assert_allclose(found["scores"], [0.98765, 0.31415, 0.77777], atol=1e-5)


MERGE = """
import json, pathlib, sys
import starfile
from pytom_tm.merge_stars import merge_stars
files, out, is_relion5 = [pathlib.Path(p) for p in sys.argv[1:3]], pathlib.Path(sys.argv[3]), sys.argv[4] == "5"
merge_stars(files, out, relion5_compat=is_relion5)
table = starfile.read(out)
print(json.dumps(table.astype(str).to_dict("list")))
"""


def test_pytom_merges_star_files(prediction, picks, pytom, tomograms, tmp_path):
    kept = picks[picks["score"] >= 0.25]
    export_picks(prediction, format="relion4", out=tmp_path / "4", voxel_size=VOXEL_A, binning=4)
    files = [tmp_path / "4" / f"{name}.star" for name in ("apo-ferritin", "ribosome")]
    merged = run(pytom, MERGE, *files, tmp_path / "merged.star", "4")
    found = np.sort(np.array(merged["rlnCoordinateX"], dtype=float))
    np.testing.assert_allclose(found, np.sort((kept["x"] / VOXEL_A - 0.5) * 4), atol=TOLERANCE_A / VOXEL_A)
    export_picks(prediction, format="relion5", out=tmp_path / "5", data=tomograms)
    files = [tmp_path / "5" / file.name for file in files]
    listed = run(pytom, MERGE, *files, tmp_path / "list.star", "5")
    pairs = set(zip(listed["rlnTomoName"], listed["rlnTomoImportParticleFile"], strict=True))
    assert pairs == {("TS_1", str(files[0])), ("TS_1", str(files[1])), ("TS_2", str(files[1]))}


def test_the_environments_are_not_this_one(copick, pytom):
    assert {copick.parents[1].name, pytom.parents[1].name} == {"venv"}
    assert str(copick) != sys.executable != str(pytom)
