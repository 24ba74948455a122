"""The report: self-contained, says what was given, and its marks are where the picks are."""

import base64
import io
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import mrcfile
import numpy as np
import onnx
import pandas as pd
import pytest
from PIL import Image

from tomopoint.data.colours import COLOURS, hex_colour_of
from tomopoint.data.picks import write_picks
from tomopoint.data.project import SIMULATION_RECORD, Project, Run
from tomopoint.data.stores import write_tomogram
from tomopoint.data.tables import read_pick_table, write_pick_table, write_submission
from tomopoint.data.tomograms import Tomogram, TomogramInfo, read_tomogram
from tomopoint.errors import DataError, EngineError, TomopointError
from tomopoint.evaluation.calibration import CalibrationOptions, calibrate
from tomopoint.evaluation.command import report
from tomopoint.evaluation.distribution import count_picks, neighbours_of, volume_um3
from tomopoint.evaluation.distribution_sections import threshold_between
from tomopoint.evaluation.judging import compare_picks, judge_picks
from tomopoint.evaluation.page import escape, number, table
from tomopoint.evaluation.score import truth_table
from tomopoint.evaluation.slices import MOST_SLABS, cut_slabs
from tomopoint.evaluation.submissions import find_scored
from tomopoint.evaluation.viewer import JUDGED_KINDS, kinds_of_two
from tomopoint.export.metadata import graph_metadata
from tomopoint.inference.parity import FP32_SMALL, ParityRow
from tomopoint.pipeline import COMPETITION_PARTICLES, Pipeline

VOXEL_A = 10.0
SHAPE_ZYX = (40, 60, 60)
LARGEST_MB = 1.0
SLABS = range(0, SHAPE_ZYX[0], 8)
COLUMNS = ("experiment", "particle_type", "x", "y", "z")
WITHOUT_END = {"meta", "img", "input", "br"}


class Markup(HTMLParser):
    """Which tags are open, and every id."""

    def __init__(self):
        super().__init__()
        self.open, self.idents = [], []

    def handle_starttag(self, tag, attrs):
        self.idents += [value for name, value in attrs if name == "id"]
        if tag not in WITHOUT_END:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.idents += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check_markup(page):
    """Every tag is closed in its place, every id is there once, and every mark has its shape."""
    parser = Markup()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    assert len(set(parser.idents)) == len(parser.idents)
    assert set(re.findall('href="#([^"]+)"', page)) <= set(parser.idents)


def pixels_of(picture):
    """Return a picture's brightness as a browser shows it, first row on top."""
    return np.asarray(Image.open(io.BytesIO(picture)).convert("L"))


def random_truth(rng, runs):
    size_xyz_A = np.array(SHAPE_ZYX[::-1]) * VOXEL_A
    return {
        run: {particle.name: rng.uniform(0, 1, (4, 3)) * size_xyz_A for particle in COMPETITION_PARTICLES}
        for run in runs
    }


@pytest.fixture
def project(tmp_path):
    rng = np.random.default_rng(0)
    root = tmp_path / "data"
    truth = {"test": random_truth(rng, ["TS_1", "TS_2"]), "train": random_truth(rng, ["TS_5", "TS_6"])}
    for split, runs in truth.items():
        for name, points in runs.items():
            run = Run(name, split, root)
            volume = rng.normal(0, 1e-5, SHAPE_ZYX).astype(np.float32)
            write_tomogram(run.tomogram_path(), volume, (VOXEL_A,) * 3, levels=1)
            folder = run.picks_folder if split == "train" else root / "truth" / name
            for particle, centres in points.items():
                write_picks(folder / f"{particle}.json", name, particle, centres)
    (root / SIMULATION_RECORD).write_text("{}")
    write_submission(truth_table(truth["test"]).iloc[:-5], tmp_path / "prediction" / "submission.csv")
    return root, truth


@pytest.fixture
def training_folder(tmp_path, project):
    """What validation leaves behind, made of synthetic picks."""
    root, truth = project
    rng = np.random.default_rng(1)
    picks = truth_table(truth["train"])
    picks["score"] = rng.uniform(0.06, 0.9, len(picks))
    groups = {"fold0": ("TS_5",), "fold1": ("TS_6",)}
    calibration = calibrate(truth["train"], picks, groups, COMPETITION_PARTICLES, CalibrationOptions())
    folder = tmp_path / "trained" / "first"
    for name, own in picks.groupby("experiment"):
        write_pick_table(own, folder / "validation" / f"{name}.csv")
    Pipeline(COMPETITION_PARTICLES, VOXEL_A).with_thresholds(calibration.thresholds).save(folder / "pipeline.json")
    content = {"data_root": str(root), "predictions": {"TS_5": {}, "TS_6": {}}, **calibration.to_dict()}
    (folder / "validation.json").write_text(json.dumps(content))
    return folder


