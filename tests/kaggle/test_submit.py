import json
import re
import shutil
import time
from dataclasses import replace

import onnx
import pandas as pd
import pytest

from tomopoint.data import tomograms
from tomopoint.data.project import Project
from tomopoint.errors import DataError
from tomopoint.export.cost import measured_hours, project
from tomopoint.inference.cost import GraphCost, read_cost
from tomopoint.inference.engines.engine_record import EngineRecord
from tomopoint.inference.engines.gpus import Gpu, find_gpus
from tomopoint.inference.engines.graph_metadata import COST_KEY, read_pipeline
from tomopoint.inference.folder import PredictionFolder
from tomopoint.inference.predict_runs import PredictOptions, WorkersLost, predict_runs
from tomopoint.inference.verify import verify_submission
from tomopoint.kaggle import submit
from tomopoint.kaggle.manifest import Manifest
from tomopoint.kaggle.submit import _predict, choose_provider, run

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


def _verify(root):
    return verify_submission(root / "working" / "submission.csv", Project(root / "input" / "czii"))


def test_a_broken_run_is_reported_and_the_others_come_out(root):
    store = root / "input/czii/test/static/ExperimentRuns/TS_2/VoxelSpacing10.000/denoised.zarr"
    shutil.rmtree(store)
    result = run(root)
    assert not result.ok
    assert result.table["status"].to_dict() == {"TS_1": "done", "TS_2": "failed", "TS_3": "done"}
    assert "TS_2: failed" in result.text
    assert "2 of 3 runs" in result.text
    assert "no engine.json attached" in result.text
    assert re.search(r"^worker [01] ran on onnxruntime-cpu$", result.text, re.MULTILINE)
    found = _verify(root)
    assert found.ok
    assert [text for text in found.warnings if "1 of 3 runs are not predicted: TS_2 (" in text]
    assert found.counts["n_picks"] == result.table.drop(columns=["status", "seconds", "notes"]).to_numpy().sum() > 0
    assert set(pd.read_csv(result.submission_path)["experiment"]) == {"TS_1", "TS_3"}


def test_missing_chunks_are_in_the_report_and_the_table(root, monkeypatch):
    store = root / "input/czii/test/static/ExperimentRuns/TS_2/VoxelSpacing10.000/denoised.zarr"
    monkeypatch.setattr(tomograms, "CHUNK_VOX", 20)
    tomograms.write_tomogram(store, tomograms.read_tomogram(store).volume_zyx)
    (store / "0/0/0/0").unlink()
    result = run(root)
    assert result.ok
    note = r"incomplete: 1 of \d+ chunks missing, read as 0\.0"
    assert re.search(rf"^{note}: TS_2$", result.text, re.MULTILINE)
    assert result.table["notes"].str.fullmatch(note).to_dict() == {"TS_1": False, "TS_2": True, "TS_3": False}


def test_a_submission_without_picks_is_there_before_anything_can_fail(root):
    (root / "input" / "my-kit").unlink()
    with pytest.raises(DataError, match="no tomopoint kit"):
        run(root)
    found = _verify(root)
    assert (found.errors, found.counts["n_picks"]) == ((), 0)


def test_when_the_time_is_up_the_csv_is_still_valid(root):
    result = run(root, limit_hours=1e-9)
    assert set(result.table["status"]) == {"not processed"}
    found = _verify(root)
    assert (found.errors, found.counts["n_picks"]) == ((), 0)


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


def _predict_first(root, out, lines, **options):
    runs = Project(root / "input" / "czii").runs("test")[:1]
    options = PredictOptions(**{"workers": 1, "provider": "tensorrt", "limit_hours": 1.0, **options})
    return _predict(runs, root / "input" / "my-kit" / "ensemble.onnx", PredictionFolder(out), options, lines)


@pytest.mark.skipif(bool(find_gpus()), reason="there is a GPU, on which CUDA may start")
def test_what_does_not_start_gives_way_to_the_next_slower_step_by_step(root, tmp_path):
    lines = []
    summary = _predict_first(root, tmp_path / "out", lines, record_path=tmp_path / "absent.json")
    assert summary.ok
    assert len(lines) == 2
    tensorrt, cuda = r"tensorrt did not start \(.*absent\.json.*\)", r"cuda did not start \(.*CUDAExecution.*\)"
    assert re.fullmatch(f"{tensorrt}: ONNX Runtime on CUDA instead, which is slower", lines[0])
    # No promise: ten networks on a CPU take an hour per run.
    assert re.fullmatch(f"{cuda}: ONNX Runtime on the CPU instead: only a small graph ends there, .* missing", lines[1])


