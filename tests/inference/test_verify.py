"""A submission is verified against real files: one fault at a time is put into a good prediction's folder."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tomopoint.__main__ import main
from tomopoint.data.project import Project, Run
from tomopoint.data.selection import select_picks
from tomopoint.data.stores import write_tomogram
from tomopoint.data.tables import passing, write_submission
from tomopoint.errors import DataError
from tomopoint.inference.folder import PredictionFolder
from tomopoint.inference.parts import PartOrigin, load_part, read_part, write_part
from tomopoint.inference.verify import verify_submission
from tomopoint.pipeline import COMPETITION_PARTICLES, Pipeline

SHAPE_ZYX = (24, 40, 56)
VOXEL_A = 10.0
ENDS_XYZ_A = (560.0, 400.0, 240.0)
RUNS = ("TS_1", "TS_2", "TS_3")
GRAPH, OTHER_GRAPH = "ab" * 32, "cd" * 32
ORIGIN = PartOrigin(GRAPH, "denoised")
PIPELINE = Pipeline(COMPETITION_PARTICLES, VOXEL_A).with_thresholds({"ribosome": 0.5})
PICKS = {
    "TS_1": [("ribosome", 100, 50, 60, 0.9), ("ribosome", 400, 50, 60, 0.7), ("ribosome", 400, 350, 60, 0.3)],
    "TS_2": [("ribosome", 0, 0, 0, 0.8), ("apo-ferritin", *ENDS_XYZ_A, 0.4), ("virus-like-particle", 9.5, 1, 2, 0.1)],
    "TS_3": [("thyroglobulin", 123.456, 399.999, 0.125, 0.26)],
}
"""Five of seven pass their thresholds, on two corners of a tomogram one each."""


def table(run, picks):
    columns = ["particle_type", "x", "y", "z", "score"]
    return pd.DataFrame(picks, columns=columns).assign(experiment=run).astype(dict.fromkeys(columns[1:], float))


def write_project(root, split="test", runs=RUNS):
    volume = np.random.default_rng(0).normal(0, 1e-5, SHAPE_ZYX).astype(np.float32)
    for run in runs:
        write_tomogram(Run(run, split, root).tomogram_path(), volume, scale_A=[VOXEL_A] * 3, levels=1)
    return Project(root)


def write_log(folder, *events):
    lines = [json.dumps({"time": 1000.0 + i, **event}) for i, event in enumerate(events)]
    (folder / "log.jsonl").write_text("\n".join(lines) + "\n")


STARTED = {"event": "prediction", "n_runs": 3, "runs": list(RUNS), "workers": 1, "graph_sha256": GRAPH, "limit_s": None}


def done(run, *notes):
    return {"event": "done", "run": run, "worker": 0, "n_picks": 3, "seconds": 1.0, "notes": list(notes)}


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    """Return a root with a project, ``data``, and a prediction without fault, ``out``; never change it."""
    root = tmp_path_factory.mktemp("verify")
    write_project(root / "data")
    out = root / "out"
    out.mkdir()
    PIPELINE.save(out / "pipeline.json")
    for run, picks in PICKS.items():
        write_part(out / "parts", run, table(run, picks), ORIGIN)
    write_log(out, STARTED, *map(done, RUNS), {"event": "joined"})
    join(out)
    return root


def join(out):
    every = pd.concat([load_part(path)[1] for path in sorted((out / "parts").glob("*.csv"))])
    write_submission(passing(every, Pipeline.load(out / "pipeline.json").thresholds), out / "submission.csv")


@pytest.fixture
def root(good, tmp_path):
    return Path(shutil.copytree(good, tmp_path / "root"))


@pytest.fixture
def out(root):
    return root / "out"


def verify(root, folder=None, **options):
    return verify_submission((folder or root / "out") / "submission.csv", Project(root / "data"), **options)


def rewrite(out, change):
    """Change the submission's lines in place."""
    path = out / "submission.csv"
    lines = path.read_text().splitlines()
    change(lines)
    path.write_text("".join(f"{line}\n" for line in lines))


