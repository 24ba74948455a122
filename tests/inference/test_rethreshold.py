"""Another submission from the picks of a prediction: only thresholds change, and only as far as the picks allow."""

import json
from dataclasses import replace

import pandas as pd
import pytest

from tomopoint.__main__ import main
from tomopoint.data.tables import PICK_COLUMNS
from tomopoint.inference.folder import PredictionFolder
from tomopoint.inference.parts import PartOrigin, write_part
from tomopoint.inference.submission import join_parts
from tomopoint.pipeline import COMPETITION_PARTICLES, Decoding, Pipeline

PICKS = """experiment,particle_type,x,y,z,score
TS_1,ribosome,100,200,300,0.9
TS_1,ribosome,110,900,300,0.31
TS_1,ribosome,120,900,900,0.29
TS_2,thyroglobulin,1,2,3,0.2
TS_2,apo-ferritin,4,5,6,0.26
"""


@pytest.fixture
def prediction(tmp_path):
    pipeline = Pipeline(COMPETITION_PARTICLES, voxel_A=10.0, decoding=Decoding(floor=0.1))  # thresholds 0.25
    pipeline.save(tmp_path / "pipeline.json")
    (tmp_path / "picks.csv").write_text(PICKS)
    return tmp_path


def _run(folder, capsys, *words):
    with pytest.raises(SystemExit) as end:
        main(["rethreshold", str(folder / "picks.csv"), "--out", str(folder / "again.csv"), *words])
    said = capsys.readouterr()
    return end.value.code, said.out, said.err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), {"ribosome": 3, "apo-ferritin": 1}),
        (("--thresholds", "ribosome=0.3"), {"ribosome": 2, "apo-ferritin": 1}),
        (("--thresholds", "ribosome=0.3, thyroglobulin=0.2"), {"ribosome": 2, "apo-ferritin": 1, "thyroglobulin": 1}),
    ],
)
def test_named_thresholds_change_and_the_others_stay(prediction, capsys, words, expected):
    status, out, _ = _run(prediction, capsys, "--json", *words)
    assert status == 0
    table = pd.read_csv(prediction / "again.csv")
    assert table["particle_type"].value_counts().to_dict() == expected
    assert list(table["id"]) == list(range(len(table)))
    assert {name: n for name, n in json.loads(out)["counts"].items() if n} == expected


def test_another_pipeline_may_be_given(prediction, capsys):
    other = Pipeline.load(prediction / "pipeline.json").with_thresholds({"ribosome": 0.5})
    other.save(prediction / "other.json")
    status, _, _ = _run(prediction, capsys, "--pipeline", str(prediction / "other.json"))
    assert status == 0
    assert (pd.read_csv(prediction / "again.csv")["particle_type"] == "ribosome").sum() == 1


@pytest.mark.parametrize("name", ["picks.csv", "pipeline.json", "link.csv"])
def test_what_is_read_is_not_written_over(prediction, capsys, name):
    (prediction / "link.csv").symlink_to(prediction / "picks.csv")
    before = (prediction / name).read_text()
    status, _, error = _run(prediction, capsys, "--out", str(prediction / name))
    assert status == 1
    assert f"{name} is read by this command" in error
    assert (prediction / name).read_text() == before


def test_an_output_that_is_no_file_is_not_replaced(prediction, capsys):
    (prediction / "device").symlink_to("/dev/full")
    status, _, error = _run(prediction, capsys, "--out", str(prediction / "device"))
    assert status == 1
    assert "is a device, pipe or socket and is not replaced" in error
    assert (prediction / "device").is_symlink()


