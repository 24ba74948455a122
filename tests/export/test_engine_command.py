"""``tomopoint engine`` where there is no GPU: what it checks, and what it says of the rest."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from tomopoint.errors import EngineError
from tomopoint.export import engine_trial
from tomopoint.export.command import engine
from tomopoint.export.engine_build import BuildOptions
from tomopoint.export.engine_trial import make_engine, measure
from tomopoint.export.onnx_export import ExportOptions, export_merged
from tomopoint.inference import cpu_engine
from tomopoint.inference.engines import tensorrt_module
from tomopoint.inference.engines.engine_record import RECORD_NAME, EngineRecord
from tomopoint.inference.engines.gpus import Gpu, find_gpus
from tomopoint.inference.engines.load import load_engine
from tomopoint.inference.parity import Outputs
from tomopoint.inference.reference import Reference
from tomopoint.networks.build import build_network
from tomopoint.networks.config import NetworkConfig
from tomopoint.pipeline import COMPETITION_PARTICLES, Member, Pipeline, Tiling
from tomopoint.validation.validated import ValidatedEnsemble

needs_no_gpu = pytest.mark.skipif(bool(find_gpus()), reason="there is a GPU")


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    """Return the exported graph of one narrow network, in both precisions."""
    torch.manual_seed(0)
    config = NetworkConfig("dynunet", filters=(4, 8, 16), features=8, class_width=6, offset_width=4)
    network = build_network(config, len(COMPETITION_PARTICLES), stride=2).eval().requires_grad_(False)
    for parameter in network.head.parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=1 / parameter[0].numel() ** 0.5)
    members = (Member("fold0", "dynunet", (), None, "0" * 64),)
    pipeline = Pipeline(COMPETITION_PARTICLES, 10.0124, tiling=Tiling((32, 32, 32), (8, 8, 8)), members=members)
    merged = ValidatedEnsemble((network,), pipeline, (config,))
    folder = tmp_path_factory.mktemp("graphs")
    for precision in ("fp32", "fp16"):
        export_merged(merged, folder / precision / "ensemble.onnx", ExportOptions(precision=precision))
    return folder


def test_a_graph_as_exported_is_compiled_for_a_t4(graphs):
    result = engine(graphs / "fp16" / "ensemble.onnx", check_only=True)
    assert result.ok
    assert result.figures["compute_capability"] == "7.5"
    assert result.figures["n_bytes"] > 10_000
    assert "numbers, speed, memory" in result.text


def test_a_graph_in_float32_is_told_apart(graphs):
    with pytest.raises(EngineError, match=r"FP32 3D convolution.*; export the graph with --precision fp16"):
        engine(graphs / "fp32" / "ensemble.onnx", check_only=True)
    assert engine(graphs / "fp32" / "ensemble.onnx", check_only=True, compute_capability="8.9").ok
    with pytest.raises(EngineError, match="--check-only compiles with TensorRT-RTX"):
        engine(graphs / "fp16" / "ensemble.onnx", check_only=True, flavour="tensorrt")


@needs_no_gpu
def test_without_a_gpu_it_says_so_and_what_can_be_done(graphs, tmp_path):
    with pytest.raises(EngineError, match=r"--check-only\) needs an NVIDIA GPU .*there is no GPU here"):
        engine(graphs / "fp16" / "ensemble.onnx", out=tmp_path / "engine", flavour="tensorrt_rtx")
    assert not (tmp_path / "engine").exists()


@needs_no_gpu
@pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")
def test_without_a_gpu_openvino_is_recorded_and_used_as_recorded(graphs, tmp_path):
    """Whatever precision this CPU has units for, its outputs are PyTorch's within the graph's tolerance."""
    graph = graphs / "fp16" / "ensemble.onnx"
    result = engine(graph, out=tmp_path, threads=1)
    record = EngineRecord.load(tmp_path / RECORD_NAME)
    assert result.figures["runtime"] == record.runtime == "openvino"
    assert record.parity["ok"]
    assert 0 < record.parity["scores_max"] < 0.03
    assert (record.files, record.compute_capability, record.projected_hours) == ({}, None, None)
    assert record.seconds_per_tile > 0
    assert record.options["threads"] == 1
    assert f"in {record.precision}" in result.text
    assert "--engine" in result.text
    loaded, _ = load_engine(graph, "openvino", record_path=tmp_path / RECORD_NAME)
    true = Reference.load(graphs / "fp16" / "reference.npz")
    scores, offsets = loaded.infer(true.windows)
    assert loaded.describe()["precision"] == record.precision
    loaded.close()
    assert np.abs(scores - true.outputs.scores).max() == pytest.approx(record.parity["scores_max"], rel=0.01)
    assert np.abs(offsets - true.outputs.offsets).max() == pytest.approx(record.parity["offsets_max_vox"], rel=0.01)


@needs_no_gpu
def test_without_a_gpu_and_openvino_the_fix_is_named(graphs, tmp_path, monkeypatch):
    def missing():
        raise EngineError("OpenVINO is not installed; pip install it")

    monkeypatch.setattr(cpu_engine, "installed_version", missing)
    with pytest.raises(EngineError, match="OpenVINO is not installed"):
        engine(graphs / "fp16" / "ensemble.onnx", out=tmp_path / "engine")
    assert not (tmp_path / "engine").exists()


def test_a_graph_that_is_not_its_references_is_refused(graphs, tmp_path):
    for name in ("ensemble.onnx", "reference.npz"):
        (tmp_path / name).write_bytes((graphs / "fp16" / name).read_bytes())
    data = bytearray((tmp_path / "ensemble.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "ensemble.onnx").write_bytes(data)
    with pytest.raises(EngineError, match="not the graph its reference was made with"):
        engine(tmp_path / "ensemble.onnx", out=tmp_path / "engine")


@pytest.fixture
def stand_in(monkeypatch, graphs):
    """Stand ONNX Runtime in for what needs a GPU: the plan is really built, then the graph computes in its place."""
    monkeypatch.setattr(tensorrt_module, "find_gpus", lambda: [Gpu(0, "Tesla T4", "7.5", 15 << 30)])

    def load(plan_path, trt):
        assert plan_path.stat().st_size > 10_000
        engine = load_engine(graphs / "fp16" / "ensemble.onnx", "cpu")[0]
        engine.runtime_cache = lambda: b"kernels"
        return engine

    monkeypatch.setattr("tomopoint.inference.engines.tensorrt.load_plan", load)
    monkeypatch.setattr(engine_trial, "TIMED_SECONDS", 0.0)


def test_an_engine_that_reproduces_pytorch_is_published_with_its_record(graphs, tmp_path, stand_in):
    result = engine(graphs / "fp16" / "ensemble.onnx", out=tmp_path, flavour="tensorrt_rtx")
    record = EngineRecord.load(tmp_path / RECORD_NAME)
    assert record.parity["ok"]
    assert 0 < record.parity["scores_max"] < 0.03
    assert (record.runtime, record.compute_capability, record.device) == ("tensorrt_rtx", "7.5", "Tesla T4")
    assert record.window_zyx == (32, 32, 32)
    assert list(record.files) == ["ensemble.engine", "runtime.cache"]
    assert (tmp_path / "runtime.cache").read_bytes() == b"kernels"
    assert record.seconds_per_tile > 0
    assert record.projected_hours > 0
    assert record.options["workspace_gib"] == 8.0
    assert result.figures["onnx_sha256"] == record.onnx_sha256


def test_an_engine_with_other_outputs_is_removed(graphs, tmp_path, stand_in, monkeypatch):
    true = Reference.load(graphs / "fp16" / "reference.npz")
    wrong = Outputs(1 - true.outputs.scores, true.outputs.offsets)
    monkeypatch.setattr(
        engine_trial.Reference, "load", lambda path: Reference(true.windows, wrong, true.precision, true.onnx_sha256)
    )
    with pytest.raises(EngineError, match=r"does not reproduce PyTorch here, so nothing is published:\n.*\n.*FAILED"):
        make_engine(graphs / "fp16" / "ensemble.onnx", tmp_path, "tensorrt_rtx", BuildOptions())
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_engine_is_not_timed(graphs):
    true = Reference.load(graphs / "fp16" / "reference.npz")
    wrong = Reference(true.windows, Outputs(1 - true.outputs.scores, true.outputs.offsets), "fp16", true.onnx_sha256)
    found, _ = load_engine(graphs / "fp16" / "ensemble.onnx", "cpu")
    assert measure(found, "onnxruntime-cpu", "CPU", wrong)[1] is None
    assert measure(found, "onnxruntime-cpu", "CPU", true)[1] > 0


def test_an_engine_is_timed_with_as_many_windows_as_it_takes(graphs):
    true = Reference.load(graphs / "fp16" / "reference.npz")
    asked = []

    class Taking8:
        batch, window_zyx = 8, true.window_zyx

        def infer(self, windows):
            asked.append(len(windows))
            n = len(windows)
            return np.repeat(true.outputs.scores, n, axis=0), np.repeat(true.outputs.offsets, n, axis=0)

    row, seconds = measure(Taking8(), "native", "TensorRT", true)
    assert row.ok
    assert seconds > 0
    assert asked == [1, *[8] * engine_trial.TIMED_CALLS]
    engine_trial_calls = len(asked)
    measure(Taking8(), "native", "TensorRT", true, at_least_seconds=0.05)
    assert len(asked) > 2 * engine_trial_calls  # none takes 10 ms
