"""`export-picks` and `import` as commands: which picks, what is refused rather than guessed, and what comes out."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import starfile
from laid_out import SHAPES_ZYX, VOXEL_A

from tomopoint.__main__ import main
from tomopoint.data.particles import project_particles
from tomopoint.data.picks import write_picks
from tomopoint.data.project import Project
from tomopoint.data.sources.find import find_all
from tomopoint.data.sources.tree import Choice
from tomopoint.data.tables import read_pick_table, write_pick_table, write_submission
from tomopoint.data.tomograms import describe_tomogram
from tomopoint.errors import DataError
from tomopoint.formats.command import export_picks, import_picks
from tomopoint.formats.frames import Tomograms
from tomopoint.formats.importing import ImportOptions, read_files
from tomopoint.pipeline import Pipeline
from tomopoint.training.recipe_files import load_recipe


def run(capsys, *words):
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    return end.value.code or 0, out, err


def exported(out):
    return read_pick_table(out)["score"].tolist()


def test_which_picks_go_out(prediction, tmp_path):
    out = tmp_path / "out.csv"
    export_picks(prediction, format="csv", out=out)
    assert exported(out) == [0.98765, 0.31415, 0.5, 0.77777]
    export_picks(prediction, format="csv", out=out, thresholds="ribosome=0.5")
    assert exported(out) == [0.98765, 0.5, 0.77777]
    export_picks(prediction, format="csv", out=out, all=True)
    assert exported(out) == [0.98765, 0.31415, 0.5, 0.77777, 0.1]
    (tmp_path / "t.json").write_text(json.dumps({"ribosome": 0.9}))
    export_picks(prediction, format="csv", out=out, thresholds=str(tmp_path / "t.json"))
    assert exported(out) == [0.98765, 0.5]


def test_one_class_per_place_goes_out_where_the_metric_is_ones_own(prediction, tmp_path):
    """Another class 20 A from the ribosome of 0.98765, at a lower claim."""
    table = read_pick_table(prediction / "picks.csv")
    rival = pd.DataFrame([("TS_1", "apo-ferritin", 143.456, 234.567, 45.678, 0.6)], columns=table.columns)
    write_pick_table(pd.concat([table, rival]), prediction / "picks.csv")
    out = tmp_path / "out.csv"
    export_picks(prediction, format="csv", out=out)
    assert 0.6 in exported(out)
    export_picks(prediction, format="csv", out=out, exclusive=True)
    assert exported(out) == [0.98765, 0.31415, 0.5, 0.77777]
    pipeline = Pipeline.load(prediction / "pipeline.json")
    Pipeline(pipeline.particles[:3], VOXEL_A).save(prediction / "pipeline.json")
    export_picks(prediction, format="csv", out=out)
    assert 0.6 not in exported(out)
    export_picks(prediction, format="csv", out=out, exclusive=False)
    assert 0.6 in exported(out)


def test_a_submission_goes_out_whole_and_without_scores(prediction, picks, tmp_path, tomograms):
    write_submission(picks, tmp_path / "submission.csv")
    export_picks(tmp_path / "submission.csv", format="relion5", out=tmp_path / "star", data=tomograms)
    table = starfile.read(tmp_path / "star" / "ribosome.star")
    assert len(table) == 4
    assert "rlnAutopickFigureOfMerit" not in table.columns
    with pytest.raises(DataError, match="has no scores to choose by"):
        export_picks(tmp_path / "submission.csv", format="csv", out=tmp_path / "x", thresholds="ribosome=0.5")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--format", "relion5"], "relion5 counts in the tomograms; name them with --data, or RELION's --tomograms"),
        (["--format", "relion5", "--voxel-size", "10"], "name them with --data, or RELION's --tomograms"),
        (["--format", "dynamo"], "name them with --data, or their --voxel-size"),
        (["--format", "relion4", "--voxel-size", "10"], "say with --binning how many times"),
        (["--format", "dynamo", "--voxel-size", "10", "--binning", "4"], "--binning is for relion4"),
        (["--format", "imod", "--voxel-size", "10", "--first-voxel", "1"], "--first-voxel is for relion4"),
        (["--format", "imod", "--voxel-size", "-1"], "--voxel-size must be a positive number"),
        (["--format", "imod", "--data", "nowhere"], "no such folder: nowhere; --data takes"),
        (["--format", "csv", "--thresholds", "ribosome=0.999,apo-ferritin=0.999"], "no pick is left to write"),
        (["--format", "csv", "--thresholds", "ribosome=0.5", "--all"], "leave one of them out"),
        (["--format", "copick", "--user", "a_b"], "may hold no '_'"),
        (["--format", "relion4", "--tomograms", "x.star"], "--tomograms is for relion5"),
    ],
)
def test_what_a_format_needs_is_asked_for(words, sentence, prediction, tmp_path, capsys):
    status, out, err = run(capsys, "export-picks", prediction, "-o", tmp_path / "out", *words)
    assert (status, out) == (1, "")
    assert sentence in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["relion5", "dynamo", "imod"])
def test_picks_outside_the_tomograms_are_refused(kind, prediction, tmp_path, tomograms):
    """Those of another size, or that somebody cut: a centred coordinate would be wrong by half the difference."""
    table = read_pick_table(prediction / "picks.csv")
    write_pick_table(table.assign(z=table["z"] + 1000), prediction / "picks.csv")
    with pytest.raises(DataError, match=r"4 of 4 picks of .*picks.csv lie outside the tomograms, e.g. .* of TS_1 at"):
        export_picks(prediction, format=kind, out=tmp_path / "out", data=tomograms)
    assert not (tmp_path / "out").exists()


def test_a_pick_on_the_face_of_its_tomogram_comes_back(prediction, tmp_path, tomograms):
    """Its coordinate is rounded in either file, and lies beyond the face by a hair."""
    depth, height, width = (size * VOXEL_A for size in SHAPES_ZYX["TS_1"])
    table = read_pick_table(prediction / "picks.csv")
    table.loc[0, ["x", "y", "z"]] = [width + 0.0004, height + 0.0004, depth]
    write_pick_table(table, prediction / "picks.csv")
    export_picks(prediction, format="relion5", out=tmp_path / "star", data=tomograms)
    found = Tomograms(find_all(tomograms, Choice()))
    picks = read_files([f"ribosome={tmp_path}/star/ribosome.star"], "relion5", found, ImportOptions())
    assert len(picks) == 3


def test_without_a_pipeline_thresholds_are_asked_for(prediction, tmp_path):
    (prediction / "pipeline.json").unlink()
    with pytest.raises(DataError, match="the thresholds of apo-ferritin, ribosome; name one with --pipeline"):
        export_picks(prediction, format="csv", out=tmp_path / "out.csv")
    export_picks(prediction, format="csv", out=tmp_path / "out.csv", thresholds="ribosome=0.5,apo-ferritin=0.5")
    assert len(exported(tmp_path / "out.csv")) == 3


def test_picks_that_are_there_twice_and_an_input_as_output_are_refused(prediction, tmp_path, capsys):
    path = prediction / "picks.csv"
    status, _, err = run(capsys, "export-picks", path, "--format", "csv", "-o", path)
    assert status == 1
    assert "writing it would destroy its input" in err
    status, _, err = run(capsys, "export-picks", path, "--format", "csv", "-o", prediction)
    assert "writing it would destroy its input" in err
    path.write_text(path.read_text() + "TS_1,ribosome,123.456,234.567,45.9,0.9\n")
    with pytest.raises(DataError, match="holds 1 of 6 picks twice"):
        export_picks(prediction, format="csv", out=tmp_path / "out.csv")


def test_names_that_a_star_file_cannot_hold_are_refused(prediction, tmp_path):
    table = read_pick_table(prediction / "picks.csv")
    write_pick_table(table.assign(experiment="TS 1"), prediction / "picks.csv")
    for kind in ("relion4", "dynamo"):
        binning = 4.0 if kind == "relion4" else None
        with pytest.raises(DataError, match="'TS 1' cannot stand in this format"):
            export_picks(prediction, format=kind, out=tmp_path / "out", voxel_size=10.0, binning=binning)


@pytest.fixture
def star(tmp_path):
    """A RELION 4 file of particles that are not the competition's, in a tomogram that is called otherwise."""
    table = pd.DataFrame({"rlnTomoName": ["tomo7", "tomo7"]})
    table[["rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ"]] = [[40.0, 50.0, 20.0], [100.0, 100.0, 30.0]]
    starfile.write({"particles": table}, tmp_path / "spikes.star")
    return tmp_path / "spikes.star"