def sources(root, folder):
    """Return what every report needs, and its page in `folder`."""
    return {
        "data": root,
        "submission": (folder / "prediction" / "submission.csv",),
        "truth": root / "truth",
        "out": folder / "report.html",
    }


def test_page_is_whole_self_contained_and_says_simulated(project, training_folder, tmp_path):
    root, _ = project
    prediction = tmp_path / "prediction"
    events = [
        {"event": "done", "run": "TS_1", "worker": 0, "n_picks": 19, "seconds": 12.5, "read_seconds": 0.5},
        {"event": "failed", "run": "TS_9", "worker": 1, "message": "no such chunk"},
        {"event": "joined", "n_picks": 19, "total_seconds": 14.0},
    ]
    (prediction / "log.jsonl").write_text("\n".join(map(json.dumps, events)) + '\n{"event": "do')
    result = report(**sources(root, tmp_path), trained=training_folder)
    page = (tmp_path / "report.html").read_text()
    assert len(page) < LARGEST_MB * 1e6
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "SIMULATED" in page
    titles = ("Score per particle", "Score per run", "Slabs with picks", "Density", "Threshold curves", "Time of the")
    assert [title for title in titles if f"<h2>{title}" not in page] == []
    check_markup(page)
    assert "12.5" in page
    assert "FAILED: TS_9" in page
    assert f"{result.figures['score']:.4f}" in page
    assert result.figures["simulated"]
    assert page.count("data:image/webp") == 2 * len(SLABS)
    # Curves, out-of-fold scores, depths and neighbours of six particles; the submission has no scores.
    assert page.count("data:image/svg") == 4 * 6


def test_without_run_and_log_those_sections_are_left_out(project, tmp_path):
    root, _ = project
    (root / SIMULATION_RECORD).unlink()
    report(**sources(root, tmp_path))
    page = (tmp_path / "report.html").read_text()
    assert "SIMULATED" not in page
    assert "Threshold curves" not in page
    assert "Time of the prediction" not in page
    assert not Project(root).is_simulated


def test_parity_comes_from_the_graph(project, tmp_path):
    root, _ = project
    info = onnx.helper.make_tensor_value_info("volume", onnx.TensorProto.FLOAT, [1])
    same = onnx.helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", ["volume"], ["scores"])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "graph", [info], [same]))
    row = ParityRow("whole graph", "CPUExecutionProvider", 2.5e-5, 1e-7, 3e-5, 1e-7, 1.0, FP32_SMALL)
    metadata = graph_metadata(Pipeline(COMPETITION_PARTICLES, VOXEL_A), [row], {})
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, tmp_path / "ensemble.onnx")
    report(**sources(root, tmp_path), model=tmp_path / "ensemble.onnx")
    page = (tmp_path / "report.html").read_text()
    assert "2.5e-05" in page
    assert "within tolerance" in page
    with pytest.raises(EngineError, match="nowhere"):
        report(**sources(root, tmp_path), model=tmp_path / "nowhere.onnx")