def test_a_good_submission_raises_no_alarm(root):
    found = verify(root)
    assert (found.errors, found.warnings, found.unchecked) == ((), (), ())
    assert found.ok
    assert found.counts == {
        "n_picks": 5,
        "n_runs": 3,
        "n_runs_with_picks": 3,
        "n_parts": 3,
        **dict.fromkeys(PIPELINE.particle_names, 0),
        **{"ribosome": 3, "apo-ferritin": 1, "thyroglobulin": 1},
    }
    path = root / "out/submission.csv"
    assert found.text() == f"{path}: 5 picks in 3 of 3 runs, 3 parts; 0 errors, 0 warnings"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(0, 60))
def test_no_alarm_whatever_was_picked(good, tmp_path, seed, n):
    """Any picks that a prediction can give: inside, on faces, apart as suppression leaves them, of any score."""
    rng = np.random.default_rng(seed)
    out = tmp_path / str(seed)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    PIPELINE.save(out / "pipeline.json")
    for run in RUNS:
        picks = []
        for particle in PIPELINE.particles:
            kept = np.empty((0, 3))
            for point in rng.uniform(-0.1, 1.1, (n, 3)).clip(0, 1) * ENDS_XYZ_A:
                if (np.linalg.norm(kept - point, axis=1) >= particle.suppression_A).all():
                    kept = np.vstack([kept, point])
            picks += [(particle.name, *point, rng.uniform(0.05, 1)) for point in kept]
        write_part(out / "parts", run, table(run, picks), ORIGIN)
    join(out)
    found = verify(good, out)
    assert found.errors == ()
    assert all("runs have no pick" in warning for warning in found.warnings)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (1, "0,TS_1,ribosome,100.0,50.0", "line 2: 6 fields are wanted, as in the header; correct or remove the rows"),
        (1, "0,TS_1,ribosome,1,2,3,4", "line 2: 6 fields are wanted, as in the header"),
        (2, "7,TS_1,ribosome,400.0,50.0,60.0", "line 3: the id is '7'; ids are 0, 1, 2 ... in the order of the rows"),
        (2, "one,TS_1,ribosome,400.0,50.0,60.0", "line 3: the id is 'one'; ids are 0, 1, 2"),
        (1, "0,TS_1,ribosome,,50.0,60.0", "line 2: x is '', not a finite number; correct or remove the rows"),
        (1, "0,TS_1,ribosome,100.0,inf,60.0", "line 2: y is 'inf', not a finite number"),
        (1, "0,TS_1,ribosome,100.0,50.0,1e999", "line 2: z is '1e999', not a finite number"),
        (1, "0,TS_1,proteasome,100.0,50.0,60.0", "line 2: no particle is called 'proteasome'; there are apo-ferritin,"),
        (1, "0,TS_8,ribosome,100.0,50.0,60.0", "data is called 'TS_8'; there are TS_1, TS_2, TS_3: correct or remove"),
        (1, "0,,ribosome,100.0,50.0,60.0", "data is called ''; there are TS_1"),
        (1, "0,TS_1,ribosome,-0.1,50.0,60.0", "line 2: the pick at x -0.100, y 50.000, z 60.000 A lies outside the"),
        (1, "0,TS_1,ribosome,60.0,50.0,240.1", "tomogram of TS_1, which ends at x 560.0, y 400.0, z 240.0 A; coord"),
        (1, "0,TS_1,ribosome,1e200,50.0,60.0", "lies outside the tomogram of TS_1"),
    ],
)
def test_a_row_that_the_competition_would_not_take(root, out, old, new, sentence):
    rewrite(out, lambda lines: lines.__setitem__(old, new))
    errors = verify(root).errors
    named = [error for error in errors if error.startswith(f"{out / 'submission.csv'}, line ")]
    assert any(sentence in error for error in named)
    # The parts still hold what stood there.
    assert any("lacks 1 picks of the parts" in error for error in errors) == ("the id is" not in sentence)


def test_rows_of_one_fault_are_one_sentence_and_all_faults_are_told(root, out):
    rewrite(out, lambda lines: lines.extend(f"{i},TS_9,x,0,0,nan" for i in range(6, 14)))
    errors = "\n".join(verify(root).errors)
    for kind in ("the id is '6'", "'TS_9'", "no particle is called 'x'", "z is 'nan'"):
        assert errors.count(kind) == 1
    assert "lines 7, 8, 9, 10, 11 and 3 more: z is 'nan'" in errors