def test_import_makes_a_project_to_train_on(star, tomograms, tmp_path, capsys):
    out = tmp_path / "project"
    words = ["import", f"spike={star}", "--format", "relion4", "--data", tomograms, "--out", out]
    for more, asked in (
        ([], "the tomogram 'tomo7' is no run"),
        (
            ["--rename", "tomo7=TS_1"],
            "what its coordinates are pixels of; give their size in Angstrom with --pixel-size",
        ),
        (["--rename", "tomo7=TS_1", "--pixel-size", "2.5"], "the radius of spike is not known; give it in Angstrom"),
    ):
        status, _, err = run(capsys, *words, *more)
        assert status == 1
        assert asked in err
        assert not (out / "particles.yaml").exists()
    more = ["--rename", "tomo7=TS_1", "--pixel-size", "2.5", "--radius", "spike=75"]
    status, said, _ = run(capsys, *words, *more)
    assert status == 0
    assert "1 runs of" in said  # TS_2 has no picks
    (run_,) = Project(out).runs("train")
    assert describe_tomogram(run_.tomogram_path()).shape_zyx == (20, 41, 60)
    (particle,) = project_particles(out)
    assert (particle.name, particle.radius_A, particle.weight) == ("spike", 75.0, 1.0)
    recipe = load_recipe(str(out / "recipe.yaml"), project_particles(out))
    assert recipe.folds == "all"
    assert [p.name for p in recipe.particles] == ["spike"]
    content = json.loads((run_.picks_folder / "spike.json").read_text())
    first = [content["points"][0]["location"][axis] for axis in "xyz"]
    np.testing.assert_allclose(first, np.array([40, 50, 20]) * 2.5 + VOXEL_A / 2, atol=0.001)
    assert run(capsys, *words, *more)[0] == 0  # the same again changes nothing
    write_picks(run_.picks_folder / "spike.json", "TS_1", "spike", [[1, 2, 3]])
    status, _, err = run(capsys, *words, *more)
    assert status == 1
    assert "holds other picks; remove it, or choose another --out" in err