def test_picks_without_a_score_that_is_a_number_are_refused_by_line(prediction, capsys):
    (prediction / "picks.csv").write_text(PICKS + "TS_2,ribosome,4,5,6,nan\n")
    status, _, error = _run(prediction, capsys)
    assert status == 1
    assert "line 7: score is not a finite number" in error


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--thresholds", "ribosome=0.05"), "below the floor 0.1"),
        (("--thresholds", "ribosom=0.3"), "unknown particle 'ribosom'"),
        (("--thresholds", "ribosome"), "takes ribosome=0.3"),
        (("--thresholds", "ribosome=2"), "must lie in (0, 1)"),
        (("--pipeline", "none.json"), "cannot read none.json"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_writes_nothing(prediction, capsys, words, sentence):
    status, _, error = _run(prediction, capsys, *words)
    assert status == 1
    assert sentence in error
    assert not (prediction / "again.csv").exists()


def test_a_submission_has_no_scores_to_choose_from(prediction, capsys):
    assert _run(prediction, capsys)[0] == 0
    (prediction / "again.csv").rename(prediction / "picks.csv")
    status, _, error = _run(prediction, capsys)
    assert status == 1
    assert "has no scores" in error


def test_picks_of_other_particles_are_refused(prediction, capsys):
    pipeline = Pipeline.load(prediction / "pipeline.json")
    replace(pipeline, particles=pipeline.particles[:2]).save(prediction / "pipeline.json")
    status, _, error = _run(prediction, capsys)
    assert status == 1
    assert "names ribosome, thyroglobulin; this pipeline knows apo-ferritin, beta-galactosidase" in error


def test_a_table_that_holds_picks_twice_is_refused(prediction, capsys):
    """As from two predictions put together: the metric counts each further one as wrong."""
    (prediction / "picks.csv").write_text(PICKS + "TS_1,ribosome,100.2,200,300,0.5\n")
    status, _, error = _run(prediction, capsys)
    assert status == 1
    assert "holds 1 of 6 picks twice, e.g. ribosome of TS_1 at x 100.000" in error
    assert not (prediction / "again.csv").exists()


def test_exclusive_leaves_one_class_in_a_place(prediction, capsys):
    (prediction / "picks.csv").write_text(PICKS + "TS_1,apo-ferritin,130,200,300,0.6\n")
    assert _run(prediction, capsys)[0] == 0
    assert len(pd.read_csv(prediction / "again.csv")) == 5
    assert _run(prediction, capsys, "--exclusive")[0] == 0
    assert len(pd.read_csv(prediction / "again.csv")) == 4
    pipeline = Pipeline.load(prediction / "pipeline.json")
    replace(pipeline, particles=pipeline.particles[:4]).save(prediction / "pipeline.json")  # no longer its metric
    assert _run(prediction, capsys)[0] == 0
    assert len(pd.read_csv(prediction / "again.csv")) == 4
    assert _run(prediction, capsys, "--exclusive=no")[0] == 0
    assert len(pd.read_csv(prediction / "again.csv")) == 5


@pytest.mark.parametrize(("n_particles", "n_rows"), [(6, 2), (4, 1)], ids=["competition", "own"])
def test_a_prediction_keeps_one_class_in_a_place_where_the_metric_is_ones_own(n_particles, n_rows, tmp_path):
    rows = [("TS_1", "ribosome", 100.0, 200.0, 300.0, 0.9), ("TS_1", "apo-ferritin", 130.0, 200.0, 300.0, 0.6)]
    origin, folder = PartOrigin("ab" * 32, "denoised"), PredictionFolder(tmp_path)
    write_part(folder.parts_path, "TS_1", pd.DataFrame(rows, columns=list(PICK_COLUMNS)), origin)
    pipeline = Pipeline(COMPETITION_PARTICLES[:n_particles], voxel_A=10.0)
    n_picks, counts, troubles = join_parts(folder, [folder.parts_path / "TS_1.csv"], origin, pipeline)
    assert (n_picks, sum(counts.values()), troubles) == (2, n_rows, [])
    assert len(pd.read_csv(folder.submission_path)) == n_rows
    assert len(pd.read_csv(folder.picks_path)) == 2