@pytest.mark.parametrize(
    "header",
    [
        "id,experiment,particle_type,x,y",
        "experiment,id,particle_type,x,y,z",
        "id,experiment,particle_type,x,y,z,score",
        "",
    ],
)
def test_other_columns(root, out, header):
    rewrite(out, lambda lines: lines.__setitem__(0, header))
    (error, *_) = verify(root).errors
    assert f"line 1: the columns are {', '.join(header.split(',')) or 'none'}; the competition takes id, exp" in error
    assert "`tomopoint rethreshold` writes it anew" in error


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\xff\xfe\x00", "is no CSV table ("),
        (b'id,"x\n', "is no CSV table ("),
        (None, "(No such file or directory); name"),
    ],
)
def test_a_file_that_is_no_table(root, out, content, sentence):
    path = out / "submission.csv"
    path.unlink() if content is None else path.write_bytes(content)
    found = verify(root)
    (error,) = found.errors
    assert sentence in error
    assert str(path) in error
    assert found.warnings == ()  # nothing is known of runs without a pick


def test_a_submission_without_a_row_is_valid_where_nothing_was_picked(root, out):
    for run in RUNS:
        write_part(out / "parts", run, table(run, []), ORIGIN)
    rewrite(out, lambda lines: lines.__delitem__(slice(1, None)))
    found = verify(root)
    assert found.ok
    assert found.warnings == (
        f"{out / 'submission.csv'}: 3 of 3 runs have no pick: TS_1, TS_2, TS_3; look at their tomograms, or lower "
        "thresholds with `tomopoint rethreshold`",
    )


def test_the_other_split_is_named(root):
    write_project(root / "data", "train", ["TS_7"])
    found = verify_submission(root / "out/submission.csv", Project(root / "data"), "train")
    assert any("these are test runs, say --split test" in error for error in found.errors)
    with pytest.raises(DataError, match="train/ and test/"):
        verify_submission(root / "out/submission.csv", Project(root))


def test_the_part_of_a_run_that_was_never_asked_for(root, out):
    """Parts of another project's runs are joined, too."""
    write_part(out / "parts", "TS_7", table("TS_7", [("ribosome", 1, 1, 1, 0.9)]), ORIGIN)
    join(out)
    (error,) = verify(root).errors
    assert "line 7: no test run of" in error


@pytest.mark.parametrize(
    ("second", "kind", "sentence"),
    [
        ("100.000,50.000,60.000", "errors", "lines 2 and 7: ribosome in TS_1 is there twice, 0.000 A apart, one of 2"),
        ("100.500,50.000,60.000", "errors", "lines 2 and 7: ribosome in TS_1 is there twice, 0.500 A apart"),
        ("101.000,50.000,60.000", "warnings", "lines 2 and 7: 1.0 A between two picks of ribosome in TS_1"),
        ("194.000,50.000,60.000", "warnings", "94.0 A between two picks of ribosome in TS_1, where one suppresses"),
        ("196.000,50.000,60.000", None, ""),
    ],
)
def test_doubled_and_crowded_picks(root, out, second, kind, sentence):
    shutil.rmtree(out / "parts")
    (out / "log.jsonl").unlink()
    rewrite(out, lambda lines: lines.append(f"5,TS_1,ribosome,{second}"))
    found = verify(root)
    assert len(found.errors) + len(found.warnings) == (kind is not None)
    assert all(sentence in text for text in found.figures().get(kind, []))
    assert found.ok == (kind != "errors")


def test_coordinates_beyond_all_measure_are_outside_and_no_more(root, out):
    """Squares of their distances overflow."""
    rows = ["5,TS_1,ribosome,1e200,0,0", "6,TS_1,ribosome,-1.7e308,1.7e308,0", "7,TS_1,ribosome,1.7e308,0,0"]
    rewrite(out, lambda lines: lines.extend(rows))
    first, second = verify(root).errors
    assert "lines 7, 8, 9: the pick at" in first
    assert "lines 7, 8, 9: ribosome of TS_1" in second


