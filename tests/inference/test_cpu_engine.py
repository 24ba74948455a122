"""In which precision OpenVINO computes: what passes the comparison, decided once, the same when resumed."""

import json
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import onnx
import pytest

from tomopoint.data.project import Project
from tomopoint.errors import EngineError
from tomopoint.files import sha256_of
from tomopoint.inference import cpu_engine
from tomopoint.inference.command import predict
from tomopoint.inference.cost import GraphCost
from tomopoint.inference.cpu_engine import KEPT_IN_FP32, choose_cpu_engine, try_precisions, verdict
from tomopoint.inference.engines import load
from tomopoint.inference.engines.engine_record import RECORD_NAME, EngineRecord
from tomopoint.inference.engines.graph_metadata import COST_KEY, read_pipeline
from tomopoint.inference.engines.load import load_engine
from tomopoint.inference.engines.openvino import OpenVinoOptions, options_in
from tomopoint.inference.parity import FP16, FP32_SMALL, Outputs
from tomopoint.inference.reference import REFERENCE_NAME, Reference

FIRST, SECOND = KEPT_IN_FP32


@pytest.fixture
def half_model(blob_model, tmp_path):
    """Return the blob graph, as if it were exported in float16."""
    model = onnx.load(blob_model)
    entry = model.metadata_props.add()
    entry.key, entry.value = "tomopoint.export", json.dumps({"precision": "fp16"})
    path = tmp_path / "graph" / "ensemble.onnx"
    path.parent.mkdir()
    onnx.save(model, path)
    return path