def test_import_beside_its_tomograms_keeps_what_is_there(picks, tomograms, tmp_path):
    import shutil

    root = tmp_path / "data"
    shutil.copytree(tomograms / "test", root / "train")
    (root / "recipe.yaml").write_text("base: demo\n")
    write_pick_table(picks, tmp_path / "picks.csv")
    import_picks([str(tmp_path / "picks.csv")], format="csv", data=root, out=root)
    assert (root / "recipe.yaml").read_text() == "base: demo\n"
    assert not (root / "train/static/ExperimentRuns/TS_1").is_symlink()
    assert sorted(path.name for path in (root / "train/overlay/ExperimentRuns/TS_1/Picks").iterdir()) == [
        "apo-ferritin.json",
        "ribosome.json",
    ]


def test_points_outside_tell_a_wrong_pixel_size(star, tomograms, tmp_path):
    options = {"format": "relion4", "data": tomograms, "out": tmp_path / "p", "rename": "tomo7=TS_1"}
    with pytest.raises(DataError, match=r"1 of 2 points lie outside .*check --pixel-size"):
        import_picks([f"ribosome={star}"], pixel_size=5.0, **options)


def test_of_many_points_a_stray_one_is_left_out(tomograms, tmp_path, caplog):
    table = pd.DataFrame(np.random.default_rng(0).uniform(10, 200, (200, 3)).round(3), columns=["x", "y", "z"])
    table.loc[7, "z"] = 5000.0
    table = table.assign(experiment="TS_1", particle_type="ribosome")
    table.to_csv(tmp_path / "t.csv", index=False)
    result = import_picks([str(tmp_path / "t.csv")], format="csv", data=tomograms, out=tmp_path / "p")
    assert result.figures["counts"] == {"ribosome": 199}
    assert "1 of 200 points lie outside their tomograms and are left out" in caplog.text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["x.star", "--format", "relion5"], "does not say what its particles are; say it: NAME=x.star"),
        (["a=x.star", "--format", "relion5"], "cannot read x.star"),
        (["a=x.tbl", "--format", "dynamo"], "cannot read x.tbl"),
        (["x.mod", "--format", "imod"], "cannot read x.mod"),
        (["x", "--format", "copick"], "no such folder: x"),
        (["a=x.csv", "--format", "csv"], "names its particles itself; leave out a="),
        (["a=x.star", "--format", "relion5", "--pixel-size", "2"], "--pixel-size has no meaning for relion5"),
        (["a=x.star", "--format", "relion5", "--first-voxel", "1"], "relion5 says where it counts from"),
        (["a=x.star", "--format", "relion4", "--rename", "a"], "--rename takes name=RUN"),
        (["a=x.star", "--format", "relion4", "--rename", "a=TS_9"], "--rename names the runs TS_9"),
        (["a=x.star", "--format", "relion4", "--radius", "a=big"], "--radius takes spike=75"),
        (["a=x.star", "--format", "relion4", "--radius", "a=-5"], "--radius a must be a positive number"),
    ],
)
def test_what_cannot_be_imported_is_one_sentence(words, sentence, tomograms, tmp_path, capsys):
    status, _, err = run(capsys, "import", *words, "--data", tomograms, "--out", tmp_path / "project")
    assert status == 1
    assert sentence in err
    assert err.count("\n") == 1
    assert not (tmp_path / "project").exists()