def test_picks_of_two_particles_or_runs_may_lie_in_one_place(root, out):
    shutil.rmtree(out / "parts")
    rows = ["5,TS_1,thyroglobulin,100.0,50.0,60.0", "6,TS_2,ribosome,100.0,250.0,60.0"]
    rewrite(out, lambda lines: lines.extend(rows))
    assert not any("between two picks" in text for text in verify(root).warnings)
    assert not any("is there twice" in text for text in verify(root).errors)


def test_what_is_in_no_part_and_what_is_lacking(root, out):
    rewrite(out, lambda lines: lines.__setitem__(2, "1,TS_1,ribosome,400.0,50.0,60.002"))
    extra, lacking = verify(root).errors
    path = out / "submission.csv"
    assert extra.startswith(
        f"{path}, line 3: ribosome of TS_1 at x 400.000, y 50.000, z 60.002 A is in no part, or below its threshold"
    )
    assert lacking.startswith(
        f"{path} lacks 1 picks of the parts, the first at {out / 'parts/TS_1.csv'}, line 4: ribosome at x 400.000, "
        "y 50.000, z 60.000 A, above its threshold of 0.5; run the same `tomopoint predict` command again"
    )
    assert (out / "parts/TS_1.csv").read_text().splitlines()[3].startswith("TS_1,ribosome,400.0,50.0,60.0,")


def test_a_pick_below_its_threshold_does_not_belong_there(root, out):
    Pipeline.load(out / "pipeline.json").with_thresholds({"ribosome": 0.75}).save(out / "pipeline.json")
    (error,) = verify(root).errors
    assert "line 3: ribosome of TS_1 at x 400.000, y 50.000, z 60.000 A is in no part, or below its threshold" in error


def test_another_submission_of_the_same_parts_has_its_own_pipeline(root, out, tmp_path):
    """As with `tomopoint rethreshold`: its pipeline.json beside it, the prediction named."""
    Pipeline.load(out / "pipeline.json").with_thresholds({"ribosome": 0.2}).save(tmp_path / "other/pipeline.json")
    every = pd.concat([load_part(path)[1] for path in sorted((out / "parts").glob("*.csv"))])
    other = Pipeline.load(tmp_path / "other/pipeline.json")
    write_submission(passing(every, other.thresholds), tmp_path / "other/submission.csv")
    found = verify(root, tmp_path / "other", out=out)
    assert (found.errors, found.warnings, found.unchecked) == ((), (), ())
    assert found.counts["ribosome"] == 4


@pytest.mark.parametrize("particles", [COMPETITION_PARTICLES, COMPETITION_PARTICLES[:5]], ids=["competition", "own"])
def test_two_classes_in_one_place_are_kept_or_not_but_all_in_one_way(root, out, particles):
    """As `tomopoint rethreshold --exclusive` decides, for which there may be any reason."""
    pipeline = replace(
        PIPELINE, particles=tuple(p for p in PIPELINE.particles if p.name in {q.name for q in particles})
    )
    pipeline.save(out / "pipeline.json")
    rivals = [("apo-ferritin", 120, 50, 60, 0.3), ("apo-ferritin", 420, 50, 60, 0.28)]  # claims below the ribosomes'
    write_part(out / "parts", "TS_1", table("TS_1", PICKS["TS_1"] + rivals), ORIGIN)
    every = pd.concat([load_part(path)[1] for path in sorted((out / "parts").glob("*.csv"))])
    for exclusive, n_rows in ((False, 7), (True, 5)):
        submitted = select_picks(every, pipeline.particles, exclusive)
        assert len(submitted) == n_rows
        write_submission(submitted, out / "submission.csv")
        assert verify(root).errors == ()
    both_ways = select_picks(every, pipeline.particles, False)
    write_submission(both_ways[both_ways["x"] != 420], out / "submission.csv")
    (error,) = verify(root).errors
    by_default = "lacks 1 picks" if particles == COMPETITION_PARTICLES else "or in the place of another class"
    assert by_default in error


def test_a_pick_that_two_rows_stand_for_is_compared_once(root, out):
    rewrite(out, lambda lines: lines.append("5,TS_3,thyroglobulin,123.456,399.999,0.125"))
    assert any("line 7: thyroglobulin of TS_3" in e and "is in no part" in e for e in verify(root).errors)