def test_an_engine_that_kills_its_process_gives_way_too(root, tmp_path, monkeypatch):
    """A segmentation fault while an engine is loaded is no exception, and must not end without a single run."""
    hook = tmp_path / "site"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "def watch(event, args):\n"
        "    if event == 'open' and str(args[0]).endswith('fatal.json'):\n"
        "        os.kill(os.getpid(), signal.SIGSEGV)\n"
        "sys.addaudithook(watch)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(hook))
    (tmp_path / "fatal.json").write_text("{}")
    lines = []
    summary = _predict_first(root, tmp_path / "out", lines, record_path=tmp_path / "fatal.json")
    assert summary.ok
    assert re.search(r"tensorrt did not start \(.*died without a run: exit status -11.*5 times in a row", lines[0])


def test_a_late_fallback_has_the_rest_of_the_time_not_all_of_it(root, tmp_path, monkeypatch):
    asked = []

    def watched(runs, model, out, options):
        asked.append(options)
        return predict_runs(runs, model, out, options)

    monkeypatch.setattr(submit, "predict_runs", watched)
    started = time.monotonic() - 1800
    summary = _predict_first(root, tmp_path / "out", [], started=started)
    assert summary.ok
    assert {(options.started, options.limit_hours) for options in asked} == {(started, 1.0)}
    assert [options.provider for options in asked][:2] == ["tensorrt", "cuda"]


@pytest.mark.parametrize(("provider", "seconds_left"), [("tensorrt", 200.0), ("cpu", 20000.0)])
def test_a_breakdown_that_nothing_can_follow_submits_what_is_done(root, tmp_path, monkeypatch, provider, seconds_left):
    """In hour nine there is no engine left, or no time for it: the submission must come out all the same."""
    out = tmp_path / "out"
    done = _predict_first(root, out, [], provider="cpu")

    def broken(runs, model, out, options):
        raise WorkersLost("no worker is left", done)

    monkeypatch.setattr(submit, "predict_runs", broken)
    lines = []
    started = time.monotonic() + seconds_left - 10 * 3600
    summary = _predict_first(root, out, lines, provider=provider, limit_hours=10.0, started=started)
    assert summary is done
    assert lines == [f"{provider} broke down (no worker is left): what is done is submitted"]