class StandIn:
    """An engine whose outputs are off by what the test says for its options, and which notes what it was given."""

    errors: dict[tuple[str, int, int], tuple[float, float] | str]
    asked: list[OpenVinoOptions]
    windows: list[np.ndarray]
    clock = 0.0
    call_s: dict[int, float]

    def __init__(self, path, options):
        self.batch = options.streams
        self._options = options
        type(self).asked.append(options)
        error = type(self).errors.get((options.precision, options.first, options.last), (0.0, 0.0))
        if isinstance(error, str):
            raise EngineError(error)
        self._scores, self._offsets = error

    def infer(self, windows):
        type(self).windows.append(windows)
        cells = tuple(size // 2 for size in windows.shape[2:])
        type(self).clock += type(self).call_s[self._options.streams]
        scores = np.random.default_rng(0).uniform(0, 0.5, (1, 6, *cells)).astype(np.float32)
        scores[:, :, 3, 3, 3] = 0.9
        offsets = np.zeros((1, 3, *cells), np.float32)
        scores[0, 0, 0, 0, 0] += self._scores
        offsets[0, 0, 0, 0, 0] += self._offsets
        return scores, offsets

    def close(self):
        pass


@pytest.fixture
def stand_in(monkeypatch):
    """Let a stand-in compute, on a CPU that has bfloat16; return its class."""
    StandIn.errors, StandIn.asked, StandIn.windows, StandIn.call_s = {}, [], [], {1: 1.0, 2: 2.0}
    monkeypatch.setattr(cpu_engine.time, "perf_counter", lambda: StandIn.clock)
    monkeypatch.setattr(cpu_engine, "OpenVinoEngine", StandIn)
    monkeypatch.setattr(cpu_engine, "precisions_here", lambda: ("bf16",))
    monkeypatch.setattr(cpu_engine, "installed_version", lambda: "2026.4.1")
    return StandIn


def test_the_first_half_precision_within_the_tolerances_is_taken(half_model, stand_in):
    stand_in.errors = {("bf16", *FIRST): (0.9 * FP16.scores, 0.9 * FP16.offsets_vox)}
    record = try_precisions(half_model, asked=OpenVinoOptions(threads=3, pinning=True))
    assert (record.runtime, record.precision) == ("openvino", "bf16")
    assert record.options["kept_in_fp32"] == list(FIRST)
    assert (record.options["threads"], record.options["pinning"]) == (3, True)
    assert record.parity["scores_max"] == pytest.approx(0.027, abs=1e-6)
    assert record.parity["offsets_max_vox"] == pytest.approx(0.09, abs=1e-6)
    assert record.seconds_per_tile > 0
    assert [options.precision for options in stand_in.asked] == ["fp32", "bf16"]  # first the truth
    said = "scores within 0.027 (allowed 0.03), offsets within 0.09 voxels (allowed 0.1)"
    assert verdict(record).startswith(f"bf16 (first 1 and last 3 layers in fp32): {said}")


@pytest.mark.parametrize("error", [(1.1 * FP16.scores, 0.0), (0.0, 1.1 * FP16.offsets_vox), (float("nan"), 0.0)])
def test_what_is_beyond_either_tolerance_is_passed_over_for_more_layers_in_float32(half_model, stand_in, error):
    stand_in.errors = {("bf16", *FIRST): error}
    record = try_precisions(half_model)
    assert (record.precision, record.options["kept_in_fp32"]) == ("bf16", list(SECOND))
    assert len(record.passed_over) == 1
    assert "first 1 and last 3 layers in fp32) passed over, scores within" in verdict(record)


@pytest.mark.parametrize("fails", [(0.5, 0.0), "object is not initialized"])
def test_where_none_passes_it_is_float32_and_says_why(half_model, stand_in, fails):
    stand_in.errors = {("bf16", *kept): fails for kept in KEPT_IN_FP32}
    record = try_precisions(half_model)
    assert (record.precision, record.options["kept_in_fp32"], record.parity) == ("fp32", [0, 0], None)
    assert len(record.passed_over) == len(KEPT_IN_FP32)
    assert verdict(record).startswith("fp32: bf16 (first 1")


@pytest.fixture
def counted_model(half_model):
    """Return the graph with what it costs in its metadata: a gigabyte of activations."""
    model = onnx.load(half_model)
    window = read_pipeline(half_model).tiling.window_zyx
    entry = model.metadata_props.add()
    entry.key, entry.value = COST_KEY, GraphCost(window, 1, "fp16", 1e9, 1e9, 1e9, 1e9, 1e6).to_json()
    onnx.save(model, half_model)
    return half_model


@pytest.mark.parametrize(
    ("two_s", "threads", "free_gb", "streams"),
    [
        (1.8, 2, 4.5, 2),  # 0.9 s a window instead of 1
        (1.92, 2, 4.5, 1),  # 0.96 s: within what clocks err
        (1.2, 1, 4.5, 1),  # one thread has nothing to share
        (1.2, 2, 3.9, 1),  # two windows would take more than half of what is free
    ],
)
def test_two_windows_at_once_where_that_is_faster_and_there_is_room(
    counted_model, stand_in, monkeypatch, two_s, threads, free_gb, streams
):
    stand_in.call_s = {1: 1.0, 2: two_s}
    monkeypatch.setattr(cpu_engine, "_free", lambda: free_gb * 1e9)
    record = try_precisions(counted_model, asked=OpenVinoOptions(threads=threads))
    assert (record.precision, record.options["streams"]) == ("bf16", streams)
    assert record.seconds_per_tile == pytest.approx(two_s / 2 if streams == 2 else 1.0)
    assert ("2 windows at once" in verdict(record)) == (streams == 2)
    assert options_in(record.options, record.precision).streams == streams


def test_float32_takes_twice_the_memory_of_a_graph_in_half_precision(counted_model, stand_in, monkeypatch):
    stand_in.call_s = {1: 1.0, 2: 1.2}
    stand_in.errors = {("bf16", *kept): (0.5, 0.0) for kept in KEPT_IN_FP32}
    for free_gb, streams in ((7.9, 1), (8.1, 2)):
        monkeypatch.setattr(cpu_engine, "_free", lambda free_gb=free_gb: free_gb * 1e9)
        record = try_precisions(counted_model, asked=OpenVinoOptions(threads=2))
        assert (record.precision, record.options["streams"]) == ("fp32", streams)


def test_two_windows_at_once_that_fail_are_not_taken(counted_model, stand_in, monkeypatch):
    monkeypatch.setattr(cpu_engine, "_free", lambda: 1e12)
    stand_in.call_s = {1: 1.0, 2: 1.2}

    def one_only(path, options):
        if options.streams == 2:
            raise EngineError("no memory for two")
        return StandIn(path, options)

    monkeypatch.setattr(cpu_engine, "OpenVinoEngine", one_only)
    assert try_precisions(counted_model, asked=OpenVinoOptions(threads=2)).options["streams"] == 1


def test_windows_are_the_same_every_time_and_never_the_users(half_model, stand_in):
    try_precisions(half_model)
    first = stand_in.windows[0]
    try_precisions(half_model)
    assert all(np.array_equal(windows, first) for windows in stand_in.windows)
    assert first.std() == pytest.approx(1, abs=1e-3)


def _reference(path, onnx_sha256, scores_off=0.0):
    windows = np.random.default_rng(5).standard_normal((1, 1, 32, 32, 32), dtype=np.float32)
    scores, offsets = StandIn(path, OpenVinoOptions()).infer(windows)
    reference = Reference(windows, Outputs(scores + scores_off, offsets), "fp16", onnx_sha256)
    reference.save(path.with_name(REFERENCE_NAME))
    return windows


def test_the_graphs_reference_is_what_counts_and_float32_is_held_to_it_too(half_model, stand_in):
    windows = _reference(half_model, sha256_of(half_model))
    stand_in.asked.clear()
    record = try_precisions(half_model)
    assert record.options["compared_with"] == "PyTorch (reference.npz)"
    np.testing.assert_array_equal(stand_in.windows[-1], windows)
    assert [options.precision for options in stand_in.asked] == ["bf16"]  # PyTorch is the truth
    _reference(half_model, sha256_of(half_model), scores_off=0.2)
    with pytest.raises(EngineError, match=r"does not reproduce PyTorch here, not even in float32: scores within 0\.2"):
        try_precisions(half_model)


def test_the_reference_of_another_graph_is_not_used(half_model, stand_in, caplog):
    _reference(half_model, "0" * 64, scores_off=0.2)
    with caplog.at_level("INFO", logger="tomopoint"):
        record = try_precisions(half_model)
    assert record.options["compared_with"] == "its own float32 on synthetic windows"
    assert "not the graph its reference was made with" in caplog.text
    with pytest.raises(EngineError, match="not the graph its reference was made with"):
        try_precisions(half_model, half_model.with_name(REFERENCE_NAME))


def test_a_graph_in_float32_and_a_cpu_without_units_are_computed_in_float32(
    blob_model, half_model, stand_in, monkeypatch
):
    assert verdict(try_precisions(blob_model)) == "fp32: the graph was exported in float32"
    monkeypatch.setattr(cpu_engine, "precisions_here", tuple)
    assert verdict(try_precisions(half_model)) == "fp32: this CPU has no units for less"
    assert stand_in.asked == []
    # Against PyTorch float32 shows its own distance, within what the graph's precision may have.
    _reference(half_model, sha256_of(half_model))
    record = try_precisions(half_model)
    assert record.parity["ok"]
    assert record.parity["tolerance"]["scores"] == FP16.scores > FP32_SMALL.scores


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """Let nothing be known of any graph."""
    monkeypatch.setattr(cpu_engine, "cache_folder", lambda: tmp_path / "cache")


@pytest.fixture
def in_this_process(stand_in, empty_cache, monkeypatch):
    """Let the trial run in this process, where the stand-in is; count the trials."""
    trials = []

    def here(function, *arguments, limit_seconds, log_path):
        trials.append(arguments)
        return function(*arguments)

    monkeypatch.setattr(cpu_engine, "call_in_child", here)
    return trials


def test_the_decision_is_made_once_and_kept_in_the_folder(half_model, stand_in, in_this_process, tmp_path):
    record = choose_cpu_engine(half_model, tmp_path)
    assert record.precision == "bf16"
    assert EngineRecord.load(tmp_path / RECORD_NAME) == record
    stand_in.errors = {("bf16", *kept): (1.0, 0.0) for kept in KEPT_IN_FP32}  # what a second trial would find
    assert choose_cpu_engine(half_model, tmp_path) == record
    other = tmp_path / "other"
    assert choose_cpu_engine(half_model, other) == record  # of the cache
    assert EngineRecord.load(other / RECORD_NAME) == record
    assert len(in_this_process) == 1
    # The folder's own decision goes before the cache's.
    kept = replace(record, precision="fp32", options={**record.options, "kept_in_fp32": [0, 0]})
    kept.save(tmp_path)
    assert choose_cpu_engine(half_model, tmp_path) == kept


@pytest.mark.parametrize("change", ["version", "cpu", "graph", "damaged"])
def test_a_decision_that_does_not_hold_here_is_made_anew(
    half_model, stand_in, in_this_process, tmp_path, monkeypatch, change
):
    record = choose_cpu_engine(half_model, tmp_path)
    if change == "version":
        monkeypatch.setattr(cpu_engine, "installed_version", lambda: "2027.1.0")
    elif change == "cpu":
        monkeypatch.setattr(cpu_engine, "cpu_identity", lambda: "another CPU")
    elif change == "graph":
        half_model.write_bytes(half_model.read_bytes() + b"\x7a\x00")  # an empty entry of another name
    else:
        (tmp_path / RECORD_NAME).write_text("{")
    again = choose_cpu_engine(half_model, tmp_path)
    assert len(in_this_process) == (1 if change == "damaged" else 2)
    assert (again == record) == (change == "damaged")


def test_a_trial_that_fails_leaves_onnx_runtime_and_one_line(half_model, empty_cache, tmp_path, monkeypatch, caplog):
    def crash(*arguments, **options):
        raise EngineError("its process was ended by SIGILL")

    monkeypatch.setattr(cpu_engine, "installed_version", lambda: "2026.4.1")
    monkeypatch.setattr(cpu_engine, "call_in_child", crash)
    with caplog.at_level("INFO", logger="tomopoint"):
        assert choose_cpu_engine(half_model, tmp_path) is None
    assert caplog.messages[-1].endswith("there is no GPU here, and no OpenVINO: its process was ended by SIGILL")
    assert not (tmp_path / RECORD_NAME).exists()
    with pytest.raises(EngineError, match="SIGILL"):
        choose_cpu_engine(half_model, tmp_path, by_name=True)


needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")


@needs_openvino
def test_a_prediction_says_what_computed_it_and_repeats_it_as_recorded(
    blob_project, blob_model, tmp_path, monkeypatch, caplog
):
    """The whole way, with OpenVINO itself: trial in a child, record, worker; the picks are ONNX Runtime's."""
    monkeypatch.setattr("tomopoint.inference.predict_runs.find_gpus", list)
    root = blob_project(1).root
    with caplog.at_level("INFO", logger="tomopoint"):
        assert predict(data=root, model=blob_model, out=tmp_path / "first").ok
    assert "OpenVINO on the CPU taken, in fp32: the graph was exported in float32" in caplog.messages
    record = tmp_path / "first" / RECORD_NAME
    assert predict(data=root, model=blob_model, out=tmp_path / "second", engine=record).ok
    assert predict(data=root, model=blob_model, out=tmp_path / "third", provider="cpu", engine=record).ok

    def runtime(name):
        lines = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        return [line["runtime"] for line in lines if line["event"] == "engine"]

    assert [runtime(name) for name in ("first", "second", "third")] == [["openvino"], ["openvino"], ["onnxruntime-cpu"]]
    assert not (tmp_path / "second" / RECORD_NAME).exists()  # it was given
    texts = [(tmp_path / name / "submission.csv").read_text() for name in ("first", "second", "third")]
    assert texts[0] == texts[1] == texts[2]
    assert len(Project(root).runs("test")) == 1
    assert texts[0].count("\n") == 4


@needs_openvino
def test_a_record_is_used_as_it_says_or_refused(blob_model, tmp_path, monkeypatch):
    monkeypatch.setattr(load, "find_gpus", list)
    record = try_precisions(blob_model, asked=OpenVinoOptions(threads=1))
    path = record.save(tmp_path)
    for provider in ("auto", "openvino"):
        engine, pipeline = load_engine(blob_model, provider, 2, path)
        assert engine.options == OpenVinoOptions("fp32", threads=1)
        assert pipeline == read_pipeline(blob_model)
        engine.close()
    for change, sentence in (
        ({"onnx_sha256": "0" * 64}, "built from another graph"),
        ({"runtime_version": "2020.1"}, "built with openvino 2020.1, installed is"),
        ({"device": "another CPU"}, r"tried on another CPU \(another CPU; here is .*run `tomopoint engine` here"),
        ({"precision": "bf16"}, "never found to reproduce PyTorch"),
        ({"options": {"threads": 1}}, "does not say how OpenVINO was asked"),
    ):
        with pytest.raises(EngineError, match=sentence):
            load_engine(blob_model, "auto", 0, replace(record, **change).save(tmp_path))
    with pytest.raises(EngineError, match="is of tensorrt, not of OpenVINO"):
        load_engine(blob_model, "openvino", 0, replace(record, runtime="tensorrt").save(tmp_path))