@pytest.mark.parametrize("cut", [0, 1, 40, -1])
def test_a_damaged_part(root, out, cut):
    path = out / "parts/TS_2.csv"
    path.write_bytes(path.read_bytes()[:cut])
    (error,) = verify(root).errors
    assert str(path) in error
    assert "remove it, and its run is predicted again" in error
    assert ("is damaged (its checksum differs)" if cut < 0 else "is no part of a prediction") in error


def test_a_part_that_was_changed_by_hand(root, out):
    path = out / "parts/TS_2.csv"
    path.write_bytes(path.read_bytes().replace(b",0.8\n", b",0.9\n"))
    with pytest.raises(DataError, match="checksum"):
        read_part(path, ORIGIN)
    assert [error for error in verify(root).errors if "checksum" in error]


@pytest.mark.parametrize("with_log", [True, False])
def test_a_part_of_another_graph(root, out, with_log):
    """Without a log the graph is that of most parts."""
    write_part(out / "parts", "TS_2", table("TS_2", PICKS["TS_2"]), PartOrigin(OTHER_GRAPH, "denoised"))
    if not with_log:
        (out / "log.jsonl").unlink()
    (error,) = verify(root).errors
    assert error == (
        f"{out / 'parts/TS_2.csv'} was made by the graph {OTHER_GRAPH[:12]}, the prediction's is {GRAPH[:12]}; remove "
        "what does not belong there and run the same `tomopoint predict` command again"
    )


def test_all_parts_of_another_graph_than_the_log_names(root, out):
    write_log(out, STARTED | {"graph_sha256": OTHER_GRAPH}, *map(done, RUNS))
    (error,) = verify(root).errors
    assert f"TS_3.csv were made by the graph {GRAPH[:12]}, the prediction's is {OTHER_GRAPH[:12]}" in error
    assert all(str(out / "parts" / f"{run}.csv") in error for run in RUNS)


def test_a_part_under_the_name_of_another_run(root, out):
    shutil.copy(out / "parts/TS_1.csv", out / "parts/TS_2.csv")
    (error,) = verify(root).errors
    assert error.startswith(f"{out / 'parts/TS_2.csv'} was made of TS_1 and renamed; remove what does not belong there")


def test_of_many_damaged_parts_the_first_are_named(root, out):
    for i in range(9):
        (out / f"parts/TS_4{i}.csv").write_text("junk")
    errors = verify(root).errors
    assert len(errors) == 6
    assert errors[-1] == "4 more parts are damaged or of another version"


def test_a_part_of_another_reconstruction(root, out):
    write_part(out / "parts", "TS_2", table("TS_2", PICKS["TS_2"]), PartOrigin(GRAPH, "wbp"))
    (error,) = verify(root).errors
    assert "TS_2.csv was made from the reconstruction 'wbp', the others from 'denoised'; remove what" in error
    with pytest.raises(DataError, match="another graph or from another reconstruction"):
        read_part(out / "parts/TS_2.csv", ORIGIN)


def test_runs_that_are_not_predicted_say_why(root, out):
    (out / "parts/TS_2.csv").unlink()
    (out / "parts/TS_3.csv").unlink()
    write_log(out, STARTED, done("TS_1"), {"event": "failed", "run": "TS_2", "worker": 0, "message": "no such folder"})
    join(out)
    found = verify(root)
    assert found.ok
    assert found.warnings == (
        f"{out}: 2 of 3 runs are not predicted: TS_2 (no such folder), TS_3; run the same `tomopoint predict` command "
        "again",
    )


def test_nothing_predicted_at_all(root, out):
    """As where the time is up at once: the submission has no rows, and the log tells of a prediction."""
    shutil.rmtree(out / "parts")
    write_log(out, STARTED)
    rewrite(out, lambda lines: lines.__delitem__(slice(1, None)))
    found = verify(root)
    assert (found.errors, found.unchecked) == ((), ())
    assert found.warnings[0].startswith(f"{out}: 3 of 3 runs are not predicted: TS_1, TS_2, TS_3; run")
    assert len(found.warnings) == 1