def test_where_not_even_the_cpu_does_anything_it_is_an_error(root, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONHOME", str(tmp_path))  # no worker can start its Python
    with pytest.raises(WorkersLost, match="no worker is left"):
        _predict_first(root, tmp_path / "out", [], provider="cpu")


def test_the_report_names_engines_and_lost_workers_and_projects_with_those_that_worked(root, tmp_path):
    summary = replace(
        _predict_first(root, tmp_path / "out", [], provider="cpu"),
        seconds=100.0,
        mean_run_seconds=36.0,
        lost=("worker 1 was lost: it could not load its engine 2 times: no memory",),
    )
    names = [(0, "tensorrt"), (1, "tensorrt"), (0, "tensorrt"), (0, "onnxruntime-cuda")]
    events = [{"event": "engine", "worker": worker, "runtime": runtime} for worker, runtime in names]
    lines = submit._report(summary, events)
    assert lines[0] == "1 of 1 runs in 100 s by 1 worker, 36.0 s per run and worker"
    assert lines[1] == "worker 0 ran on tensorrt, then onnxruntime-cuda"
    assert lines[2] == "worker 1 ran on tensorrt"
    assert lines[3] == summary.lost[0]


@pytest.fixture
def costly(kit, tmp_path):
    """Return a graph that says what it costs."""
    model = onnx.load(kit / "ensemble.onnx")
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    cost = GraphCost((24, 32, 32), 10, "fp16", 1e13, 1e11, 1e10, 1e9, 1e9)
    onnx.helper.set_model_props(model, {**metadata, COST_KEY: cost.to_json()})
    onnx.save(model, tmp_path / "costly.onnx")
    return tmp_path / "costly.onnx"


def test_the_speed_is_projected_to_the_hidden_runs_and_said_clearly_where_that_is_too_slow(root, tmp_path, costly):
    done = _predict_first(root, tmp_path / "out", [], provider="cpu")

    def said(seconds, ran_on=("tensorrt", "tensorrt"), in_kit="tensorrt", **changes):
        summary = replace(done, mean_run_seconds=seconds, **{"n_workers": 1, **changes})
        events = [{"event": "engine", "worker": worker, "runtime": name} for worker, name in enumerate(ran_on)]
        install = ["tensorrt_cu12_libs==10.16.1.11"] if in_kit == "tensorrt" else ["onnxruntime_gpu==1.26.0"]
        return submit._hidden_runs(summary, 11.5, costly, events, install, on_gpu=True)

    # 500 runs * 36 s / 1 worker = 5 h.
    assert said(36.0) == ["500 such runs would take 5.0 h of 11.5 h"]
    assert said(144.0, n_workers=2) == ["500 such runs would take 10.0 h of 11.5 h"]
    slow = said(180.0, n_workers=2)
    # 11.5 h less 2 % are 40572 s: of two workers 450 runs of 180 s.
    assert slow[0] == "TOO SLOW: 500 such runs would take 12.5 h of 11.5 h: only 450 of them would be in the submission"
    # Of 12.5 measured hours some are the host's: at 10 h fewer than 10 * 10 / 12.5 networks fit.
    pipeline, counted = read_pipeline(costly), read_cost(costly)
    host = measured_hours(0.0, pipeline) * 12.5 / project(counted, pipeline)[0].hours
    fits = int(10 * (10 - host) / (12.5 - host))
    assert fits < 8
    assert f"fewer networks: of 10, {fits} with TensorRT fit into 10 h" in slow[1]
    assert "in the kit" not in slow[1]
    assert "in the kit" in said(180.0, ["onnxruntime-cuda"] * 2, "onnxruntime-cuda", n_workers=2)[1]
    assert "in the kit" not in said(180.0, ["onnxruntime-cuda"] * 2, n_workers=2)[1]
    assert len(said(180.0, ["tensorrt", "onnxruntime-cuda"], n_workers=2)) == 1  # a time of no single runtime
    assert "ran on the CPU" in said(180.0, ["onnxruntime-cpu"], n_workers=2)[1]
    assert said(0.0, n_workers=0) == []


def test_on_a_cpu_the_projection_is_said_and_stops_nothing(root):
    result = run(root, limit_hours=1.0)
    assert result.ok
    line = next(line for line in result.text.splitlines() if line.startswith("500 such runs would take"))
    assert line.endswith("h of 1 h; on this CPU, which tells nothing of Kaggle's GPUs and stops nothing")


def test_no_record_is_said(manifest):
    assert choose_provider(None, manifest, [])[0] == "cpu"
    assert "no engine.json attached" in choose_provider(None, manifest, [])[1]
    # Named, not "auto": that would pass over a CUDA that fails, and take the CPU in silence.
    assert choose_provider(None, manifest, [T4, T4])[0] == "cuda"


def test_a_record_of_the_cpu_is_not_used_beside_a_gpu(tmp_path, manifest, record):
    replace(record, compute_capability="7.5", device="Tesla T4").save(tmp_path)
    provider, why = choose_provider(tmp_path / "engine.json", manifest, [T4])
    assert provider == "cuda"
    assert "names the CPU though there is a GPU" in why


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
    assert provider == ("cuda" if gpus else "cpu")
    assert "engine.json not used" in why
    assert re.search(reason, why)
    assert why.endswith(f"plain ONNX Runtime on {gpus[0].name if gpus else 'the CPU'}")


def test_a_damaged_record_is_explained_and_not_used(tmp_path, manifest):
    (tmp_path / "engine.json").write_text("{half")
    provider, why = choose_provider(tmp_path / "engine.json", manifest, [])
    assert provider == "cpu"
    assert "engine.json not used" in why


def test_the_table_is_json_and_html_ready(root):
    table = run(root).table
    assert json.loads(table.to_json())["status"]["TS_1"] == "done"
    assert (table["seconds"] > 0).all()
