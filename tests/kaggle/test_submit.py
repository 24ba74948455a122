import json
import re
import shutil
from dataclasses import replace

import pandas as pd
import pytest

from tomopoint.data.project import Project
from tomopoint.errors import DataError
from tomopoint.inference.engines.gpus import Gpu
from tomopoint.inference.engines.record import EngineRecord
from tomopoint.inference.folder import PredictionFolder
from tomopoint.inference.workers import PredictOptions
from tomopoint.kaggle.manifest import Manifest
from tomopoint.kaggle.submit import _predict, check_submission, choose_provider, run

T4 = Gpu(0, "Tesla T4", "7.5", 15 << 30)
P100 = Gpu(0, "Tesla P100-PCIE-16GB", "6.0", 16 << 30)
PARTICLES = ("apo-ferritin", "ribosome")


@pytest.fixture
def root(kit, project, tmp_path):
    root = tmp_path / "kaggle"
    (root / "input").mkdir(parents=True)
    (root / "working").mkdir()
    (root / "input" / "my-kit").symlink_to(kit, target_is_directory=True)
    shutil.copytree(project, root / "input" / "czii")
    return root


@pytest.fixture
def manifest(staged):
    return Manifest.load(staged)


@pytest.fixture
def record(manifest):
    return EngineRecord(
        runtime="onnxruntime-cpu",
        runtime_version="1.26.0",
        onnx_sha256=manifest.onnx_sha256,
        pipeline_digest=manifest.pipeline_digest,
        precision="fp32",
        window_zyx=(24, 32, 32),
        batch=1,
        device="the CPU",
        parity={"ok": True},
    )


def test_a_broken_run_is_reported_and_the_others_come_out(root):
    store = root / "input/czii/test/static/ExperimentRuns/TS_2/VoxelSpacing10.000/denoised.zarr"
    shutil.rmtree(store)
    result = run(root)
    assert not result.ok
    assert result.table["status"].to_dict() == {"TS_1": "done", "TS_2": "failed", "TS_3": "done"}
    assert "TS_2: failed" in result.text
    assert "2 of 3 runs" in result.text
    assert "no engine.json attached" in result.text
    n_picks = check_submission(result.submission_path, result.runs, result.particles)
    assert n_picks == result.table[list(result.particles)].to_numpy().sum() > 0
    assert set(pd.read_csv(result.submission_path)["experiment"]) == {"TS_1", "TS_3"}


def test_a_submission_without_picks_is_there_before_anything_can_fail(root):
    (root / "input" / "my-kit").unlink()
    with pytest.raises(DataError, match="no tomopoint kit"):
        run(root)
    assert check_submission(root / "working" / "submission.csv", [], []) == 0


def test_when_the_time_is_up_the_csv_is_still_valid(root):
    result = run(root, limit_hours=1e-9)
    assert set(result.table["status"]) == {"not processed"}
    assert check_submission(result.submission_path, result.runs, result.particles) == 0


def test_a_record_that_fits_is_used(tmp_path, manifest, record):
    record.save(tmp_path)
    provider, why = choose_provider(tmp_path / "engine.json", manifest, [])
    assert provider == "cpu"
    assert "fits" in why


@pytest.mark.parametrize("runtime", ["tensorrt", "onnxruntime-tensorrt"])
def test_a_tensorrt_engine_that_fits_is_used(tmp_path, manifest, record, runtime):
    replace(record, runtime=runtime, compute_capability="7.5", device="Tesla T4").save(tmp_path)
    assert choose_provider(tmp_path / "engine.json", manifest, [T4]) == (
        "tensorrt",
        f"engine.json fits: {runtime} on Tesla T4",
    )


def test_what_does_not_start_gives_way_to_the_next_slower(root, project, tmp_path):
    lines = []
    runs = Project(root / "input" / "czii").runs("test")[:1]
    options = PredictOptions(workers=1, provider="tensorrt", record_path=tmp_path / "absent.json")
    kit = root / "input" / "my-kit"
    summary = _predict(runs, kit / "ensemble.onnx", PredictionFolder(tmp_path / "out"), options, lines)
    assert summary.ok
    assert len(lines) == 1
    assert re.search(r"did not start \(.*absent\.json.*\): plain ONNX Runtime instead, which is slower", lines[0])


def test_no_record_is_said(manifest):
    assert choose_provider(None, manifest, [])[0] == "auto"
    assert "no engine.json attached" in choose_provider(None, manifest, [])[1]


@pytest.mark.parametrize(
    ("change", "gpus", "reason"),
    [
        ({"onnx_sha256": "0" * 64}, [], "another graph"),
        ({"pipeline_digest": "0" * 64}, [], "another pipeline"),
        ({"parity": {"ok": False}}, [], "never found to reproduce"),
        ({}, [T4], "made on the CPU, this machine differs"),
        ({"runtime": "onnxruntime-cuda", "compute_capability": "7.5", "device": "Tesla T4"}, [], "made on Tesla T4"),
        (
            {"runtime": "onnxruntime-cuda", "compute_capability": "7.5", "device": "Tesla T4"},
            [P100],
            "this GPU has 6.0",
        ),
    ],
)
def test_a_stale_record_is_explained_and_not_used(tmp_path, manifest, record, change, gpus, reason):
    replace(record, **change).save(tmp_path)
    provider, why = choose_provider(tmp_path / "engine.json", manifest, gpus)
    assert provider == "auto"
    assert "engine.json not used" in why
    assert re.search(reason, why)
    assert why.endswith(f"plain ONNX Runtime on {gpus[0].name if gpus else 'the CPU'}")


def test_a_damaged_record_is_explained_and_not_used(tmp_path, manifest):
    (tmp_path / "engine.json").write_text("{half")
    provider, why = choose_provider(tmp_path / "engine.json", manifest, [])
    assert provider == "auto"
    assert "engine.json not used" in why


def _write(tmp_path, rows, columns="id,experiment,particle_type,x,y,z"):
    path = tmp_path / "submission.csv"
    path.write_text("\n".join([columns, *rows]) + "\n")
    return path


def test_a_valid_submission_is_counted(tmp_path):
    path = _write(tmp_path, ["0,TS_1,ribosome,1,2,3", "1,TS_2,apo-ferritin,4.5,5,6"])
    assert check_submission(path, ("TS_1", "TS_2"), PARTICLES) == 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["0,TS_1,ribosome,1,2,3", "2,TS_1,ribosome,1,2,3"], "ids"),
        (["0,TS_1,ribosome,1,,3"], "not finite"),
        (["0,TS_1,ribosome,1,inf,3"], "not finite"),
        (["0,TS_8,ribosome,1,2,3"], "unknown experiment: TS_8"),
        (["0,TS_1,proteasome,1,2,3"], "unknown particle_type: proteasome"),
    ],
)
def test_invalid_submissions_are_refused(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        check_submission(_write(tmp_path, rows), ("TS_1",), PARTICLES)


def test_other_columns_are_refused(tmp_path):
    path = _write(tmp_path, ["0,TS_1,ribosome,1,2"], columns="id,experiment,particle_type,x,y")
    with pytest.raises(DataError, match="columns"):
        check_submission(path, ("TS_1",), PARTICLES)


def test_the_table_is_json_and_html_ready(root):
    table = run(root).table
    assert json.loads(table.to_json())["status"]["TS_1"] == "done"
    assert (table["seconds"] > 0).all()