def test_missing_data_and_damaged_validation_are_refused(project, training_folder, tmp_path):
    root, _ = project
    given = sources(root, tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        report(**{**given, "data": tmp_path / "nowhere"})
    for content, message in (("{", "is damaged"), ("{}", "lacks curves")):
        (training_folder / "validation.json").write_text(content)
        with pytest.raises(DataError, match=message):
            report(**given, trained=training_folder)


def test_a_run_that_was_not_validated_is_refused(project, tmp_path):
    root, _ = project
    with pytest.raises(TomopointError, match="run `tomopoint validate` first"):
        report(**sources(root, tmp_path), trained=tmp_path)


def test_picks_are_sorted_into_found_missed_wrong_and_duplicate():
    truth = {"ribosome": np.array([[100.0, 200.0, 300.0], [500.0, 500.0, 100.0]])}
    z_A = {"found": 340.0, "duplicate": 370.0, "wrong": 380.0}  # 40, 70 and 80 A away; within 75 is within reach
    picks = pd.DataFrame([("ribosome", 100.0, 200.0, z) for z in z_A.values()], columns=["particle_type", *"xyz"])
    judged = judge_picks(truth, picks, COMPETITION_PARTICLES)
    for kind, z in z_A.items():
        assert judged[kind]["ribosome"].tolist() == [[100.0, 200.0, z]]
    assert judged["missed"]["ribosome"].tolist() == [[500.0, 500.0, 100.0]]


def test_a_pick_that_is_the_nearest_to_two_centres_is_no_duplicate():
    truth = {"ribosome": np.array([[0.0, 0.0, 0.0], [60.0, 0.0, 0.0]])}
    picks = pd.DataFrame(
        [("ribosome", 30.0, 0.0, 0.0), ("ribosome", 70.0, 0.0, 0.0)], columns=["particle_type", *"xyz"]
    )
    judged = judge_picks(truth, picks, COMPETITION_PARTICLES)
    assert (len(judged["found"]["ribosome"]), len(judged["duplicate"]["ribosome"])) == (2, 0)


def test_two_submissions_are_sorted_by_which_of_them_has_what():
    """Centres at x 0 (both), 1000 (the first), 2000 (the second), 3000 (neither); wrong at 5000, and both at 6000."""
    truth = {"ribosome": np.array([[x, 0.0, 0.0] for x in (0.0, 1000.0, 2000.0, 3000.0)])}
    first, second = (
        pd.DataFrame([("ribosome", x, 0.0, 0.0) for x in places], columns=["particle_type", *"xyz"])
        for places in ((10.0, 1000.0, 5000.0, 6000.0), (-10.0, 2000.0, 6050.0, 7000.0))
    )
    with_truth = compare_picks(truth, first, second, COMPETITION_PARTICLES)
    assert {kind: part["ribosome"][:, 0].tolist() for kind, part in with_truth.items()} == {
        **{"both": [0.0], "first": [1000.0], "second": [2000.0]},
        **{"wrong_first": [5000.0], "wrong_second": [7000.0]},
    }
    without = compare_picks(None, first, second, COMPETITION_PARTICLES)
    assert {kind: part["ribosome"][:, 0].tolist() for kind, part in without.items()} == {
        "both": [10.0, 6000.0],
        "first": [1000.0, 5000.0],
        "second": [2000.0, 7000.0],
    }


def test_slabs_hold_every_slice_and_the_fullest_is_shown_first():
    depth = 60
    volume = np.broadcast_to(np.arange(depth, dtype=np.float32)[:, None, None], (depth, 8, 8)).copy()
    stack = cut_slabs(Tomogram(volume, VOXEL_A, None))
    slices = [number for slab in stack.slabs for number in range(slab.low, slab.high)]
    assert slices == list(range(depth))
    assert stack.middles_A[0] == 40.0
    brightness = [pixels_of(slab.picture).mean() for slab in stack.slabs]
    assert brightness == sorted(brightness)
    marks = {"missed": {"ribosome": np.array([[40.0, 40.0, z] for z in (105.0, 105.0, 105.0, 455.0, 455.0)])}}
    counts = stack.counts_of(marks, ("missed",))
    assert (counts[1], counts[5]) == (3, 2)  # slices 8 to 15, 40 to 47
    assert stack.fullest(marks, ("missed",)) == 1


def test_a_thick_tomogram_has_no_more_slabs_than_fit_a_page():
    volume = np.random.default_rng(0).normal(size=(500, 4, 4)).astype(np.float32)
    stack = cut_slabs(Tomogram(volume, VOXEL_A, None))
    assert len(stack.slabs) <= MOST_SLABS
    assert stack.slabs[-1].high == 500


def test_a_mark_lies_on_the_bright_spot_of_its_slab(project, tmp_path):
    """One pick in a run whose tomogram is dark but for a block around it: x to the right, y upwards."""
    root, _ = project
    volume = np.zeros(SHAPE_ZYX, dtype=np.float32)
    volume[16:24, 45:50, 10:15] = 1.0
    run = Run("TS_1", "test", root)
    shutil.rmtree(run.tomogram_path())
    write_tomogram(run.tomogram_path(), volume, (VOXEL_A,) * 3, levels=1)
    picks = pd.DataFrame([("TS_1", "ribosome", 125.0, 475.0, 200.0)], columns=["experiment", "particle_type", *"xyz"])
    write_submission(picks, tmp_path / "prediction" / "submission.csv")
    report(**{**sources(root, tmp_path), "truth": None})
    page = (tmp_path / "report.html").read_text()
    (mark,) = re.findall(r'<use href="#r0c2" class="c2 kpicked" x="([\d.]+)" y="([\d.]+)"', page)
    assert tuple(map(float, mark)) == (12.5, SHAPE_ZYX[1] - 47.5)
    (shown,) = re.findall(r'<img src="data:image/webp;base64,([^"]+)" alt="([^"]+)" data-z="[\d.]+">', page)
    assert "slices 16 to 23 of 40, z 200 A" in shown[1]
    rows, columns = np.nonzero(pixels_of(base64.b64decode(shown[0])) > 128)
    assert np.mean(columns + 0.5) == pytest.approx(float(mark[0]), abs=0.5)
    assert np.mean(rows + 0.5) == pytest.approx(float(mark[1]), abs=0.5)


def test_without_truth_every_section_has_content(project, tmp_path):
    root, _ = project
    result = report(**{**sources(root, tmp_path), "truth": None})
    page = (tmp_path / "report.html").read_text()
    check_markup(page)
    titles = re.findall("<h2>([^<]+)</h2>", page)
    assert titles == [
        *("Slabs with picks", "Picks per particle and run", "Density", "Depth", "Nearest neighbours"),
        "Where this comes from",
    ]
    for part in page.split("<section")[1:]:
        assert re.search("<table>|<img ", part)
    assert "No truth was given" in page
    assert result.figures["n_picks"] == 43
    assert result.figures["n_runs"] == 2
    assert "score" not in result.figures
    # Four of each particle in two runs, less the last five: beta-amylase and a virus-like particle of the last run.
    assert re.search(r"<td>all</td><td>43</td><td>8</td><td>8</td>", page)


def test_scores_of_the_candidates_come_from_the_table_beside(project, tmp_path):
    root, truth = project
    folder = tmp_path / "prediction"
    candidates = truth_table(truth["test"])
    candidates["score"] = np.linspace(0.1, 0.9, len(candidates))
    write_pick_table(candidates, folder / "picks.csv")
    Pipeline(COMPETITION_PARTICLES, VOXEL_A).save(folder / "pipeline.json")
    submitted = find_scored(folder / "submission.csv", read_pick_table(folder / "submission.csv"))
    assert (len(submitted), submitted["submitted"].sum()) == (48, 43)
    report(**{**sources(root, tmp_path), "truth": None})
    assert "<h2>Scores of the picks</h2>" in (tmp_path / "report.html").read_text()
    # A table that is not the one the submission was chosen from tells nothing of it.
    write_pick_table(candidates.iloc[10:], folder / "picks.csv")
    assert find_scored(folder / "submission.csv", read_pick_table(folder / "submission.csv")) is None


@pytest.mark.parametrize(
    ("taken", "left", "stated", "expected"),
    [
        ((0.5, 0.9), (0.1, 0.2), 0.3, 0.3),
        ((0.5, 0.9), (0.1, 0.7), 0.3, 0.3),  # one class per place left out 0.7
        ((0.5, 0.9), (0.1, 0.4), 0.3, 0.5),  # a higher one was taken
        ((0.2, 0.9), (0.1,), 0.3, 0.2),  # a lower one was taken
        ((), (0.1, 0.2), 0.3, 0.3),
        ((0.5,), (0.1,), None, 0.5),
        ((0.5,), (), None, None),
    ],
)
def test_the_line_is_the_threshold_that_was_taken(taken, left, stated, expected):
    assert threshold_between(np.array(taken), np.array(left), stated) == expected


def test_a_submission_without_picks_is_reported(project, tmp_path):
    root, _ = project
    empty = tmp_path / "empty.csv"
    write_submission(pd.DataFrame(columns=["experiment", "particle_type", *"xyz"]), empty)
    for truth in (None, root / "truth"):
        result = report(**{**sources(root, tmp_path), "submission": (empty,), "truth": truth})
        page = (tmp_path / "report.html").read_text()
        check_markup(page)
        assert "There is no pick in these runs." in page
        assert result.figures["n_picks"] == 0


def test_runs_and_tomograms_that_are_not_there_cost_only_their_part(project, tmp_path):
    root, truth = project
    others = truth_table({"TS_77": truth["test"]["TS_1"]})
    write_submission(others, tmp_path / "prediction" / "submission.csv")
    report(**{**sources(root, tmp_path), "truth": None})
    page = (tmp_path / "report.html").read_text()
    assert "has no tomogram of TS_77 that can be read" in page
    assert "<h2>Density</h2>" not in page
    assert "<h2>Depth</h2>" in page


def test_particles_nobody_knows_are_refused(project, tmp_path):
    root, truth = project
    picks = truth_table(truth["test"]).replace({"particle_type": {"ribosome": "spike"}})
    write_submission(picks, tmp_path / "prediction" / "submission.csv")
    with pytest.raises(DataError, match=r"unrecognised particle types: spike; known are apo-ferritin"):
        report(**{**sources(root, tmp_path), "truth": None})


def test_a_truth_of_other_runs_is_refused_and_of_some_runs_is_said(project, tmp_path):
    root, truth = project
    picks = truth_table(truth["test"])
    elsewhere = truth_table({"TS_77": truth["test"]["TS_1"]})
    table = tmp_path / "prediction" / "submission.csv"
    write_submission(elsewhere, table)
    with pytest.raises(DataError, match=r"share no run: the one has picks of TS_77, the other of TS_1, TS_2"):
        report(**sources(root, tmp_path))
    assert not (tmp_path / "report.html").exists()
    write_submission(pd.concat([picks.loc[picks["experiment"] == "TS_1"], elsewhere]), table)
    result = report(**sources(root, tmp_path))
    page = (tmp_path / "report.html").read_text()
    for note in (
        f"{len(elsewhere)} of {2 * len(elsewhere)} rows belong to runs that {root / 'truth'} does not hold",
        "1 of 2 runs of the truth have no row and count as missed: TS_2.",
    ):
        assert note in result.text
        assert escape(note) in page


@pytest.mark.parametrize("truth_given", [True, False])
def test_a_pick_that_is_there_twice_is_refused(project, tmp_path, truth_given):
    root, truth = project
    picks = truth_table(truth["test"])
    write_submission(pd.concat([picks, picks.iloc[-1:]]), tmp_path / "prediction" / "submission.csv")
    with pytest.raises(DataError, match=r"submission.csv holds 1 of \d+ picks twice"):
        report(**{**sources(root, tmp_path), **({} if truth_given else {"truth": None})})


def test_neighbours_are_measured_within_runs_and_across_particles():
    rows = [
        *(("R1", "ribosome", 0.0), ("R1", "ribosome", 300.0), ("R1", "apo-ferritin", 100.0)),
        *(("R1", "apo-ferritin", 1000.0), ("R2", "ribosome", 1.0)),
    ]
    picks = pd.DataFrame([(run, name, x, 0.0, 0.0) for run, name, x in rows], columns=[*COLUMNS])
    measured = neighbours_of(picks, COMPETITION_PARTICLES)
    ribosome, ferritin = measured["ribosome"], measured["apo-ferritin"]
    assert ribosome.same_A.tolist() == [300.0, 300.0, np.inf]
    assert ribosome.other_A.tolist() == [100.0, 200.0, np.inf]
    assert ribosome.claimed.tolist() == [True, False, False]  # within (150 + 60) / 2 A
    assert ferritin.same_A.tolist() == [900.0, 900.0]
    assert ferritin.claimed.tolist() == [True, False]
    assert len(measured["thyroglobulin"].same_A) == 0


def test_kinds_have_colours_of_their_own_out_of_a_palette_for_every_eye():
    palette = [hex_colour_of(index) for index in range(len(COLOURS))]
    for kinds in (JUDGED_KINDS, kinds_of_two("A", "B", judged=True), kinds_of_two("A", "B", judged=False)):
        colours = [kind.colour for kind in kinds]
        assert set(colours) <= set(palette)
        assert len(set(colours)) == len(colours)


def test_picks_are_counted_and_divided_by_the_volume():
    picks = pd.DataFrame([("R1", "ribosome", 0, 0, 0)] * 3 + [("R9", "ribosome", 0, 0, 0)], columns=[*COLUMNS])
    counts = count_picks(picks, ["R1", "R2"], ["ribosome", "thyroglobulin"])
    assert counts.to_numpy().tolist() == [[3, 0], [0, 0]]
    info = TomogramInfo((100, 200, 500), 10.0, None, 0)
    assert volume_um3(info) == pytest.approx(0.1 * 0.2 * 0.5)


def test_several_submissions_are_compared_with_the_first(project, tmp_path):
    root, truth = project
    first = tmp_path / "prediction" / "submission.csv"
    second = tmp_path / "second.csv"
    write_submission(truth_table(truth["test"]).iloc[10:], second)
    given = {**sources(root, tmp_path), "submission": (first, second)}
    result = report(**given)
    page = (tmp_path / "report.html").read_text()
    check_markup(page)
    assert "<h2>B against A</h2>" in page
    scores = [one["score"] for one in result.figures["submissions"]]
    (differences,) = result.figures["differences"]
    assert differences["score"]["difference"] == pytest.approx(scores[1] - scores[0])
    assert differences["score"]["verdict"] == "too few runs to say"
    # 33 picks are in both; ten and five only in the one or the other.
    assert re.search(r"<td>all</td><td>33</td><td>10</td><td>5</td><td>69 %</td>", page)
    blind = report(**{**given, "truth": None})
    assert blind.figures["differences"] == []
    assert re.search(r"<td>all</td><td>33</td><td>10</td><td>5</td>", (tmp_path / "report.html").read_text())


@pytest.mark.parametrize("run", ["TS_1", "TS_2"])
def test_the_run_that_differs_most_is_shown_first(project, tmp_path, run):
    root, truth = project
    every = truth_table(truth["test"])
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    write_submission(every, first)
    write_submission(every.drop(every.index[every["experiment"] == run][:3]), second)
    for truth_folder in (root / "truth", None):
        report(**{**sources(root, tmp_path), "submission": (first, second), "truth": truth_folder})
        page = (tmp_path / "report.html").read_text()
        assert re.findall(r'name="run"[^>]*> (\w+)<', page)[0] == run
        assert f"{run}, slices" in page
        assert "3 found by A alone" in page or "3 picked by A alone" in page


def test_submissions_that_cannot_be_compared_are_refused(project, tmp_path):
    root, truth = project
    first = tmp_path / "prediction" / "submission.csv"
    given = sources(root, tmp_path)
    with pytest.raises(DataError, match="twice"):
        report(**{**given, "submission": (first, first)})
    with pytest.raises(DataError, match="1 to 6 tables, got 7"):
        report(**{**given, "submission": tuple(tmp_path / f"{i}.csv" for i in range(7))})
    other = tmp_path / "other" / "submission.csv"
    write_submission(truth_table(truth["test"]), other)
    particles = tuple(replace(particle, radius_A=particle.radius_A + 1) for particle in COMPETITION_PARTICLES)
    Pipeline(particles, VOXEL_A).save(other.with_name("pipeline.json"))
    with pytest.raises(DataError, match=r"other particles, radii or weights"):
        report(**{**given, "submission": (first, other)})


def test_of_many_runs_the_fewest_and_the_most_picks_are_listed(project, tmp_path):
    root, _ = project
    rows = [(f"R{i:02}", "ribosome", 10.0 * k, 0.0, 0.0) for i in range(40) for k in range(i + 1)]
    write_submission(pd.DataFrame(rows, columns=[*COLUMNS]), tmp_path / "prediction" / "submission.csv")
    report(**{**sources(root, tmp_path), "truth": None})
    page = (tmp_path / "report.html").read_text()
    assert [f"R{i:02}" for i in range(40) if f"<td>R{i:02}</td>" in page] == [
        f"R{i:02}" for i in (*range(15), *range(25, 40))
    ]
    assert "Of 40 runs, the 15 with the fewest picks and the 15 with the most are listed." in page


def test_text_is_escaped_and_missing_figures_are_dashes():
    assert "&lt;b&gt;" in table(("what",), [("<b>",)]).html
    assert escape("a & b") == "a &amp; b"
    assert (number(None), number(0.12345)) == ("-", "0.123")


def test_files_of_ones_own_are_shown_as_a_projects_are(project, tmp_path):
    """The same two runs as MRC files and as the project: the same pictures, in the tomograms' own Angstrom."""
    root, _ = project
    files = tmp_path / "files"
    files.mkdir()
    for run in Project(root).runs("test"):
        with mrcfile.new(files / f"{run.name}.mrc") as made:
            made.set_data(read_tomogram(run.tomogram_path()).volume_zyx)
            made.voxel_size = VOXEL_A
    pages = []
    for data in (root, files):
        result = report(**{**sources(root, tmp_path), "data": data})
        pages.append((tmp_path / "report.html").read_text())
        assert result.figures["simulated"]
    pictures = [re.findall(r"webp;base64,[^\"]+", page) for page in pages]
    assert len(pictures[0]) == 2 * len(SLABS)
    assert pictures[0] == pictures[1]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no runs"):
        report(**{**sources(root, tmp_path), "data": tmp_path / "empty"})