def test_runs_without_a_pick_and_incomplete_stores(root, out):
    write_part(out / "parts", "TS_3", table("TS_3", [("ribosome", 9, 9, 9, 0.1)]), ORIGIN)
    join(out)
    note = "incomplete: 1 of 27 chunks missing, read as 0.0"
    write_log(out, STARTED, done("TS_1", note), done("TS_2", note), done("TS_3"))
    found = verify(root)
    assert found.ok
    assert found.warnings == (
        f"{out / 'submission.csv'}: 1 of 3 runs have no pick: TS_3; look at their tomograms, or lower thresholds with "
        "`tomopoint rethreshold`",
        f"{out / 'log.jsonl'}: {note}: TS_1, TS_2; copy or download these stores again, remove the part of each of "
        "these runs and run the same `tomopoint predict` command again",
    )


def read_as(voxel_A, is_stated):
    return {"read": {"format": "OME-Zarr, float32", "voxel_A": voxel_A, "is_stated": is_stated}}


def test_voxels_that_the_prediction_took_for_others_are_no_fault_of_the_rows(root, out):
    """Picks at twice the tomogram's own Angstrom: predicted with --voxel-size 20."""
    write_part(out / "parts", "TS_1", table("TS_1", [("ribosome", 1100, 50, 60, 0.9)]), ORIGIN)
    join(out)
    (error,) = verify(root).errors
    assert "lies outside the tomogram of TS_1, which ends at x 560.0, y 400.0, z 240.0 A" in error
    write_log(out, STARTED, done("TS_1") | read_as(20.0, True), done("TS_2"), done("TS_3") | read_as(10.0, True))
    found = verify(root)
    assert found.errors == ()
    assert found.unchecked == (
        "whether picks lie inside the tomogram of TS_1, predicted as of voxels of 20.000 A, here they are 10.000 A: "
        "say --voxel-size 20, as tomopoint predict was told",
    )
    write_log(out, STARTED, done("TS_1") | read_as(20.0, False), done("TS_2"), done("TS_3"))
    assert "A: say no --voxel-size, as tomopoint predict was told none; or, if the file" in verify(root).unchecked[0]


def test_advice_fits_what_is_noted(root, out):
    """How a tomogram is read is another prediction's; what its file lacks is mended there."""
    notes = {
        "contrast unclear, read as it is": "predict them with --invert, with another --out",
        "protein looks light in the file to the networks: see --invert": "another --invert, with another --out",
        "windows overlapped less, for time": "remove the part of each of these runs and run the same",
        "stored as int16, the competition's are float32": "no fault, unless values were cut off",
        "unlike the denoised tomograms of training: tails outside 1 to 2": "fine-tuning on a few such tomograms helps",
        "a note of another version": "look at these tomograms",
    }
    write_log(out, STARTED, done("TS_1", *notes), done("TS_2"), done("TS_3"))
    warnings = verify(root).warnings
    assert len(warnings) == len(notes)
    for warning, (note, advice) in zip(warnings, notes.items(), strict=True):
        assert warning.startswith(f"{out / 'log.jsonl'}: {note}: TS_1; ")
        assert advice in warning
        assert ("remove the part" in warning) == ("overlapped" in note)


def test_a_note_of_an_earlier_try_is_not_repeated(root, out):
    write_log(out, STARTED, done("TS_1", "incomplete"), STARTED, done("TS_1"))
    assert verify(root).warnings == ()


def test_somebody_elses_csv(root, out, tmp_path):
    """No prediction beside it: what can be checked is, and what cannot is said."""
    (tmp_path / "mine").mkdir()
    path = shutil.copy(out / "submission.csv", tmp_path / "mine")
    found = verify(root, tmp_path / "mine")
    assert (found.errors, found.warnings) == ((), ())
    assert found.unchecked == (
        f"particles and distances of the prediction: there is no {tmp_path / 'mine/pipeline.json'}; the competition's "
        "are taken",
        f"what was predicted: no parts/ in {tmp_path / 'mine'} (--out names a prediction's folder)",
    )
    assert found.text().splitlines()[0].startswith("not checked: particles and distances")
    Path(path).write_text("id,experiment,particle_type,x,y,z\n0,TS_1,ribosome,600,0,0\n")
    found = verify(root, tmp_path / "mine")
    assert "lies outside the tomogram of TS_1" in found.errors[0]
    assert "2 of 3 runs have no pick: TS_2, TS_3" in found.warnings[0]


