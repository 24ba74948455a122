"""From MRC files or a copick project to a trained network in two commands, `import` and `train`."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest

from tomopoint.__main__ import main
from tomopoint.data.particles import project_particles
from tomopoint.data.picks import write_picks
from tomopoint.data.project import Project
from tomopoint.data.stores import write_tomogram
from tomopoint.data.tomograms import read_tomogram
from tomopoint.data.truth import read_truth
from tomopoint.errors import DataError
from tomopoint.formats.command import import_picks
from tomopoint.training.command import train

sys.path.insert(0, str(Path(__file__).parent))

from training_data import PARTICLES, VOXEL_A, make_run

A_FEW_STEPS = {"folds": "0", "epochs": 1, "steps_per_epoch": 2, "curves": "none", "device": "cpu"}
SHAPE_ZYX = (64, 64, 64)
"""As large as the crops of the recipe that an import writes."""


def run_command(capsys, *words):
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    return end.value.code or 0, out, err


def write_mrcs(folder, voxel_A, sign):
    """Write simulated tomograms TS_0 and TS_1 as MRC files, protein light or dark; return their picks as a table."""
    folder.mkdir()
    tables = []
    for index in range(2):
        made = make_run(f"TS_{index}", SHAPE_ZYX, seed=index)
        with mrcfile.new(folder / f"{made.name}.mrc") as file:
            file.set_data(made.volumes_zyx["denoised"].float().numpy() * np.float32(sign))
            file.voxel_size = voxel_A
        points = pd.DataFrame(made.centres_zyx[:, ::-1] * voxel_A, columns=["x", "y", "z"])
        names = [PARTICLES[label].name for label in made.labels]
        tables.append(points.assign(experiment=made.name, particle_type=names))
    return pd.concat(tables)


def test_light_mrc_files_of_other_voxels_are_written_anew_and_trained_on(tmp_path):
    """At every centre of a particle, volume and picks still meet: it is dark there, in voxels of the models."""
    table = write_mrcs(tmp_path / "mrcs", 8.0, -1)
    table.to_csv(tmp_path / "picks.csv", index=False)
    options = {"format": "csv", "data": tmp_path / "mrcs", "out": tmp_path / "p", "radius": "small=30,large=60"}
    for _ in range(2):  # the same again changes nothing
        done = import_picks([str(tmp_path / "picks.csv")], **options)
        assert done.figures["written_anew"] == ["TS_0", "TS_1"]
    truth = read_truth(tmp_path / "p", ("small", "large"))
    for run in Project(tmp_path / "p").runs("train"):
        tomogram = read_tomogram(run.tomogram_path())
        assert tomogram.voxel_A == pytest.approx(VOXEL_A, abs=0.001)
        centres_zyx = np.concatenate(list(truth[run.name].values()))[:, ::-1] / tomogram.voxel_A
        inside = np.all(centres_zyx < tomogram.volume_zyx.shape, axis=1)
        assert inside.sum() >= 11
        at = tuple(centres_zyx[inside].astype(int).T)
        assert np.all(tomogram.volume_zyx[at] < -2)  # blobs are 8 deep in noise of 1
    trained = train(data=tmp_path / "p", out=tmp_path / "t", recipe=str(tmp_path / "p" / "recipe.yaml"), **A_FEW_STEPS)
    assert trained.ok
    assert len(trained.figures["trained"]) == 1
    with pytest.raises(DataError, match=r"is there and is not .*TS_0.mrc as it is read now"):
        import_picks([str(tmp_path / "picks.csv")], invert="no", **options)


def test_dark_mrc_files_of_the_models_voxels_are_linked(tmp_path, capsys):
    table = write_mrcs(tmp_path / "mrcs", VOXEL_A, 1)
    table.to_csv(tmp_path / "picks.csv", index=False)
    words = [tmp_path / "picks.csv", "--format", "csv", "--data", tmp_path / "mrcs", "--out", tmp_path / "p"]
    status, out, _ = run_command(capsys, "import", *words, "--radius", "small=30,large=60")
    assert status == 0
    for run in Project(tmp_path / "p").runs("train"):
        assert run.tomogram_path().is_symlink()
        assert run.tomogram_path().resolve() == tmp_path / "mrcs" / f"{run.name}.mrc"
    command = shlex.split(out.strip().splitlines()[-1].removeprefix("next: tomopoint "))
    assert command[0] == "train"
    few = ["--epochs", "1", "--steps-per-epoch", "1", "--folds", "0", "--curves", "none", "--device", "cpu"]
    assert run_command(capsys, *command[:-1], tmp_path / "t", *few)[0] == 0
    assert len(list((tmp_path / "t").rglob("member.json"))) == 1


def test_a_stated_voxel_size_is_in_what_is_written(tmp_path):
    table = write_mrcs(tmp_path / "mrcs", 1.0, 1)
    table[["x", "y", "z"]] *= 12.0
    table.to_csv(tmp_path / "picks.csv", index=False)
    options = {"format": "csv", "data": tmp_path / "mrcs", "radius": "small=30,large=60", "voxel_size": 12.0}
    done = import_picks([str(tmp_path / "picks.csv")], out=tmp_path / "p", resample="never", **options)
    assert done.figures["written_anew"] == ["TS_0", "TS_1"]
    run = Project(tmp_path / "p").run("TS_0", "train")
    assert read_tomogram(run.tomogram_path()).voxel_A == pytest.approx(12.0)
    assert read_tomogram(run.tomogram_path()).volume_zyx.shape == SHAPE_ZYX


@pytest.fixture
def copick_project(tmp_path):
    """A copick project of one wbp tomogram, in which two people picked."""
    root = tmp_path / "copick"
    made = make_run("TS_0", SHAPE_ZYX)
    volume = made.volumes_zyx["denoised"].float().numpy()
    write_tomogram(root / "static/ExperimentRuns/TS_0/VoxelSpacing10.012/wbp.zarr", volume, levels=1)
    for user, offset in (("ada", 0.0), ("bob", 1.0)):
        path = root / f"overlay/ExperimentRuns/TS_0/Picks/{user}_1_small.json"
        points = made.centres_zyx[made.labels == 0][:, ::-1] * VOXEL_A
        write_picks(path, "TS_0", "small", points + offset)
        path.write_text(json.dumps(json.loads(path.read_text()) | {"user_id": user, "session_id": "1"}))
    config = {
        "config_type": "filesystem",
        "static_root": "static",
        "overlay_root": "overlay",
        "pickable_objects": [{"name": "small", "is_particle": True, "radius": 30}],
    }
    (root / "config.json").write_text(json.dumps(config))
    return root


def test_train_says_which_command_makes_a_project_of_a_copick_root(copick_project, tmp_path, capsys):
    """What the message says to type is typed."""
    status, _, err = run_command(capsys, "train", "--data", copick_project, "--out", tmp_path / "t")
    assert status == 1
    first, second = re.search(r"tomopoint (import .*), then tomopoint (train .*)$", err.strip()).groups()
    words = [word.replace("PROJECT", str(tmp_path / "p")) for word in shlex.split(first)]
    status, _, err = run_command(capsys, *words)
    assert status == 1
    assert "say whose: --user ada --session 1; --user bob --session 1" in err
    assert run_command(capsys, *words, "--user", "bob", "--session", "1")[0] == 0
    config = copick_project / "config.json"  # the same, named by its configuration
    words = ["import", config, "--format", "copick", "--data", config, "--out", tmp_path / "p"]
    assert run_command(capsys, *words, "--user", "bob", "--session", "1")[0] == 0
    (particle,) = project_particles(tmp_path / "p")
    assert (particle.name, particle.radius_A) == ("small", 30.0)  # of the configuration
    expected = make_run("TS_0", SHAPE_ZYX)
    points = expected.centres_zyx[expected.labels == 0][:, ::-1] * VOXEL_A + 1.0
    np.testing.assert_allclose(read_truth(tmp_path / "p", ["small"])["TS_0"]["small"], points, atol=0.001)
    run = Project(tmp_path / "p").run("TS_0", "train")
    assert run.tomogram_path("wbp").resolve().is_relative_to(copick_project)
    words = [word.replace("PROJECT", str(tmp_path / "p")) for word in shlex.split(second)]
    few = ["--epochs", "1", "--steps-per-epoch", "1", "--curves", "none", "--device", "cpu"]
    assert run_command(capsys, *words[:-1], tmp_path / "t", *few)[0] == 0


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (
            "mrcs",
            "mrcs is no project: .*tomopoint import PARTICLE=PICKS.star --format relion5 --data .*mrcs --out PROJECT",
        ),
        ("my mrcs", r"--data '.*my mrcs' --out PROJECT"),
        ("nowhere", "no such folder: .*nowhere"),
    ],
)
def test_what_is_no_project_is_refused_with_the_way_to_one(data, sentence, tmp_path):
    for name in ("mrcs", "my mrcs"):
        write_mrcs(tmp_path / name, VOXEL_A, 1)
    with pytest.raises(DataError, match=sentence):
        train(data=tmp_path / data, out=tmp_path / "t")


def test_nothing_is_written_through_a_link_into_a_project_of_others(tmp_path):
    """An import from a project links its runs' folders; one from MRC files must not write into them."""
    table = write_mrcs(tmp_path / "mrcs", 8.0, 1)
    table.to_csv(tmp_path / "picks.csv", index=False)
    for name in ("TS_0", "TS_1"):
        volume = make_run(name, SHAPE_ZYX).volumes_zyx["denoised"].float().numpy()
        write_tomogram(tmp_path / f"theirs/test/static/ExperimentRuns/{name}/VoxelSpacing8.000/denoised.zarr", volume)
    options = {"format": "csv", "out": tmp_path / "p", "radius": "small=30,large=60"}
    import_picks([str(tmp_path / "picks.csv")], data=tmp_path / "theirs", **options)
    before = sorted((tmp_path / "theirs").rglob("*"))
    with pytest.raises(DataError, match=r"TS_0 is a link to .*theirs.*; choose another --out"):
        import_picks([str(tmp_path / "picks.csv")], data=tmp_path / "mrcs", **options)
    assert sorted((tmp_path / "theirs").rglob("*")) == before
