"""The report: self-contained, says what was given, and its marks are where the picks are."""

import json
import re

import mrcfile
import numpy as np
import onnx
import pandas as pd
import pytest

from tomopoint.data.picks import write_picks
from tomopoint.data.project import SIMULATION_RECORD, Project, Run
from tomopoint.data.stores import write_tomogram
from tomopoint.data.tables import write_pick_table, write_submission
from tomopoint.data.tomograms import Tomogram, read_tomogram
from tomopoint.errors import DataError, EngineError, TomopointError
from tomopoint.evaluation.calibration import CalibrationOptions, calibrate
from tomopoint.evaluation.command import report
from tomopoint.evaluation.page import escape, number, table
from tomopoint.evaluation.score import truth_table
from tomopoint.evaluation.slices import choose_slabs, judge_picks
from tomopoint.export.metadata import graph_metadata
from tomopoint.inference.parity import FP32_SMALL, ParityRow
from tomopoint.pipeline import COMPETITION_PARTICLES, Pipeline

VOXEL_A = 10.0
SHAPE_ZYX = (40, 60, 60)
LARGEST_MB = 3.0


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
        "submission": folder / "prediction" / "submission.csv",
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
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "SIMULATED" in page
    for title in ("Score per particle", "Counts per run", "Slices with picks", "Threshold curves", "Time of the pred"):
        assert title in page
    assert "12.5" in page
    assert "FAILED: TS_9" in page
    assert f"{result.figures['score']:.4f}" in page
    assert result.figures["simulated"]
    assert page.count("data:image/jpeg") == 2
    assert page.count("data:image/svg") == 2


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


def test_picks_are_sorted_into_found_wrong_and_missed():
    truth = {"ribosome": np.array([[100.0, 200.0, 300.0], [500.0, 500.0, 100.0]])}
    rows = [("ribosome", 100.0, 200.0, 370.0), ("ribosome", 100.0, 200.0, 380.0)]
    picks = pd.DataFrame(rows, columns=["particle_type", *"xyz"])
    judged = judge_picks(truth, picks, COMPETITION_PARTICLES, VOXEL_A)
    assert judged["found"]["ribosome"].tolist() == [[10.0, 20.0, 37.0]]  # 70 A away, within 75
    assert judged["wrong"]["ribosome"].tolist() == [[10.0, 20.0, 38.0]]
    assert judged["missed"]["ribosome"].tolist() == [[50.0, 50.0, 10.0]]


def test_slabs_show_the_fullest_depths_and_average_the_right_slices():
    depth = 60
    volume = np.broadcast_to(np.arange(depth, dtype=np.float32)[:, None, None], (depth, 8, 8)).copy()
    centres = np.array([[40.0, 40.0, z] for z in (105.0, 105.0, 105.0, 455.0, 455.0)])
    nothing = pd.DataFrame(columns=["particle_type", *"xyz"])
    judged = judge_picks({"ribosome": centres}, nothing, COMPETITION_PARTICLES, VOXEL_A)
    tomogram = Tomogram(volume, VOXEL_A, None)
    first, second = choose_slabs(tomogram, judged, "TS_1")
    assert (len(first.marks["missed"]["ribosome"]), len(second.marks["missed"]["ribosome"])) == (3, 2)
    for view, middle in ((first, 10.5), (second, 45.5)):
        low, high = map(int, re.search(r"slices (\d+)-(\d+)", view.title).groups())
        assert view.image_yx[0, 0] == pytest.approx((low + high) / 2)
        assert abs((low + high + 1) / 2 - middle) <= 10


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
    pictures = [re.findall(r"base64,[^\"]+", page) for page in pages]
    assert len(pictures[0]) == 2
    assert pictures[0] == pictures[1]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no runs"):
        report(**{**sources(root, tmp_path), "data": tmp_path / "empty"})