def test_without_a_log_or_a_pipeline_it_is_said(root, out):
    (out / "log.jsonl").unlink()
    (out / "pipeline.json").unlink()
    found = verify(root)
    assert found.ok
    assert [text.partition(":")[0] for text in found.unchecked] == [
        "particles and distances of the prediction",
        "why runs are not predicted, and which stores were incomplete",
        "whether it holds what the parts give",
    ]


def test_a_damaged_pipeline_is_an_error(root, out):
    (out / "pipeline.json").write_text("{half")
    (error,) = verify(root).errors
    assert f"{out / 'pipeline.json'} is not a valid pipeline" in error


def test_particles_are_those_of_the_pipeline(root, out):
    replace(PIPELINE, particles=PIPELINE.particles[2:]).save(out / "pipeline.json")
    assert any("no particle is called 'apo-ferritin'; there are ribosome, thyro" in e for e in verify(root).errors)


def test_a_store_that_cannot_be_described(root):
    shutil.rmtree(Run("TS_2", "test", root / "data").tomogram_path())
    found = verify(root)
    assert found.ok
    (sentence,) = found.unchecked
    assert sentence.startswith("whether picks lie inside the tomogram of TS_2 (")


def test_only_metadata_is_read(root):
    """The voxels of a competition's test set would take an hour."""
    for chunk in (root / "data").rglob("0/0/0/0"):
        chunk.write_bytes(b"")
    assert verify(root).ok


def test_the_size_is_that_of_the_reconstruction_that_was_read(root, out):
    store = Run("TS_1", "test", root / "data").tomogram_path("wbp")
    write_tomogram(store, np.random.default_rng(0).normal(0, 1, (4, 4, 4)).astype(np.float32), [10.0] * 3, levels=1)
    for run in RUNS[1:]:
        shutil.copytree(
            Run(run, "test", root / "data").tomogram_path(), store.parents[2] / run / "VoxelSpacing10.000/wbp.zarr"
        )
    for run, picks in PICKS.items():
        write_part(out / "parts", run, table(run, picks), PartOrigin(GRAPH, "wbp"))
    (error,) = verify(root).errors
    assert "lines 2, 3: the pick at" in error
    assert "which ends at x 40.0, y 40.0, z 40.0 A" in error


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["submission.csv", "pipeline.json", "log.jsonl", "parts/TS_1.csv"]),
    data=st.data(),
)
def test_whatever_the_files_hold_there_is_a_verdict(good, tmp_path, name, data):
    """The notebook's last cell must not fail, and no damage to the submission or a part goes unseen."""
    root = tmp_path / "damaged"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(good / "out", root)
    whole = (root / name).read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    length = data.draw(st.integers(0, 40))
    put = data.draw(st.binary(max_size=40) | st.text('0123456789.,-+eE \r\n"naif', max_size=6).map(str.encode))
    (root / name).write_bytes(whole[:at] + put + whole[at + length :])
    found = verify(good, root)
    json.dumps(found.figures())
    assert found.text()
    if name.startswith("parts") and (root / name).read_bytes() != whole:
        assert not found.ok
    if name.startswith("sub") and found.ok:
        pd.testing.assert_frame_equal(pd.read_csv(root / name), pd.read_csv(good / "out" / name))


def test_the_command(root, out, capsys):
    words = ["verify", str(out / "submission.csv"), "--data", str(root / "data")]
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 0
    assert capsys.readouterr().out.endswith("5 picks in 3 of 3 runs, 3 parts; 0 errors, 0 warnings\n")
    rewrite(out, lambda lines: lines.append("9,TS_1,ribosome,0,0,0"))
    with pytest.raises(SystemExit) as end:
        main([*words, "--json"])
    assert end.value.code == 1
    figures = json.loads(capsys.readouterr().out)
    assert figures["ok"] is False
    assert len(figures["errors"]) == 2
    assert figures["counts"]["n_picks"] == 6


def test_what_a_prediction_is_still_writing_is_not_compared(root, out):
    (out / "submission.csv").write_text("id,experiment,particle_type,x,y,z\n")  # as where it has just begun
    with PredictionFolder(out).held():
        found = verify(root)
        assert found.ok
        assert found.unchecked == (
            f"whether it holds what the parts give: a prediction is at work in {out}; verify again when it ends",
        )
    assert "lacks 5 picks" in verify(root).errors[0]