@pytest.mark.parametrize(
    "content",
    [b"", bytes(range(256)) * 8, b"[" * 1000, b"data_\nloop_\n_rlnTomoName\n", b"IMODV1.2" + b"\xff" * 300, b"a b c\n"],
)
@pytest.mark.parametrize("kind", ["relion5", "relion4", "relion3", "dynamo", "imod", "csv"])
def test_a_file_of_another_kind_is_one_sentence(kind, content, tomograms, tmp_path, capsys):
    path = tmp_path / "file"
    path.write_bytes(content)
    named = path if kind == "csv" else f"ribosome={path}"
    status, _, err = run(capsys, "import", named, "--format", kind, "--data", tomograms, "--out", tmp_path / "p")
    assert status == 1
    assert str(path) in err
    assert err.count("\n") == 1


def test_a_library_that_is_missing_is_named_with_its_extra(prediction, tomograms, tmp_path, monkeypatch):
    monkeypatch.setattr("tomopoint.formats.libraries.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"dynamo needs dynamotable, .* pip install 'tomopoint\[lab\]'"):
        export_picks(prediction, format="dynamo", out=tmp_path / "out", voxel_size=10.0)
    with pytest.raises(DataError, match="imod needs imodmodel"):
        import_picks(["x.mod"], format="imod", data=tomograms, out=tmp_path / "p")
    export_picks(prediction, format="copick", out=tmp_path / "out")  # which needs none
