"""Every engine on the GPU against PyTorch on the CPU: one small ensemble, one window, the tolerances of the kernels."""

from contextlib import closing

import numpy as np
import pytest
import torch

from tomopoint.errors import EngineError
from tomopoint.export.engine_build import BuildOptions
from tomopoint.export.engine_trial import build_with_onnxruntime, make_engine
from tomopoint.export.onnx_export import ExportOptions, export_merged
from tomopoint.export.parity import FP16, Outputs, compare
from tomopoint.export.reference import REFERENCE_NAME, Reference
from tomopoint.inference.engines.flavour import load_tensorrt
from tomopoint.inference.engines.graph_metadata import read_pipeline
from tomopoint.inference.engines.load import load_engine, load_recorded
from tomopoint.inference.engines.onnx import PROVIDERS, OnnxEngine, SessionOptions
from tomopoint.inference.engines.ort_tensorrt import CONTEXT_NAME
from tomopoint.inference.engines.record import RECORD_NAME
from tomopoint.inference.engines.torch import TorchEngine
from tomopoint.networks.build import build_network
from tomopoint.networks.config import NetworkConfig
from tomopoint.networks.ensemble import Ensemble
from tomopoint.pipeline import COMPETITION_PARTICLES, Member, Pipeline, Tiling
from tomopoint.validation.ensemble_folder import ValidatedEnsemble

WINDOW = (32, 48, 64)
CONFIGS = (
    NetworkConfig("segresnet", init_filters=8, blocks_down=(1, 1, 1), class_width=8, offset_width=8),
    NetworkConfig("dynunet", filters=(8, 8, 16), features=8, class_width=8, offset_width=8),
)
SPREAD = 1.5
BUILD = BuildOptions(workspace_gib=1.0, optimization_level=2)
ON_TENSOR_CORES = FP16
"""Of float32 convolutions, too: on Ampere and later they run as TF32, which rounds their inputs to 11 bits as fp16."""

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(scope="module")
def networks():
    """Return two networks whose heads are spread: fresh ones answer nearly constant maps, where all engines agree."""
    made = []
    for seed, config in enumerate(CONFIGS):
        torch.manual_seed(seed)
        network = build_network(config, len(COMPETITION_PARTICLES)).eval().requires_grad_(False)
        for parameter in network.head.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=SPREAD / parameter[0].numel() ** 0.5)
        made.append(network)
    return tuple(made)


@pytest.fixture(scope="module", params=["fp16", pytest.param("fp32", marks=pytest.mark.gpu)])
def graph(request, networks, tmp_path_factory):
    members = tuple(Member(f"fold{k}", c.name, (), None, f"{k:064x}") for k, c in enumerate(CONFIGS))
    pipeline = Pipeline(COMPETITION_PARTICLES, 10.0, tiling=Tiling(WINDOW, (16, 16, 16)), members=members)
    path = tmp_path_factory.mktemp(request.param) / "ensemble.onnx"
    return export_merged(ValidatedEnsemble(networks, pipeline), path, ExportOptions(precision=request.param)).path


def reference_of(path):
    return Reference.load(path.with_name(REFERENCE_NAME))


def check(engine, reference):
    """An engine must compute what PyTorch did on the CPU in float32, and again."""
    assert np.ptp(reference.outputs.scores) > 0.5  # a constant would agree with anything
    for _ in range(2):
        got = Outputs(*engine.infer(reference.windows))
        row = compare("whole graph", "here", reference.outputs, got, ON_TENSOR_CORES, reference.stride)
        assert row.ok, row


@pytest.mark.parametrize("device", DEVICES)
def test_torch(networks, graph, device):
    with closing(TorchEngine(Ensemble(networks), WINDOW, device=device)) as engine:
        assert engine.describe()["device"].startswith(device)
        check(engine, reference_of(graph))


@pytest.mark.parametrize("provider", DEVICES)
def test_onnxruntime(graph, provider, needs_provider):
    needs_provider(PROVIDERS[provider])
    with closing(OnnxEngine(graph, provider)) as engine:
        assert engine.describe()["provider"] == PROVIDERS[provider]
        check(engine, reference_of(graph))


@pytest.mark.gpu
def test_onnxruntime_tensorrt(graph, tmp_path, needs_provider):
    """Build, and load again from the files that were left, which is what the submit notebook does."""
    needs_provider(PROVIDERS["tensorrt"])
    _tensorrt("tensorrt")  # brings the libraries
    build_with_onnxruntime(graph, tmp_path, BUILD)
    options = SessionOptions(pipeline=read_pipeline(graph))
    with closing(OnnxEngine(tmp_path / CONTEXT_NAME, "tensorrt", options)) as engine:
        assert engine.describe()["provider"] == PROVIDERS["tensorrt"]
        check(engine, reference_of(graph))


@pytest.mark.gpu
@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt_rtx"])
def test_tensorrt(graph, flavour, tmp_path):
    trt = _tensorrt(flavour)
    pytest.importorskip("pycuda.driver")
    reference = reference_of(graph)
    if reference.precision == "fp32":
        pytest.skip("float32 is TF32 in TensorRT on Ampere and later, beyond its tolerance; RTX has none on Turing")
    record = make_engine(graph, tmp_path, flavour, BUILD)
    assert (record.runtime, record.runtime_version) == (flavour, trt.version)
    assert record.parity["ok"]
    assert record.seconds_per_tile > 0
    engine, pipeline = load_recorded(graph, tmp_path / RECORD_NAME)
    with closing(engine):
        check(engine, reference)
    assert pipeline == read_pipeline(graph)
    # Closed and opened again in one process: nothing of the first is left in the way.
    engine, _ = load_engine(graph, "tensorrt", record_path=tmp_path / RECORD_NAME)
    with closing(engine):
        check(engine, reference)


@pytest.mark.parametrize("device", DEVICES)
def test_the_automatic_choice_uses_what_is_there(graph, device, needs_provider, monkeypatch):
    needs_provider(PROVIDERS[device])
    if device == "cpu":
        monkeypatch.setattr("tomopoint.inference.engines.load.find_gpus", list)
    engine, _ = load_engine(graph)
    with closing(engine):
        assert engine.describe()["provider"] == PROVIDERS[device]


def _tensorrt(flavour):
    try:
        return load_tensorrt(flavour)
    except EngineError as error:
        pytest.skip(str(error))
